"""Pulses: a page of plain shared memory per node that only its present incarnation writes.

The runtime reads it without locks: to notice hangs, to know what was in hand at a crash, for the figures of `ps`.
The figures are native unsigned 64-bit words, each stored at once, so that none is ever seen half written. The keys of
messages in hand are not; a half written one is none of a message, and whoever counts attempts looks for the message.
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

INCARNATION, PID, PHASE, HANDLED, COMMITS, SINCE_NS = range(6)
"""HANDLED (events whose handler returned) and COMMITS count in this life; SINCE_NS is CLOCK_MONOTONIC at the last
change to HANDLING or WAITING_FOR_ROOM."""

HANDS_BYTE = 128  # from here on, the key of each message in hand (noderuntime.space.keys.message); 0: free
HANDS_MAX = 64
_HAND = struct.Struct(">3xHQI")
_SLOTS = tuple(slice(at, at + _HAND.size) for at in range(HANDS_BYTE, HANDS_BYTE + 24 * HANDS_MAX, 24))


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a pulse page said. `hands` are (input, sequence, index) of the messages in hand: one for an operator."""

    incarnation: int
    pid: int
    phase: int
    handled: int
    commits: int
    hands: tuple[tuple[int, int, int], ...]
    since_ns: int


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
        """A new life takes the page over."""
        words = self.words
        for slot in range(HANDS_MAX):
            self.release(slot)
        words[HANDLED] = words[COMMITS] = 0
        words[PHASE] = STARTING
        words[PID] = os.getpid()
        words[SINCE_NS] = time.monotonic_ns()
        words[INCARNATION] = incarnation

    def take(self, slot: int, key: bytes) -> None:
        """Say that the message under `key` is in hand."""
        self._map[_SLOTS[slot]] = key

    def hand(self, slot: int) -> Callable[[bytes], None]:
        """`take` for one slot, in one call less: who has one message in hand at a time takes each of them with it."""
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
