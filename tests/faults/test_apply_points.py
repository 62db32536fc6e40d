"""A change of a running dataflow, killed at each of its points: nothing is lost or doubled, and it is made or not.

What is changed: a custom node and an operator are added, a node gets a new life, one gets another source, one gets
another id, one is removed behind what waits for it. Whoever is killed, all connections that stay are exact, and so is
what left up to its end. The runtime, if it was the victim, is started again: it says which dataflow goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from support.harness import Running, is_alive, wait_until
from support.live_cast import apply, command, counts, enough, flow, keeps, prepare, seen, takes, uids, wait_handled
from support.procs import is_stopped
from support.stage import Stage

OLD = flow(
    counts(), counts("other"), keeps("a"), keeps("b", "a/n"), keeps("gone", "a/n"), takes("end", "gone/n"),
    keeps("was", "a/n"), keeps("behind", "was/n"), uids("u", "was/n"),
)  # fmt: skip
NEW = flow(
    counts(), counts("other"), keeps("a", config={"name": "new"}), keeps("b", "other/n"), keeps("c", "a/n"), takes("d"),
    keeps("is", "a/n"), keeps("behind", "is/n"), uids("u", "is/n"),
)  # fmt: skip
OLD_NODES = {"counts", "other", "a", "b", "gone", "end", "was", "behind", "u"}
NEW_NODES = {"counts", "other", "a", "b", "c", "d", "is", "behind", "u"}

RUNTIME = (
    "apply asked", "apply begun", "apply checked", "apply tries", "apply numbers", "apply switch", "apply switching",
    "apply switched", "apply done", "apply settled", "apply settled it",
)  # fmt: skip
OPERATIONS = ("change_losses", "change_prepare", "change_switch", "change_settle")
STORE = tuple(f"{when} {operation}" for operation in OPERATIONS for when in ("request", "answer"))
AFTER = {"apply switched", "apply done", "apply settled", "apply settled it"}  # the switch is made


def check(running: Running, applied: bool) -> None:
    """Everything that was sent has arrived once, in order, as far as its way was there."""
    found = seen(running, "a")["counts/n"]
    first, last, count, good = found
    assert (first, count, good) == (0, last + 1, True), found
    of_b = seen(running, "b")
    assert of_b["a/n"][0] == 0 and of_b["a/n"][3] and of_b["a/n"][2] == of_b["a/n"][1] + 1
    numbers = json.loads(running.lines("u")[-1].removeprefix("uids "))
    assert numbers["good"] and numbers["last"] == last + 1
    assert [source for source, _ in numbers["sources"]] in (["was/n", "is/n"][: 1 + applied], ["is/n"][:applied])
    of_behind = seen(running, "behind")
    assert seen(running, "is" if applied else "was")["a/n"] == [0, last, last + 1, True]
    if not applied:
        assert of_behind["was/n"] == [0, last, last + 1, True]
        assert of_b["a/n"][1] == last
        assert seen(running, "gone")["a/n"] == [0, last, last + 1, True]
        return
    assert of_b["other/n"][3]
    first, end, count, whole = of_behind["is/n"]
    assert (end, count, whole) == (last, last + 1 - first, True)
    assert of_behind.get("was/n", [0, first - 1, first, True]) == [0, first - 1, first, True]
    joined, end, taken, whole = seen(running, "c")["a/n"]
    assert (end, taken, whole) == (last, last + 1 - joined, True)
    joined, end, _, whole = seen(running, "d")["counts/n"]
    assert end == last and whole


def changed_under(fault: dict[str, Any]) -> None:
    with Stage([fault]) as stage:
        prepare(stage.folder)
        running = stage.start(OLD)
        running.wait_running()
        for node in ("b", "end"):
            wait_handled(running, node)
        new = stage.folder.folder / "new.yml"
        new.write_text(NEW)
        code, out, err = command(stage.folder, "apply", "--drop", "gone", "--rename", "was=is", "--json", "new.yml")
        died = fault["who"] == "runtime"
        applied = code == 0
        if died:
            running.finish()
            stage.folder.wait_gone()
            running = stage.start(resume=True)
            running.wait_running("counts", "other", "a", "b")
            applied = any("new.yml, which was applied" in text for text in running.statuses())
            assert applied or fault["point"] not in AFTER
            undone = any("is undone" in text for text in running.statuses())
            assert not (applied and undone)
        else:
            assert code == 0, (out, err)
            assert json.loads(out)["applied"]
        wait_until(lambda: set(running.status()) == (NEW_NODES if applied else OLD_NODES), "what leaves to be gone")
        for node in ("c", "d", "b", "is", "behind") if applied else ("gone", "end", "b", "was", "behind"):
            wait_handled(running, node)
        enough(stage.folder)
        assert running.finish() == 0
        check(running, applied)
        assert stage.fired() == {0}


@pytest.mark.parametrize("point", RUNTIME)
def test_the_runtime_killed(point: str) -> None:
    changed_under({"who": "runtime", "point": point, "hit": 1, "action": "kill"})


@pytest.mark.parametrize("point", STORE)
def test_the_store_killed(point: str) -> None:
    changed_under({"who": "store", "point": point, "hit": 1, "action": "kill"})


def test_a_changed_node_that_finds_itself_fenced_before_the_runtime_hears_of_the_switch_has_not_failed() -> None:
    """The store is killed behind the switch, so that its answer comes late; meanwhile the node commits."""
    with Stage([{"who": "store", "point": "answer change_switch", "hit": 1, "action": "kill"}]) as stage:
        prepare(stage.folder)
        running = stage.start(flow(counts(), keeps("a", restart_policy="never"), keeps("b", "a/n")))
        running.wait_running()
        wait_handled(running, "b")
        changed = flow(counts(), keeps("a", restart_policy="never", config={"name": "new"}), keeps("b", "a/n"))
        code, _, err = apply(stage.folder, changed)
        assert code == 0, err
        wait_handled(running, "b")
        assert running.status()["a"]["restarts"] == 1
        enough(stage.folder)
        assert running.finish() == 0
        for node, source in (("a", "counts/n"), ("b", "a/n")):
            first, last, count, good = seen(running, node)[source]
            assert (first, count, good) == (0, last + 1, True)
        assert not [line for line in running.lines("b") if line.startswith("NODE_FAILED")]
        assert stage.fired() == {0}


@pytest.mark.parametrize("point", ["rewire", "follow"])
@pytest.mark.parametrize("who", ["counts", "b", "behind"])
def test_a_rewired_node_killed_while_it_takes_the_wiring_up(who: str, point: str) -> None:
    changed_under({"who": who, "point": point, "hit": 1, "action": "kill"})


@pytest.mark.parametrize("point", RUNTIME)
def test_the_renamed_node_killed_while_the_runtime_is_there(point: str) -> None:
    """Its process of before and, where it has begun already, that of after; the runtime hears of it when it goes on."""
    with Stage([{"who": "runtime", "point": point, "hit": 1, "action": "stop"}]) as stage:
        prepare(stage.folder)
        running = stage.start(OLD)
        running.wait_running()
        for node in ("b", "end", "u"):
            wait_handled(running, node)
        old = running.status()["was"]["pid"]
        (stage.folder.folder / "new.yml").write_text(NEW)
        words = ["apply", "--drop", "gone", "--rename", "was=is", "--timeout", "60", "new.yml"]
        applying = subprocess.Popen(
            [sys.executable, "-m", "noderuntime", *words], cwd=stage.folder.folder, text=True, stderr=subprocess.PIPE,
            env={**os.environ, "NODERUNTIME_HOME": str(stage.folder.home)}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda: is_stopped(running.runtime_pid), f"the runtime to come to {point}")
        if is_alive(old):
            os.kill(old, signal.SIGKILL)
        os.kill(running.runtime_pid, signal.SIGCONT)
        _, err = applying.communicate(timeout=120)
        assert applying.returncode == 0, err
        wait_until(lambda: set(running.status()) == NEW_NODES, "what leaves to be gone")
        new = wait_until(lambda: running.status()["is"]["pid"], "the node to have a process")
        os.kill(new, signal.SIGKILL)
        wait_until(lambda: running.status()["is"]["pid"] not in (0, new), "its next life")
        for node in ("c", "d", "b", "is", "behind", "u"):
            wait_handled(running, node)
        enough(stage.folder)
        assert running.finish() == 0
        check(running, applied=True)
        assert stage.fired() == {0}
