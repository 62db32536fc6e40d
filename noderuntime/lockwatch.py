"""Who holds the locks of the space, read from outside. Floor 2.

LMDB's two mutexes live in `lock.mdb`; they are robust, so their futex words hold the thread id of the owner. The
runtime, which never opens the space, maps the file read-only and looks: a holder that is stopped, or makes no
progress, is killed, and the mutex frees itself. Offsets as in LMDB 0.9 with 64-byte cache lines and 40-byte mutexes
(x86-64, glibc and musl): 8 the mutex of the reader table, 48 the id of the last transaction, 64 the writers' mutex. On
other machines nothing is watched.
"""

from __future__ import annotations

import mmap
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

READERS_AT, TRANSACTION_AT, WRITER_AT = 8, 48, 64
_TID_MASK = 0x3FFFFFFF  # the upper bits: waiters, owner died
_WORD, _ID = struct.Struct("<I"), struct.Struct("<Q")
_MAGIC = 0xBEEFC0DE


@dataclass(frozen=True, slots=True)
class Holding:
    """A thread that holds a lock, and for how long, as far as was seen, without a transaction being finished."""

    thread: int
    held_s: float


class LockWatch:
    """Looks at one lock file. What it says is a sample: a holder may have let go by the time it is read."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        known = platform.machine() in ("x86_64", "AMD64") and _WORD.unpack_from(self._map, 0)[0] == _MAGIC
        self._places = (WRITER_AT, READERS_AT) if known else ()
        self._seen: dict[int, tuple[tuple[int, int], float]] = {}

    def look(self, now_s: float) -> list[Holding]:
        """Who holds a lock now."""
        found = []
        for place in self._places:
            thread = _WORD.unpack_from(self._map, place)[0] & _TID_MASK
            evidence = (thread, _ID.unpack_from(self._map, TRANSACTION_AT)[0])
            before = self._seen.get(place)
            if before is None or before[0] != evidence:
                self._seen[place] = before = (evidence, now_s)
            if thread:
                # just seen is held for a moment, not for no time at all
                found.append(Holding(thread, max(now_s - before[1], 1e-6)))
        return found

    def close(self) -> None:
        self._map.close()
