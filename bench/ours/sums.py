"""A keyed running sum, record by record and in batches: what sends, what sums, and what counts the sums."""

from __future__ import annotations

import os
import time
from typing import Any

from measured import leave

from noderuntime import Operator, Source, stateful_map

KEYS = 100
COUNT = int(os.environ["BENCH_COUNT"])
BATCH = int(os.environ["BENCH_BATCH"])


class Records(Source):
    """Sends COUNT whole numbers at full speed, BATCH of them in a message; one that is no list when BATCH is 1."""

    def __init__(self) -> None:
        self.begin_s = time.monotonic() + 1.0

    def produce(self, position: int | None, ctx: Any) -> Any:
        number = position or 0
        if not number:
            if time.monotonic() < self.begin_s:
                return Source.idle(0.05)
            leave("begun", time.monotonic_ns())
        if number >= COUNT:
            return Source.END
        ctx.send_output("out", number if BATCH == 1 else list(range(number, number + BATCH)))
        return number + BATCH


def add(key: int, value: int, state: int) -> tuple[int, int]:
    state += value
    return state, state


def key_of(value: int) -> int:
    return value % KEYS


sum_each = stateful_map(add, output="sum", key=key_of, default=int)


def sum_batches() -> Any:
    return stateful_map(add, output="sum", key=key_of, default=int, batch=True)()


class Tally(Operator):
    """Counts the sums; notes when the last one came, and that the sums are right."""

    def __init__(self) -> None:
        self.count = self.last_ns = 0
        self.sums: dict[int, int] = {}

    def on_event(self, event: Any, ctx: Any) -> None:
        if event.type == "INPUT":
            if BATCH == 1:
                self.count += 1
                self.sums[event.metadata["key"]] = event.value
            else:
                self.count += len(event.value)
                self.sums.update(zip(event.metadata["keys"], event.value, strict=True))
            self.last_ns = time.monotonic_ns()
        elif event.type == "STOP":
            right = sum(self.sums.values()) == COUNT * (COUNT - 1) // 2
            leave("tally", {"count": self.count, "last_ns": self.last_ns, "right": right})
