"""Payload segments: large messages lie in files on shared memory, and the space counts the references to them.

A segment is a file `segments/OWNER-NUMBER` in the run directory: preallocated, never truncated, written by its
owner alone. A message carries a reference (owner, number, generation, length); how many messages refer to a segment is
counted in the transactions that send, acknowledge, drop and discard them. Leases are kernel flocks, not records, so a
death releases them:

- The owner takes LOCK_EX, *then* checks that nothing refers to the segment, fills it, unlocks it, *then* commits the
  message. So a segment that a message refers to is complete and unlocked. A process of an old life that is still
  filling a segment keeps the new life out by its lock.
- A receiver takes LOCK_SH, *then* checks that its message still exists (otherwise it was dropped in hand, and the
  segment may hold other data by now). It keeps the lock as long as any view of the data lives, acknowledged or not.

Rejected: reference counts alone. A receiver that still reads what it has acknowledged would see it overwritten.

One limit holds for the segments of all senders together, including the space itself. A sender that meets it first takes
a larger free segment of its own, then gives back the memory of its free segments; the files stay, because receivers may
have them mapped. A sender of which nothing is under way may exceed the limit by what one event sends: waiting would not
help, because no receiver would make room, and the messages in its mailbox could never leave it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from noderuntime.errors import StoreFull
from noderuntime.space import keys
from noderuntime.space.environment import MARK_NEW_WORK, Space, scan
from noderuntime.space.transactions import ReadTxn, WriteTxn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEGMENT_BYTES_MIN = 64 * 1024
THRESHOLD_BYTES = 64 * 1024  # smaller bodies travel in the message itself
LAST_BYTES = 1 << 20  # copying so much takes about as long as waking up a receiver that has slept long
PROBE_S = 0.0002  # between two tries to lock a segment that its owner holds
LOOKS = 16  # at segments that turn out to be in use, before another one is made, which costs more than that
LOOK_SHARE = 64  # a pool looks again how much is used when it has taken this fraction of the room that it saw

REFERENCE = struct.Struct("<HIQQ")  # owner, number, generation, length
_RECORD = struct.Struct("<QQQ")  # generation, size, references
REFERENCE_BYTES = REFERENCE.size


class Dropped(Exception):
    """The message was dropped while it was in hand: there is nothing left to handle."""


def adjust(txn: WriteTxn, reference: bytes, change: int) -> None:
    """Count `change` more references, by messages, to the segment in `reference`."""
    owner, number, generation, _ = REFERENCE.unpack_from(reference)
    key = keys.segment(owner, number)
    record = txn.get(key)
    _, size, references = _RECORD.unpack(record) if record else (0, 0, 0)
    txn.put(key, _RECORD.pack(generation, size, references + change))


def register(txn: WriteTxn, segment: Segment, references: int) -> None:
    """Count the references of a message that is being sent, and keep the segment's generation and size."""
    key = keys.segment(segment.owner, segment.number)
    record = txn.get(key)
    known = _RECORD.unpack(record)[2] if record else 0
    txn.put(key, _RECORD.pack(segment.generation, segment.size, known + references))


def referenced(txn: ReadTxn) -> Iterator[tuple[int, int, int, int]]:
    """(owner, number, generation, references) of every segment that messages refer to: what a cut has to keep."""
    for key, record in scan(txn, keys.SEGMENT_PREFIX):
        generation, _, references = _RECORD.unpack(record)
        if references:
            owner, number = keys.parse_segment(key)
            yield owner, number, generation, references


def sizes(txn: ReadTxn) -> Iterator[tuple[int, int, int]]:
    """(owner, number, size in bytes) of every segment that the space knows."""
    for key, record in scan(txn, keys.SEGMENT_PREFIX):
        yield *keys.parse_segment(key), _RECORD.unpack(record)[1]


def referenced_bytes(reference: bytes) -> int:
    """The length of what `reference` points to."""
    length: int = REFERENCE.unpack(reference)[3]
    return length


def read_segment(folder: Path, reference: bytes) -> bytes:
    """A copy of what `reference` points to. The caller must know that a message or a dead letter refers to it."""
    owner, number, _, length = REFERENCE.unpack_from(reference)
    with open(segment_path(folder, owner, number), "rb") as file:
        return file.read(length)


def segment_path(folder: Path, owner: int, number: int) -> Path:
    return folder / f"{owner}-{number}"


def size_class(length: int) -> int:
    """The size of the segment for `length` bytes: the next power of two, or three quarters of it where that will do."""
    whole = max(SEGMENT_BYTES_MIN, 1 << (length - 1).bit_length())
    return whole * 3 // 4 if length <= whole * 3 // 4 and whole > SEGMENT_BYTES_MIN else whole


class Segment:
    """A segment that this node owns. `filling`: LOCK_EX is held; `users`: arrays and staged messages that need it.

    `is_touched`: its memory has been written to. Memory that has not is written to by system calls: through a map each
    of its pages would cost a fault, which is slower than the copy.
    """

    __slots__ = ("_map", "fd", "filling", "generation", "is_touched", "number", "owner", "size", "users")

    def __init__(self, owner: int, number: int, fd: int, size: int, is_touched: bool = False) -> None:
        self.owner = owner
        self.number = number
        self.fd = fd
        self.size = size
        self.is_touched = is_touched
        self._map: mmap.mmap | None = None
        self.generation = 0
        self.filling = False
        self.users = 0

    @property
    def map(self) -> mmap.mmap:
        if self._map is None:
            self._map = mmap.mmap(self.fd, self.size)
        return self._map

    def write(self, at: int, data: memoryview) -> None:
        """Copy `data` to the place `at`."""
        if self.is_touched:
            self.map[at : at + len(data)] = data
            return
        while data:
            written = os.pwrite(self.fd, data, at)
            at, data = at + written, data[written:]

    def give_back(self) -> None:
        """Give its memory back to the system. Raises OSError where the file system cannot."""
        self.map.madvise(mmap.MADV_REMOVE)
        self.is_touched = False

    def reference(self, length: int) -> bytes:
        return REFERENCE.pack(self.owner, self.number, self.generation, length)

    def seal(self) -> None:
        """Mark it as filled: receivers may take it once the message is committed."""
        if self.filling:
            self.filling = False
            fcntl.flock(self.fd, fcntl.LOCK_UN)


class _Allocated(NamedTuple):
    """An array that `allocate` returned. `references`: those of the root array while this array is its only view."""

    segment: Segment
    root: weakref.ref[NDArray[Any]]
    array: weakref.ref[NDArray[Any]]
    references: int


class SegmentPool:
    """The segments that this node owns and reuses, including those that an earlier life has left.

    It keeps the memory of its segments until it needs more than the limit allows.

    Safe from several threads. Finalizers of arrays only append to a list: they run at any moment, in any thread.
    """

    def __init__(self, space: Space, folder: Path, owner: int) -> None:
        self._space = space
        self._folder = folder
        self._owner = owner
        self._lock = threading.RLock()
        self._segments: dict[int, deque[Segment]] = {}  # by size, as they were sent, oldest first
        self._hollow: dict[int, deque[Segment]] = {}  # by size: files whose memory was given back
        self._numbers = 0
        self._allowance = 0  # bytes that may be taken before the next look
        self._allocated: dict[int, _Allocated] = {}  # by address of the data: arrays of `allocate`
        self._released: deque[tuple[Segment, int]] = deque()
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in sorted(folder.glob(f"{owner}-*")):
            number = int(path.name.partition("-")[2])
            self._numbers = max(self._numbers, number + 1)
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            size = os.fstat(fd).st_size
            if size < SEGMENT_BYTES_MIN:  # its maker died before it was allocated, so nothing refers to it
                os.close(fd)
                path.unlink()
                continue
            is_whole = os.fstat(fd).st_blocks * 512 >= size
            pools = self._segments if is_whole else self._hollow
            pools.setdefault(size, deque()).append(Segment(owner, number, fd, size, is_whole))

    def take(self, length: int) -> Segment:
        """A segment for `length` bytes, locked for filling; nothing refers to it. Raises StoreFull.

        The caller fills it, seals it, and calls `done` once the message is committed or given up.
        """
        self.work_off()
        size = size_class(length)
        with self._lock:
            pool = self._segments.setdefault(size, deque())
            segment = self._reuse(pool, LOOKS)
            if segment is None:
                try:
                    segment = self._create(size)
                except StoreFull:
                    fitting = (self._segments[other] for other in sorted(self._segments) if other >= size)
                    segment = next(filter(None, (self._reuse(other, len(other)) for other in fitting)), None)
                    if segment is None:
                        raise
                else:
                    pool.append(segment)
            segment.users = 1
        return segment

    def has_room(self) -> bool:
        """Whether another payload, as large as the largest one that this node has ever sent, finds room now."""
        largest = max((*self._segments, *self._hollow), default=0)
        try:
            if largest:
                self.done(self.take(largest))
        except StoreFull:
            return False
        return True

    def _reuse(self, pool: deque[Segment], looks: int) -> Segment | None:
        """A free segment of `pool`, locked for filling; so many are looked at.

        Messages are handled in about the order in which they are sent, so the segments that were sent first are looked
        at, and not all of them: with many messages under way, that would take longer than making one more.
        """
        with self._space.read() as txn:
            for passed in range(min(looks, len(pool))):
                if self._is_free(txn, pool[passed]):
                    pool.rotate(-1 - passed)  # to the end, with those before it, which a receiver may keep for long
                    return pool[-1]
        pool.rotate(-1)
        return None

    def _is_free(self, txn: ReadTxn, segment: Segment) -> bool:
        if segment.users:
            return False
        try:
            fcntl.flock(segment.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # a receiver still reads it, or a process of an old life fills it
        record = txn.get(keys.segment(segment.owner, segment.number))
        generation, _, references = _RECORD.unpack(record) if record else (0, 0, 0)
        if references:
            fcntl.flock(segment.fd, fcntl.LOCK_UN)
            return False
        segment.generation = max(segment.generation, generation) + 1
        segment.filling = True
        return True

    def _create(self, size: int) -> Segment:
        """A new segment, or the file of an old one with new memory, locked for filling. Raises StoreFull."""
        self._need(size)
        hollow = self._hollow.get(size, deque())
        segment = self._reuse(hollow, len(hollow))
        if segment is None:
            path = segment_path(self._folder, self._owner, self._numbers)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._allocate(fd, size)
            except BaseException:
                os.close(fd)
                path.unlink()
                raise
            segment = Segment(self._owner, self._numbers, fd, size)
            self._numbers += 1
            fcntl.flock(fd, fcntl.LOCK_EX)
            segment.generation = 1
            segment.filling = True
        else:
            try:
                self._allocate(segment.fd, size)
            except BaseException:
                segment.seal()
                raise
            hollow.remove(segment)
        return segment

    def _allocate(self, fd: int, size: int) -> None:
        try:
            try:
                os.posix_fallocate(fd, 0, size)
            except OSError:
                if not self._give_back()[0]:
                    raise
                os.posix_fallocate(fd, 0, size)
        except OSError as error:
            space = self._space
            what = f"no memory for a payload of {size} bytes: {error}"
            raise StoreFull(space.size_bytes, space.used_bytes() + self._taken_bytes(), what, on_disk=True) from error

    def _need(self, size: int) -> None:
        """See the head of this module. Raises StoreFull when `size` more bytes are too many."""
        if size <= self._allowance:
            self._allowance -= size
            return
        space = self._space
        used = space.used_bytes() + self._taken_bytes()
        room = int(space.size_bytes * MARK_NEW_WORK) - used
        if room >= size:
            self._allowance = (room - size) // LOOK_SHARE
            return
        self._allowance = 0
        returned, under_way = self._give_back()
        mine = sum(segment.size for pool in self._segments.values() for segment in pool)
        if room + returned < size and (under_way or mine + size > 2 * space.event_bytes_max):
            raise StoreFull(space.size_bytes, used, f"no room for a payload of {size} bytes beside {used} in use")

    def _taken_bytes(self) -> int:
        """The bytes that the segments of all senders take."""
        with os.scandir(self._folder) as entries:
            return sum(entry.stat().st_blocks * 512 for entry in entries)

    def _give_back(self) -> tuple[int, bool]:
        """Give back the memory of free segments. Returns how many bytes, and whether messages of ours are under way."""
        returned, under_way = 0, False
        with self._space.read() as txn:
            for pool in self._segments.values():
                for segment in [segment for segment in pool if not segment.users]:
                    if not self._is_free(txn, segment):
                        under_way = True
                        continue
                    with contextlib.suppress(OSError):  # not every file system can
                        segment.give_back()
                        pool.remove(segment)
                        self._hollow.setdefault(segment.size, deque()).append(segment)
                        returned += segment.size
                    segment.seal()
        return returned, under_way

    def fill(self, body: bytes | memoryview, nearly: Callable[[], None] | None = None) -> Segment:
        """A segment that holds a copy of `body`, sealed; `nearly` is called when only LAST_BYTES are left to copy.

        Raises StoreFull.
        """
        segment = self.take(len(body))
        last = max(0, len(body) - LAST_BYTES)
        with memoryview(body) as view:
            if last:
                segment.write(0, view[:last])
            if nearly is not None:
                nearly()
            segment.write(last, view[last:] if last else view)
        segment.is_touched = True
        segment.seal()
        return segment

    def done(self, segment: Segment) -> None:
        """The message is committed or given up: from now on only the space counts its references."""
        with self._lock:
            segment.seal()
            segment.users -= 1

    def allocate(self, shape: int | tuple[int, ...], dtype: Any = "uint8") -> NDArray[Any]:
        """A writable array in a segment of its own. Sending it copies nothing. Raises StoreFull."""
        import numpy as np

        kind = np.dtype(dtype)
        if kind.hasobject:
            raise TypeError(f"allocate: arrays of dtype {kind} cannot travel")
        count = int(np.prod(shape, dtype=np.int64)) if isinstance(shape, tuple) else int(shape)
        length = max(1, count * kind.itemsize)
        segment = self.take(length)
        segment.is_touched = True
        root: np.ndarray[Any, Any] = np.frombuffer(segment.map, dtype=np.uint8, count=length)
        address = int(root.ctypes.data)
        weakref.finalize(root, self._released.append, (segment, address)).atexit = False
        array: NDArray[Any] = root[: count * kind.itemsize].view(kind).reshape(shape)
        self._allocated[address] = _Allocated(segment, weakref.ref(root), weakref.ref(array), sys.getrefcount(root))
        return array

    def segment_of(self, array: NDArray[Any], views: int = 0) -> Segment | None:
        """The segment that `array` starts, if it came from `allocate`; it is sealed, and gets one more user.

        All of the allocation is read-only then. If that is impossible, None: the sender keeps another view, such as a
        slice, through which it can still write, so the data must be copied. `views`: how many views the caller holds.
        """
        allocated = self._allocated.get(int(array.ctypes.data))
        if allocated is None or not array.flags.c_contiguous or array.nbytes > allocated.segment.size:
            return None
        segment, root = allocated.segment, array.base
        whole = allocated.array()
        # numpy makes the root the base of each view of a view, so its references tell how many there are
        known = views + (0 if whole is None or whole is array else 1)
        if root is None or root is not allocated.root() or sys.getrefcount(root) - allocated.references != known:
            return None
        for each in (root, array) if whole is None else (root, whole, array):
            each.flags.writeable = False
        segment.seal()
        segment.users += 1
        return segment

    def work_off(self) -> None:
        """Take back the segments that finalizers have released."""
        with self._lock:
            while self._released:
                segment, address = self._released.popleft()
                self._allocated.pop(address, None)
                self.done(segment)

    def close(self) -> None:
        for pool in (*self._segments.values(), *self._hollow.values()):
            for segment in pool:
                os.close(segment.fd)


class _Mapped:
    """A segment of another node, mapped read-only; LOCK_SH is held while there are leases.

    The descriptor, which the map has a copy of, is closed with the last reference from its views and SegmentViews.
    """

    __slots__ = ("fd", "leases", "map")

    def __init__(self, path: Path) -> None:
        self.leases = 0
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.map = mmap.mmap(self.fd, 0, prot=mmap.PROT_READ)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def release(self) -> None:
        self.leases -= 1
        if not self.leases:
            fcntl.flock(self.fd, fcntl.LOCK_UN)


def _lock_shared(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class SegmentViews:
    """This process's read-only views of other nodes' segments. A view is valid for as long as it is referenced."""

    def __init__(self, space: Space, folder: Path) -> None:
        self._space = space
        self._folder = folder
        self._lock = threading.RLock()
        self._mapped: dict[tuple[int, int], _Mapped] = {}
        # which segment each view is of, by the id of its reference: one to an array has no hash
        self._leased: dict[int, tuple[weakref.ref[NDArray[np.uint8]], _Mapped]] = {}
        self._released: deque[weakref.ref[NDArray[np.uint8]]] = deque()

    def lease(self, key: bytes, reference: bytes) -> NDArray[np.uint8]:
        """The bytes that the message under `key` refers to, as a read-only array. Raises Dropped."""
        import numpy as np

        self.work_off()
        owner, number, _, length = REFERENCE.unpack_from(reference)
        with self._lock:
            mapped = self._mapped.get((owner, number))
            if mapped is None:
                mapped = self._mapped[owner, number] = _Mapped(segment_path(self._folder, owner, number))
            while not mapped.leases and not _lock_shared(mapped.fd):
                # its owner is filling it again, so nothing refers to it, or is only looking for a free one
                if not self._exists(key):
                    raise Dropped
                time.sleep(PROBE_S)
            mapped.leases += 1
            if not self._exists(key):
                mapped.release()
                raise Dropped
            root: NDArray[np.uint8] = np.frombuffer(mapped.map, dtype=np.uint8, count=length)
            view = weakref.ref(root, self._released.append)
            self._leased[id(view)] = view, mapped
        return root

    def _exists(self, key: bytes) -> bool:
        with self._space.read() as txn:
            return txn.get(key) is not None

    def work_off(self) -> None:
        """Return the leases whose views are gone. Views go at any moment, so only a list hears of it."""
        if self._released:
            with self._lock:
                while self._released:
                    self._leased.pop(id(self._released.popleft()))[1].release()

    def close(self) -> None:
        """Release all segments but those that views still need: the last view of a segment releases it."""
        self.work_off()
        with self._lock:
            self._mapped.clear()
