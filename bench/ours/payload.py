"""Arrays of many sizes: when the ends have been read, and when all bytes are summed. BENCH_BLOCKS says what is sent.

Each array begins with the time of sending (CLOCK_MONOTONIC in ns) and the number of its block, as two uint64.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import numpy as np
from measured import leave

from noderuntime import Operator, Source, Status

BLOCKS = json.loads(os.environ["BENCH_BLOCKS"])
HEAD = 2  # uint64 in front


class Beat(Operator):
    """Sends the blocks one after the other, each array `every` ticks after the one before.

    `in_place`: each array is borrowed and filled before its time of sending is taken; otherwise it is copied in.
    """

    def __init__(self) -> None:
        self.waits = 0
        self.turns = [
            (number, block) for number, block in enumerate(BLOCKS) for _ in range(block["count"])
        ][::-1]  # fmt: skip
        self.arrays = {block["size"]: np.ones(block["size"] // 8, "uint64") for block in BLOCKS}

    def on_event(self, event: Any, ctx: Any) -> Status:
        if event.type != "INPUT":
            return Status.CONTINUE
        if self.waits:
            self.waits -= 1
            return Status.CONTINUE
        number, block = self.turns.pop()
        self.waits = block["every"] - 1
        if block["in_place"]:
            array = ctx.allocate(block["size"] // 8, "uint64")
            array.fill(1)
        else:
            array = self.arrays[block["size"]]
        array[1] = number
        array[0] = time.monotonic_ns()
        ctx.send_output("out", array)
        return Status.CONTINUE if self.turns else Status.STOP


class Ends(Operator):
    """Notes (until the first and last byte are read, until all are summed) of each array, by block."""

    def __init__(self) -> None:
        self.took: list[list[tuple[int, int]]] = [[] for _ in BLOCKS]

    def on_event(self, event: Any, ctx: Any) -> None:
        if event.type == "INPUT":
            array = event.value
            sent_ns, number = int(array[0]), int(array[1])
            last = int(array[-1])
            read_ns = time.monotonic_ns() - sent_ns
            total = int(array[HEAD:].sum())
            self.took[number].append((read_ns, time.monotonic_ns() - sent_ns))
            if last != 1 or total != len(array) - HEAD:
                raise ValueError(f"an array of {array.nbytes} bytes arrived with {last} at its end and {total} in it")
        elif event.type == "STOP":
            leave("payload", self.took)


class Volley(Source):
    """Sends the blocks at full speed, with a pause between them in which the queue empties."""

    PAUSE_S = 0.4

    def __init__(self) -> None:
        self.arrays = [np.ones(block["size"] // 8, "uint64") for block in BLOCKS]
        self.begin_s = time.monotonic() + 1.0

    def produce(self, position: list[int] | None, ctx: Any) -> Any:
        number, sent = position or (0, 0)
        early_s = self.begin_s - time.monotonic()
        if early_s > 0:
            return Source.idle(early_s)
        if number == len(BLOCKS):
            return Source.END
        array = self.arrays[number]
        array[1] = number
        array[0] = time.monotonic_ns()
        ctx.send_output("out", array)
        if sent + 1 < BLOCKS[number]["count"]:
            return [number, sent + 1]
        self.begin_s = time.monotonic() + self.PAUSE_S
        return [number + 1, 0]


class Volume(Operator):
    """Counts the arrays of each block; notes when the first was sent and the last arrived; saves the count."""

    def __init__(self) -> None:
        self.seen = [{"count": 0, "first_ns": 0, "last_ns": 0} for _ in BLOCKS]
        self.count = 0

    def on_event(self, event: Any, ctx: Any) -> None:
        if event.type == "INPUT":
            array = event.value
            block = self.seen[int(array[1])]
            block["last_ns"] = time.monotonic_ns()
            block["first_ns"] = block["first_ns"] or int(array[0])
            block["count"] += 1
            self.count += 1
            ctx.save_state("count", self.count.to_bytes(8, "little"))
        elif event.type == "STOP":
            leave("volume", self.seen)
