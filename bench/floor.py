"""The floor: what one way between two processes costs by itself, 64 bytes, 3 ms idle between sends."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

from bench.measure import Row, Section, over_rounds, p50, p99, ratio_over_rounds, times, us
from bench.systems import BENCH, interleave, scratch, tell

COUNT = 300
WARMUP = 100


def one_way(kind: str) -> list[float]:
    """Latencies in nanoseconds of one round; `kind` as in raw/hop.py."""
    with scratch() as folder:
        arguments = [str(folder / "channel"), str(COUNT), str(WARMUP)]
        script = [sys.executable, str(BENCH / "raw" / "hop.py"), kind]
        receiver = subprocess.Popen([*script, "receive", *arguments], stdout=subprocess.PIPE)
        sender = subprocess.Popen([*script, "send", *arguments])
        try:
            out, _ = receiver.communicate(timeout=60)
            found: list[float] = json.loads(out)
            return found
        finally:
            for process in (sender, receiver):
                process.kill()
                process.wait()


def measure(rounds: int) -> Section:
    found = interleave(rounds, {kind: partial(one_way, kind) for kind in ("datagram", "fifo", "zmq")}, tell)
    floor = found["datagram"]
    rows = [
        Row(what, "", f"{us(over_rounds(found[kind], p50))}, p99 {us(over_rounds(found[kind], p99))}",
            times(ratio_over_rounds(found[kind], floor, p50)))
        for kind, what in {
            "datagram": "unix datagram: the floor",
            "fifo": "FIFO, polled",
            "zmq": "ZeroMQ PUSH/PULL over ipc",
        }.items()
    ]  # fmt: skip
    return Section("One way between two processes, nothing else (p50)", rows, found)


if __name__ == "__main__":
    from bench.__main__ import alone

    alone(measure)
