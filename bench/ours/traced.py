"""Beat and Latency with the stages of each hop noted: where the time goes. See bench/account.py.

The stages are taken by wrapping the functions between them, in these two processes only. All on CLOCK_MONOTONIC.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable
from typing import Any

from measured import VALUE, Beat, Latency, leave

import noderuntime.ipc.doorbell as doorbell
import noderuntime.node.session as session
import noderuntime.space.commit as commit
from noderuntime.node.operator_host import OperatorHost

clock = time.monotonic_ns
marks: dict[str, int] = {}


def mark(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def marked(*args: Any, **kwargs: Any) -> Any:
        marks[f"{name} begins"] = clock()
        result = function(*args, **kwargs)
        marks[f"{name} ends"] = clock()
        return result

    return marked


class TracedPoll:
    """A poll object that notes when it returned."""

    def __init__(self, poller: Any) -> None:
        self._poller = poller
        self.register = poller.register
        self.unregister = poller.unregister

    def poll(self, timeout_ms: float) -> Any:
        found = self._poller.poll(timeout_ms)
        marks["woken"] = clock()
        return found


doorbell.ring = mark("ring", doorbell.ring)
commit.Commits.commit = mark("commit", commit.Commits.commit)  # type: ignore[method-assign]
session.NodeSession.read_ahead = mark("read", session.NodeSession.read_ahead)  # type: ignore[method-assign]


def trace_poll() -> None:
    """The host of this process has made its poll object before it loaded us: put ours into its place."""
    host = next(item for item in gc.get_objects() if type(item) is OperatorHost)
    host._poller = TracedPoll(host._poller)  # type: ignore[assignment]


class TracedBeat(Beat):
    """At each tick it keeps the marks of the send before."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[dict[str, int]] = []

    def on_event(self, event: Any, ctx: Any) -> Any:
        self.kept.append(dict(marks))
        status = super().on_event(event, ctx)
        if self.left == 0:
            leave("sender", self.kept)
        return status


class TracedLatency(Latency):
    def __init__(self) -> None:
        super().__init__()
        trace_poll()
        self.kept: list[dict[str, int]] = []

    def on_event(self, event: Any, ctx: Any) -> None:
        now_ns = clock()
        if event.type == "INPUT":
            sent_ns = VALUE.unpack(event.value)[0]
            self.kept.append(dict(marks) | {"handled": now_ns, "sent": sent_ns})
        elif event.type == "STOP":
            leave("receiver", self.kept)
