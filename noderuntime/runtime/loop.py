"""The turn of the runtime's loop: descriptors with callbacks, over epoll."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

EVENTS_MAX = 256


class Loop:
    """Level-triggered: a callback that leaves something unread is called again in the next turn."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._pausable: set[int] = set()
        self._paused = False
        self._unwatched: set[int] = set()  # in this turn

    def watch(self, fd: int, callback: Callable[[], object], *, pausable: bool = False) -> None:
        """Call back whenever `fd` is readable, or its other end has closed."""
        self._callbacks[fd] = callback
        if pausable:
            self._pausable.add(fd)
        if not (pausable and self._paused):
            self._epoll.register(fd, select.EPOLLIN)

    def pause(self, paused: bool) -> None:
        """Leave what is `pausable` unread, or go on with it."""
        if paused is self._paused:
            return
        self._paused = paused
        for fd in self._pausable:
            if paused:
                self._epoll.unregister(fd)
            else:
                self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Before the descriptor is closed. One that is not watched is no error."""
        if self._callbacks.pop(fd, None) is None:
            return
        if not (fd in self._pausable and self._paused):
            self._epoll.unregister(fd)
        self._pausable.discard(fd)
        self._unwatched.add(fd)

    def close_fd(self, fd: int) -> None:
        """Unwatch and close."""
        self.unwatch(fd)
        os.close(fd)

    def turn(self, timeout_s: float) -> None:
        """Wait at most so long, and call back for what is ready."""
        ready = self._epoll.poll(max(0.0, timeout_s), EVENTS_MAX)
        self._unwatched.clear()
        for fd, _ in ready:
            # An earlier callback of this turn may have taken it away, and another descriptor may have its number since:
            # what has come for that one is told in the next turn.
            if fd not in self._unwatched and fd in self._callbacks:
                self._callbacks[fd]()

    def close(self) -> None:
        self._epoll.close()
