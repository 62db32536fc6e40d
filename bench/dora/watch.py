"""Notes (when, number, count) of all that the victim sends, for as long as it sends."""

import json
import os
import struct
import time
from pathlib import Path

from dora import Node


def main() -> None:
    seen = []
    for event in Node():
        if event["type"] == "INPUT":
            now_ns = time.monotonic_ns()
            number, count = struct.unpack("<QQ", event["value"].to_numpy())
            seen.append((now_ns, number, count))
    Path(os.environ["BENCH_OUT"], "watch.json").write_text(json.dumps(seen))


main()
