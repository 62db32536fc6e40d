"""kill -9 of the node in the middle of three, again and again: how long until it handles events, and what is lost.

A sender numbers its values, 2 ms apart. The victim counts them and sends (number, count) on to a watcher. The time from
the kill to the first event that the next life handles is taken by the victim itself, on CLOCK_MONOTONIC; silence is
the gap in what the watcher got meanwhile. Lost are numbers that the watcher never got, repeated are those
that it got more than once; the state is kept when the count goes on where it was.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.measure import (
    ABSENT,
    Plot,
    Row,
    Section,
    at_least,
    faster,
    over_rounds,
    p50,
    p99,
    ratio_over_rounds,
    said,
    us,
)
from bench.systems import Run, dora, interleave, ours, result, scratch

PAUSE_S = 0.002
KILLS_OURS = 20
KILLS_DORA = 6
KILLS_MORE = 10  # of victims that are harder to bring back
LIFE_S = (0.2, 0.3)  # from the first event of a life to its kill
BACK_S = 30.0
RUN_S = 60.0
ROUNDS = 2
RECOVERY_MS_MAX = 20
DORA_TIMES_MIN = 15.0

Start = Callable[..., AbstractContextManager[Run]]


def lives(folder: Path) -> list[tuple[int, int]]:
    """(pid, time of its first event in ns) of each life so far."""
    file = folder / "lives"
    if not file.exists():
        return []
    whole = file.read_text().rpartition("\n")[0]
    return [(int(pid), int(ns)) for pid, ns in (line.split() for line in whole.splitlines())]


def has_lived(folder: Path, count: int) -> bool:
    """Whether more lives than that have begun."""
    return len(lives(folder)) > count


def kill_again_and_again(
    start: Start, file: str, kills: int, seed: int, **extra: object
) -> dict[str, Any]:
    """One round: times from kill to the next life's first event, and what the watcher makes of it."""
    random_ = random.Random(seed)
    killed: list[int] = []
    with scratch() as folder, start(file, folder, BENCH_PAUSE_S=PAUSE_S, **extra) as run:
        for number in range(kills):
            run.wait_for("the next life", partial(has_lived, folder, number), BACK_S)
            time.sleep(random_.uniform(*LIFE_S))
            killed.append(time.monotonic_ns())
            os.kill(lives(folder)[-1][0], signal.SIGKILL)
        run.wait_for("the last life", partial(has_lived, folder, kills), BACK_S)
        time.sleep(LIFE_S[1])
        (folder / "enough").touch()
        run.wait(RUN_S)
        begun = [ns for _, ns in lives(folder)[1 : kills + 1]]
        back = [first - kill for first, kill in zip(begun, killed, strict=True)]
        outages = list(zip(killed, begun, strict=True))
        return {"back_ns": back} | judge(result(folder, "watch"), outages, result(folder, "sent"))


def judge(seen: list[tuple[int, int, int]], outages: list[tuple[int, int]], sent: int) -> dict[str, Any]:
    """Silences, messages lost and repeated, and how many kills the count survived.

    `outages` are (kill, first event of the next life). The silence is the gap that holds the middle of one.
    """
    numbers = [number for _, number, _ in seen]
    gaps = [(before, after) for (before, *_), (after, *_) in pairwise(seen)]
    middles = [(kill + back) // 2 for kill, back in outages]
    silences = [next((b - a for a, b in gaps if a <= middle < b), 0) for middle in middles]
    resets = sum(after <= before for (*_, before), (*_, after) in pairwise(seen))
    return {
        "silence_ns": silences,
        "sent": sent,
        "lost": sent - len(set(numbers)),
        "repeated": len(numbers) - len(set(numbers)),
        "state_kept": len(outages) - resets,
        "kills": len(outages),
    }


def measure(rounds: int) -> Section:
    seeds = iter(range(1_000_000))

    def side(start: Start, file: str, kills: int, **extra: object) -> Callable[[], dict[str, Any]]:
        return lambda: kill_again_and_again(start, file, kills, next(seeds), **extra)

    found = interleave(
        rounds,
        {
            "ours": side(ours, "recovery.yml", KILLS_OURS),
            "dora": side(dora, "recovery_drop_oldest.yml", KILLS_DORA),
            "dora, backpressure": side(dora, "recovery_backpressure.yml", KILLS_DORA),
            "importing numpy": side(ours, "recovery.yml", KILLS_MORE, BENCH_IMPORT="numpy"),
            "10,000 keys of state": side(ours, "recovery.yml", KILLS_MORE, BENCH_KEYS=10_000),
        },
        {"dora": "dora", "dora, backpressure": "dora"},
    )
    mine, theirs = found["ours"], found.get("dora")

    def back(figure: Callable[[list[int]], float]) -> Callable[[dict[str, Any]], float]:
        return lambda figures: figure(figures["back_ns"])

    middle = over_rounds(mine, back(p50))
    ratio = ratio_over_rounds(theirs, mine, back(p50))
    headline = "kill -9 to next event handled, p50"
    rows = [
        Row("kill to next event handled, p50", us(middle), "", "", f"at most {RECOVERY_MS_MAX} ms",
            middle <= RECOVERY_MS_MAX * 1e6, headline),
        Row("", us(middle), said("dora", theirs, us, back(p50)), faster(ratio), f"at least {DORA_TIMES_MIN:.0f}x",
            at_least(ratio, DORA_TIMES_MIN), f"{headline}, against dora"),
        Row("the same, p99", us(over_rounds(mine, back(p99))), said("dora", theirs, us, back(p99)),
            faster(ratio_over_rounds(theirs, mine, back(p99)))),
    ]  # fmt: skip
    for name in ("importing numpy", "10,000 keys of state"):
        rows.append(Row(f"{name}, p50", us(over_rounds(found[name], back(p50))), "", ""))
    rows += losses(found)
    title = "kill -9 of the node in the middle, 500 messages a second"
    return Section(title, rows, found, plots={"recovery": plot(found)})


def plot(found: dict[str, list[Any]]) -> Plot:
    """For each side, which share of the kills was recovered from within a time."""
    lines = {}
    for side, name in (("ours", "noderuntime"), ("importing numpy", "importing numpy"),
                       ("10,000 keys of state", "10,000 keys of state"), ("dora", "dora, its state lost")):  # fmt: skip
        times_ns = sorted(ns for figures in found.get(side, []) for ns in figures["back_ns"])
        if times_ns:
            lines[name] = [(ns, (number + 1) / len(times_ns)) for number, ns in enumerate(times_ns)]
    shows = "From kill -9 to the next event handled: which share of the kills within which time"
    title = "kill -9 to the next event handled"
    return Plot(title, "time since the kill", "share of the kills", lines, "time", "share",
                log_y=False, shows=shows)  # fmt: skip


def losses(found: dict[str, list[Any]]) -> list[Row]:
    """Silence, what was lost and repeated, and whether the state was kept: ours, and dora's by both its policies."""
    said_of: dict[str, tuple[str, str, str, dict[str, int]]] = {}
    for side in ("ours", "dora", "dora, backpressure"):
        if side not in found:
            continue
        silence = p50([ns for figures in found[side] for ns in figures["silence_ns"]])
        total = {key: sum(figures[key] for figures in found[side]) for key in
                 ("lost", "repeated", "sent", "state_kept", "kills")}  # fmt: skip
        said_of[side] = (us(silence), f"{total['lost']} and {total['repeated']} of {total['sent']}",
                         f"{total['state_kept']} of {total['kills']}", total)  # fmt: skip
    mine = said_of["ours"]
    exact = not mine[3]["lost"] and not mine[3]["repeated"]
    kept = mine[3]["state_kept"] == mine[3]["kills"]
    rows = []
    for side in ("dora", "dora, backpressure"):
        theirs = [f"{side}: {text}" for text in said_of[side][:3]] if side in said_of else [f"{side}: {ABSENT}"] * 3
        headlines = ("messages lost and repeated by kill -9", "kills that the state survived") if side == "dora" else (
            "", "")  # fmt: skip
        rows += [
            Row("silence at the receiver, p50", mine[0], theirs[0], ""),
            Row("messages lost and repeated", mine[1], theirs[1], "", "0 and 0", exact, headlines[0]),
            Row("kills that the state survived", mine[2], theirs[2], "", "all", kept, headlines[1]),
        ]
    return rows
