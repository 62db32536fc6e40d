"""Uptime: a run at full speed for a while. Memory, file descriptors and the space's size have to stay flat.

A Source sends 64-byte values at full speed through a relay to an operator that saves a state per event; another sends
arrays of 1 MB, which lie in segments, ten times a second. `--soak-s` says how long; a minute by default.

What is flat: the median of the last quarter is at most 10 % above that of the second one. The first is for settling.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from statistics import median

import psutil

from bench.measure import Row, Section, per_s, size, times
from bench.start import unshared_bytes, words_of
from bench.systems import Run, ours, scratch, tell
from noderuntime.ipc import pulse
from noderuntime.ipc.rundir import ENV_HOME, RunDir, home

ROUNDS = 1
SOAK_S = 60.0
EVERY_S = 1.0
GROWTH_MAX = 1.1
RECEIVER = 2  # its number in ours/soak.yml


def look(run: Run, run_dir: RunDir) -> dict[str, float]:
    """All processes of the run together, and what its folder on shared memory holds."""
    memory = files = 0
    for process in run.tree():
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            memory += unshared_bytes(process.pid)
            files += process.num_fds()
    held = sum(file.stat().st_blocks * 512 for file in every_file(run_dir.root))
    handled = words_of(run_dir, [RECEIVER])[0][pulse.HANDLED]
    return {"at_s": run.age_s(), "memory": memory, "files": files, "space": held, "handled": handled}


def every_file(folder: Path) -> list[Path]:
    return [Path(base, name) for base, _, names in os.walk(folder) for name in names if Path(base, name).exists()]


def soak(seconds: float) -> list[dict[str, float]]:
    with scratch() as folder:
        run_dir = RunDir.of("bench", home({ENV_HOME: str(folder / "home")}, os.getuid()))
        (folder / "go").touch()
        with ours("soak.yml", folder) as run:
            run.wait_for("the receiver", lambda: run_dir.pulse(RECEIVER).exists(), 60.0)
            looks = []
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(EVERY_S)
                looks.append(look(run, run_dir))
        return looks


def quarter(looks: list[dict[str, float]], number: int, name: str) -> float:
    """The median of a figure in that quarter of the time, from 0."""
    step = len(looks) / 4
    return median(found[name] for found in looks[int(number * step) : max(int((number + 1) * step), 1)])


def measure(rounds: int) -> Section:
    seconds = float(os.environ.get("BENCH_SOAK_S") or SOAK_S)
    tell(f"at full speed for {seconds:.0f} s")
    looks = soak(seconds)
    rows = []
    for name, what, text in (
        ("memory", "unshared memory of all its processes", size),
        ("files", "their open files", lambda value: f"{value:.0f}"),
        ("space", "shared memory: space, segments, all else", size),
    ):
        before, after = quarter(looks, 1, name), quarter(looks, 3, name)
        rows.append(Row(what, f"{text(before)}, then {text(after)}", "", times(after / before),
                        f"at most {GROWTH_MAX:g}x", after <= GROWTH_MAX * before,
                        f"soak of {seconds:.0f} s, second and last quarter: {what}"))  # fmt: skip
    begin, end = looks[len(looks) // 4], looks[-1]
    rate = (end["handled"] - begin["handled"]) / (end["at_s"] - begin["at_s"])
    rows.append(Row("messages through two hops meanwhile", per_s(rate), "", ""))
    return Section(f"{seconds:.0f} s at full speed", rows, {"looks": looks})
