"""The lock that the threads of a custom node share, and whether the node is closing or closed."""

from __future__ import annotations

import threading

from noderuntime.errors import NodeRuntimeError
from noderuntime.ipc import forks


class Gate:
    """The space may be used from any thread, one at a time: under `lock`, which the parts of a `Node` share."""

    def __init__(self, node_id: str) -> None:
        self.lock = threading.RLock()
        self.closing = False  # nothing new is taken or sent; waiting threads and tasks leave
        self.closed = False  # nothing more is committed
        self._node_id = node_id
        self._is_fork = False

    def check(self) -> None:
        """Raise NodeRuntimeError when the node is closed, and Forked in a fork of its process."""
        if self._is_fork:
            raise forks.Forked
        if self.closing:
            raise NodeRuntimeError(f"node {self._node_id!r} is closed: it takes and sends nothing any more")

    def forked(self) -> None:
        """Close the node in a fork. It gets a new lock, because a thread of the parent may hold the old one."""
        self._is_fork = self.closing = self.closed = True
        self.lock = threading.RLock()
