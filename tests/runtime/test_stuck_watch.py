"""Looking after runs that cannot go on: what the judge is told, for how long it has to hold, and what follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.kit import dataflow_of

from noderuntime.ipc import pulse
from noderuntime.runtime.lifecycle_events import LifecycleState
from noderuntime.runtime.stuck_watch import STUCK_S, TOLD_S, StuckWatch

FED = {"source": "a/out", "queue_size": 10}
CHAIN = {
    "a": {"operator": {"python": "a.py", "outputs": ["out"]}},
    "b": {"operator": {"python": "b.py", "inputs": {"in": FED}, "outputs": ["out"]}},
    "c": {"operator": {"python": "c.py", "inputs": {"in": "b/out"}}},
}


@dataclass
class Child:
    """A node as the watch sees it. `phase`, `commits` and `handled` are those of its pulse."""

    spec: Any
    machine: Any = field(default_factory=lambda: SimpleNamespace(state=LifecycleState.RUNNING, life=1))
    phase: int = pulse.WAITING
    commits: int = 0
    waits: str = ""
    page: Any = field(default_factory=lambda: SimpleNamespace(words=[0] * 8))
    was_ended: bool = False
    was_quietened: bool = False

    @property
    def id(self) -> str:
        return str(self.spec.id)

    @property
    def state(self) -> LifecycleState:
        state: LifecycleState = self.machine.state
        return state

    def glance(self, now_s: float) -> pulse.Glance:
        return pulse.Glance(self.phase, self.commits, 0.0)

    def end(self, grace_s: float) -> None:
        self.was_ended = True

    def quieten(self) -> None:
        self.was_quietened = True


class World:
    """A run whose clock, pulses and queues are set by the test."""

    def __init__(self, folder: Path, nodes: Any) -> None:
        self.dataflow = dataflow_of(nodes, folder)
        self.children = {spec.id: Child(spec) for spec in self.dataflow.nodes}
        self.queues = {spec.id: {fed.name: [0, 0, 0] for fed in spec.inputs} for spec in self.dataflow.nodes}
        self.now_s = 100.0
        self.stopped: list[str] = []
        self.told: list[str] = []
        self.while_asked: Any = lambda: None
        supervisor: Any = SimpleNamespace(children=self.children, dataflow=self.dataflow)
        self.supervisor = supervisor
        link: Any = SimpleNamespace(request=self.request)
        run_log: Any = SimpleNamespace(tell=lambda text, level=0: self.told.append(text))
        self.watch = StuckWatch(supervisor, link, run_log, 5.0, lambda: self.now_s, self.stopped.append)

    def request(self, operation: str, arguments: Any, read: Any, then: Any, otherwise: Any) -> None:
        assert operation == "queues"
        self.while_asked()
        then({"nodes": self.queues})

    def fail(self, node: str) -> None:
        self.children[node].machine.state = LifecycleState.FAILED

    def passes(self, seconds: float) -> None:
        """Time passes, with looks as often as a run looks."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            children = self.children.values()
            self.supervisor.failed = [child for child in children if child.machine.state is LifecycleState.FAILED]
            self.watch.look(self.now_s)
            self.now_s += 0.1


@pytest.fixture
def chain(tmp_path: Path) -> World:
    world = World(tmp_path, CHAIN)
    world.fail("b")
    world.children["a"].phase = pulse.WAITING_FOR_ROOM
    world.queues["b"]["in"] = [10, 1000, 1]
    return world


def test_a_run_ends_when_it_is_stuck_for_a_second_and_not_before(chain: World) -> None:
    chain.passes(STUCK_S - 0.15)
    assert chain.stopped == []
    chain.passes(1.0)
    (why,) = chain.stopped
    assert why == (
        "nothing can go on any more: a waits for room in the queue of b (failed); c waits for messages of b (failed)"
    )
    assert chain.children["c"].waits == "waits for messages of b (failed)"


def test_anything_that_is_handled_meanwhile_begins_the_second_anew(chain: World) -> None:
    for _ in range(5):
        chain.passes(STUCK_S - 0.2)
        chain.children["c"].commits += 1
    assert chain.stopped == []


def test_what_was_at_work_before_or_after_the_look_at_the_queues_is_busy(chain: World) -> None:
    def works() -> None:
        chain.children["c"].commits += 1

    chain.while_asked = works
    chain.passes(5.0)
    assert chain.stopped == []


def test_a_commit_that_is_tried_again_and_again_is_waiting_for_room(chain: World) -> None:
    chain.passes(0.25)
    chain.children["a"].phase = pulse.COMMITTING
    chain.passes(STUCK_S)
    assert len(chain.stopped) == 1


def test_an_input_with_a_timeout_is_waited_for(tmp_path: Path) -> None:
    nodes = {**CHAIN, "d": {"operator": {"python": "d.py", "inputs": {"in": {"source": "c/out", "input_timeout": 4}}}}}
    nodes["c"] = {"operator": {"python": "c.py", "inputs": {"in": "b/out"}, "outputs": ["out"]}}
    world = World(tmp_path, nodes)
    world.fail("b")
    world.children["a"].machine.state = LifecycleState.ENDED
    world.passes(STUCK_S + 3.8)
    assert world.stopped == []
    world.passes(0.5)
    assert len(world.stopped) == 1


def test_who_waits_for_whom_is_told_once_a_minute_while_something_keeps_the_run_going(chain: World) -> None:
    chain.children["c"].phase = pulse.HANDLING
    chain.passes(TOLD_S * 2 + 5)
    text = "a waits for room in the queue of b (failed). The run continues for: c"
    assert chain.told == [text] * 3
    assert chain.stopped == []


def test_without_a_failure_and_without_a_cycle_nobody_is_asked(tmp_path: Path) -> None:
    world = World(tmp_path, CHAIN)

    def asked() -> None:
        raise AssertionError("the store was asked")

    world.while_asked = asked
    world.children["a"].machine.state = LifecycleState.ENDED
    world.passes(2.0)


def test_a_finished_cycle_is_opened_and_a_timer_in_it_stands_still_while_the_run_is_drained(tmp_path: Path) -> None:
    back = {"source": "back/out", "queue_policy": "drop_oldest"}
    nodes = {
        "loop": {"operator": {"python": "a.py", "inputs": {"in": back, "t": "timer/hz/10"}, "outputs": ["out"]}},
        "back": {"operator": {"python": "b.py", "inputs": {"in": "loop/out"}, "outputs": ["out"]}},
    }
    world = World(tmp_path, nodes)
    world.passes(3.0)
    assert not any(child.was_ended or child.was_quietened for child in world.children.values())
    world.watch.draining = True
    world.passes(STUCK_S + 0.5)
    assert [id for id, child in world.children.items() if child.was_quietened] == ["loop"]
    assert [id for id, child in world.children.items() if child.was_ended] == ["loop"]
    assert world.stopped == []


def test_nodes_that_a_change_has_removed_and_that_still_drain_are_not_judged(tmp_path: Path) -> None:
    world = World(tmp_path, CHAIN)
    world.supervisor.dataflow = dataflow_of({"a": CHAIN["a"]}, tmp_path)
    world.watch.draining = True
    world.fail("b")
    world.children["a"].machine.state = LifecycleState.ENDED
    world.passes(STUCK_S * 2)
    assert not world.children["c"].was_ended
