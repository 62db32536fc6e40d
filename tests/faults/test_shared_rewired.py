"""A shared process that is rewired in place, killed while it takes a wiring up: nothing is lost or doubled.

Its operators a, b and e get and lose inputs, from inside and from outside, another source, another policy; and their
receivers outside come and go.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
from typing import Any

import pytest
from support.harness import Running
from support.live_cast import apply, counts, enough, flow, keeps, prepare, takes, wait_handled
from support.live_cast import seen as seen_alone
from support.stage import Fault, Stage

POINTS = ("rewire", "follow", "locked", "commit", "committed", "handle inside", "passed on", "ring", "rung")


def inner(id: str, source: str, **more: str) -> dict[str, Any]:
    node = keeps(id, source, process="p", config={"name": id})
    node["operator"]["inputs"].update(more)
    return node


def dropping(node: dict[str, Any]) -> dict[str, Any]:
    """Its input drops its oldest, when there are more than there will be: what is sent inside takes its mailbox."""
    node["operator"]["inputs"]["in"].update(queue_policy="drop_oldest", queue_size=1_000_000, queue_bytes="100MB")
    return node


PATIENT = {"max_restarts": 0, "max_restart_delay": 0.2}
FLOWS = [
    flow(*({**node, **PATIENT} for node in (counts(), counts("other"), *nodes)))
    for nodes in (
        (inner("a", "counts/n"), inner("b", "a/n"), inner("e", "b/n"), takes("end", "b/n")),
        (inner("a", "counts/n"), inner("b", "a/n"), inner("e", "b/n", more="other/n"), takes("end", "b/n", size=10)),
        (inner("a", "counts/n"), inner("b", "a/n"), inner("e", "a/n", more="other/n"), takes("end", "b/n"),
         keeps("d", "a/n")),
        (inner("a", "counts/n"), dropping(inner("b", "a/n")), inner("e", "a/n"), takes("end", "b/n"),
         keeps("d", "b/n")),
    )
]  # fmt: skip


def seen(running: Running) -> dict[str, Any]:
    """What each operator of the process has seen. Their lines are those of the process."""
    ends = [json.loads(line.partition(" ")[2]) for line in running.lines("a") if line.startswith("seen ")]
    return {name: found for _, found, name in ends}


def check(running: Running) -> None:
    """Everything that was sent over a connection has arrived once, in order."""
    inside = seen(running)
    first, last, count, good = inside["a"]["counts/n"]
    assert (first, count, good) == (0, last + 1, True)
    assert inside["b"] == {"a/n": [0, last, last + 1, True]}
    first, _, count, good = inside["e"]["b/n"]
    assert first == 0 and good
    for source, (first, end, count, good) in inside["e"].items():
        assert good and count == end - first + 1, (source, inside)
    assert inside["e"]["a/n"][1] == last
    outside = seen_alone(running, "d")
    for source, (first, end, count, good) in outside.items():
        assert good and count == end - first + 1, (source, outside)
    assert outside["b/n"][1] == last
    first, end, _, good = seen_alone(running, "end")["b/n"]
    assert (first, end, good) == (0, last, True)


def rewired(faults: list[Fault], rng: random.Random | None = None) -> None:
    """A run whose shared process is rewired three times, under faults or with kills of operators from outside."""
    with Stage(faults) as stage:
        prepare(stage.folder)
        running = stage.start(FLOWS[0])
        running.wait_running()
        wait_handled(running, "end", 50)
        pid = running.status()["a"]["pid"]
        over = threading.Event()
        killer = threading.Thread(target=_kill_now_and_then, args=(running, rng, over))
        killer.start()
        try:
            for text in FLOWS[1:]:
                code, out, err = apply(stage.folder, text)
                assert code == 0, (out, err)
                wait_handled(running, "e", 50)
                wait_handled(running, "end", 50)
        finally:
            over.set()
            killer.join()
        wait_handled(running, "d", 20)
        if not faults and rng is None:
            assert running.status()["a"]["pid"] == pid and not running.status()["a"]["restarts"]
        enough(stage.folder)
        assert running.finish() == 0
        check(running)
        assert stage.fired() == {*range(len(faults))}


def _kill_now_and_then(running: Running, rng: random.Random | None, over: threading.Event) -> None:
    while rng is not None and not over.wait(rng.uniform(0.2, 1.5)):
        rows = running.status()
        victim = rows[rng.choice(["a", "a", "counts"])]["pid"]
        store = running.found("nr-store")
        pid = rng.choice([victim, victim, victim, *store])
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_nobody_is_killed_and_the_process_is_the_same() -> None:
    rewired([])


@pytest.mark.parametrize("point", POINTS)
def test_the_process_killed(point: str) -> None:
    hit = {"rewire": 2, "follow": 2}.get(point, 30)
    rewired([{"who": "a", "point": point, "hit": hit, "action": "kill"}])


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 40))])
def test_a_schedule_of_kills(seed: int) -> None:
    rewired([], random.Random(seed))
