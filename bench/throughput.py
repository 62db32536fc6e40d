"""Messages per second, 64 bytes: from the first send to the last message handled.

Ours commits every message and saves a state at every event; dora, with queues that lose nothing, guarantees nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from statistics import median
from typing import Any

from bench.measure import Row, Section, times
from bench.systems import Run, dora, interleave, ours, result, scratch, tell

RUN_S = 120.0
COUNT_OURS = 200_000
COUNT_DORA = 40_000
TARGETS = {
    "source": ("from a Source", "dora one hop", 10.0),
    "node": ("from a custom node's loop", "dora one hop", 5.0),
    "three": ("three hops, from a Source", "dora three hops", None),
}


def rate(start: Callable[..., AbstractContextManager[Run]], file: str, count: int) -> float:
    """Messages per second of one round. All of them have to arrive."""
    with scratch() as folder, start(file, folder, BENCH_COUNT=count, BENCH_PAUSE_S=0) as run:
        run.wait(RUN_S)
        found: dict[str, Any] = result(folder, "count")
        if found["count"] != count:
            tell(f"{file}: {found['count']} of {count} arrived")
        return 1e9 * int(found["count"]) / (found["last_ns"] - found["first_ns"])


def measure(rounds: int) -> Section:
    found = interleave(
        rounds,
        {
            "source": partial(rate, ours, "one_hop_source.yml", COUNT_OURS),
            "dora one hop": partial(rate, dora, "one_hop.yml", COUNT_DORA),
            "node": partial(rate, ours, "one_hop_node.yml", COUNT_OURS),
            "three": partial(rate, ours, "three_hops.yml", COUNT_OURS),
            "dora three hops": partial(rate, dora, "three_hops.yml", COUNT_DORA),
        },
        tell,
    )
    rows = []
    for side, (what, peer, least) in TARGETS.items():
        ratio = median(mine / theirs for mine, theirs in zip(found[side], found[peer], strict=True))
        target, reached = ("", None) if least is None else (f"at least {least:.0f}x", ratio >= least)
        peer_text = f"dora {median(found[peer]) / 1000:.0f}k/s"
        rows.append(Row(what, f"{median(found[side]) / 1000:.0f}k/s", peer_text, times(ratio), target, reached))
    return Section("Messages per second, 64 B, state saved per event", rows, found)


if __name__ == "__main__":
    from bench.__main__ import alone

    alone(measure)
