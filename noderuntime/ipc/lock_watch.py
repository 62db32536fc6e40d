"""Finds the threads that hold locks of the space, and the processes that pin its pages, without opening the space.

LMDB's two mutexes live in `lock.mdb`; they are robust, so their futex words hold the thread id of the owner. The
runtime, which never opens the space, maps the file read-only: it kills a holder that is stopped or makes no progress,
and the mutex then frees itself. Offsets as in LMDB 0.9 with 64-byte cache lines and 40-byte mutexes
(x86-64, glibc and musl): 8 the mutex of the reader table, 48 the id of the last transaction, 64 the writers' mutex.

The file says which engine made it: its first word is LMDB's mark, its second the version and features of the lock file
(0x10001: version 1 with locks by pid, which is 0.9; LMDB 1.0 has version 2 and other fields). With another engine, or
on another machine, `has_known_layout` is False and nothing is watched: other checks then have to find a process that is
stopped while it holds a lock.

The table of readers follows at 128, 64 bytes each: transaction (all ones: none), process. LMDB cannot reuse pages that
a read transaction may still see, so one that stays open while others write makes the space grow by all that they write.
"""

from __future__ import annotations

import mmap
import platform
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

READERS_AT, TRANSACTION_AT, COUNT_AT, WRITER_AT, TABLE_AT = 8, 48, 56, 64, 128
READER_BYTES = 64
_TID_MASK = 0x3FFFFFFF  # the upper bits: waiters, owner died
_WORD, _ID = struct.Struct("<I"), struct.Struct("<Q")
_READER = struct.Struct("<QI")
_NONE = 2**64 - 1
_ENGINE_0_9 = struct.Struct("<II").pack(0xBEEFC0DE, 0x10001)


def has_known_layout(lock_file: bytes | mmap.mmap) -> bool:
    """Whether the offsets above hold for a lock file that begins with these bytes, on this machine."""
    here = platform.machine() in ("x86_64", "AMD64") and sys.maxsize > 2**32
    return here and lock_file[: len(_ENGINE_0_9)] == _ENGINE_0_9


@dataclass(frozen=True, slots=True)
class Holding:
    """A thread that holds a lock, and for how long no transaction was seen to finish in the meantime."""

    thread: int
    held_s: float


@dataclass(frozen=True, slots=True)
class Pinning:
    """A process whose read transaction is older than the newest commit, and for how long that has been seen."""

    process: int
    pinned_s: float


class LockWatch:
    """Watches one lock file. Its answers are samples: a holder may have released the lock in the meantime."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        known = has_known_layout(self._map)
        self._places = (WRITER_AT, READERS_AT) if known else ()
        self._seen: dict[int, tuple[tuple[int, int], float]] = {}
        self._known = known
        self._readers: dict[int, tuple[tuple[int, int], float]] = {}  # by slot, those that lag

    def look(self, now_s: float) -> list[Holding]:
        """The threads that hold a lock now."""
        found = []
        for place in self._places:
            thread = _WORD.unpack_from(self._map, place)[0] & _TID_MASK
            evidence = (thread, _ID.unpack_from(self._map, TRANSACTION_AT)[0])
            before = self._seen.get(place)
            if before is None or before[0] != evidence:
                self._seen[place] = before = (evidence, now_s)
            if thread:
                # never 0: a lock that was just seen has been held for a moment
                found.append(Holding(thread, max(now_s - before[1], 1e-6)))
        return found

    def look_at_readers(self, now_s: float) -> list[Pinning]:
        """The processes that pin pages now. A reader that is up to date pins none, however long it reads."""
        if not self._known:
            return []
        newest = _ID.unpack_from(self._map, TRANSACTION_AT)[0]
        before, self._readers = self._readers, {}
        found = []
        for slot in range(_WORD.unpack_from(self._map, COUNT_AT)[0]):
            evidence = _READER.unpack_from(self._map, TABLE_AT + slot * READER_BYTES)
            transaction, owner = evidence
            if not owner or transaction == _NONE or transaction >= newest:
                continue
            known = before.get(slot)
            since_s = known[1] if known is not None and known[0] == evidence else now_s
            self._readers[slot] = evidence, since_s
            found.append(Pinning(owner, now_s - since_s))
        return found

    def close(self) -> None:
        self._map.close()
