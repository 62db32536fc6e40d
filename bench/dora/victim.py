"""Counts and sends on; is killed. At its first event each life adds a line "pid, ns" to BENCH_OUT/lives."""

import os
import struct
import time
from pathlib import Path

from dora import Node


def main() -> None:
    count = 0
    node = Node()
    for event in node:
        if event["type"] == "INPUT":
            if not count:
                now_ns = time.monotonic_ns()
                with Path(os.environ["BENCH_OUT"], "lives").open("a") as lives:
                    lives.write(f"{os.getpid()} {now_ns}\n")
            count += 1
            _, number = struct.unpack_from("<QQ", event["value"].to_numpy())
            node.send_output("out", struct.pack("<QQ", number, count))


main()
