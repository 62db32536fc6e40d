"""Where snapshots are kept: the contract that all backends keep. Which one a dataflow names: see places.py.

What a backend guarantees; the tests in tests/snapshot/test_backends.py have these sentences as their names:

1. When `save` returns, the snapshot is durable, and `snapshots` shows it as the newest.
2. A save that fails, or whose process is killed at any point, leaves the snapshots before it as they were.
3. `read` gives exactly the records of the cut, or raises SnapshotCorrupt; never anything in between.
4. Of two writers that do not know each other one fails with SnapshotConflict; neither overwrites the other.
5. `prune` keeps the newest N, what they build on, and always the newest that is good.
6. A snapshot with a parent costs about what has changed since then.
7. Saves that are killed one after the other leave no more than the last of them.

A backend belongs to one place and one thread at a time. Errors are StoreErrors: SnapshotCorrupt, SnapshotConflict,
SnapshotUnavailable (a disk, a network, credentials; an earlier retry with back-off has been of no use).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from noderuntime.errors import SnapshotCorrupt, StoreError

if TYPE_CHECKING:  # the runtime knows where snapshots go, and has no use for what reads a space
    from noderuntime.snapshot.cut import Walked
    from noderuntime.snapshot.format import Manifest


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


class SnapshotGone(SnapshotCorrupt):
    """There is no such snapshot (any more: a run prunes while others look)."""

    def __init__(self, number: int, place: object) -> None:
        super().__init__(str(number), f"there is no such snapshot in {place}")


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
        """All snapshots that have a manifest, the newest first; torn manifests too, with what is wrong. One that is
        pruned meanwhile is not among them."""

    def save(self, manifest: Manifest, walked: Walked) -> Manifest:
        """Publish a snapshot; the files of `walked` are moved or removed. Returns the manifest as stored."""

    def read(self, number: int) -> Iterator[list[tuple[bytes, bytes | None]]]:
        """What to apply, batch by batch, to get the records of a snapshot; None: the key is gone again.

        Everything is checked while it comes: only when the iterator has ended is it known to be good.
        """

    def stored(self, number: int) -> Manifest:
        """The manifest of a snapshot, as it is in its place. Raises SnapshotGone or SnapshotCorrupt."""

    def verify(self, number: int) -> Manifest:
        """Read a snapshot as a whole, and what it builds on. Raises SnapshotCorrupt."""

    def prune(self, keep: int) -> list[int]:
        """Remove what is older than the newest `keep`; returns the numbers of what was removed.

        Also what saves and prunes that were cut off have left: whatever no snapshot needs is gone afterwards.
        """

    def tidy(self, owner: str) -> None:
        """Remove what saves of this `owner` that were cut off have left: none of them is under way any more.

        `prune` removes it too, but only after a save has succeeded: in a place that leftovers have filled, none does.
        """

    def may_build_on(self, manifest: Manifest) -> bool:
        """Whether the next snapshot may be an incremental one on top of this one, which is the newest."""

    def close(self) -> None: ...


def is_good(backend: Backend, number: int) -> bool:
    """Whether that snapshot can be read as a whole."""
    try:
        backend.verify(number)
    except SnapshotCorrupt:
        return False
    return True
