"""The contract of all snapshot backends, the places where snapshots are kept. places.py chooses a dataflow's backend.

A backend guarantees these; the tests in tests/snapshot/test_backends.py have these sentences as their names:

1. When `save` returns, the snapshot is durable, and `snapshots` shows it as the newest.
2. A save that fails, or whose process is killed at any point, leaves the snapshots before it as they were.
3. `read` gives exactly the records of the cut, or raises SnapshotCorrupt; never anything in between.
4. Of two writers that do not know each other one fails with SnapshotConflict; neither overwrites the other.
5. `prune` keeps the newest N, of each run the last one that holds dead letters (see retention.py), what these build
   on, and always the newest that is good.
6. A snapshot with a parent costs about what has changed since then.
7. Saves that are killed one after the other leave no more than the last of them.

A backend belongs to one place, and to one thread at a time. Errors are StoreErrors: SnapshotCorrupt, SnapshotConflict,
SnapshotUnavailable (a disk, a network, credentials; retries with back-off have failed).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from noderuntime.errors import SnapshotCorrupt, StoreError

if TYPE_CHECKING:  # the runtime imports this module, but must not import what reads a space
    from noderuntime.snapshot.cut import Walked
    from noderuntime.snapshot.format import Manifest
    from noderuntime.snapshot.retention import Kept


class SnapshotConflict(StoreError):
    """Another run has written to the same place in the meantime. Give one of the runs another `to:` or `--name`."""

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
    """There is no such snapshot. It may have existed: a run prunes while other processes read."""

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
        """All snapshots that have a manifest, the newest first, including torn manifests, with what is wrong. Without
        snapshots that are pruned during the call."""

    def save(self, manifest: Manifest, walked: Walked) -> Manifest:
        """Publish a snapshot. Moves or removes the files of `walked`. Returns the manifest as stored."""

    def read(self, number: int) -> Iterator[list[tuple[bytes, bytes | None]]]:
        """The batches to apply, in order, to get the records of a snapshot. A value of None deletes the key.

        Everything is checked while it is read: the snapshot is known to be good only when the iterator has ended.
        """

    def stored(self, number: int) -> Manifest:
        """The manifest of a snapshot as stored. Raises SnapshotGone or SnapshotCorrupt."""

    def verify(self, number: int) -> Manifest:
        """Read a whole snapshot and the snapshots that it builds on. Raises SnapshotCorrupt."""

    def prune(self, keep: int) -> list[int]:
        """Remove the snapshots that retention.to_keep does not name. Returns the numbers of those that it removed.

        Also removes what interrupted saves and prunes have left: nothing remains that no snapshot needs.
        """

    def tidy(self, owner: str) -> None:
        """Remove what interrupted saves of this `owner` have left. The caller makes sure that none is under way.

        `prune` removes it too, but only after a save has succeeded; in a place full of leftovers, no save does.
        """

    def may_build_on(self, manifest: Manifest) -> bool:
        """Whether the next snapshot may be an incremental one on top of this one, the newest."""

    def close(self) -> None: ...


def saviour(backend: Backend, known: Mapping[int, Manifest | None], kept: Kept) -> int | None:
    """If none of the newest snapshots that a prune keeps is good: the newest other one that is, and has to stay too.

    None when one of them is good, when nothing would be removed, and when no other is good.
    """
    if kept.all >= set(known) or any(is_good(backend, number) for number in kept.newest):
        return None
    others = (number for number, item in sorted(known.items(), reverse=True) if item is not None and not item.aside)
    return next((number for number in others if is_good(backend, number)), None)


def is_good(backend: Backend, number: int) -> bool:
    """Whether the whole snapshot can be read."""
    try:
        backend.verify(number)
    except SnapshotCorrupt:
        return False
    return True
