"""Runs that lose processes and machines, for the tests of snapshots: programs with Sources and exact results."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from support.harness import Folder, Running, processes_of, wait_until

from noderuntime.snapshot.backend import Listed
from noderuntime.snapshot.settings import Settings

PROGRAMS = """
import os, random, signal, time
from noderuntime import KeyedOperator, iterable_source, stateful_map

def slowly(items):
    for item in items:
        time.sleep(float(os.environ.get("PAUSE", "0")))
        yield item

@iterable_source(output="out")
def numbers():
    return slowly(range(101))

@iterable_source(output="out")
def words():
    return slowly(["foo", "bar", "hello", "world", "baz"])

@iterable_source(output="out")
def tens():
    return slowly([list(range(at, min(at + 10, 101))) for at in range(0, 101, 10)])

@stateful_map(output="out", default=int)
def running(key, value, state):
    return state + value, state + value

@stateful_map(output="out", key=lambda n: n % 2, default=int)
def parity(key, value, state):
    return state + value, state + value

@stateful_map(output="out", key=lambda n: n % 2, default=int, batch=True)
def together(key, value, state):
    '''Kills itself in the middle of each batch, if told to, once.'''
    mark = f"killed-{os.environ['NODERUNTIME_NODE']}-{value}"
    if "KILLED" in os.environ and value % 10 == 6 and not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return state + value, state + value

@stateful_map(output="out", key=len, default=str)
def joined(key, value, state):
    state += value
    return state, None if len(state) >= 6 else state

class Live(KeyedOperator):
    ttl = 2.0
    def key_of(self, event):
        return event["value"]
    def time_of(self, event):
        return float(event["uid"].rpartition("#")[2])
    def on_key_event(self, key, event, state, ctx):
        ctx.send_output("out", "|".join([word for word in self.live_keys(ctx) if word != key] + [key]))
        return True

class Failing:
    '''Fails at random, before or after it has done its work.'''
    def __init__(self):
        self.total = 0
    def restore_state(self, state):
        self.total = int(state["total"])
    def on_event(self, event, ctx):
        if event["type"] != "INPUT":
            return
        if random.random() < 0.02:
            raise RuntimeError("by chance")
        self.total += event["value"]
        ctx.save_state("total", b"%d" % self.total)
        ctx.send_output("out", self.total)
        if random.random() < 0.02:
            raise RuntimeError("by chance, afterwards")
"""


def flow(source: str, operator: str, every: str = "200ms", to: str = "") -> str:
    """A Source, an operator, and both sinks."""
    place = f", to: {to}" if to else ""
    return f"""
nodes:
  - id: source
    operator: {{python: programs.py:{source}, outputs: [out]}}
  - id: work
    operator: {{python: programs.py:{operator}, inputs: {{in: source/out}}, outputs: [out]}}
    max_attempts: 0
    max_restarts: 0
  - id: file
    operator: {{module: noderuntime.operators.file_sink, inputs: {{in: work/out}}}}
    config: {{path: out.txt}}
  - id: database
    operator: {{module: noderuntime.operators.sqlite_sink, inputs: {{in: work/out}}}}
    config: {{path: out.db}}
snapshots: {{every: {every}{place}}}
"""


def results(folder: Folder) -> list[str]:
    path = folder.folder / "out.txt"
    return path.read_text().splitlines() if path.exists() else []


def rows(folder: Folder) -> list[Any]:
    with contextlib.closing(sqlite3.connect(folder.folder / "out.db")) as database:
        return [row[0] for row in database.execute("SELECT value FROM messages ORDER BY number")]


def lose_machine(folder: Folder, running: Running) -> None:
    """Every process is killed at once, and what was in memory is gone."""
    for pid in processes_of(folder.home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes_of(folder.home), "all processes to be gone")
    running.finish()
    shutil.rmtree(folder.home / "runs", ignore_errors=True)


def kill_one(folder: Folder, dice: random.Random) -> None:
    """Some process of the run, whichever it is, the runtime and the guard included."""
    pids = processes_of(folder.home)
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(pids), signal.SIGKILL)


def to_the_end(
    folder: Folder,
    dataflow: str,
    env: Mapping[str, str],
    hurt: Callable[[Running, random.Random], bool],
    seed: int,
) -> int:
    """Run and resume until the run has finished. `hurt` is called while it runs, and says whether to go on with that.

    The last run, which nothing happens to, makes no pauses. Returns how often it was started.
    """
    dice = random.Random(seed)
    starts = 0
    hurting = True
    while True:
        running = folder.start(dataflow, env=env if hurting else {**env, "PAUSE": "0"}, resume=starts > 0)
        starts += 1
        if hurting:
            hurting = hurt(running, dice)
        code = running.finish(60.0)
        if code == 0:
            return starts
        assert starts < 60, running.said


def snapshots(folder: Folder, name: str = "flow") -> list[Listed]:
    settings = Settings.read(folder.home / "state" / name / "snapshots.json")
    assert settings is not None
    backend = settings.open()
    try:
        found: list[Listed] = backend.snapshots()
    finally:
        backend.close()
    return found


def has_snapshot(folder: Folder) -> bool:
    with contextlib.suppress(AssertionError):  # no settings yet
        return bool(snapshots(folder))
    return False


def wait_for_snapshots(folder: Folder, above: int) -> int:
    """Until there is a snapshot with a higher number; returns it."""

    def newest() -> int:
        with contextlib.suppress(AssertionError):
            numbers = [item.number for item in snapshots(folder)]
            return max(numbers, default=0) if max(numbers, default=0) > above else 0
        return 0

    return int(wait_until(newest, f"a snapshot above {above}"))


