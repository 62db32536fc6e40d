"""Latency by size: numpy arrays from 64 bytes to 40 MB, operator to operator, against dora's nodes.

Until the receiver has read the first and the last byte, and until it has summed all of them. The sender's copy is part
of it, unless the array was filled in place (ours with `ctx.allocate`, dora's with `send_output_raw`): then the filling
comes before the time of sending. dora sends numpy-backed Arrow arrays, and its pool of shared memory holds several.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from bench.measure import (
    Plot,
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
    size,
    times,
    us,
)
from bench.systems import Run, dora, interleave, ours, result, scratch

ROUNDS = 3
PAUSE_S = 0.003
RUN_S = 90.0
WARMUP = 10  # of each block; and a whole block of its own in front, until all channels are set up
SIZES = (64, 1_000, 16_000, 64_000, 256_000, 1_000_000, 4_000_000, 40_000_000)
COUNTS = {4_000_000: 80, 40_000_000: 30}  # of messages; else
COUNT = 110
EVERY = {4_000_000: 4, 40_000_000: 15}  # times PAUSE_S
BLOCKS = [
    {"size": count, "count": COUNTS.get(count, COUNT), "every": EVERY.get(count, 1), "in_place": in_place}
    for in_place in (False, True)
    for count in (SIZES if not in_place else SIZES[-2:])
]
WARMUP_BLOCK = {"size": 64, "count": 200, "every": 1, "in_place": False}
DORA_TIMES_MIN = 2.0
DORA_TIMES_IN_PLACE_MIN = 10.0
SMALL_TIMES_MAX = 3.0
READ, SUMMED = 0, 1


def name_of(block: dict[str, Any]) -> str:
    return f"{size(block['size'])}{' in place' if block['in_place'] else ''}"


def took(start: Callable[..., AbstractContextManager[Run]]) -> dict[str, list[list[int]]]:
    """(until the ends are read, until all is summed) in nanoseconds of each array of one round, by block."""
    with scratch() as folder:
        extra = {"BENCH_BLOCKS": json.dumps([WARMUP_BLOCK, *BLOCKS]), "BENCH_PAUSE_S": PAUSE_S}
        with start("payload.yml", folder, **extra) as run:
            run.wait(RUN_S)
            found: list[list[list[int]]] = result(folder, "payload")
    return {name_of(block): pairs[WARMUP:] for block, pairs in zip(BLOCKS, found[1:], strict=True)}


def of_block(name: str, which: int, figure: Callable[[list[int]], float]) -> Callable[[dict[str, Any]], float]:
    return lambda blocks: figure([pair[which] for pair in blocks[name]])


def measure(rounds: int) -> Section:
    found = interleave(rounds, {"ours": partial(took, ours), "dora": partial(took, dora)}, {"dora": "dora"})
    mine, theirs = found["ours"], found.get("dora")

    def row(what: str, name: str, which: int, figure: Callable[[list[int]], float], *more: Any) -> Row:
        of = of_block(name, which, figure)
        return Row(what, us(over_rounds(mine, of)), said("dora", theirs, us, of),
                   faster(ratio_over_rounds(theirs, mine, of)), *more)  # fmt: skip

    def over_small(name: str) -> float:
        small, large = of_block("64 B", READ, p50), of_block(name, READ, p50)
        return over_rounds([large(blocks) / small(blocks) for blocks in mine])

    def against(name: str, least: float) -> tuple[str, bool | None]:
        of = of_block(name, READ, p50)
        return f"at least {least:g}x", at_least(ratio_over_rounds(theirs, mine, of), least)

    copied, placed = "4 MB", "40 MB in place"
    arrow = of_block("40 MB", READ, p50)
    under_arrow = None if theirs is None else over_rounds(
        [arrow(there) / of_block(placed, READ, p50)(here) for here, there in zip(mine, theirs, strict=True)]
    )  # fmt: skip
    in_place = us(over_rounds(mine, of_block(placed, READ, p50)))
    rows = [
        row("4 MB array, one copy by the sender: first and last byte read, p50", copied, READ, p50,
            *against(copied, DORA_TIMES_MIN), "4 MB array, one copy by the sender, p50"),
        row("the same, p99", copied, READ, p99),
        row("until all bytes are summed, p50", copied, SUMMED, p50),
        Row("40 MB array, filled in place: first and last byte read, p50", in_place,
            said("dora, an Arrow array over numpy", theirs, us, arrow), faster(under_arrow),
            f"at least {DORA_TIMES_IN_PLACE_MIN:g}x", at_least(under_arrow, DORA_TIMES_IN_PLACE_MIN),
            "40 MB array, filled in place, p50"),
        Row("", in_place, said("dora, bytes filled in place", theirs, us, of_block(placed, READ, p50)),
            faster(ratio_over_rounds(theirs, mine, of_block(placed, READ, p50))), "", None,
            "the same against dora's `send_output_raw` (bytes only)"),
        Row("", in_place,
            f"64 B, ours: {us(over_rounds(mine, of_block('64 B', READ, p50)))}", times(over_small(placed)),
            f"at most {SMALL_TIMES_MAX:g}x", at_most(over_small(placed), SMALL_TIMES_MAX),
            "40 MB array, filled in place, over 64 B"),
        row("the same, p99", placed, READ, p99),
        row("until all bytes are summed, p50", placed, SUMMED, p50, "", None,
            "40 MB array, filled in place, until all bytes are summed, p50"),
        row("40 MB array, one copy by the sender, p50", "40 MB", READ, p50),
    ]  # fmt: skip
    for count in SIZES[:-2]:
        rows.append(row(f"{size(count)}, p50", size(count), READ, p50))
    return Section("Arrays of many sizes, 3 ms and more between sends", rows, found, plots={"latency": plot(found)})


def plot(found: dict[str, list[Any]]) -> Plot:
    lines = {}
    for side, who in (("ours", "noderuntime"), ("dora", "dora")):
        if side not in found:
            continue
        for in_place, how in ((False, "copied"), (True, "in place")):
            lines[f"{who}, {how}"] = [
                (block["size"], over_rounds(found[side], of_block(name_of(block), READ, p50)))
                for block in BLOCKS
                if block["in_place"] is in_place
            ]
    shows = "Latency by size of an array: noderuntime and dora"
    title = "Latency of one hop by size of the array"
    return Plot(title, "size of the array", "p50, first and last byte read", lines, "size", "time", shows=shows)
