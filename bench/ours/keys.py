"""An operator with very many private keys, and what commits cost it: of one event, and of groups.

Messages are one byte (what to do) and a number. Commits are timed by wrapping the function, in this process only.
"""

from __future__ import annotations

import functools
import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measured import leave

from noderuntime import Operator, Source
from noderuntime.space.commit import Commits

MESSAGE = struct.Struct("<BQ")
GO = Path(os.environ["BENCH_OUT"], "go")
FILLED = Path(os.environ["BENCH_OUT"], "filled")
FILL, ONE, MANY = range(3)
FILL_KEYS = 200  # put by one message
GROUP = 64
ALONE_AFTER_S = 1.0
VALUE_64 = bytes(64)

took: list[tuple[int, int]] = []  # (events, nanoseconds) of each commit since the last look


def timed(commit: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(commit)
    def measured(self: Commits, group: Any, now_ns: int) -> int:
        begin = time.monotonic_ns()
        done = commit(self, group, now_ns)
        took.append((done, time.monotonic_ns() - begin))
        return done

    return measured


class Feed(Source):
    """From BENCH_OUT/go on messages that fill BENCH_KEYS keys; when that is done BENCH_ONES one by one, then BENCH_MANY
    at full speed.
    """

    PAUSE_S = 0.002

    def __init__(self) -> None:
        fills = -(-int(os.environ["BENCH_KEYS"]) // FILL_KEYS)
        ones = fills + int(os.environ["BENCH_ONES"])
        self.phases = ((fills, FILL), (ones, ONE), (ones + int(os.environ["BENCH_MANY"]), MANY))
        self.due_s = 0.0

    def produce(self, position: int | None, ctx: Any) -> Any:
        number = position or 0
        phase = next((kind for end, kind in self.phases if number < end), None)
        if not (FILLED if phase == ONE else GO).exists():
            return Source.idle(0.05)
        early_s = self.due_s - time.monotonic()
        if early_s > 0:
            return Source.idle(early_s)
        if phase is None:
            return Source.END
        if phase == ONE:
            self.due_s = time.monotonic() + self.PAUSE_S
        elif number == self.phases[1][0] - 1:
            self.due_s = time.monotonic() + 0.5
        ctx.send_output("out", MESSAGE.pack(phase, number))
        return number + 1


class Keys(Operator):
    """Each message behind the filling changes one of the keys, drawn by chance."""

    def __init__(self) -> None:
        self.random = random.Random(1)
        self.keys = int(os.environ["BENCH_KEYS"])
        self.phase = FILL
        self.found: dict[str, list[int]] = {"one": [], "group": []}

    def look(self) -> None:
        for events, ns in took:
            if self.phase == ONE and events == 1:
                self.found["one"].append(ns)
            elif self.phase == MANY and events == GROUP:
                self.found["group"].append(ns)
        took.clear()

    def on_event(self, event: Any, ctx: Any) -> None:
        if event.type == "STOP":
            self.look()
            leave("keys", self.found)
        if event.type != "INPUT":
            return
        self.look()
        before = self.phase
        self.phase, number = MESSAGE.unpack(event.value)
        if before != self.phase == MANY:
            time.sleep(ALONE_AFTER_S)  # until all of them wait and nobody else commits
        if self.phase == FILL:
            for key in range(number * FILL_KEYS, min((number + 1) * FILL_KEYS, self.keys)):
                ctx.save_state(f"key {key}", VALUE_64)
            if (number + 1) * FILL_KEYS >= self.keys:
                FILLED.touch()
        else:
            ctx.save_state(f"key {self.random.randrange(self.keys)}", VALUE_64)


Commits.commit = timed(Commits.commit)  # type: ignore[method-assign]
