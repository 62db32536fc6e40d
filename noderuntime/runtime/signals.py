"""Signals to the runtime (SIGTERM, Ctrl-C, SIGCHLD and so on), as numbers that its loop reads from a pipe.

The handlers do nothing: Python's wake-up descriptor writes the number of each signal into the pipe. So a signal is
handled between two callbacks of the loop, never in the middle of one. What a signal means is decided in phases.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Signals:
    """The pipe. `fd` is readable when a signal has come."""

    def __init__(self) -> None:
        self.fd, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def begin(self) -> None:
        """From here on signals come through the pipe. Call it in the main thread."""
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        for number in (*TO_STOP, signal.SIGCHLD):
            signal.signal(number, _noted)

    def taken(self) -> bytes:
        """The numbers of the signals that have come, one byte each."""
        return os.read(self.fd, 4096)

    def end(self, notice: Callable[[], None]) -> None:
        """The run is ending: a further signal only causes a call of `notice`. It stays so until the process exits,
        which must not die of a signal while it cleans up."""
        signal.set_wakeup_fd(-1)
        for number in TO_STOP:
            signal.signal(number, lambda number, frame: notice())

    def close(self) -> None:
        """Close the pipe, after `end`."""
        os.close(self.fd)
        os.close(self._woken)


def _noted(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor tells the loop."""
