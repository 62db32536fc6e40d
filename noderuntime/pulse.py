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

(
    INCARNATION,
    PID,
    PHASE,
    HANDLED,  # events whose handler returned, in this life
    COMMITS,  # in this life
    HAND_SEQUENCE,  # the message in hand: 0 = none; else its sequence,
    HAND_PLACE,  # and input << 32 | index
    SINCE_NS,  # CLOCK_MONOTONIC at the last change to HANDLING or WAITING_FOR_ROOM after another phase
) = range(8)


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a pulse page said. `hand` is (input, sequence, index) of the message in hand, or None."""

    incarnation: int
    pid: int
    phase: int
    handled: int
    commits: int
    hand: tuple[int, int, int] | None
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
        words[HAND_SEQUENCE] = words[HAND_PLACE] = words[HANDLED] = words[COMMITS] = 0
        words[PHASE] = STARTING
        words[PID] = os.getpid()
        words[SINCE_NS] = time.monotonic_ns()
        words[INCARNATION] = incarnation

    def read(self) -> Pulse:
        words = self.words
        sequence, place = words[HAND_SEQUENCE], words[HAND_PLACE]
        return Pulse(
            incarnation=words[INCARNATION],
            pid=words[PID],
            phase=words[PHASE],
            handled=words[HANDLED],
            commits=words[COMMITS],
            hand=(place >> 32, sequence, place & 0xFFFFFFFF) if sequence else None,
            since_ns=words[SINCE_NS],
        )

    def close(self) -> None:
        self.words.release()
        self._map.close()
