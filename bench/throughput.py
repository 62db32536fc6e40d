"""Messages per second, 64 bytes: from the first send to the last message handled.

Ours commits every message and saves a state at every event; dora, with queues that lose nothing, guarantees nothing.
What bounds ours is asked too: the same mailbox in bare LMDB, between two processes with no runtime around them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from bench.measure import Row, Section, at_least, over_rounds, per_s, ratio_over_rounds, said, times
from bench.systems import BENCH, Run, dora, interleave, ours, result, scratch, tell

ROUNDS = 3
RUN_S = 120.0
COUNT_OURS = 200_000
COUNT_DORA = 40_000
TARGETS = {  # side -> what, its peer, messages per second and times the peer's that are wanted
    "source": ("from a Source", "dora one hop", 200_000, 10.0),
    "node": ("from a custom node's loop", "dora one hop", 100_000, 5.0),
    "three": ("three hops, from a Source", "dora three hops", 100_000, None),
}


def rate(start: Callable[..., AbstractContextManager[Run]], file: str, count: int) -> float:
    """Messages per second of one round. All of them have to arrive."""
    with scratch() as folder, start(file, folder, BENCH_COUNT=count, BENCH_PAUSE_S=0) as run:
        run.wait(RUN_S)
        found: dict[str, Any] = result(folder, "count")
        if found["count"] != count:
            tell(f"{file}: {found['count']} of {count} arrived")
        return 1e9 * int(found["count"]) / int(found["last_ns"] - found["first_ns"])


def bare(count: int) -> float:
    """Messages per second through raw/mailbox.py."""
    command = [sys.executable, str(BENCH / "raw" / "mailbox.py"), str(count)]
    return float(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=RUN_S).stdout))


def measure(rounds: int) -> Section:
    found = interleave(
        rounds,
        {
            "bare": partial(bare, COUNT_OURS),
            "source": partial(rate, ours, "one_hop_source.yml", COUNT_OURS),
            "dora one hop": partial(rate, dora, "one_hop.yml", COUNT_DORA),
            "node": partial(rate, ours, "one_hop_node.yml", COUNT_OURS),
            "three": partial(rate, ours, "three_hops.yml", COUNT_OURS),
            "dora three hops": partial(rate, dora, "three_hops.yml", COUNT_DORA),
        },
        {"dora one hop": "dora", "dora three hops": "dora"},
    )
    rows = []
    for side, (what, peer, least, times_least) in TARGETS.items():
        mine = over_rounds(found[side])
        ratio = ratio_over_rounds(found[side], found.get(peer))
        headline = f"throughput {what}, 64 B, state saved per event"
        rows.append(Row(what, per_s(mine), "", "", f"at least {per_s(least)}", mine >= least, headline))
        wanted = ("", None) if times_least is None else (f"at least {times_least:g}x", at_least(ratio, times_least))
        rows.append(Row("", per_s(mine), said("dora", found.get(peer), per_s), times(ratio), *wanted,
                        f"{headline}, against dora"))  # fmt: skip
        if side == "source":
            rows.append(Row("", per_s(mine), said("bare LMDB", found["bare"], per_s),
                            times(ratio_over_rounds(found[side], found["bare"])), "", None))  # fmt: skip
    return Section("Messages per second, 64 B, exactly once, state saved per event", rows, found)
