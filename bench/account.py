"""Where the time of one hop goes: its stages from `send_output` to the receiver's `on_event`, and what that costs.

The stages are noted inside the two processes (ours/traced.py), at one message every 3 ms. Their cost is seen from
outside, at that pace and at full speed: time on a core per message, how much of it in the kernel, system calls per
message.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench.measure import Row, Section, over_rounds, p50, us
from bench.profile import Use, counted, instructions, system_calls
from bench.start import pids_of, ready_ours, words_of
from bench.systems import interleave, ours, result, scratch
from noderuntime.ipc import pulse
from noderuntime.ipc.rundir import ENV_HOME, RunDir, home

ROUNDS = 1
COUNT = 600
WARMUP = 100
RUN_S = 60.0
LOOK_S = 1.5
MANY = 100_000_000


class Looked(NamedTuple):
    """A file whose processes are looked at. `sides`: its nodes, in order; the last one counts the messages."""

    pace: str
    count: int
    sides: tuple[str, ...]
    closely: bool  # each side's system calls as well, and not only what all of them take


LOOKS = {
    "hop_operators.yml": Looked("a message every 3 ms", 4000, ("sender", "receiver"), True),
    "one_hop_source.yml": Looked("at full speed", MANY, ("sender", "receiver"), True),
    "three_hops.yml": Looked("three hops at full speed", MANY, ("sender", "first", "second", "receiver"), False),
}

STAGES = {  # name -> (from, to); a mark of the sender is "s:..."
    "encoding, the end of the handler, until the commit begins": ("sent", "s:commit begins"),
    "the commit": ("s:commit begins", "s:commit ends"),
    "until the ring": ("s:commit ends", "s:ring begins"),
    "the ring: a write to the FIFO": ("s:ring begins", "s:ring ends"),
    "from the commit's end until the receiver has woken up": ("s:commit ends", "woken"),
    "its loop, until it reads": ("woken", "read begins"),
    "reading the mailbox": ("read begins", "read ends"),
    "decoding, making the event, until on_event": ("read ends", "handled"),
    "all of it": ("sent", "handled"),
}
LAST = "all of it"


def hops() -> list[dict[str, int]]:
    """The marks of each hop of one round."""
    with scratch() as folder, ours("account.yml", folder, BENCH_COUNT=COUNT) as run:
        run.wait(RUN_S)
        sender = result(folder, "sender")
        receiver = result(folder, "receiver")
    found = []
    # the marks that the sender kept at tick k + 1 are those of send k
    for there, here in zip(sender[WARMUP + 1 :], receiver[WARMUP:], strict=False):
        found.append(here | {f"s:{name}": ns for name, ns in there.items()})
    return found


def outside(file: str) -> dict[str, dict[str, Any]]:
    """What each process did per message, seen from outside."""
    looked = LOOKS[file]
    with scratch() as folder:
        run_dir = RunDir.of("bench", home({ENV_HOME: str(folder / "home")}, os.getuid()))
        numbers = range(len(looked.sides))
        with ours(file, folder, BENCH_COUNT=looked.count) as run:
            run.wait_for("all of them", lambda: ready_ours(run_dir, numbers), RUN_S)
            run.wait_for("messages", lambda: handled(run_dir, numbers[-1]) > WARMUP, RUN_S)
            pids = pids_of(run_dir, numbers)
            found = look(run_dir, numbers[-1], dict(zip(looked.sides, pids, strict=True)))
            if looked.closely:
                for side, pid in zip(looked.sides, pids, strict=True):
                    found[side] |= look_closely(run_dir, numbers[-1], pid, folder)
            run.end()
        return found


def handled(run_dir: RunDir, number: int) -> int:
    return int(words_of(run_dir, [number])[0][pulse.HANDLED])


def look(run_dir: RunDir, last: int, pids: dict[str, int]) -> dict[str, dict[str, Any]]:
    """The time that each side spends on a core, per message that the last node handles meanwhile."""
    before = {side: Use.of(pid) for side, pid in pids.items()}
    begun_ns, done = time.monotonic_ns(), handled(run_dir, last)
    time.sleep(LOOK_S)
    found = {}
    for side, pid in pids.items():
        use, messages = Use.of(pid).since(before[side]), handled(run_dir, last) - done
        busy = use.core_ns / (time.monotonic_ns() - begun_ns)
        found[side] = {"core_ns": use.core_ns / messages, "kernel_share": use.kernel_share, "busy": busy}
    return found


def look_closely(run_dir: RunDir, last: int, pid: int, folder: Path) -> dict[str, Any]:
    """Instructions and system calls per message that the last node handles meanwhile. They are slower by that."""
    with instructions(pid) as counter:
        count, done = counted(counter), handled(run_dir, last)
        time.sleep(LOOK_S)
        messages = handled(run_dir, last) - done
        found = {"instructions": None if counter is None else (counted(counter) - count) / messages}
    return found | {"calls": system_calls(pid, LOOK_S, folder, lambda: handled(run_dir, last))}


def measure(rounds: int) -> Section:
    found = interleave(rounds, {"hops": hops} | {file: partial(outside, file) for file in LOOKS})
    all_hops = [hop for hops_of_round in found["hops"] for hop in hops_of_round]
    # a receiver that was rung before the commit may have woken up before its end, and waits for it
    whole = p50([hop["handled"] - hop["sent"] for hop in all_hops])
    rows = []
    for stage, (begin, end) in STAGES.items():
        took = [hop[end] - hop[begin] for hop in all_hops if begin in hop and end in hop]
        if took:
            rows.append(Row(stage, us(p50(took)), "", f"{p50(took) / whole:.0%}" if stage != LAST else ""))
    notes = []
    for file, looked in LOOKS.items():
        rounds_of_all = found[file]
        for side in looked.sides if looked.closely else ():
            sides, side_notes = of_side(looked.pace, side, [figures[side] for figures in rounds_of_all])
            rows += sides
            notes += side_notes
        if looked.count == MANY:
            rows += bound(looked, rounds_of_all)
    closely = [(file, side) for file, looked in LOOKS.items() if looked.closely for side in looked.sides]
    if all(figures[side]["instructions"] is None for file, side in closely for figures in found[file]):
        notes.append("instructions are not counted: this machine shows no hardware counters.")
    return Section("Where the time of one hop goes (p50 of each stage)", rows, found, notes)


def of_side(pace: str, side: str, looks: list[dict[str, Any]]) -> tuple[list[Row], list[str]]:
    """The rows about one process, and a note on its system calls."""
    rows, notes = [], []
    core_ns = over_rounds(looks, lambda look: look["core_ns"])
    share = ""
    if all(look["kernel_share"] is not None for look in looks):
        share = f"{over_rounds(looks, lambda look: look['kernel_share']):.0%} in the kernel"
    rows.append(Row(f"{pace}: {side}'s time on a core per message", us(core_ns), "", share))
    with contextlib.suppress(TypeError):
        count = over_rounds(looks, lambda look: look["instructions"])
        rows.append(Row(f"{pace}: {side}'s instructions per message", f"{count:,.0f}", "", ""))
    calls: Counter[str] = Counter()
    for one in looks:
        calls.update({name: count / len(looks) for name, count in (one["calls"] or {}).items()})
    if calls:
        rows.append(Row(f"{pace}: {side}'s system calls per message", f"{calls.total():.2f}", "", ""))
        often = ", ".join(f"{name} {count:.2f}" for name, count in calls.most_common(6) if count >= 0.005)
        notes.append(f"{pace}, system calls per message of the {side}: {often}.")
    return rows, notes


def bound(looked: Looked, found: list[dict[str, dict[str, Any]]]) -> list[Row]:
    """What the cores would allow if nobody ever waited: the busiest process has one at most, and all of them all."""
    cores = len(os.sched_getaffinity(0))

    def most_per_s(figures: dict[str, dict[str, Any]]) -> float:
        took = [figures[side]["core_ns"] for side in looked.sides]
        return 1e9 / max(max(took), sum(took) / cores)

    def reached(figures: dict[str, dict[str, Any]]) -> float:
        busy = [figures[side]["busy"] for side in looked.sides]
        return max(max(busy), sum(busy) / cores)

    most = f"{over_rounds(found, most_per_s) / 1000:.0f}k/s"
    share = f"{over_rounds(found, reached):.0%} of it"
    return [Row(f"{looked.pace}: what the time on {cores} cores allows, how much there is", most, "", share)]
