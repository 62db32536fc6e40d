"""`--chaos`, the part that kills: whom it may kill while the run changes, without processes."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from noderuntime.dataflow.reader import parse
from noderuntime.ipc import process
from noderuntime.runtime.chaos import Chaos
from noderuntime.runtime.lifecycle_events import LifecycleState

FILE = """
nodes:
  - {id: a, operator: {python: a.py, outputs: [n]}}
  - {id: b, path: b.py, inputs: {n: a/n}, restart_policy: on-failure}
"""
ADDED = FILE + """
  - {id: c, operator: {python: a.py, inputs: {n: a/n}}}
  - {id: d, path: d.py, inputs: {n: a/n}}
  - {id: e, path: dynamic, inputs: {n: a/n}}
"""


class World:
    """A run of which every process is there, except the store and the fork server. Its kills are counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.children: dict[str, Any] = {}
        self.taps = SimpleNamespace(pid=0, has_ended=True)
        self.told: list[str] = []
        self.now_s = 0.0
        self.set(FILE)
        link = SimpleNamespace(idle=True, request=lambda *arguments: arguments[3](self.figures))
        away = SimpleNamespace(pid=0, is_well=False, busy=False)
        log = SimpleNamespace(tell=self.told.append)
        supervisor: Any = SimpleNamespace(children=self.children)
        given: Any = (supervisor, away, away, link, log, self.taps)
        self.chaos = Chaos(*given, parse(FILE.encode(), file="f", folder="/", env={}), 1.0, 7, lambda: self.now_s)
        monkeypatch.setattr(process, "signal_process", lambda pidfd, number: self.killed.append(pidfd))
        monkeypatch.setattr(os, "kill", lambda pid, number: self.killed.append(pid))
        self.killed: list[int] = []
        self.figures: Any = {"nodes": {"a": {"outputs": {"n": 0}}, "b": {"inputs": {"n": {"taken": 0}}}}}

    def set(self, file: str) -> None:
        """The dataflow that the run has now. The process of a node has the pidfd `ord` of its letter."""
        self.children.clear()
        for spec in parse(file.encode(), file="f", folder="/", env={}).nodes:
            machine = SimpleNamespace(state=LifecycleState.RUNNING, life=1, budget=SimpleNamespace(streak=0))
            wiring = SimpleNamespace(version=0)
            proc = SimpleNamespace(pidfd=ord(spec.id))
            parts = {"machine": machine, "wiring": wiring, "proc": proc, "leaving": False}
            self.children[spec.id] = SimpleNamespace(id=spec.id, spec=spec, **parts)

    def kills(self, count: int) -> set[str]:
        """Whom the next turns kill. Each of them is back before the next one."""
        self.killed.clear()
        for _ in range(count):
            self.now_s += 2.0
            self.chaos.turn(self.now_s)
            for child in self.children.values():
                child.machine.life += 1
                child.has_pulse = lambda: False
                child.machine.policy = SimpleNamespace(has_ports=False)
                child.claim = None
            if self.taps.pid in self.killed:
                self.taps.pid += 1
        return {chr(pidfd) if pidfd < 1000 else "taps" for pidfd in self.killed}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_nodes_that_were_added_are_killed_too(world: World) -> None:
    world.chaos.start()
    assert world.kills(40) == {"a", "b"}
    world.set(ADDED)
    assert world.kills(80) == {"a", "b", "c"}  # the program d is not restarted, and e is not ours


def test_who_is_no_longer_restarted_is_no_longer_killed(world: World) -> None:
    world.chaos.start()
    world.set(FILE.replace("on-failure", "never"))
    assert world.kills(40) == {"a"}


def test_the_tap_server_is_killed_when_there_is_one_and_back_when_there_is_another(world: World) -> None:
    world.chaos.start()
    world.kills(40)
    world.taps.pid, world.taps.has_ended = 5000, False
    assert world.kills(80) == {"a", "b", "taps"}
    of_taps = [kill for kill in world.chaos.report.kills if kill.victim == "(tap server)"]
    assert len(of_taps) > 10 and all(kill.back_s is not None for kill in of_taps[:-1])
    assert any(text.startswith("chaos: (tap server) is back") for text in world.told)


def test_connections_that_have_come_are_not_counted_and_said_to_be_so(world: World) -> None:
    world.chaos.start()
    world.set(ADDED)
    figures = {"a": {"outputs": {"n": 5}}, "b": {"inputs": {"n": {"taken": 5}}}, "c": {"inputs": {"n": {"taken": 2}}}}
    report = world.chaos.finish(figures)
    assert [edge.node for edge in report.balances or {}] == ["b"] and report.is_good
    assert report.changed == 3
