"""Where snapshots are kept: the contract that all backends keep, and how one is chosen. Floor 3.

What a backend guarantees; the tests in tests/contract/test_backends.py have these sentences as their names:

1. When `save` returns, the snapshot is durable, and `snapshots` shows it as the newest.
2. A save that fails, or whose process is killed at any point, leaves the snapshots before it as they were.
3. `read` gives exactly the records of the cut, or raises SnapshotCorrupt; never anything in between.
4. Of two writers that do not know each other one fails with SnapshotConflict; neither overwrites the other.
5. `prune` keeps the newest N, what they build on, and always the newest that is good.
6. A snapshot with a parent costs about what has changed since then.

A backend belongs to one place and one thread at a time. Errors are StoreErrors: SnapshotCorrupt, SnapshotConflict,
SnapshotUnavailable (a disk, a network, credentials; an earlier retry with back-off has been of no use).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from noderuntime.errors import SnapshotCorrupt, StoreError
from noderuntime.identifiers import directory_name

if TYPE_CHECKING:  # the runtime knows where snapshots go, and has no use for what reads a space
    from noderuntime.snapshot.cut import Walked
    from noderuntime.snapshot.format import Manifest

NONE = "none"
_SCHEMES = ("s3://", "gs://", "az://")
_SLATE = "slatedb+"


class SnapshotConflict(StoreError):
    """Another run has written to the same place since we looked. Give one of them another `to:` or `--name`."""

    def __init__(self, place: str, number: int) -> None:
        self.place = place
        self.number = number
        super().__init__(
            f"snapshot {number} in {place} was written by another run of this name; nothing was overwritten. "
            "Stop one of the two, or give one of them another `--name` or another `snapshots: {to: ...}`."
        )


class SnapshotUnavailable(StoreError):
    """The place where snapshots are kept cannot be reached, or refuses. What to do is in the text."""

    def __init__(self, place: str, what: str) -> None:
        self.place = place
        self.what = what
        super().__init__(f"snapshots in {place}: {what}")


@dataclass(frozen=True, slots=True)
class Listed:
    """One snapshot of a listing: its manifest, or the `problem` that makes it useless."""

    number: int
    manifest: Manifest | None
    problem: str = ""


class Backend(Protocol):
    """See the head of this module."""

    place: str
    spool: Path

    def snapshots(self) -> list[Listed]:
        """All snapshots that have a manifest, the newest first; torn manifests too, with what is wrong."""

    def save(self, manifest: Manifest, walked: Walked) -> Manifest:
        """Publish a snapshot; the files of `walked` are moved or removed. Returns the manifest as stored."""

    def read(self, number: int) -> Iterator[list[tuple[bytes, bytes | None]]]:
        """What to apply, batch by batch, to get the records of a snapshot; None: the key is gone again.

        Everything is checked while it comes: only when the iterator has ended is it known to be good.
        """

    def verify(self, number: int) -> Manifest:
        """Read a snapshot as a whole, and what it builds on. Raises SnapshotCorrupt."""

    def prune(self, keep: int) -> list[int]:
        """Remove what is older than the newest `keep`; returns the numbers of what was removed."""

    def may_build_on(self, manifest: Manifest) -> bool:
        """Whether the next snapshot may be an incremental one on top of this one, which is the newest."""

    def close(self) -> None: ...


class NoBackend:
    """`to: none`. Nothing is kept."""

    place = NONE
    spool = Path()

    def snapshots(self) -> list[Listed]:
        return []

    def save(self, manifest: Manifest, walked: Walked) -> Manifest:
        raise SnapshotUnavailable(NONE, "this dataflow says `snapshots: {to: none}`; change it to keep some")

    def read(self, number: int) -> Iterator[list[tuple[bytes, bytes | None]]]:
        raise SnapshotCorrupt(str(number), "there are no snapshots: the dataflow says `to: none`")

    def verify(self, number: int) -> Manifest:
        raise SnapshotCorrupt(str(number), "there are no snapshots: the dataflow says `to: none`")

    def prune(self, keep: int) -> list[int]:
        return []

    def may_build_on(self, manifest: Manifest) -> bool:
        return False

    def close(self) -> None:
        pass


def open_backend(to: str, run: str, folder: Path, spool: Path, options: Mapping[str, Any]) -> Any:
    """The backend that `snapshots: {to: ...}` names; "" means the folder `spool`.

    A directory is relative to `folder`, the one of the dataflow file. Below the place that is named each run has a
    folder of its own, so that runs of different names can share one. Raises SnapshotUnavailable.
    """
    if to == NONE:
        return NoBackend()
    name = directory_name(run)
    if to.startswith(_SLATE):
        from noderuntime.snapshot.slate import SlateBackend

        inner = to.removeprefix(_SLATE)
        place = inner.rstrip("/") + f"/{name}" if is_remote(inner) else str((folder / inner / name).absolute())
        return SlateBackend(place, _spool_below(spool), options)
    if is_remote(to):
        from noderuntime.snapshot.blobs import BlobBackend
        from noderuntime.snapshot.objects import ObjectBlobs

        return BlobBackend(ObjectBlobs(to.rstrip("/") + f"/{name}", options), _spool_below(spool))
    if re.match(r"[a-z0-9+]+://", to):
        known = ", ".join((NONE, "a directory", *_SCHEMES, f"{_SLATE}<any of these>"))
        raise SnapshotUnavailable(to, f"this kind of place is not known. `to:` is one of: {known}")
    from noderuntime.snapshot.blobs import BlobBackend
    from noderuntime.snapshot.directory import DirectoryBlobs

    root = (folder / to / name) if to else spool
    return BlobBackend(DirectoryBlobs(root.absolute()), root.absolute())


def _spool_below(folder: Path) -> Path:
    """A folder for files on their way to somewhere else; nothing in it is ever a snapshot."""
    spool = folder / "spool"
    try:
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SnapshotUnavailable(str(folder), f"{error.strerror}. Check $NODERUNTIME_HOME or your home.") from None
    return spool


def is_remote(to: str) -> bool:
    return to.startswith(_SCHEMES)
