"""Throughput by size: arrays from 64 bytes to 40 MB at full speed, from a Source to an operator that saves its state.

Ours is exactly-once, one copy by the sender; dora sends numpy-backed Arrow arrays: with `backpressure`, which loses
nothing and takes the way through its daemon, and with its default, which goes through shared memory and may lose.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from bench.measure import Plot, Row, Section, over_rounds, per_s, ratio_over_rounds, said, size, times
from bench.systems import Run, dora, interleave, ours, result, scratch

ROUNDS = 1
RUN_S = 120.0
SIZES = (64, 1_000, 16_000, 64_000, 256_000, 1_000_000, 4_000_000, 40_000_000)
COUNTS_OURS = (60_000, 40_000, 20_000, 6_000, 3_000, 1_000, 300, 40)
COUNTS_DORA = (20_000, 10_000, 5_000, 3_000, 1_000, 500, 150, 20)


def rates(start: Callable[..., AbstractContextManager[Run]], file: str, counts: Sequence[int]) -> dict[str, Any]:
    """Messages per second that arrived in one round, and which share of them was lost, by size."""
    blocks = [{"size": bytes_, "count": count, "in_place": False} for bytes_, count in zip(SIZES, counts, strict=True)]
    with scratch() as folder, start(file, folder, BENCH_BLOCKS=json.dumps(blocks), BENCH_PAUSE_S=0) as run:
        run.wait(RUN_S)
        found: list[dict[str, int]] = result(folder, "volume")
    of_size = {}
    for bytes_, count, seen in zip(SIZES, counts, found, strict=True):
        took_s = (seen["last_ns"] - seen["first_ns"]) / 1e9
        of_size[size(bytes_)] = [seen["count"] / took_s if took_s else 0.0, 1 - seen["count"] / count]
    return of_size


def measure(rounds: int) -> Section:
    found = interleave(
        rounds,
        {
            "ours": partial(rates, ours, "volume.yml", COUNTS_OURS),
            "dora": partial(rates, dora, "volume.yml", COUNTS_DORA),
            "dora, may lose": partial(rates, dora, "volume_drop.yml", COUNTS_DORA),
        },
        {"dora": "dora", "dora, may lose": "dora"},
    )
    mine = found["ours"]

    def at(name: str, which: int = 0) -> Callable[[dict[str, Any]], float]:
        return lambda of_size: float(of_size[name][which])

    def rate(bytes_: int) -> Callable[[float], str]:
        return lambda value: f"{per_s(value)}, {size(value * bytes_)}/s"

    rows = []
    for bytes_ in SIZES:
        name = size(bytes_)
        figure = rate(bytes_)(over_rounds(mine, at(name)))
        for side, what in (("dora", name), ("dora, may lose", "")):
            theirs = found.get(side)
            lost = f" (lost {over_rounds(theirs, at(name, 1)):.0%})" if theirs and what == "" else ""
            ratio = times(ratio_over_rounds(mine, theirs, at(name)))
            rows.append(Row(what, figure, said(side, theirs, rate(bytes_), at(name)) + lost, ratio))
    lines = {
        who: [(bytes_, over_rounds(found[side], at(size(bytes_)))) for bytes_ in SIZES]
        for side, who in (("ours", "noderuntime, exactly once"), ("dora", "dora, backpressure"),
                          ("dora, may lose", "dora, default: may lose"))
        if side in found
    }  # fmt: skip
    shows = "Messages per second by size of an array: noderuntime and dora"
    title = "Throughput of one hop by size of the array"
    drawn = Plot(title, "size of the array", "messages per second", lines, "size", "rate", shows=shows)
    return Section("Arrays at full speed, by size", rows, found, plots={"throughput": drawn})
