"""A custom node that reads and writes 64 shared bytes again and again; each call answers, or takes effect, at once."""

from __future__ import annotations

import os
import time

from measured import leave

from noderuntime import Node

VALUE = bytes(64)


def main() -> None:
    clock = time.monotonic_ns
    took: dict[str, list[int]] = {"kvs_read": [], "kvs_write": []}
    with Node() as node:
        node.kvs_write("another", VALUE)
        for name, call in (
            ("kvs_read", lambda: node.kvs_read("another")),
            ("kvs_write", lambda: node.kvs_write("another", VALUE)),
        ):
            for _ in range(int(os.environ["BENCH_COUNT"])):
                begin = clock()
                call()
                took[name].append(clock() - begin)
    leave("kvs", took)


main()
