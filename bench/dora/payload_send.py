"""Sends arrays of many sizes, BENCH_PAUSE_S apart; BENCH_BLOCKS says which. See ours/payload.py."""

import json
import os
import time

import numpy as np
import pyarrow as pa
from dora import Node


def main() -> None:
    node = Node()
    blocks = json.loads(os.environ["BENCH_BLOCKS"])
    pause_s = float(os.environ["BENCH_PAUSE_S"])
    time.sleep(1.0)
    for number, block in enumerate(blocks):
        array = np.ones(block["size"] // 8, "uint64")
        arrow = pa.array(array)  # backed by the same memory
        array[1] = number
        if not pause_s and number:
            time.sleep(0.4)  # until the queue is empty
        for _ in range(block["count"]):
            if pause_s:
                time.sleep(pause_s * block["every"])
            if block["in_place"]:
                with node.send_output_raw("out", block["size"]) as buffer:
                    view = np.frombuffer(buffer, "uint64")
                    view.fill(1)
                    view[1] = number
                    view[0] = time.monotonic_ns()
                    del view
            else:
                array[0] = time.monotonic_ns()
                node.send_output("out", arrow)


main()
