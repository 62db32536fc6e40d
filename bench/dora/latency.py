"""Notes how long each value was under way; leaves the nanoseconds in BENCH_OUT/latency.json."""

import json
import os
import time
from pathlib import Path

from dora import Node


def main() -> None:
    took = []
    now_ns = time.monotonic_ns
    for event in Node():
        arrived = now_ns()
        if event["type"] == "INPUT":
            sent = int.from_bytes(event["value"].to_numpy()[:8].tobytes(), "little")
            took.append(arrived - sent)
    Path(os.environ["BENCH_OUT"], "latency.json").write_text(json.dumps(took))


main()
