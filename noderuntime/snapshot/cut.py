"""A cut of the space: one read transaction, walked into files on local disk.

The read transaction is opened inside the write lock. It would be consistent without; but a process can be killed
between writing LMDB's meta page and publishing the transaction's id, and that commit stays invisible until a process
takes the lock. Also, everything else that belongs to the cut (see `open_cut`) must be locked before the next commit.

As long as the walk lasts, pages that writers replace cannot be reused, and the space grows: a writer at full speed
makes it grow by hundreds of megabytes in a second. So the walk only writes to local files, it stops when the space has
grown above a mark (`SpaceTooFull`), and the growth is reported. `copied` is for the next try: LMDB copies itself five
times as fast as Python walks, the pages are released, and the copy is walked. That is not the first choice, because it
writes all of the state where an incremental snapshot writes a part of it.

Payload segments that messages of the cut refer to are locked (shared) inside the write lock, so that their owners do
not reuse them before they are copied. In a snapshot they are records too, after all others in order, in chunks of up to
SEGMENT_CHUNK bytes whose keys identify their content (see proof.py). A segment may be sent several times, first its
beginning and later all of it: the longest message or dead letter of the cut decides how much of it is copied.

Content, not keys, decides what an incremental snapshot may leave out: keys of the parent whose records have another CRC
are written again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from noderuntime.errors import StoreError
from noderuntime.snapshot.format import GONE, PART_BYTES, RECORDS, KeyIndex, Part, PartWriter
from noderuntime.snapshot.proof import Payload, chunk_key, needed_payload, record_crc
from noderuntime.space import dead_letters, lives, records
from noderuntime.space.environment import Space, read_copy
from noderuntime.space.in_force import in_force
from noderuntime.space.segments import referenced, segment_path
from noderuntime.space.transactions import ReadTxn

GROWTH_MARK = 0.85  # share of the space that its pages, pinned ones included, may reach during a walk
_LOOK_EVERY = 4096  # keys, or kilobytes

SEGMENT_CHUNK = 1 << 20
_LEASE_TRIES = 50
_LEASE_PAUSE_S = 0.0001

_REQUEST = b"r"[0]
_REFERRING = frozenset(b"md")  # messages and dead letters
_STAMPED = frozenset(b"ktps")
# Messages, the change log, chunks of payloads: written once, so an equal CRC means equal content. A record that is
# written again and again is part of each snapshot: one of so many changes could leave the CRC as it was.
_SELDOM_CHANGED = frozenset(b"mc\xff")
_NO_RECORD = (None, 0)


class SpaceTooFull(StoreError):
    """There is no room for a snapshot now: the space would grow too much while it is copied. The store retries."""

    def __init__(self, share: float) -> None:
        self.share = share
        super().__init__(
            f"the snapshot was put off: {share:.0%} of the space would be in use while it is copied. "
            "Raise `state: {size: ...}` in the dataflow file, or lower queue limits."
        )


@dataclass(slots=True)
class Walked:
    """The result of a walk: parts as (description, file), and facts for the manifest and the next walk."""

    parts: list[tuple[Part, Path]] = field(default_factory=list)
    index: KeyIndex = field(default_factory=KeyIndex)
    growth_bytes: int = 0
    pinned_s: float = 0.0


class SegmentBusy(StoreError):
    """A segment could not be locked for the cut; its owner will unlock it. The store retries."""


class _Lease:
    """A segment that the cut refers to, locked against its reuse."""

    def __init__(self, folder: Path, payload: Payload) -> None:
        self.payload = payload
        owner, number, _ = payload
        self.fd = os.open(segment_path(folder, owner, number), os.O_RDONLY | os.O_CLOEXEC)
        for _ in range(_LEASE_TRIES):
            try:
                fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            except BlockingIOError:  # its owner takes each lock for a moment, to check whether the segment is free
                time.sleep(_LEASE_PAUSE_S)
        os.close(self.fd)
        raise SegmentBusy(f"the snapshot was put off: payload {owner}-{number} is locked by another process")

    def chunks(self, length: int) -> Iterator[tuple[bytes, bytes]]:
        """(key, bytes) of the first `length` bytes. Raises StoreError if there are fewer."""
        for offset in range(0, length, SEGMENT_CHUNK):
            size = min(SEGMENT_CHUNK, length - offset)
            chunk = os.pread(self.fd, size, offset)
            if len(chunk) != size:
                raise _too_short(self.payload, offset + len(chunk), length)
            yield chunk_key(self.payload, offset, chunk), chunk


def _too_short(payload: Payload, found: int, length: int) -> StoreError:
    owner, number, _ = payload
    return StoreError(f"payload {owner}-{number} has {found} bytes, and a message refers to {length}: not copied")


class Cut:
    """The read transaction of a cut, and facts read from it. Close it as soon as possible: it pins pages."""

    def __init__(self, space: Space, txn: ReadTxn, txn_id: int, leases: list[_Lease]) -> None:
        self.space = space
        self.txn = txn
        self.txn_id = txn_id
        self._leases = leases
        self._pinned_s = 0.0
        self._grown: int | None = None  # set: the pages are released already
        self._lengths: dict[Payload, int] = {}
        self.sequence = space.base + txn_id
        self.clock_ns = space.now_ns()
        self._opened_s = time.monotonic()
        self._pages = space.last_page()

    @property
    def counts(self) -> dict[str, Any]:
        registry = lives.load(self.txn)
        found = lives.figures(self.txn, registry)
        for id, node_entry in registry.items():
            found[id]["dead_letters"] = sum(dead_letters.counts(self.txn, node_entry.number).values())
        return found

    @property
    def dataflow(self) -> dict[str, Any]:
        """Which dataflow is in force, see format.Manifest."""
        record = in_force(self.txn)
        if not record:
            return {}
        drain = [id for id, entry in lives.load(self.txn).items() if entry.leaves or entry.leaving]
        numbers = {"changes": record.get("changes", 0), "scaled": record.get("scaled", {})}
        return {"file": record["file"], **numbers, "drain": drain}

    @property
    def finished(self) -> bool:
        """Whether all nodes of the dataflow had ended."""
        registry = lives.load(self.txn)
        return bool(registry) and all(lives.status(self.txn, entry) == records.ENDED for entry in registry.values())

    @contextlib.contextmanager
    def copied(self, folder: Path) -> Iterator[None]:
        """Inside the block the cut reads a copy in `folder`, and the space's pages are released. Removes the copy."""
        copy = folder / f"cut-{os.getpid()}"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir(mode=0o700, parents=True)
        try:
            self.space.copy(copy, self.txn)
            self.txn.abort()
            self._pinned_s = time.monotonic() - self._opened_s
            self._grown = self._growth()
            with read_copy(copy) as self.txn:
                yield
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def _growth(self) -> int:
        return (self.space.last_page() - self._pages) * self.space.page_bytes

    def walk(self, folder: Path, prefix: str, since: int | None, known: KeyIndex | None) -> Walked:
        """Write the records of the cut to files in `folder` whose names begin with `prefix`.

        With `since` (a sequence) and the key index of that cut, writes only newer records, and the keys that are gone.
        Removes its files if it fails. Raises SpaceTooFull and OSError.
        """
        spool = _Spool(folder, prefix)
        try:
            index = self._walk(spool, since, known)
            spool.close()
        except BaseException:
            spool.discard()
            raise
        grown = self._growth() if self._grown is None else self._grown
        return Walked(spool.parts, index, grown, self._pinned_s or time.monotonic() - self._opened_s)

    def _walk(self, spool: _Spool, since: int | None, known: KeyIndex | None) -> KeyIndex:
        index = KeyIndex()
        add_key = index.add
        add = spool.add_record
        old_records = iter(known) if known is not None else iter(())
        old, old_crc = next(old_records, _NO_RECORD)
        newer_than = -1 if since is None else since
        sequence_of = records.PRIVATE.unpack_from
        look_in = 1
        for key, value in self._records():
            look_in -= 1 + (len(value) >> 10)
            if look_in <= 0:
                self._look()
                look_in = _LOOK_EVERY
            kind = key[0]
            if kind in _REFERRING:
                self._note_length(key, value)
            crc = record_crc(key, value)
            add_key(key, crc)
            while old is not None and old < key:
                spool.add_gone(old)
                old, old_crc = next(old_records, _NO_RECORD)
            if old != key:
                add(key, value)
                continue
            changed = crc != old_crc
            old, old_crc = next(old_records, _NO_RECORD)
            if kind in _STAMPED:  # they begin with the sequence of the commit that wrote them
                if changed or sequence_of(value)[0] > newer_than:
                    add(key, value)
            elif changed or kind not in _SELDOM_CHANGED:
                add(key, value)
        while old is not None:
            spool.add_gone(old)
            old, old_crc = next(old_records, _NO_RECORD)
        index.finish()
        return index

    def _records(self) -> Iterator[tuple[bytes, bytes]]:
        """All records of the cut in the order of their keys, the chunks of payloads after the others."""
        for key, value in self.txn.cursor():
            if key[0] != _REQUEST:  # answers to clients of this store mean nothing to the next store
                yield key, value
        leases = {lease.payload: lease for lease in self._leases}
        for payload, length in sorted(self._lengths.items()):
            if payload not in leases:
                raise _too_short(payload, 0, length)
            yield from leases[payload].chunks(length)

    def _note_length(self, key: bytes, value: bytes) -> None:
        needed = needed_payload(key, value)
        if needed is not None:
            payload, length = needed
            self._lengths[payload] = max(length, self._lengths.get(payload, 0))

    def _look(self) -> None:
        if self._grown is not None:
            return
        share = self.space.last_page() / self.space.pages_max
        if share > GROWTH_MARK and self.space.last_page() > self._pages:
            raise SpaceTooFull(share)

    def close(self) -> None:
        self.txn.abort()
        for lease in self._leases:
            os.close(lease.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def remove_copies(folder: Path) -> None:
    """Remove the copies of a process that was killed while it walked one (see `Cut.copied`)."""
    for copy in folder.glob("cut-[0-9]*"):
        if copy.name.removeprefix("cut-").isdigit() and copy.is_dir():
            shutil.rmtree(copy, ignore_errors=True)


def open_cut(space: Space, segments: Path | None = None) -> Cut:
    """Take the write lock, open the read transaction and lock the segments under it, then release the write lock.

    `segments`: the folder of payload segments. Raises SegmentBusy.
    """
    leases: list[_Lease] = []
    lock = space.begin()
    try:
        txn = space.read()
        try:
            if segments is not None:
                for owner, number, generation, _ in referenced(txn):
                    leases.append(_Lease(segments, (owner, number, generation)))
            return Cut(space, txn, txn.id(), leases)
        except BaseException:
            txn.abort()
            for lease in leases:
                os.close(lease.fd)
            raise
    finally:
        lock.abort()


def _private(path: str, flags: int) -> int:
    """An opener for `open`: only its owner can read the new file."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


class _Spool:
    """Writes the parts of one snapshot: files in `folder`, each closed when it has reached PART_BYTES."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.parts: list[tuple[Part, Path]] = []
        self._folder = folder
        self._prefix = prefix
        self._open: dict[str, tuple[PartWriter, Any, Path]] = {}
        self._paths: list[Path] = []

    def add_record(self, key: bytes, value: bytes) -> None:
        writer = self._open[RECORDS][0] if RECORDS in self._open else self._begin(RECORDS)
        writer.add_record(key, value)
        if writer.size_bytes >= PART_BYTES:
            self._end(RECORDS)

    def add_gone(self, key: bytes) -> None:
        writer = self._open[GONE][0] if GONE in self._open else self._begin(GONE)
        writer.add_key(key)
        if writer.size_bytes >= PART_BYTES:
            self._end(GONE)

    def _begin(self, kind: str) -> PartWriter:
        path = self._folder / f"{self._prefix}-{len(self._paths):04d}.part"
        file = open(path, "xb", opener=_private)  # noqa: SIM115 - closed when the part is full
        self._paths.append(path)
        writer = PartWriter(file, kind)
        self._open[kind] = (writer, file, path)
        return writer

    def _end(self, kind: str) -> None:
        writer, file, path = self._open[kind]
        part = writer.finish(path.name)
        file.close()
        del self._open[kind]
        self.parts.append((part, path))

    def close(self) -> None:
        for kind in list(self._open):
            self._end(kind)

    def discard(self) -> None:
        for _, file, _ in self._open.values():
            with contextlib.suppress(OSError):
                file.close()
        self._open.clear()
        for path in self._paths:
            with contextlib.suppress(OSError):
                path.unlink()


def records_of(frames: Iterator[list[bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """The (key, value) pairs of the frames of a part of records."""
    for items in frames:
        yield from zip(items[::2], items[1::2], strict=True)
