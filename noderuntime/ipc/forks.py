"""Forks of a process that belongs to a run: objects that the child must not use raise Forked there.

A fork has copies of all objects, but not their threads; it shares descriptors, ZeroMQ's sockets and LMDB's slots with
its parent, so using them in the child would harm the parent. Objects that must not cross a fork are registered with
`watch`, and their `forked` is called in the child before any other code runs there. (Rejected: comparing the pid in
every call, which costs time in each event.)
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from noderuntime.errors import NodeRuntimeError


class Forkable(Protocol):
    """An object that must not be used in a fork of its process."""

    def forked(self) -> None:
        """Called in the child of a fork: give up what belongs to the parent, without touching it."""


class Forked(NodeRuntimeError):
    """A fork of a node's process used what belongs to the node. The parent is not affected."""

    def __init__(self) -> None:
        self.parent = _parent
        super().__init__(
            f"this process is a fork of a node's process ({_parent}), and only that one can send, receive, read and "
            "write for the node. Pass the result back to it (a pipe, a multiprocessing queue), or make this program a "
            "node of its own"
        )


class Watch:
    """Calls `forked` in each fork, as long as it exists. For objects that have no weak references (compiled)."""

    def __init__(self, forked: Callable[[], None]) -> None:
        self.forked = forked
        watch(self)


class Gone:
    """Takes the place, in a fork, of an object that belongs to the parent: any use raises Forked."""

    def __getattr__(self, name: str) -> NoReturn:
        raise Forked

    def __call__(self, *arguments: Any) -> NoReturn:
        raise Forked

    def __getitem__(self, key: Any) -> NoReturn:
        raise Forked

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise Forked


GONE: Any = Gone()

_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
_process = os.getpid()
_parent = 0


def watch(item: Forkable) -> None:
    """Call `item.forked()` in each fork of this process, as long as `item` exists."""
    _watched.add(item)


def keep(item: Any) -> None:
    """Never destroy `item` in this process: its destructor would affect the parent, which still uses it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(item))


def _in_child() -> None:
    global _process, _parent
    _parent, _process = _process, os.getpid()
    items = list(_watched)
    _watched.clear()
    for item in items:
        item.forked()


os.register_at_fork(after_in_child=_in_child)
