"""A run that is changed while messages flow: how soon a busy operator takes up another receiver and how long that holds
it up, how long a key waits while replicas are added, and what two replicas gain on two cores.

The change begins to hold with one transaction of the store; that moment is read in the space. From it on counts the
time until the operator handles the first event whose message the new receiver gets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench.measure import Row, Section, at_least, over_rounds, per_s, ratio_over_rounds, times, us
from bench.systems import Run, RunFailed, interleave, ours, result, scratch
from noderuntime.ipc.rundir import RunDir
from noderuntime.space import lives
from noderuntime.space.environment import open_space

ROUNDS = 3
CHANGES = 10
KEYS = int(os.environ.get("BENCH_LIVE_KEYS", "1000000"))
FILL_S = 600.0
STEADY_S = 2.0
WORK = 20_000
REACH_MS_MAX = 50
STALL_MS_MAX = 5
WAIT_MS_MAX = 50
GAIN_MIN = 1.7

CODE = Path(__file__).parent / "ours" / "live.py"
STREAM = f"""
  - {{id: stream, operator: {{python: "{CODE}:Stream", outputs: [out]}}}}
  - {{id: busy, operator: {{python: "{CODE}:Busy", inputs: {{in: stream/out}}, outputs: [out]}}}}
"""


def more(number: int) -> str:
    return f'  - {{id: more{number}, operator: {{python: "{CODE}:First", inputs: {{in: busy/out}}}}}}\n'


def counting(replicas: int) -> str:
    return f"""nodes:
  - {{id: requests, operator: {{python: "{CODE}:Requests", outputs: [out]}}}}
  - id: counts
    replicas: {replicas}
    partition_by: value.key
    operator: {{python: "{CODE}:counts", inputs: {{in: requests/out}}, outputs: [sent]}}
  - {{id: waits, operator: {{python: "{CODE}:Waits", inputs: {{in: counts/sent}}}}}}
"""


def working(replicas: int) -> str:
    return f"""nodes:
  - {{id: work, operator: {{python: "{CODE}:Work", outputs: [out]}}}}
  - id: burns
    replicas: {replicas}
    partition_by: value
    operator: {{python: "{CODE}:burns", inputs: {{in: work/out}}, outputs: [out]}}
  - {{id: done, operator: {{python: "{CODE}:Done", inputs: {{in: burns/out}}}}}}
"""


def command(folder: Path, *arguments: str) -> None:
    """One of ours. Raises RunFailed when it fails."""
    env = {**os.environ, "NODERUNTIME_HOME": str(folder / "home"), "BENCH_OUT": str(folder)}
    line = [sys.executable, "-m", "noderuntime", *arguments]
    done = subprocess.run(line, env=env, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"{' '.join(arguments)}: {done.stdout}{done.stderr}")


class Switches(threading.Thread):
    """Notes when the wiring number of a node changes (ns of CLOCK_MONOTONIC)."""

    def __init__(self, folder: Path, node: str) -> None:
        super().__init__()
        self.at_ns: list[int] = []
        self._space = open_space(RunDir(folder / "home" / "runs" / "bench").space)
        self._enough = threading.Event()
        with self._space.read() as txn:
            self._number = lives.load(txn)[node].number

    def run(self) -> None:
        known = None
        while not self._enough.wait(0.0005):
            with self._space.read() as txn:
                wiring = lives.node_record(txn, self._number).wiring
            if wiring != known and known is not None:
                self.at_ns.append(time.monotonic_ns())
            known = wiring

    def end(self) -> None:
        self._enough.set()
        self.join()
        self._space.close()


def rewire() -> dict[str, Any]:
    """One round: a receiver of a busy operator is replaced by another, again and again, each time by one apply."""
    with scratch() as folder:
        file = folder / "bench.yml"
        file.write_text("nodes:" + STREAM + more(0))
        with ours(file, folder) as run:
            run.wait_for("the first value", (folder / "first-more0.json").exists, 30.0)
            time.sleep(1.0)
            switches = Switches(folder, "busy")
            switches.start()
            try:
                for number in range(1, CHANGES + 1):
                    file.write_text("nodes:" + STREAM + more(0) + more(number))
                    command(folder, "apply", "bench", str(file))
                    run.wait_for("a value", (folder / f"first-more{number}.json").exists, 30.0)
                    time.sleep(0.5)
            finally:
                switches.end()
            command(folder, "stop", "bench")
            run.wait(30.0)
        if len(switches.at_ns) != CHANGES:
            raise RunFailed(f"{len(switches.at_ns)} changes of the wiring instead of {CHANGES}")
        firsts = [int(result(folder, f"first-more{number}")) for number in range(1, CHANGES + 1)]
        gaps = result(folder, "gaps")
        return {
            "reach_ns": [max(0, first - at) for first, at in zip(firsts, switches.at_ns, strict=True)],
            "stall_ns": [longest(gaps, at - 5_000_000, at + 100_000_000) for at in switches.at_ns],
            "quiet_ns": [longest(gaps, at - 305_000_000, at - 200_000_000) for at in switches.at_ns],
        }


def longest(gaps: list[tuple[int, int]], begin_ns: int, end_ns: int) -> int:
    return max((after - before for before, after in gaps if before < end_ns and after > begin_ns), default=0)


def filled(folder: Path, run: Run) -> None:
    run.wait_for("all keys", (folder / "filled").exists, FILL_S, 0.1)
    (folder / "go").touch()
    time.sleep(STEADY_S)


def scaled() -> dict[str, Any]:
    """One round: from two replicas to four while messages flow, and by a stop and a resume of the same run."""
    with scratch() as folder:
        file = folder / "bench.yml"
        file.write_text(counting(2))
        with ours(file, folder, BENCH_KEYS=KEYS) as run:
            filled(folder, run)
            begin_ns = time.monotonic_ns()
            command(folder, "scale", "bench", "counts", "4")
            end_ns = time.monotonic_ns()
            time.sleep(STEADY_S)
            command(folder, "stop", "bench")
            run.wait(60.0)
        took = answers(folder)
        while_scaled = [ns for at, ns in took if begin_ns < at < end_ns + 1e9]
        before = [ns for at, ns in took if at < begin_ns]
        if not while_scaled or not before:
            raise RunFailed("no key was asked for")
        return {"scale_ns": max(while_scaled), "before_ns": max(before), "resume_ns": resumed(folder)}


def resumed(folder: Path) -> int:
    """How long nobody has an answer when the run is stopped and resumed with four replicas."""
    for old in folder.glob("waits-*.json"):
        old.unlink()
    file = folder / "bench.yml"
    env = {**os.environ, "NODERUNTIME_HOME": str(folder / "home"), "BENCH_OUT": str(folder), "BENCH_KEYS": str(KEYS)}
    moments = []
    for replicas in (2, 4):
        file.write_text(counting(replicas))
        line = [sys.executable, "-m", "noderuntime", "run", str(file), "--name", "bench", "--resume"]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(line, env=env, cwd=folder, stdout=log, stderr=log)
        time.sleep(3 * STEADY_S)
        command(folder, "stop", "bench")
        if process.wait(60.0):
            raise RunFailed("the resumed run failed")
        moments.append(answers(folder))
        for old in folder.glob("waits-*.json"):
            old.unlink()
    return int(moments[1][0][0] - moments[0][-1][0])


def answers(folder: Path) -> list[tuple[int, int]]:
    return [tuple(item) for file in sorted(folder.glob("waits-*.json")) for item in json.loads(file.read_text())]


def worked(replicas: int) -> float:
    """Events per second."""
    with scratch() as folder:
        file = folder / "bench.yml"
        file.write_text(working(replicas))
        with ours(file, folder, BENCH_COUNT=WORK) as run:
            run.wait(120.0)
        done = result(folder, "done")
        if done["count"] != WORK:
            raise RunFailed(f"{done['count']} of {WORK} events")
        return float(1e9 * WORK / (done["ns"] - result(folder, "begun")))


def measure(rounds: int) -> Section:
    found = interleave(rounds, {
        "rewired": rewire,
        "one replica": partial(worked, 1),
        "two replicas": partial(worked, 2),
    })  # fmt: skip
    found |= interleave(1, {"scaled": scaled})

    def worst(name: str) -> Any:
        return lambda figures: max(figures[name])

    reach, stall = over_rounds(found["rewired"], worst("reach_ns")), over_rounds(found["rewired"], worst("stall_ns"))
    quiet = over_rounds(found["rewired"], worst("quiet_ns"))
    waited = over_rounds(found["scaled"], lambda figures: figures["scale_ns"])
    before = over_rounds(found["scaled"], lambda figures: figures["before_ns"])
    outage = over_rounds(found["scaled"], lambda figures: figures["resume_ns"])
    gain = ratio_over_rounds(found["two replicas"], found["one replica"])
    rows = [
        Row(f"a busy operator has another receiver after, longest of {CHANGES}", us(reach), "", "",
            f"at most {REACH_MS_MAX} ms", reach <= REACH_MS_MAX * 1e6, "a receiver is added to a busy operator within"),
        Row("which holds it up for, at most", us(stall), f"without a change {us(quiet)}", "",
            f"at most {STALL_MS_MAX} ms", stall <= STALL_MS_MAX * 1e6),
        Row(f"a key waits while 2 replicas become 4, {KEYS:,} keys, at most", us(waited),
            f"before {us(before)}; stop and resume {us(outage)}", times(outage / waited),
            f"at most {WAIT_MS_MAX} ms", waited <= WAIT_MS_MAX * 1e6,
            f"2 replicas become 4, {KEYS:,} keys: a key waits"),
        Row("two replicas that compute 0.2 ms an event", per_s(over_rounds(found["two replicas"])),
            f"one {per_s(over_rounds(found['one replica']))}", times(gain), f"at least {GAIN_MIN:g}x",
            at_least(gain, GAIN_MIN)),
    ]  # fmt: skip
    return Section("Changing a run while messages flow", rows, found)
