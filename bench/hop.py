"""One hop: 64-byte values, 3 ms between sends, ours with its exactly-once commit, against the floor and the peers.

The floor is what one way between two small processes costs by itself: a unix datagram. ZeroMQ and iceoryx2 alone are
measured the same way; they are transports, without a runtime around them or a guarantee.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from bench.measure import (
    Rounds,
    Row,
    Section,
    at_least,
    at_most,
    faster,
    over_rounds,
    p50,
    p99,
    ratio_over_rounds,
    said,
    times,
    us,
)
from bench.systems import BENCH, PEERS, Run, RunFailed, dora, interleave, ours, result, scratch

PAUSE_S = 0.003
COUNT = 300
WARMUP = 100
RUN_S = 60.0
FLOOR_TIMES_MAX = 2.0
ICEORYX2_TIMES_MAX = 1.2
DORA_TIMES_MIN = 5.0


def one_way(kind: str) -> list[float]:
    """Latencies in nanoseconds of one round between two bare processes; `kind` as in raw/hop.py."""
    python = sys.executable if kind in ("datagram", "fifo") else str(PEERS / "python")
    with scratch() as folder:
        script = [python, str(BENCH / "raw" / "hop.py"), kind]
        arguments = [str(folder), str(COUNT), str(WARMUP)]
        receiver = subprocess.Popen([*script, "receive", *arguments], stdout=subprocess.PIPE)
        sender = subprocess.Popen([*script, "send", *arguments])
        try:
            out, _ = receiver.communicate(timeout=RUN_S)
            found: list[float] = json.loads(out)
            return found
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise RunFailed(f"{kind}: {error}") from None
        finally:
            for process in (sender, receiver):
                process.kill()
                process.wait()
            for left in folder.parent.glob(f"{folder.name}-*"):  # iceoryx2's, whose processes were killed
                left.unlink()


def through_ours(file: str, start: Callable[..., AbstractContextManager[Run]] = ours) -> list[float]:
    """Latencies in nanoseconds of one round."""
    with scratch() as folder, start(file, folder, BENCH_COUNT=COUNT + WARMUP, BENCH_PAUSE_S=PAUSE_S) as run:
        run.wait(RUN_S)
        found: list[float] = result(folder, "latency")
        return found[WARMUP:]


def through_dora() -> list[float]:
    """Latencies in nanoseconds of one round, Python node to Python node."""
    with scratch() as folder, dora("hop.yml", folder, BENCH_COUNT=COUNT + WARMUP, BENCH_PAUSE_S=PAUSE_S) as run:
        run.wait(RUN_S)
        found: list[float] = result(folder, "latency")
        return found[WARMUP:]


def rows_of(found: Rounds, side: str, what: str, headline: str = "") -> list[Row]:
    """Ours against the floor, dora and iceoryx2."""
    mine = found[side]
    floor, theirs, iceoryx2 = (found.get(name) for name in ("floor", "dora", "iceoryx2"))
    over_floor = ratio_over_rounds(mine, floor, p50)
    over_iceoryx2 = ratio_over_rounds(mine, iceoryx2, p50)
    under_dora = ratio_over_rounds(theirs, mine, p50)
    figure = us(over_rounds(mine, p50))
    headlines = [f"{headline}, {than}" if headline else "" for than in ("over the floor", "against dora",
                                                                       "against iceoryx2")]  # fmt: skip
    return [
        Row(f"{what}, p50", figure, said("unix datagram", floor, us, p50), times(over_floor),
            f"at most {FLOOR_TIMES_MAX:g}x", at_most(over_floor, FLOOR_TIMES_MAX), headlines[0]),
        Row("", figure, said("dora", theirs, us, p50), faster(under_dora),
            f"at least {DORA_TIMES_MIN:g}x", at_least(under_dora, DORA_TIMES_MIN), headlines[1]),
        Row("", figure, said("iceoryx2", iceoryx2, us, p50), times(over_iceoryx2),
            f"at most {ICEORYX2_TIMES_MAX:g}x", at_most(over_iceoryx2, ICEORYX2_TIMES_MAX), headlines[2]),
        Row(f"{what}, p99", us(over_rounds(mine, p99)), said("unix datagram", floor, us, p99),
            times(ratio_over_rounds(mine, floor, p99))),
        Row("", us(over_rounds(mine, p99)), said("dora", theirs, us, p99),
            faster(ratio_over_rounds(theirs, mine, p99))),
        Row("", us(over_rounds(mine, p99)), said("iceoryx2", iceoryx2, us, p99),
            times(ratio_over_rounds(mine, iceoryx2, p99))),
    ]  # fmt: skip


def measure(rounds: int) -> Section:
    found = interleave(
        rounds,
        {
            "floor": partial(one_way, "datagram"),
            "operators": partial(through_ours, "hop_operators.yml"),
            "iceoryx2": partial(one_way, "iceoryx2"),
            "nodes": partial(through_ours, "hop_nodes.yml"),
            "dora": through_dora,
            "fifo": partial(one_way, "fifo"),
            "zmq": partial(one_way, "zmq"),
        },
        {"dora": "dora", "iceoryx2": "iceoryx2", "zmq": "pyzmq"},
    )
    rows = rows_of(found, "operators", "operator to operator", "one hop, 64 B, 3 ms between sends, p50")
    rows += rows_of(found, "nodes", "node to node")
    rows += [
        Row(what, "", said(name, found.get(side), us, p50) + (
            f", p99 {us(over_rounds(found[side], p99))}" if side in found else ""),
            times(ratio_over_rounds(found.get(side), found["floor"], p50)) + " the datagram" * (side in found))
        for side, name, what in (
            ("fifo", "FIFO", "bytes in a polled FIFO, what our doorbells are, alone"),
            ("zmq", "pyzmq", "ZeroMQ PUSH/PULL over ipc, alone"),
        )
    ]  # fmt: skip
    return Section("One hop, 64 B, 3 ms between sends", rows, found)
