"""control.py: what commands ask of a runtime, decoded where it arrives, and the records that they are answered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from noderuntime.ipc.control_records import RUNTIME_ANSWER, NodeStatus, RunStatus
from noderuntime.ipc.protocol import VERSION, Answer, Ask
from noderuntime.ipc.typed import decode
from noderuntime.runtime import control
from noderuntime.runtime.lifecycle_events import LifecycleState


class World:
    """A run with one node that is not alive."""

    def __init__(self) -> None:
        self.stopped: list[bool] = []
        machine = SimpleNamespace(state=LifecycleState.FAILED, restarts=2, reason="no", since_s=1.0)
        spec = SimpleNamespace(kind="node", start_timeout_s=30)
        self.child: Any = SimpleNamespace(
            id="a", spec=spec, machine=machine, alive=False, incarnation=3, waits="", reloads_failed=0,
            reload_error="", handled=lambda: 5, state=LifecycleState.FAILED, has_ended=False, others=[],
        )  # fmt: skip
        self.child.leader = self.child
        self.supervisor: Any = SimpleNamespace(children={"a": self.child}, ending=False)
        self.file: Any = SimpleNamespace(name="flow", pid=9, file="/flow.yml", started=1.5)

    def ask(self, what: str, version: int = VERSION, **arguments: object) -> Answer:
        asked = Ask(version, what, arguments)
        return control.answer(asked, self.supervisor, self.file, False, self.stopped.append, 4.0)


@pytest.fixture
def world() -> World:
    return World()


def test_the_status_is_the_record_that_commands_decode(world: World) -> None:
    answer = world.ask("status")
    status = decode(RunStatus, answer.result, RUNTIME_ANSWER)
    assert (answer.error, status["run"], status["state"]) == ("", "flow", "running")
    (node,) = status["nodes"]
    assert list(node) == list(NodeStatus.__annotations__) and list(status) == list(RunStatus.__annotations__)
    assert (node["id"], node["pid"], node["handled"], node["since_s"], node["phase"]) == ("a", 0, 5, 3.0, "")


def test_a_reload_says_who_shares_the_process_and_is_reloaded_with_it(world: World) -> None:
    world.child.spec.kind = "operator"
    world.child.feed = lambda event: None
    assert world.ask("reload", node="a") == Answer({"together": []}, "")
    world.child.others = [SimpleNamespace(id="b"), SimpleNamespace(id="c")]
    assert world.ask("reload", node="a") == Answer({"together": ["b", "c"]}, "")


def test_stop_drains_only_when_it_is_asked_to(world: World) -> None:
    assert world.ask("stop") == world.ask("stop", drain=True) == Answer({}, "")
    assert world.stopped == [False, True]


@pytest.mark.parametrize(
    ("what", "arguments", "said"),
    [
        ("stop", {"drain": "no"}, "stop: drain is text, not a boolean"),
        ("reload", {}, "reload: node is missing"),
        ("reload", {"node": ["a"]}, "reload: node is an array, not text"),
    ],
)
def test_absurd_arguments_are_refused_by_name_and_nothing_is_done(
    world: World, what: str, arguments: dict[str, Any], said: str
) -> None:
    assert world.ask(what, **arguments) == Answer({}, said)
    assert world.stopped == []


def test_what_a_runtime_cannot_be_asked_is_said(world: World) -> None:
    error = world.ask("begin").error
    assert "can be asked for status, stop, reload" in error and "not for 'begin'" in error
    assert "the run has no node 'b'" in world.ask("reload", node="b").error
    assert "only operators" in world.ask("reload", node="a").error
    assert f"version {VERSION}" in world.ask("status", version=VERSION + 1).error
