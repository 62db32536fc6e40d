"""Sends a numbered value every BENCH_PAUSE_S until BENCH_OUT/enough exists."""

import os
import struct
import time
from pathlib import Path

from dora import Node


def main() -> None:
    node = Node()
    enough = Path(os.environ["BENCH_OUT"], "enough")
    pause_s = float(os.environ["BENCH_PAUSE_S"])
    time.sleep(1.0)
    number = 0
    while number % 50 or not enough.exists():
        time.sleep(pause_s)
        node.send_output("out", struct.pack("<QQ48x", time.monotonic_ns(), number))
        number += 1
    Path(os.environ["BENCH_OUT"], "sent.json").write_text(str(number))
    time.sleep(2.0)  # a node whose inputs have all closed is not restarted: let the last life come up


main()
