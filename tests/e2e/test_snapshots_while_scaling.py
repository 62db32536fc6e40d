"""Snapshots in the middle of a change of replicas: what they hold is whole, and a resume takes the number of the file.

Slots move in parts of some megabytes. So the numbers are large here, and wait at a node that was stopped; the runtime
is stopped when it has heard of the first part.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.harness import wait_until
from support.live_cast import command
from support.procs import is_stopped
from support.scaled_flow import check, flow, ids, owners_now, prepare, remove, wait_replicas, wait_summed
from support.stage import Stage

from noderuntime.dataflow.replicas import owners, rescaled


def take(stage: Stage) -> int:
    code, out, err = command(stage.folder, "snapshot", "take")
    assert code == 0, err
    return int(out)


def lose_and_resume(stage: Stage, number: int, count: int, scaled: bool) -> None:
    """The space is lost, and the run goes on from that snapshot to its end."""
    folder = stage.folder
    stage.kill_runtime()
    listed = {item["snapshot"]: item["dataflow"] for item in json.loads(command(folder, "snapshot", "ls", "--json")[1])}
    assert bool(listed[number]["scaled"]) == scaled
    assert command(folder, "clean")[0] == 0
    again = stage.start(resume=True, from_snapshot=number)
    again.wait_running("numbers", "sink")
    wait_replicas(again, count)
    wait_summed(again)
    assert any("gets 2 replicas again" in text for text in again.statuses()) == scaled
    folder.write(enough="")
    assert again.finish(120) == 0
    check(again)


@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 2)])
def test_when_a_part_of_the_slots_has_moved(before: int, after: int) -> None:
    with Stage([{"who": "runtime", "point": "apply moved", "hit": 1, "action": "stop"}]) as stage:
        folder = stage.folder
        prepare(folder)
        running = stage.start(flow(before, snapshots="./snapshots", pad=60_000))
        running.wait_running("numbers", "sink", *ids(before))
        wait_summed(running, 50)
        assert command(folder, "node", "stop", "sums")[0] == 0
        wait_until(lambda: "room" in running.status()["numbers"]["phase"], "numbers to wait for room")
        env = {**os.environ, "NODERUNTIME_HOME": str(folder.home)}
        scaling = subprocess.Popen(
            [sys.executable, "-m", "noderuntime", "scale", "sums", str(after)], cwd=folder.folder, env=env,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda: is_stopped(running.runtime_pid), "a part to move")
        first, now, last = owners(before), owners_now(folder), rescaled(owners(before), after)
        assert now not in (tuple(first), tuple(last)) and all(
            owner in (was, will) for owner, was, will in zip(now, first, last, strict=True)
        )
        number = take(stage)
        lose_and_resume(stage, number, before, scaled=after > before)
        assert scaling.wait(60) == 1


def test_when_the_new_replicas_are_not_ready_yet() -> None:
    with Stage() as stage:
        folder = stage.folder
        prepare(folder)
        running = stage.start(flow(2, snapshots="./snapshots"))
        running.wait_running("numbers", "sink", *ids(2))
        folder.write(stuck="")
        assert command(folder, "scale", "sums", "4", "--timeout", "2")[0] == 0
        wait_summed(running)
        assert owners_now(folder) == tuple(owners(2))
        number = take(stage)
        remove(folder, "stuck")
        lose_and_resume(stage, number, 2, scaled=True)
