"""Operators that share a process: against the same ones in processes of their own, and against bytewax in memory.

What is measured elsewhere in the build that is not compiled is measured here in both. All of it is durable against
kill -9: an item of a Source, all that it makes, every state on its way are one commit (with others, in a group).
"""

from __future__ import annotations

from functools import partial

from bench.hop import through_ours
from bench.keyed import BATCH, COUNT_BATCHES, COUNT_EACH, of_bytewax, of_ours
from bench.measure import (
    Rounds,
    Row,
    Section,
    at_least,
    at_most,
    over_rounds,
    p50,
    p99,
    per_s,
    ratio_over_rounds,
    said,
    times,
    us,
)
from bench.systems import COMPILED, interleave, ours
from bench.throughput import COUNT_OURS, rate

ROUNDS = 3
THREE_MIN = 3.0
HOP_US_MAX = 10.0
SUMS_MIN = 1.5
BUILDS = {"": "", f", {COMPILED}": COMPILED}  # what a line says of the build -> the build


def rows_of_three(found: Rounds, said_of: str) -> list[Row]:
    """Three hops in one process against those in four: of the same build, and of the one that is not compiled."""
    mine = found.get(f"three shared{said_of}")
    if mine is None:
        return []
    what = f"three hops in one process, from a Source{said_of}"
    rows = []
    for side in dict.fromkeys(("three", f"three{said_of}")):
        ratio = ratio_over_rounds(mine, found.get(side))
        target = (f"at least {THREE_MIN:g}x", at_least(ratio, THREE_MIN)) if side == "three" else ("", None)
        build = side.removeprefix("three")
        rows.append(Row("" if rows else what, per_s(over_rounds(mine)),
                        said(f"in four processes{build}", found.get(side), per_s), times(ratio), *target,
                        f"{what}, state saved per event" if side == "three" else ""))  # fmt: skip
    return rows


def rows_of_hop(found: Rounds, said_of: str) -> list[Row]:
    mine = found.get(f"hop{said_of}")
    if mine is None:
        return []
    what = f"one hop within a process, 3 ms between sends{said_of}"
    took = over_rounds(mine, p50)
    return [
        Row(f"{what}, p50", us(took), "", "", f"at most {HOP_US_MAX:g} µs", at_most(took / 1000, HOP_US_MAX),
            f"{what}, p50"),
        Row(f"{what}, p99", us(over_rounds(mine, p99)), "", ""),
    ]  # fmt: skip


def rows_of_sums(found: Rounds, said_of: str) -> list[Row]:
    rows = []
    for kind, what in (("each", "single records"), ("batches", f"batches of {BATCH} records")):
        mine, theirs = found.get(f"{kind}{said_of}"), found.get(f"bytewax {kind}")
        if mine is None:
            continue
        ratio = ratio_over_rounds(mine, theirs)
        least = (f"at least {SUMS_MIN:g}x", at_least(ratio, SUMS_MIN)) if kind == "each" else ("", None)
        line = f"keyed running sum in one process, {what}{said_of}"
        rows.append(Row(line, per_s(over_rounds(mine)), said("bytewax in memory", theirs, per_s), times(ratio), *least,
                        f"{line}, durable against kill -9"))  # fmt: skip
    return rows


def measure(rounds: int) -> Section:
    sides = {
        "bytewax each": partial(of_bytewax, COUNT_EACH, 1),
        "bytewax batches": partial(of_bytewax, COUNT_BATCHES, BATCH),
    }
    peers = {"bytewax each": "bytewax", "bytewax batches": "bytewax"}
    for of_build, build in BUILDS.items():
        start = partial(ours, build=build)
        mine = {
            "three": partial(rate, start, "three_hops.yml", COUNT_OURS),
            "three shared": partial(rate, start, "three_hops_shared.yml", COUNT_OURS),
            "hop": partial(through_ours, "hop_shared.yml", start),
            "each": partial(of_ours, "sums_each_shared.yml", COUNT_EACH, 1, start),
            "batches": partial(of_ours, "sums_batches_shared.yml", COUNT_BATCHES, BATCH, start),
        }
        sides |= {f"{side}{of_build}": ask for side, ask in mine.items()}
        if build:
            peers |= {f"{side}{of_build}": build for side in mine}
    found = interleave(rounds, sides, peers)
    rows = [
        row for part in (rows_of_three, rows_of_hop, rows_of_sums) for said_of in BUILDS for row in part(found, said_of)
    ]
    return Section("Operators that share a process", rows, found)
