"""`Keeper`: takes snapshots of one space and keeps them in one backend. The store process has one.

`take` does all of it, from the cut to pruning, in the calling thread, one snapshot at a time. Not to be confused with
runtime/keepers.py, which keeps the store and the fork server running.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import msgpack

from noderuntime.errors import SnapshotCorrupt, StoreError
from noderuntime.snapshot.backend import Backend, SnapshotConflict
from noderuntime.snapshot.cut import Cut, SpaceTooFull, Walked, open_cut, remove_copies
from noderuntime.snapshot.format import FORMAT_OF_SPACE, KeyIndex, Manifest
from noderuntime.space import keys
from noderuntime.space.environment import Space, format_of


@dataclass(frozen=True, slots=True)
class Taken:
    """A published snapshot, and its cost: how long it pinned pages, and how long all of it took.

    `txn_id` is the last transaction in it; `problem` says why older snapshots could not be removed, "" if they were.
    """

    manifest: Manifest
    txn_id: int
    pinned_s: float
    took_s: float
    problem: str


class Keeper:
    """See the head of this module. `keep`: how many snapshots to keep.

    `force_files`: have the kernel write its cached files to the disk before a snapshot is published. What sinks wrote
    before the cut, and the snapshot counts as written, then survives a power cut.

    `owner`: 8 hexadecimal digits of the stores of this run on this machine, of which one lives at a time (see
    Settings.owner). What earlier stores have left is removed before the first walk. "": leftovers cannot be told from
    saves of others, so nothing is removed before a snapshot has been published.
    """

    def __init__(
        self, space: Space, backend: Backend, run: str, keep: int, force_files: bool = False, owner: str = ""
    ) -> None:
        self.space = space
        self.backend = backend
        self.run = run
        self.keep = keep
        self.force_files = force_files
        self.writer = secrets.token_hex(4)
        self.owner = owner
        self._tidied = not owner
        self.last: Manifest | None = None  # our last snapshot, which an incremental one can build on
        self._index: KeyIndex | None = None
        self._next_number = 0
        if str(backend.spool) != backend.place:  # what a killed save has left there
            for left in backend.spool.glob("*.part"):
                left.unlink(missing_ok=True)
        for folder in {self.backend.spool, space.folder.parent}:
            remove_copies(folder)

    def take(self, why: str) -> Taken:
        """Copy, publish, read the manifest back, and prune.

        Raises StoreError: SpaceTooFull, SnapshotConflict, SnapshotUnavailable, SnapshotCorrupt.
        """
        began_s = time.monotonic()
        if not self._tidied:  # before the walk, which needs the room
            self.backend.tidy(self.owner)
            self._tidied = True
        if not self._next_number:
            self._next_number = max((item.number for item in self.backend.snapshots()), default=0) + 1
        number = self._next_number
        parent = self.last if self.last is not None and self.backend.may_build_on(self.last) else None
        since, known = (parent.cut, self._index) if parent else (None, None)
        prefix = f"{number:010d}-{self.owner}{secrets.token_hex(4)}"
        segments = self.space.folder.parent / "segments"
        try:
            with open_cut(self.space, segments) as cut:
                walked = cut.walk(self.backend.spool, prefix, since, known)
                manifest = self._manifest(cut, walked, number, parent, why)
        except SpaceTooFull:
            with open_cut(self.space, segments) as cut, cut.copied(self._room()):
                walked = cut.walk(self.backend.spool, prefix, since, known)
                manifest = self._manifest(cut, walked, number, parent, why)
        self.last, self._index = None, None  # until it is published: after a failure, the next snapshot is a full one
        if self.force_files:
            os.sync()
        try:
            published = self.backend.save(manifest, walked)
            if self.backend.stored(number) != published:
                raise SnapshotCorrupt(str(number), f"it was written to {self.backend.place} and reads differently")
        except SnapshotConflict:
            raise
        except BaseException:
            self._next_number = 0  # it may be published although the save failed: look again
            raise
        self.last, self._index = published, walked.index
        self._next_number = number + 1
        problem = ""
        try:
            self.backend.prune(self.keep)
        except StoreError as error:
            problem = f"older snapshots could not be removed: {error}"
        return Taken(published, cut.txn_id, walked.pinned_s, time.monotonic() - began_s, problem)

    def _room(self) -> Path:
        """A folder with room for a copy of the space: beside it, in memory, otherwise where snapshots are made."""
        beside = self.space.folder.parent
        room = os.statvfs(beside)
        needed = 2 * self.space.used_bytes()
        return beside if room.f_bavail * room.f_frsize > needed else self.backend.spool

    def _manifest(self, cut: Cut, walked: Walked, number: int, parent: Manifest | None, why: str) -> Manifest:
        fingerprint = cut.txn.get(keys.fact("fingerprint"))
        return Manifest(
            run=self.run,
            fingerprint=msgpack.unpackb(fingerprint) if fingerprint else "",
            number=number,
            writer=self.writer,
            why=why,
            created_ns=time.time_ns(),
            base=self.space.base,
            cut=cut.sequence,
            wall_ns=self.space.clock[0],
            clock_ns=cut.clock_ns,
            keys=walked.index.count,
            keys_crc=walked.index.crc,
            finished=cut.finished,
            counts=cut.counts,
            chain=(*parent.chain, parent.number) if parent else (),
            parent_sha256=parent.sha256 if parent else "",
            growth_bytes=walked.growth_bytes,
            content=walked.index.content,
            run_id=self.space.outbox_id,
            dataflow=cut.dataflow,
            format=FORMAT_OF_SPACE[format_of(cut.txn)],
        )
