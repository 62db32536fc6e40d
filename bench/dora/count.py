"""Notes when the first value was sent, when the last one came, and how many there were."""

import json
import os
import time
from pathlib import Path

from dora import Node


def main() -> None:
    count = 0
    first_ns = last_ns = 0
    for event in Node():
        if event["type"] == "INPUT":
            last_ns = time.monotonic_ns()
            sent_ns = int.from_bytes(event["value"].to_numpy()[:8].tobytes(), "little")
            first_ns = first_ns or sent_ns
            count += 1
    figures = {"count": count, "first_ns": first_ns, "last_ns": last_ns}
    Path(os.environ["BENCH_OUT"], "count.json").write_text(json.dumps(figures))


main()
