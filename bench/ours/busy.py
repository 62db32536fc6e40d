"""Operators that commit as fast as they can, next to one that does not; and those whose commits are counted.

They begin when BENCH_OUT/go exists and end with the run. Each writes keys of its own.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from measured import VALUE, leave

from noderuntime import Operator, Source

GO = Path(os.environ["BENCH_OUT"], "go")
TURN_S = 0.02
IDLE_S = 0.02
VALUE_64 = bytes(64)


class Waiting(Source):
    """Idle until BENCH_OUT/go exists."""

    began = False

    def produce(self, position: int | None, ctx: Any) -> Any:
        if not self.began:
            if not GO.exists():
                return Source.idle(IDLE_S)
            self.began = True
        return self.turn(position or 0, ctx)

    def turn(self, number: int, ctx: Any) -> Any:
        raise NotImplementedError


class Grouped(Waiting):
    """Saves 64 bytes and sends 64 bytes, a turn each; what comes in a row is committed in groups."""

    def turn(self, number: int, ctx: Any) -> int:
        ctx.save_state("state", VALUE_64)
        ctx.send_output("out", VALUE.pack(0, number))
        return number + 1


class Single(Waiting):
    """Writes 64 shared bytes again and again, each in a transaction of its own."""

    def turn(self, number: int, ctx: Any) -> int:
        write, key = ctx.kvs.set, ctx.node_id
        until = time.monotonic() + TURN_S
        while time.monotonic() < until:
            write(key, VALUE_64)
        return number + 1


class Counted(Waiting):
    """For BENCH_PHASE_S single commits, then for as long grouped ones; leaves how many there were of each.

    BENCH_OUT/go says when, on CLOCK_MONOTONIC in s: the same moment for all of them.
    """

    def __init__(self) -> None:
        self.phase_s = float(os.environ["BENCH_PHASE_S"])
        self.begin_s = 0.0
        self.single = self.grouped = 0

    def turn(self, number: int, ctx: Any) -> Any:
        self.begin_s = self.begin_s or float(GO.read_text())
        now = time.monotonic()
        past_s = now - self.begin_s
        if past_s < 0:
            return Source.idle(-past_s)
        if past_s < self.phase_s:
            write, key, until = ctx.kvs.set, ctx.node_id, min(now + TURN_S, self.begin_s + self.phase_s)
            while time.monotonic() < until:
                write(key, VALUE_64)
                self.single += 1
            return number + 1
        if past_s < 2 * self.phase_s:
            self.grouped += 1
            ctx.save_state("state", VALUE_64)
            return number + 1
        leave(f"counted-{ctx.node_id}", {"single": self.single, "grouped": self.grouped})
        return Source.END


class Large(Operator):
    """Sends 1 MB at each tick."""

    def __init__(self) -> None:
        self.array = np.ones(1_000_000, "uint8")

    def on_event(self, event: Any, ctx: Any) -> None:
        if event.type == "INPUT":
            ctx.send_output("out", self.array)


class See(Operator):
    """Keeps the last array in hand."""

    def on_event(self, event: Any, ctx: Any) -> None:
        if event.type == "INPUT":
            self.last = event.value
