"""Counts the arrays of each block; notes when the first was sent and the last arrived."""

import json
import os
import time
from pathlib import Path

from dora import Node


def main() -> None:
    seen = [{"count": 0, "first_ns": 0, "last_ns": 0} for _ in json.loads(os.environ["BENCH_BLOCKS"])]
    for event in Node():
        if event["type"] == "INPUT":
            array = event["value"].to_numpy()
            block = seen[int(array[1])]
            block["last_ns"] = time.monotonic_ns()
            block["first_ns"] = block["first_ns"] or int(array[0])
            block["count"] += 1
            del array, event
    Path(os.environ["BENCH_OUT"], "volume.json").write_text(json.dumps(seen))


main()
