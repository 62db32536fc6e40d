"""Fifty operators: until all are ready, what they use while nothing happens, and the memory that each has alone."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from bench.measure import Row, Section, times
from bench.systems import BENCH, Run, dora, interleave, ours, scratch, tell
from noderuntime import pulse
from noderuntime.rundir import ENV_HOME, RunDir, home

OPERATORS = 50
READY_S = 120.0
IDLE_S = 10.0
SETTLE_S = 2.0
START_S_MAX = 10.0
CORE_SHARE_MAX = 0.02
DORA_ROUNDS = 2

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


def ready_ours(run_dir: RunDir) -> bool:
    """Whether every operator waits for its first event."""
    try:
        pages = [run_dir.pulse(number).read_bytes() for number in range(OPERATORS)]
    except FileNotFoundError:
        return False
    return all(memoryview(page).cast("Q")[pulse.PHASE] == pulse.WAITING for page in pages)


def ready_dora(folder: Path) -> bool:
    file = folder / "ready"
    return file.exists() and len(file.read_text().splitlines()) == OPERATORS


def cpu_ns(processes: list[psutil.Process]) -> int:
    """Time on a core of all their threads so far."""
    total = 0
    for process in processes:
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total


def unshared_bytes(pid: int) -> int:
    """Memory that goes when this process goes."""
    fields = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(fields[name].split()[0]) * 1024 for name in ("Private_Clean", "Private_Dirty"))


def facts(run: Run, pids: list[int]) -> dict[str, Any]:
    """What a run whose nodes are all ready uses while nothing happens."""
    ready_s = (time.monotonic_ns() - run.started_ns) / 1e9
    time.sleep(SETTLE_S)
    family = run.tree()
    before = cpu_ns(family)
    time.sleep(IDLE_S)
    cores = (cpu_ns(family) - before) / (IDLE_S * 1e9)
    nodes = pids or [process.pid for process in family if any("idle.py" in part for part in process.cmdline())]
    memory = median(unshared_bytes(pid) for pid in nodes)
    return {"ready_s": ready_s, "cores": cores, "unshared_bytes": memory, "processes": len(family)}


def start_ours() -> dict[str, Any]:
    with scratch() as folder:
        shutil.copy(BENCH / "ours" / "idle.py", folder)
        (folder / "chain.yml").write_text(chain(CHAIN_HEAD, CHAIN_LINK))
        run_dir = RunDir.of("bench", home({ENV_HOME: str(folder / "home")}, os.getuid()))
        with ours(folder / "chain.yml", folder) as run:
            run.wait_for("all operators", lambda: ready_ours(run_dir), READY_S, 0.05)
            pids = [
                memoryview(run_dir.pulse(number).read_bytes()).cast("Q")[pulse.PID] for number in range(OPERATORS)
            ]
            return facts(run, pids)


def start_dora() -> dict[str, Any]:
    with scratch() as folder:
        (folder / "chain.yml").write_text(chain(DORA_HEAD, DORA_LINK))
        with dora(folder / "chain.yml", folder) as run:
            run.wait_for("all nodes", lambda: ready_dora(folder), READY_S, 0.05)
            return facts(run, [])


def measure(rounds: int) -> Section:
    found = interleave(
        min(rounds, DORA_ROUNDS), {"ours": start_ours, "dora": start_dora}, tell
    )

    def middle(side: str, name: str) -> float:
        return median(figures[name] for figures in found[side])

    ready = middle("ours", "ready_s")
    cores = middle("ours", "cores")
    memory = middle("ours", "unshared_bytes")
    rows = [
        Row("until all are ready", f"{ready:.1f} s", f"dora {middle('dora', 'ready_s'):.1f} s",
            f"{times(middle('dora', 'ready_s') / ready)} faster", f"at most {START_S_MAX:.0f} s", ready <= START_S_MAX),
        Row(f"idle for {IDLE_S:.0f} s, share of a core", f"{cores:.1%}", f"dora {middle('dora', 'cores'):.1%}",
            times(middle("dora", "cores") / cores) + " less", f"under {CORE_SHARE_MAX:.0%}", cores < CORE_SHARE_MAX),
        Row("memory that an idle one has alone", f"{memory / 1e6:.1f} MB",
            f"dora {middle('dora', 'unshared_bytes') / 1e6:.1f} MB",
            times(middle("dora", "unshared_bytes") / memory) + " less"),
    ]  # fmt: skip
    return Section(f"{OPERATORS} operators", rows, found)
