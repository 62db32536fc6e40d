"""The operators that are measured. Values are 64 bytes: the time of sending (CLOCK_MONOTONIC in ns), then a number."""

from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path
from typing import Any

from noderuntime import Operator, Status

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
