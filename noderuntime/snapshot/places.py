"""Which backend `snapshots: {to: ...}` names. Floor 3."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noderuntime.errors import SnapshotCorrupt
from noderuntime.identifiers import directory_name
from noderuntime.snapshot.backend import SCHEMES, Listed, SnapshotUnavailable, is_remote

if TYPE_CHECKING:
    from noderuntime.snapshot.cut import Walked
    from noderuntime.snapshot.format import Manifest

NONE = "none"
_SLATE = "slatedb+"


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
        from noderuntime.snapshot.slate import SlateBackend  # each kind with what it needs, only when it is named

        inner = to.removeprefix(_SLATE)
        place = inner.rstrip("/") + f"/{name}" if is_remote(inner) else str((folder / inner / name).absolute())
        return SlateBackend(place, _spool_below(spool), options)
    if is_remote(to):
        from noderuntime.snapshot.blobs import BlobBackend
        from noderuntime.snapshot.objects import ObjectBlobs

        return BlobBackend(ObjectBlobs(to.rstrip("/") + f"/{name}", options), _spool_below(spool))
    if re.match(r"[a-z0-9+]+://", to):
        known = ", ".join((NONE, "a directory", *SCHEMES, f"{_SLATE}<any of these>"))
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
