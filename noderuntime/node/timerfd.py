"""A timer that one thread sleeps on while another thread sets and clears it: a Linux timerfd.

Rejected: a thread that polls every millisecond. It takes the interpreter's lock each time, often in the middle of a
commit, which delays its own process and all that wait for the write lock. Setting a timerfd costs less than a
microsecond, and the thread wakes only if the timer was not cleared in time.
"""

from __future__ import annotations

import ctypes
import os
import time

_libc = ctypes.PyDLL(None, use_errno=True)  # PyDLL: too short a call to release the interpreter's lock


class _ITimerSpec(ctypes.Structure):
    _fields_ = (("interval", ctypes.c_long * 2), ("value", ctypes.c_long * 2))


def _spec(ns: int) -> _ITimerSpec:
    return _ITimerSpec((0, 0), divmod(ns, 1_000_000_000))


_CLEARED = _spec(0)


class OneShotTimer:
    """Goes off once, `after_ns` after it was last set; `fd` is readable then. Set and cleared from any thread."""

    def __init__(self, after_ns: int) -> None:
        self.fd: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC)
        if self.fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._spec = _spec(after_ns)

    def set(self) -> None:
        _libc.timerfd_settime(self.fd, 0, ctypes.byref(self._spec), None)

    def set_in(self, ns: int) -> None:
        """Go off after `ns` this time."""
        _libc.timerfd_settime(self.fd, 0, ctypes.byref(_spec(max(1, ns))), None)

    def clear(self) -> None:
        _libc.timerfd_settime(self.fd, 0, ctypes.byref(_CLEARED), None)

    def wait(self) -> None:
        """Sleep until it goes off."""
        os.read(self.fd, 8)

    def close(self) -> None:
        os.close(self.fd)
