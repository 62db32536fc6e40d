"""bytewax's `stateful_map` as a keyed running sum, in memory, in one worker: `bytewax_sums.py COUNT BATCH`.

The source hands out batches of BATCH keyed records, ready made but for their numbers. Prints the records per second
from the first batch to the last sum as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

KEYS = [str(number) for number in range(100)]
times: dict[str, int] = {}
sums: dict[str, int] = {}
counted = 0


class Records(StatelessSourcePartition[tuple[str, int]]):
    def __init__(self, count: int, batch: int) -> None:
        self.number, self.count, self.batch = 0, count, batch

    def next_batch(self) -> list[tuple[str, int]]:
        number = self.number
        if not number:
            times["begun"] = time.monotonic_ns()
        if number >= self.count:
            raise StopIteration
        self.number += self.batch
        keys, count = KEYS, len(KEYS)
        return [(keys[value % count], value) for value in range(number, number + self.batch)]


class From(DynamicSource[tuple[str, int]]):
    def __init__(self, *arguments: int) -> None:
        self.arguments = arguments

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Records:
        return Records(*self.arguments)


class Tally(StatelessSinkPartition[tuple[str, int]]):
    def write_batch(self, items: list[tuple[str, int]]) -> None:
        global counted
        counted += len(items)
        sums.update(items)
        times["last"] = time.monotonic_ns()


class To(DynamicSink[tuple[str, int]]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> Tally:
        return Tally()


def add(state: int | None, value: int) -> tuple[int, int]:
    state = (state or 0) + value
    return state, state


def main(count: int, batch: int) -> None:
    flow = Dataflow("sums")
    records: Any = op.input("records", flow, From(count, batch))
    op.output("tally", op.stateful_map("sum", records, add), To())
    run_main(flow)
    right = counted == count and sum(sums.values()) == count * (count - 1) // 2
    print(json.dumps({"rate": 1e9 * counted / (times["last"] - times["begun"]), "right": right}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
