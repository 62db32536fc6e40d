"""Fifty operators: until all are ready, what they use while nothing happens, and the memory that each has alone."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import Any

from bench.measure import Row, Section, over_rounds, ratio_over_rounds, said, size, times
from bench.profile import core_ns
from bench.systems import BENCH, Run, dora, interleave, ours, scratch
from noderuntime.ipc import pulse
from noderuntime.ipc.rundir import ENV_HOME, RunDir, home

ROUNDS = 1
OPERATORS = 50
READY_S = 120.0
IDLE_S = 10.0
SETTLE_S = 2.0
START_S_MAX = 10.0
CORE_SHARE_MAX = 0.02

CHAIN_HEAD = """\
nodes:
  - id: op0
    operator:
      python: idle.py:Idle
      inputs: {tick: timer/secs/3600}
      outputs: [out]
"""
CHAIN_LINK = """\
  - id: op{number}
    operator:
      python: idle.py:Idle
      inputs: {{value: op{before}/out}}
      outputs: [out]
"""
DORA_HEAD = """\
nodes:
  - id: op0
    path: idle.py
    inputs: {tick: dora/timer/secs/3600}
    outputs: [out]
"""
DORA_LINK = """\
  - id: op{number}
    path: idle.py
    inputs: {{value: op{before}/out}}
    outputs: [out]
"""


def chain(head: str, link: str) -> str:
    return head + "".join(link.format(number=number, before=number - 1) for number in range(1, OPERATORS))


def words_of(run_dir: RunDir, numbers: Iterable[int]) -> list[memoryview]:
    """The pulses of these nodes."""
    return [memoryview(run_dir.pulse(number).read_bytes()).cast("Q") for number in numbers]


def ready_ours(run_dir: RunDir, numbers: Iterable[int]) -> bool:
    """Whether each of these operators waits for its first event."""
    try:
        return all(words[pulse.PHASE] == pulse.WAITING for words in words_of(run_dir, numbers))
    except FileNotFoundError:
        return False


def pids_of(run_dir: RunDir, numbers: Iterable[int]) -> list[int]:
    return [words[pulse.PID] for words in words_of(run_dir, numbers)]


def ready_dora(folder: Path) -> bool:
    file = folder / "ready"
    return file.exists() and len(file.read_text().splitlines()) == OPERATORS


def pids_ready(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "ready").read_text().split()]


def unshared_bytes(pid: int) -> int:
    """Memory that goes when this process goes."""
    fields = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(fields[name].split()[0]) * 1024 for name in ("Private_Clean", "Private_Dirty"))


def facts(run: Run, pids: list[int]) -> dict[str, Any]:
    """What a run whose nodes are all ready uses while nothing happens."""
    ready_s = run.age_s()
    time.sleep(SETTLE_S)
    family = run.tree()
    before = sum(core_ns(process.pid) for process in family)
    time.sleep(IDLE_S)
    cores = (sum(core_ns(process.pid) for process in family) - before) / (IDLE_S * 1e9)
    memory = median(unshared_bytes(pid) for pid in pids)
    return {"ready_s": ready_s, "cores": cores, "unshared_bytes": memory, "processes": len(family)}


def start_ours() -> dict[str, Any]:
    with scratch() as folder:
        shutil.copy(BENCH / "ours" / "idle.py", folder)
        (folder / "chain.yml").write_text(chain(CHAIN_HEAD, CHAIN_LINK))
        run_dir = RunDir.of("bench", home({ENV_HOME: str(folder / "home")}, os.getuid()))
        with ours(folder / "chain.yml", folder) as run:
            everybody = range(OPERATORS)
            run.wait_for("all operators", lambda: ready_ours(run_dir, everybody), READY_S, 0.05)
            return facts(run, pids_of(run_dir, everybody))


def start_dora(start: Callable[..., AbstractContextManager[Run]] = dora) -> dict[str, Any]:
    """Of nodes of dora's, by whatever runs them."""
    with scratch() as folder:
        (folder / "chain.yml").write_text(chain(DORA_HEAD, DORA_LINK))
        with start(folder / "chain.yml", folder) as run:
            run.wait_for("all nodes", lambda: ready_dora(folder), READY_S, 0.05)
            return facts(run, pids_ready(folder))


def measure(rounds: int) -> Section:
    found = interleave(rounds, {"ours": start_ours, "dora": start_dora}, {"dora": "dora"})
    mine, theirs = found["ours"], found.get("dora")

    def of(name: str) -> Callable[[dict[str, Any]], float]:
        return lambda figures: float(figures[name])

    def row(what: str, name: str, text: Callable[[float], str], most: float | None, wanted: str = "",
            headline: str = "") -> Row:  # fmt: skip
        value = over_rounds(mine, of(name))
        ratio = times(ratio_over_rounds(mine, theirs, of(name)))
        return Row(what, text(value), said("dora", theirs, text, of(name)), f"{ratio} of dora's" if ratio else "",
                   wanted, None if most is None else value <= most, headline)  # fmt: skip

    rows = [
        row("until all are ready", "ready_s", lambda value: f"{value:.1f} s", START_S_MAX,
            f"at most {START_S_MAX:.0f} s", f"start of {OPERATORS} operators"),
        row(f"idle for {IDLE_S:.0f} s, share of a core", "cores", lambda value: f"{value:.1%}", CORE_SHARE_MAX,
            f"under {CORE_SHARE_MAX:.0%}", f"{OPERATORS} idle operators, share of a core"),
        row("memory that an idle one has alone", "unshared_bytes", size, None),
    ]  # fmt: skip
    return Section(f"{OPERATORS} operators", rows, found)
