"""A custom node that notes how long each value was under way."""

from __future__ import annotations

import time

from measured import VALUE, leave

from noderuntime import Node


def main() -> None:
    took: list[int] = []
    now_ns = time.monotonic_ns
    with Node() as node:
        for event in node:
            arrived = now_ns()
            if event.type == "INPUT":
                took.append(arrived - VALUE.unpack(event.value)[0])
    leave("latency", took)


main()
