"""The operators that are measured. Values are 64 bytes: the time of sending (CLOCK_MONOTONIC in ns), then a number."""

from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path
from typing import Any

from noderuntime import Operator, Source, Status

VALUE = struct.Struct("<QQ48x")


def leave(name: str, what: object) -> None:
    """Leave a result for the benchmark as BENCH_OUT/NAME.json."""
    Path(os.environ["BENCH_OUT"], f"{name}.json").write_text(json.dumps(what))


class Beat(Operator):
    """Sends one value at each tick, BENCH_COUNT of them."""

    def __init__(self) -> None:
        self.left = int(os.environ["BENCH_COUNT"])

    def on_event(self, event: Any, ctx: Any) -> Status:
        if event.type != "INPUT":
            return Status.CONTINUE
        self.left -= 1
        ctx.send_output("out", VALUE.pack(time.monotonic_ns(), self.left))
        return Status.CONTINUE if self.left else Status.STOP


class Latency(Operator):
    """Notes how long each value was under way."""

    def __init__(self) -> None:
        self.took: list[int] = []

    def on_event(self, event: Any, ctx: Any) -> None:
        arrived = time.monotonic_ns()
        if event.type == "INPUT":
            self.took.append(arrived - VALUE.unpack(event.value)[0])
        elif event.type == "STOP":
            leave("latency", self.took)


class Burst(Source):
    """Sends BENCH_COUNT values at full speed, one a turn, from a second after its start on: all others run then."""

    def __init__(self) -> None:
        self.count = int(os.environ["BENCH_COUNT"])
        self.begin_s = time.monotonic() + 1.0

    def produce(self, position: int | None, ctx: Any) -> Any:
        number = position or 0
        if not number and time.monotonic() < self.begin_s:
            return Source.idle(0.05)
        if number == self.count:
            return Source.END
        ctx.send_output("out", VALUE.pack(time.monotonic_ns(), number))
        return number + 1


class Relay(Operator):
    """Counts, saves the count, and sends on."""

    def __init__(self) -> None:
        self.count = 0

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.count = int.from_bytes(state["count"], "little")

    def on_event(self, event: Any, ctx: Any) -> None:
        if event.type == "INPUT":
            self.count += 1
            ctx.save_state("count", self.count.to_bytes(8, "little"))
            ctx.send_output("out", event.value)


class Count(Operator):
    """Notes when the first value was sent, when the last one came, and how many there were; saves the count."""

    def __init__(self) -> None:
        self.count = 0
        self.first_ns = self.last_ns = 0

    def on_event(self, event: Any, ctx: Any) -> None:
        if event.type == "INPUT":
            self.last_ns = time.monotonic_ns()
            sent_ns, _ = VALUE.unpack(event.value)
            self.first_ns = self.first_ns or sent_ns
            self.count += 1
            ctx.save_state("count", self.count.to_bytes(8, "little"))
        elif event.type == "STOP":
            leave("count", {"count": self.count, "first_ns": self.first_ns, "last_ns": self.last_ns})
