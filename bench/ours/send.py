"""A custom node that sends BENCH_COUNT values of 64 bytes: BENCH_PAUSE_S apart, or at full speed."""

from __future__ import annotations

import os
import time

from measured import VALUE

from noderuntime import Node


def main() -> None:
    pause_s = float(os.environ["BENCH_PAUSE_S"])
    now_ns = time.monotonic_ns
    with Node() as node:
        time.sleep(1.0)  # until all others run
        for number in range(int(os.environ["BENCH_COUNT"])):
            if pause_s:
                time.sleep(pause_s)
            node.send_output("out", VALUE.pack(now_ns(), number))


main()
