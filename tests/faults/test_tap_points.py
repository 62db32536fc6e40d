"""Taps come and go while anybody is killed at any point: every connection stays exact, and nothing of a tap is left.

Taps are threads of this process, opened and closed by a seed. What a tap sees has no repetition, is in order, and with
what it missed it is all that was sent from its first message to its last.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading

import pytest
from support.harness import Running, wait_until
from support.live_cast import apply, counts, enough, flow, keeps, prepare, seen, takes, wait_handled
from support.looker import Looker, left_of_taps
from support.stage import Fault, Stage

from noderuntime import NodeRuntimeError, Tap

ALONE = (counts(), keeps("a"), keeps("b", "a/n"), takes("c", "b/n"))
WITH_MORE = (*ALONE, keeps("d", "a/n"))
TOPICS = ("counts/n", "a/n", "b/n")
SERVER = (
    "begin", "open", "tap heard", "tap", "locked", "put", "commit", "committed", "tapped", "tap send", "tap sent",
    "tap take", "read", "delete", "tap taken", "tap end", "tap ended",
)  # fmt: skip
AT_THE_END = ("tap end", "tap ended")
STORE = ("request taps_clear", "answer taps_clear")
SENDER = ("rewire", "locked", "commit", "committed", "ring", "rung")


def looker(seed: int, over: threading.Event) -> Looker:
    rng = random.Random(seed)
    wanted: list[str | list[str]] = [*TOPICS, ["counts/n", "b/n"], "*"]
    return Looker(seed, over, 400, lambda: rng.choice(wanted), _right)


def _right(topic: str, number: int, value: object) -> bool:
    return topic not in TOPICS or value == number - 1


def check(running: Running) -> None:
    """Everything that was sent has arrived once, in order."""
    first, last, count, good = seen(running, "a")["counts/n"]
    assert (first, count, good) == (0, last + 1, True)
    assert seen(running, "b")["a/n"] == [0, last, last + 1, True]
    _, end, _, whole = seen(running, "c")["b/n"]
    assert (end, whole) == (last, True)


def looked_at(faults: list[Fault], seed: int, monkeypatch: pytest.MonkeyPatch, kills: int = 0, applies: int = 0) -> int:
    """A run with taps that come and go, these faults, and processes killed from outside. How much the taps saw."""
    rng = random.Random(seed)
    with Stage(faults) as stage:
        monkeypatch.setenv("NODERUNTIME_HOME", str(stage.folder.home))
        prepare(stage.folder)
        running = stage.start(flow(*ALONE))
        running.wait_running()
        over = threading.Event()
        lookers = [looker(seed * 10 + at, over) for at in range(3)]
        for each in lookers:
            each.start()
        try:
            at_the_end = any(fault["point"] in AT_THE_END for fault in faults)
            wait_until(lambda: all(each.seen for each in lookers), "the taps to see something")
            for step in range(kills):
                wait_handled(running, "b", rng.randint(1, 60))
                _kill_one(running, rng)
                if step < applies:
                    drop = ("--drop", "d") if step % 2 else ()
                    code, out, err = apply(stage.folder, flow(*(ALONE if step % 2 else WITH_MORE)), *drop)
                    assert code == 0, (out, err)
            if faults and not at_the_end:
                wait_until(lambda: stage.fired() == {*range(len(faults))}, f"{faults} to happen")
            before = [each.seen for each in lookers]
            wait_until(lambda: all(now.seen > was for now, was in zip(lookers, before, strict=True)), "more to be seen")
            wait_handled(running, "b", 20)
            if at_the_end:
                enough(stage.folder)
                assert running.finish() == 0
                assert stage.fired() == {*range(len(faults))}
        finally:
            over.set()
            for each in lookers:
                each.join(60)
        assert [text for each in lookers for text in each.wrong] == []
        if not at_the_end:
            wait_until(lambda: left_of_taps(stage.folder.run_dir().space) == [], "the mailboxes of taps to go")
            enough(stage.folder)
            assert running.finish() == 0
        check(running)
        return sum(each.seen for each in lookers)


def _kill_one(running: Running, rng: random.Random) -> None:
    victims = [row["pid"] for row in running.status().values() if row["pid"]]
    helpers = [*running.found("nr-store"), *running.found("nr-taps") * 3]
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice([*victims, *helpers]), rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP]))


@pytest.mark.parametrize("point", SERVER)
def test_the_tap_server_killed(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at([{"who": "taps", "point": point, "hit": 1, "action": "kill"}], 1, monkeypatch)


@pytest.mark.parametrize("point", ["locked", "read", "tap taken"])
def test_the_tap_server_stopped(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at([{"who": "taps", "point": point, "hit": 2, "action": "stop"}], 2, monkeypatch)


FAILURES = [("full", "put"), ("full", "commit"), ("error", "tap send"), ("error", "tap take")]


@pytest.mark.parametrize(("action", "point"), FAILURES)
def test_the_tap_server_fails_once(action: str, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at([{"who": "taps", "point": point, "hit": 2, "action": action}], 3, monkeypatch)


def test_a_tap_server_that_cannot_live_is_given_up_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with Stage([{"who": "taps", "point": "begin", "hit": 1, "action": "error"}] * 8) as stage:
        monkeypatch.setenv("NODERUNTIME_HOME", str(stage.folder.home))
        prepare(stage.folder)
        running = stage.start(flow(*ALONE))
        running.wait_running()
        with pytest.raises(NodeRuntimeError, match="tap server dies again and again"), Tap("flow", "*"):
            pass
        wait_handled(running, "b", 20)
        enough(stage.folder)
        assert running.finish() == 0
        check(running)


@pytest.mark.parametrize("point", STORE)
def test_the_store_killed_while_it_removes_taps(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    death: Fault = {"who": "taps", "point": "tapped", "hit": 1, "action": "kill"}
    looked_at([death, {"who": "store", "point": point, "hit": 1, "action": "kill"}], 4, monkeypatch)


@pytest.mark.parametrize("point", SENDER)
def test_a_sender_killed_while_taps_come_and_go(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at([{"who": "a", "point": point, "hit": 3, "action": "kill"}], 5, monkeypatch)


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(4, 60))])
def test_a_schedule_of_kills_with_taps_and_changes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at([], seed, monkeypatch, kills=6, applies=2)
