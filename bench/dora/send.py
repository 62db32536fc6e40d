"""Sends BENCH_COUNT values of 64 bytes with the time of sending in front: BENCH_PAUSE_S apart, or at full speed."""

import os
import struct
import time

from dora import Node

VALUE = struct.Struct("<QQ48x")  # CLOCK_MONOTONIC in ns, number


def main() -> None:
    node = Node()
    time.sleep(1.0)  # its channels are set up after the start; that is not what is measured
    pause_s = float(os.environ["BENCH_PAUSE_S"])
    now_ns = time.monotonic_ns
    send = node.send_output
    for number in range(int(os.environ["BENCH_COUNT"])):
        if pause_s:
            time.sleep(pause_s)
        send("out", VALUE.pack(now_ns(), number))


main()
