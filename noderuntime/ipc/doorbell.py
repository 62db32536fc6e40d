"""Doorbells: one FIFO per node; a byte in it wakes the node.

A byte carries no information: the woken node looks into the space. A FIFO opened O_RDWR never blocks on open, never
fails for lack of a reader, and keeps its bytes while its node is respawned; a full one is ringing already.
Rejected: unix datagram sockets (a sender with many undrained datagrams gets EAGAIN even towards an idle receiver, so
rings get lost) and eventfds (they have no name, so a respawned process could not open its neighbours' again).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from noderuntime.ipc.rundir import RunDir

_RING = b"\1"
_DRAIN_BYTES = 65536
_nothing_to_do = contextlib.suppress(BlockingIOError)  # full already, or empty; suppress can be shared, it is reentrant


def create(path: Path) -> None:
    """Create the doorbell, unless it exists. One that nodes have shared is left to the others."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_nlink > 1:
            path.unlink()
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)


def share(path: Path, first: Path) -> None:
    """Make the doorbell at `path` that at `first`: who rings one wakes the process of both."""
    path.unlink(missing_ok=True)
    path.hardlink_to(first)


def open_bell(path: Path) -> int:
    """A descriptor to ring, drain and poll. The caller closes it."""
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def ring(bell: int) -> None:
    """Wake the node that polls `bell`. Never blocks."""
    with _nothing_to_do:
        os.write(bell, _RING)


def drain(bell: int) -> None:
    """Remove all rings. Call it *before* looking into the space, so that a ring in between is not lost."""
    with _nothing_to_do:
        os.read(bell, _DRAIN_BYTES)


class Bells:
    """The doorbells of a run. Each is opened when it is first rung."""

    def __init__(self, run_dir: RunDir, mine: dict[int, int] | None = None) -> None:
        self._run_dir = run_dir
        self._given = mine or {}
        self._open: dict[int, int] = dict(self._given)

    def ring(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            bell = self._open.get(number)
            if bell is None:
                try:
                    bell = self._open[number] = open_bell(self._run_dir.bell(number))
                except FileNotFoundError:
                    continue  # the node has not started yet, or never will
            ring(bell)

    def close(self) -> None:
        for number, bell in self._open.items():
            if number not in self._given:
                os.close(bell)
        self._open.clear()
