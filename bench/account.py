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
from typing import Any

from bench.measure import Row, Section, over_rounds, p50, us
from bench.profile import Use, counted, instructions, system_calls
from bench.start import pids_of, ready_ours, words_of
from bench.systems import interleave, ours, result, scratch
from noderuntime import pulse
from noderuntime.rundir import ENV_HOME, RunDir, home

ROUNDS = 1
COUNT = 600
WARMUP = 100
RUN_S = 60.0
LOOK_S = 1.5
LOOK_COUNTS = {"hop_operators.yml": 4000, "one_hop_source.yml": 100_000_000}
PACES = {"hop_operators.yml": "a message every 3 ms", "one_hop_source.yml": "at full speed"}
SIDES = ("sender", "receiver")  # nodes 0 and 1 of both files

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
    """What the two processes did per message, seen from outside."""
    with scratch() as folder:
        run_dir = RunDir.of("bench", home({ENV_HOME: str(folder / "home")}, os.getuid()))
        both = range(len(SIDES))
        with ours(file, folder, BENCH_COUNT=LOOK_COUNTS[file]) as run:
            run.wait_for("both", lambda: ready_ours(run_dir, both), RUN_S)
            run.wait_for("messages", lambda: handled(run_dir, 1) > WARMUP, RUN_S)
            pids = pids_of(run_dir, both)
            found = {side: look(run_dir, number, pid, folder)
                     for number, (side, pid) in enumerate(zip(SIDES, pids, strict=True))}  # fmt: skip
            run.end()
        return found


def handled(run_dir: RunDir, number: int) -> int:
    return int(words_of(run_dir, [number])[0][pulse.HANDLED])


def look(run_dir: RunDir, number: int, pid: int, folder: Path) -> dict[str, Any]:
    """Per message that the receiver handled meanwhile."""
    with instructions(pid) as counter:
        before, count, done = Use.of(pid), counted(counter), handled(run_dir, 1)
        time.sleep(LOOK_S)
        use, messages = Use.of(pid).since(before), handled(run_dir, 1) - done
        found: dict[str, Any] = {
            "core_ns": use.core_ns / messages,
            "kernel_share": use.kernel_share,
            "instructions": None if counter is None else (counted(counter) - count) / messages,
        }
    found["calls"] = system_calls(pid, LOOK_S, folder, lambda: handled(run_dir, 1))
    return found


def measure(rounds: int) -> Section:
    found = interleave(rounds, {"hops": hops} | {file: partial(outside, file) for file in PACES})
    all_hops = [hop for hops_of_round in found["hops"] for hop in hops_of_round]
    # a receiver that was rung before the commit may have woken up before its end, and waits for it
    whole = p50([hop["handled"] - hop["sent"] for hop in all_hops])
    rows = []
    for stage, (begin, end) in STAGES.items():
        took = [hop[end] - hop[begin] for hop in all_hops if begin in hop and end in hop]
        if took:
            rows.append(Row(stage, us(p50(took)), "", f"{p50(took) / whole:.0%}" if stage != LAST else ""))
    notes = []
    for file, pace in PACES.items():
        for side in SIDES:
            looks = [figures[side] for figures in found[file]]
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
    if all(figures[side]["instructions"] is None for file in PACES for figures in found[file] for side in SIDES):
        notes.append("instructions are not counted: this machine shows no hardware counters.")
    return Section("Where the time of one hop goes (p50 of each stage)", rows, found, notes)
