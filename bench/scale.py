"""Costs that must not grow: of a commit with the number of keys and of nodes; and the one write lock's cap.

Keys: an operator with 1,000 to 1,000,000 private keys changes one of them per event, drawn by chance; its commits are
timed inside its process, those of single events every 2 ms and those of groups of 64 under backlog, with nobody else
committing. Nodes: the same operator with 1,000 keys, among idle ones. Writers: operators that do nothing but commit,
all at once: single shared writes, then events with a saved state, which go in groups. All commits of a run take turns
at one lock.
"""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from bench.measure import Plot, Row, Section, at_most, over_rounds, p50, per_s, times, us
from bench.start import pids_of, ready_ours, unshared_bytes
from bench.systems import BENCH, interleave, ours, result, scratch
from noderuntime.ipc.rundir import ENV_HOME, RunDir, home

ROUNDS = 2
KEYS = (1_000, 10_000, 100_000, 1_000_000)
NODES = (2, 20, 100)
WRITERS = (1, 2, 4, 8, 16, 32)
ONES = 400
MANY = 20_000
PHASE_S = 0.7
LEAD_S = 0.3  # from the word to the begin, until all of them have it
RUN_S = 180.0
ONE_TIMES_MAX = 2.0
GROUP_TIMES_MAX = 3.0
START_S_MAX = 8.0
UNSHARED_MB_MAX = 20.0

HEAD = """\
nodes:
  - id: feed
    operator:
      python: keys.py:Feed
      outputs: [out]
  - id: keys
    operator:
      python: keys.py:Keys
      inputs:
        value: {source: feed/out, queue_size: 100000}
"""
IDLE = """\
  - id: idle{number}
    operator:
      python: idle.py:Idle
      inputs: {{value: {before}/out}}
      outputs: [out]
"""
WRITER = """\
  - id: writer{number}
    operator:
      python: busy.py:Counted
"""


def files(folder: Path, text: str) -> Path:
    """A dataflow next to copies of what it names."""
    for name in ("keys.py", "busy.py", "idle.py", "measured.py"):
        shutil.copy(BENCH / "ours" / name, folder)
    file = folder / "scale.yml"
    file.write_text(text)
    return file


def commits(keys: int, nodes: int = 2) -> dict[str, Any]:
    """Nanoseconds of commits of one event and of groups; with more than two nodes, their start and memory as well."""
    text = HEAD
    before = "idle2"
    for number in range(2, nodes):
        if number == 2:  # somebody has to begin the chain of those that do nothing
            text += "  - id: idle2\n    operator:\n      python: idle.py:Idle\n"
            text += "      inputs: {tick: timer/secs/3600}\n      outputs: [out]\n"
        else:
            text += IDLE.format(number=number, before=before)
            before = f"idle{number}"
    with scratch() as folder:
        run_dir = RunDir.of("bench", home({ENV_HOME: str(folder / "home")}, os.getuid()))
        extra = {"BENCH_KEYS": keys, "BENCH_ONES": ONES, "BENCH_MANY": MANY}
        with ours(files(folder, text), folder, **extra) as run:
            run.wait_for("all operators", lambda: ready_ours(run_dir, range(nodes)), RUN_S, 0.02)
            facts: dict[str, Any] = {"ready_s": run.age_s()}
            (folder / "go").touch()
            done = folder / "keys.json"
            run.wait_for("the commits", done.exists, RUN_S, 0.05)
            facts["unshared"] = [unshared_bytes(pid) for pid in pids_of(run_dir, range(2, nodes))]
            run.end()
        facts.update(result(folder, "keys"))
        return facts


def writers(count: int) -> dict[str, float]:
    """Transactions per second of single writes, and events per second in groups, of `count` operators together."""
    text = "nodes:\n" + "".join(WRITER.format(number=number) for number in range(count))
    with scratch() as folder:
        run_dir = RunDir.of("bench", home({ENV_HOME: str(folder / "home")}, os.getuid()))
        with ours(files(folder, text), folder, BENCH_PHASE_S=PHASE_S) as run:
            run.wait_for("all operators", lambda: ready_ours(run_dir, range(count)), RUN_S, 0.02)
            begin = folder / "begin"
            begin.write_text(str(time.monotonic() + LEAD_S))
            begin.rename(folder / "go")
            run.wait(RUN_S)
        found = [result(folder, f"counted-writer{number}") for number in range(count)]
    return {kind: sum(counts[kind] for counts in found) / PHASE_S for kind in ("single", "grouped")}


def measure(rounds: int) -> Section:
    sides: dict[str, Any] = {f"{count:,} keys": partial(commits, count) for count in KEYS}
    sides |= {f"{count} nodes": partial(commits, KEYS[0], count) for count in NODES[1:]}
    sides |= {f"{count} writers": partial(writers, count) for count in WRITERS}
    found = interleave(rounds, sides)
    found[f"{NODES[0]} nodes"] = found[f"{KEYS[0]:,} keys"]

    def of(side: str, kind: str, figure: Any = p50) -> float:
        return over_rounds(found[side], lambda facts: float(figure(facts[kind])))

    def grows(side: str, base: str, kind: str) -> float:
        return over_rounds([p50(a[kind]) / p50(b[kind]) for a, b in zip(found[side], found[base], strict=True)])

    rows: list[Row] = []
    limits = (("one", "a commit per event", ONE_TIMES_MAX), ("group", "groups of 64, per group", GROUP_TIMES_MAX))
    for what, counts in (("keys", KEYS), ("nodes", NODES)):
        for kind, how, most in limits:
            for count in counts:
                side, base = f"{count:,} {what}", f"{counts[0]:,} {what}"
                last = count == counts[-1]
                ratio = grows(side, base, kind)
                headline = f"commit time with {count:,} {what} against {counts[0]:,}, {how}" if last else ""
                rows.append(Row(f"{side}, {how}, p50", us(of(side, kind)), "", times(ratio),
                                f"at most {most:g}x" if last else "", at_most(ratio, most) if last else None,
                                headline))  # fmt: skip
    large = f"{NODES[-1]} nodes"
    ready_s = over_rounds(found[large], lambda facts: facts["ready_s"])
    memory = over_rounds(found[large], lambda facts: p50(facts["unshared"])) / 1e6
    rows += [
        Row(f"{NODES[-1]} operators, until all are ready", f"{ready_s:.1f} s", "", "", f"at most {START_S_MAX:g} s",
            ready_s <= START_S_MAX, f"start of {NODES[-1]} operators"),
        Row(f"memory that each of {NODES[-1]} idle operators has alone", f"{memory:.1f} MB", "", "",
            f"at most {UNSHARED_MB_MAX:g} MB", memory <= UNSHARED_MB_MAX, "memory that an idle operator has alone"),
    ]  # fmt: skip
    for count in WRITERS:
        single, grouped = (over_rounds(found[f"{count} writers"], itemgetter(kind)) for kind in ("single", "grouped"))
        headline = "the one write lock's cap: 8 operators that only commit, together" if count == 8 else ""
        text = f"{per_s(single)} commits of one write, or {per_s(grouped)} events in groups"
        rows.append(Row(f"operators that only commit, all together: {count}", text, "", "", headline=headline))
    plots = {"scale": plot_growth(found), "commits": plot_writers(found)}
    return Section("Scale", rows, found, plots=plots)


def plot_growth(found: dict[str, list[Any]]) -> Plot:
    lines = {}
    for what, counts in (("keys", KEYS), ("nodes", NODES)):
        for kind, how in (("one", "per event"), ("group", "groups of 64")):
            lines[f"{what}, {how}"] = [
                (count, over_rounds([p50(facts[kind]) for facts in found[f"{count:,} {what}"]])) for count in counts
            ]
    shows = "The time of a commit by the number of private keys and of nodes in the dataflow"
    return Plot("Time of a commit by size of the run", "private keys, or nodes in the dataflow", "p50 of a commit",
                lines, "count", "time", shows=shows)  # fmt: skip


def plot_writers(found: dict[str, list[Any]]) -> Plot:
    lines = {
        name: [(count, over_rounds(found[f"{count} writers"], itemgetter(kind))) for count in WRITERS]
        for kind, name in (("single", "commits of one write"), ("grouped", "events in groups"))
    }
    shows = "Commits per second of all operators together by their number: the cap of the one write lock"
    return Plot("Commits per second by number of operators: the one write lock's cap", "operators that only commit",
                "per second, all together", lines, "count", "rate", shows=shows)  # fmt: skip


