"""Throughput by size: arrays from 64 bytes to 40 MB at full speed, from a Source to an operator that saves its state.

Ours is exactly-once, one copy by the sender; dora sends numpy-backed Arrow arrays with queues that lose nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

from bench.measure import Plot, Row, Section, over_rounds, per_s, ratio_over_rounds, said, size, times
from bench.systems import Run, dora, interleave, ours, result, scratch

ROUNDS = 2
RUN_S = 120.0
SIZES = (64, 1_000, 16_000, 64_000, 256_000, 1_000_000, 4_000_000, 40_000_000)
COUNTS_OURS = (60_000, 40_000, 20_000, 6_000, 3_000, 1_000, 300, 40)
COUNTS_DORA = (20_000, 10_000, 5_000, 3_000, 1_000, 500, 150, 20)


def rates(start: Callable[..., AbstractContextManager[Run]], counts: Sequence[int]) -> dict[str, float]:
    """Messages per second of one round, by size."""
    blocks = [{"size": bytes_, "count": count, "in_place": False} for bytes_, count in zip(SIZES, counts, strict=True)]
    with scratch() as folder:
        with start("volume.yml", folder, BENCH_BLOCKS=json.dumps(blocks), BENCH_PAUSE_S=0) as run:
            run.wait(RUN_S)
            found: list[dict[str, int]] = result(folder, "volume")
    return {
        size(bytes_): 1e9 * seen["count"] / (seen["last_ns"] - seen["first_ns"]) if seen["count"] > 1 else 0.0
        for bytes_, seen in zip(SIZES, found, strict=True)
    }


def at(name: str) -> Callable[[dict[str, float]], float]:
    return lambda found: found[name]


def measure(rounds: int) -> Section:
    found = interleave(
        rounds,
        {"ours": partial(rates, ours, COUNTS_OURS), "dora": partial(rates, dora, COUNTS_DORA)},
        {"dora": "dora-rs"},
    )
    mine, theirs = found["ours"], found.get("dora")

    def text(bytes_: int) -> Callable[[float], str]:
        return lambda rate: f"{per_s(rate)}, {size(rate * bytes_)}/s"

    rows = [
        Row(size(bytes_), text(bytes_)(over_rounds(mine, at(size(bytes_)))),
            said("dora", theirs, text(bytes_), at(size(bytes_))),
            times(ratio_over_rounds(mine, theirs, at(size(bytes_)))))
        for bytes_ in SIZES
    ]  # fmt: skip
    lines = {
        who: [(bytes_, over_rounds(found[side], at(size(bytes_)))) for bytes_ in SIZES]
        for side, who in (("ours", "noderuntime, exactly once"), ("dora", "dora"))
        if side in found
    }
    shows = "Messages per second by size of an array: noderuntime and dora"
    title = "Throughput of one hop by size of the array"
    drawn = Plot(title, "size of the array", "messages per second", lines, "size", "rate", shows=shows)
    return Section("Arrays at full speed, by size", rows, found, plots={"throughput": drawn})
