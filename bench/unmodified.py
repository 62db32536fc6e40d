"""The same node files, not a line changed, on dora and on ours: `dora run FILE` and `noderuntime run --dora FILE`.

So both run the same Python over the same Arrow arrays, and what differs is the runtime. Ours commits each message, in
both builds; dora guarantees nothing. Rates are with `queue_policy: backpressure`, which loses nothing in either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

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
    per_s,
    ratio_over_rounds,
    said,
    times,
    us,
)
from bench.payload import READ, of_block, took
from bench.recovery import KILLS_DORA, kill_again_and_again
from bench.shared import BUILDS
from bench.start import OPERATORS, start_dora
from bench.systems import dora, interleave, unmodified
from bench.throughput import COUNT_DORA, rate

ROUNDS = 3
SHARE_MAX = 0.5  # of dora's time, for a hop of 64 B and of 4 MB
RATE_MIN = 3.0
START_MAX = 1 / 3


def of(name: str) -> Callable[[dict[str, Any]], float]:
    """A figure of a start or of a round of kills."""
    return lambda figures: float(figures[name])


def back(figures: dict[str, Any]) -> float:
    return p50(figures["back_ns"])


def rows_of_arrays(found: Rounds, said_of: str) -> list[Row]:
    mine, theirs = found.get(f"arrays{said_of}"), found.get("arrays of dora")
    if mine is None:
        return []
    rows = []
    for name, what in (("64 B", "hop of an Arrow array of 64 B"), ("4 MB", "hop of an Arrow array of 4 MB")):
        for figure, shown in ((p50, "p50"), (p99, "p99")):
            time_of = of_block(name, READ, figure)
            share = ratio_over_rounds(mine, theirs, time_of)
            wanted = (f"at most {SHARE_MAX:g}x", at_most(share, SHARE_MAX)) if figure is p50 else ("", None)
            line = f"dora's nodes unmodified, {what}{said_of}, {shown}"
            rows.append(Row(line, us(over_rounds(mine, time_of)), said("dora", theirs, us, time_of), times(share),
                            *wanted, line if figure is p50 else ""))  # fmt: skip
    return rows


def rows_of_rates(found: Rounds, said_of: str) -> list[Row]:
    mine, theirs = found.get(f"rate{said_of}"), found.get("rate of dora")
    if mine is None:
        return []
    ratio = ratio_over_rounds(mine, theirs)
    line = f"dora's nodes unmodified, 64 B with backpressure{said_of}"
    return [Row(line, per_s(over_rounds(mine)), said("dora", theirs, per_s), times(ratio), f"at least {RATE_MIN:g}x",
                at_least(ratio, RATE_MIN), line)]  # fmt: skip


def rows_of_the_rest(found: Rounds) -> list[Row]:
    kills, their_kills = found["kills"], found.get("kills of dora")
    starts, their_starts = found["start"], found.get("start of dora")
    started = ratio_over_rounds(starts, their_starts, of("ready_s"))
    what = f"dora's nodes unmodified, start of {OPERATORS}"

    def lost(rounds: Sequence[dict[str, Any]] | None) -> str:
        return "not installed" if rounds is None else f"{sum(each['lost'] for each in rounds)}"

    return [
        Row(what, f"{over_rounds(starts, of('ready_s')):.1f} s",
            said("dora", their_starts, lambda value: f"{value:.1f} s", of("ready_s")), times(started),
            f"at most {START_MAX:.2f}x", at_most(started, START_MAX), what),
        Row("idle, share of a core", f"{over_rounds(starts, of('cores')):.1%}",
            said("dora", their_starts, lambda value: f"{value:.1%}", of("cores")),
            times(ratio_over_rounds(starts, their_starts, of("cores")))),
        Row("dora's nodes unmodified, kill -9 to next event handled, p50", us(over_rounds(kills, back)),
            said("dora", their_kills, us, back), faster(ratio_over_rounds(their_kills, kills, back)), "", None,
            "dora's nodes unmodified, kill -9 to next event handled, p50"),
        Row("messages lost by these kills", lost(kills), f"dora: {lost(their_kills)}", ""),
    ]  # fmt: skip


def measure(rounds: int) -> Section:
    seeds = iter(range(1_000_000))

    def kills(start: Any) -> dict[str, Any]:
        return kill_again_and_again(start, "recovery_backpressure.yml", KILLS_DORA, next(seeds))

    sides: dict[str, Callable[[], Any]] = {
        "arrays of dora": partial(took, dora),
        "rate of dora": partial(rate, dora, "one_hop.yml", COUNT_DORA),
        "kills of dora": partial(kills, dora),
        "start of dora": partial(start_dora, dora),
        "kills": partial(kills, unmodified),
        "start": partial(start_dora, unmodified),
    }
    peers = {side: "dora" for side in sides if side.endswith("of dora")}
    for said_of, build in BUILDS.items():
        start = partial(unmodified, build=build)
        sides[f"arrays{said_of}"] = partial(took, start)
        sides[f"rate{said_of}"] = partial(rate, start, "one_hop.yml", COUNT_DORA)
        if build:
            peers |= {f"arrays{said_of}": build, f"rate{said_of}": build}
    found = interleave(rounds, sides, peers)
    rows = [row for part in (rows_of_arrays, rows_of_rates) for said_of in BUILDS for row in part(found, said_of)]
    return Section("dora's nodes, unmodified, on both", [*rows, *rows_of_the_rest(found)], found)
