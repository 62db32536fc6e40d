"""What state costs: events that save nothing, save 64 bytes, or write 64 shared bytes, in turns; commits are timed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from measured import VALUE, leave

from noderuntime import Operator
from noderuntime.space.commit import Commits

KINDS = ("nothing", "save_state", "kvs_write")
CALLS = 2000
VALUE_64 = bytes(64)

took: list[int] = []  # of each commit of one event, since the last look


def timed(commit: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(commit)
    def measured(self: Commits, group: Any, now_ns: int) -> int:
        alone = len(group) == 1
        begin = time.monotonic_ns()
        done = commit(self, group, now_ns)
        if alone:
            took.append(time.monotonic_ns() - begin)
        return done

    return measured


Commits.commit = timed(Commits.commit)  # type: ignore[method-assign]


class State(Operator):
    def __init__(self) -> None:
        self.commits: dict[str, list[int]] = {kind: [] for kind in KINDS}
        self.calls: dict[str, list[int]] = {kind: [] for kind in (*KINDS, "kvs_read")}
        self.last = ""

    def on_event(self, event: Any, ctx: Any) -> None:
        if event.type == "STOP":
            return self.repeat(ctx)
        if event.type != "INPUT":
            return None
        if self.last and len(took) == 1:
            self.commits[self.last].append(took[0])
        took.clear()
        self.last = kind = KINDS[VALUE.unpack(event.value)[1] % len(KINDS)]
        begin = time.monotonic_ns()
        if kind == "save_state":
            ctx.save_state("state", VALUE_64)
        elif kind == "kvs_write":
            ctx.kvs_write("shared", VALUE_64)
        self.calls[kind].append(time.monotonic_ns() - begin)
        begin = time.monotonic_ns()
        ctx.kvs_read("another")
        self.calls["kvs_read"].append(time.monotonic_ns() - begin)
        return None

    def repeat(self, ctx: Any) -> None:
        """The calls that take effect, or answer, at once: many of them in a row."""
        repeated: dict[str, list[int]] = {"kvs_read": [], "kvs.set": []}
        ctx.kvs.set("another", VALUE_64)
        for name, call in (
            ("kvs_read", lambda: ctx.kvs_read("another")),
            ("kvs.set", lambda: ctx.kvs.set("another", VALUE_64)),
        ):
            for _ in range(CALLS):
                begin = time.monotonic_ns()
                call()
                repeated[name].append(time.monotonic_ns() - begin)
        leave("state", {"commits": self.commits, "calls": self.calls, "repeated": repeated})
