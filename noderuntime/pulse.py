"""Pulses: a page of plain shared memory per node that only its present incarnation writes. Floor 2.

The runtime reads it without locks: to notice hangs, to know what was in hand at a crash, for the figures of `ps`.
All slots are native unsigned 64-bit words, each stored at once, so that none is ever seen half written.
"""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass
from pathlib import Path

PULSE_BYTES = 4096

STARTING, WAITING, HANDLING, COMMITTING, WAITING_FOR_ROOM, ENDED = range(6)
PHASES = ("starting", "waiting", "handling", "committing", "waiting for room", "ended")

INCARNATION, PID, PHASE, HANDLED, COMMITS, SINCE_NS = range(6)
"""HANDLED (events whose handler returned) and COMMITS count in this life; SINCE_NS is CLOCK_MONOTONIC at the last
change to HANDLING or WAITING_FOR_ROOM."""

HANDS = 16  # from here on, pairs: sequence (0: free) and input << 32 | index, of each message in hand
HANDS_MAX = 64


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
            words[HANDS + 2 * slot] = 0
        words[HANDLED] = words[COMMITS] = 0
        words[PHASE] = STARTING
        words[PID] = os.getpid()
        words[SINCE_NS] = time.monotonic_ns()
        words[INCARNATION] = incarnation

    def take(self, slot: int, input: int, sequence: int, index: int) -> None:
        """Say that a message is in hand. Never half said: the sequence is what makes a slot count."""
        words = self.words
        at = HANDS + 2 * slot
        words[at] = 0
        words[at + 1] = input << 32 | index
        words[at] = sequence

    def release(self, slot: int) -> None:
        self.words[HANDS + 2 * slot] = 0

    def read(self) -> Pulse:
        words = self.words
        hands = []
        for at in range(HANDS, HANDS + 2 * HANDS_MAX, 2):
            sequence, place = words[at], words[at + 1]
            if sequence:
                hands.append((place >> 32, sequence, place & 0xFFFFFFFF))
        return Pulse(
            incarnation=words[INCARNATION],
            pid=words[PID],
            phase=words[PHASE],
            handled=words[HANDLED],
            commits=words[COMMITS],
            hands=tuple(hands),
            since_ns=words[SINCE_NS],
        )

    def close(self) -> None:
        self.words.release()
        self._map.close()
