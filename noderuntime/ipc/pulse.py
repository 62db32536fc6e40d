"""Pulses: one page of plain shared memory per node, written only by the node's present incarnation.

The runtime reads it without locks: to notice hangs, to find the messages that were in hand at a crash, and for `ps`.
The figures are native unsigned 64-bit words, each stored at once, so that none is ever seen half written. The keys of
the messages in hand are longer. A half-written key matches no message, and the code that counts attempts checks that.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

PULSE_BYTES = 4096

STARTING, WAITING, HANDLING, COMMITTING, WAITING_FOR_ROOM, ENDED = range(6)
PHASES = ("starting", "waiting", "handling", "committing", "waiting for room", "ended")

INCARNATION, PID, PHASE, HANDLED, COMMITS, SINCE_NS, MEMBER, CALLS = range(8)
"""HANDLED (events whose handler returned) and COMMITS count in this life; SINCE_NS is CLOCK_MONOTONIC at the last
change to HANDLING or WAITING_FOR_ROOM. Where operators share a process, the page of the first one has its phase and its
commits, MEMBER is the place of the one whose handler runs, and CALLS counts the calls of all handlers."""

HANDS_BYTE = 128  # from here on, the key of each message in hand (noderuntime.space.keys.message); 0: free
HANDS_MAX = 64
_HAND = struct.Struct(">3xHQI")
_SLOTS = tuple(slice(at, at + _HAND.size) for at in range(HANDS_BYTE, HANDS_BYTE + 24 * HANDS_MAX, 24))


@dataclass(frozen=True, slots=True)
class Pulse:
    """The content of a pulse page. `hands`: (input, sequence, index) of each message in hand; an operator has one."""

    incarnation: int
    pid: int
    phase: int
    handled: int
    commits: int
    hands: tuple[tuple[int, int, int], ...]
    since_ns: int


@dataclass(frozen=True, slots=True)
class Glance:
    """The part of a pulse that is looked at many times a second."""

    phase: int
    commits: int
    handling_s: float  # for how long the present handler call has been running


class PulsePage:
    """The mapped page. Writers use `words` directly: `page.words[PHASE] = WAITING`."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, PULSE_BYTES)
            self._map = mmap.mmap(fd, PULSE_BYTES)
        finally:
            os.close(fd)
        self.words = memoryview(self._map).cast("Q")

    def begin(self, incarnation: int) -> None:
        """Reset the page for a new life of the node."""
        words = self.words
        for slot in range(HANDS_MAX):
            self.release(slot)
        words[HANDLED] = words[COMMITS] = words[MEMBER] = words[CALLS] = 0
        words[PHASE] = STARTING
        words[PID] = os.getpid()
        words[SINCE_NS] = time.monotonic_ns()
        words[INCARNATION] = incarnation

    def take(self, slot: int, key: bytes) -> None:
        """Record that the message under `key` is in hand."""
        self._map[_SLOTS[slot]] = key

    def hand(self, slot: int) -> Callable[[bytes], None]:
        """A faster `take` for one slot: one call fewer per message."""
        return partial(self._map.__setitem__, _SLOTS[slot])

    def release(self, slot: int) -> None:
        self._map[_SLOTS[slot].start] = 0

    def read(self) -> Pulse:
        words = self.words
        taken = (self._map[slot] for slot in _SLOTS)
        return Pulse(
            incarnation=words[INCARNATION],
            pid=words[PID],
            phase=words[PHASE],
            handled=words[HANDLED],
            commits=words[COMMITS],
            hands=tuple(_HAND.unpack(key) for key in taken if key[0]),
            since_ns=words[SINCE_NS],
        )

    def close(self) -> None:
        self.words.release()
        self._map.close()
