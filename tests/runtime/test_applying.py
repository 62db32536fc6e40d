"""The steps of an apply against a store that answers when the test says so."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from noderuntime.dataflow import files
from noderuntime.ipc.control_records import ApplyRun
from noderuntime.runtime.applying import Applying
from noderuntime.runtime.draining import SETTLE_S
from noderuntime.runtime.observer import RunOptions

NODE = "class Operator:\n    def on_event(self, event, ctx):\n        pass\n"


class Link:
    """Keeps what is asked, in order, and answers what it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._answers: dict[str, Any] = {}

    def request(self, what: str, arguments: Any, kind: Any, answer: Any, refused: Any) -> None:
        self.asked.append(what)
        self._answers[what] = answer

    def answer(self, what: str, result: Any) -> None:
        self._answers.pop(what)(result)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text(NODE)
    node = {"id": "a", "operator": {"python": "a.py", "inputs": {"tick": "timer/millis/100"}}}
    path = tmp_path / "flow.yml"
    path.write_text(json.dumps({"nodes": [node]}))
    (tmp_path / "new.yml").write_text(json.dumps({"nodes": [{**node, "max_attempts": 7}]}))
    return path


def applying_of(file: Path, link: Link) -> Applying:
    """The changes of a run without processes, with that dataflow."""
    trials = SimpleNamespace(failure="", waiting=lambda now_s: [], close=lambda: None, begin=lambda *_: None)
    nodes: Any = SimpleNamespace(
        trials=trials, children={}, dataflow=files.load(str(file), {}), processes=[], under=lambda renamed: {}
    )
    log: Any = SimpleNamespace(tell=lambda *_: None, warn=lambda *_: None)
    options = RunOptions(name="flow", environ={}, grace_s=1.0)
    phase: Any = SimpleNamespace(is_up=True)
    return Applying(nodes, link, log, options, lambda: 0.0, phase, lambda: None)  # type: ignore[arg-type]


def test_who_asks_late_is_told_what_became_of_a_change_that_another_one_has_followed(file: Path) -> None:
    link = Link()
    applying = applying_of(file, link)
    first = applying.begin(ApplyRun(str(file.parent / "new.yml"), dry_run=True))
    link.answer("change_losses", {"losses": {}})
    second = applying.begin(ApplyRun(str(file)))
    told = applying.told(first["ticket"])
    assert (told["over"], told["code"], told["error"]) == (True, 0, "")
    assert [item["node"] for item in told["plan"]] == ["a"]
    assert not applying.told(second["ticket"])["over"]


def test_a_dry_run_tells_what_gives_up_what_would_be_lost(file: Path) -> None:
    link = Link()
    applying = applying_of(file, link)
    asked = applying.begin(ApplyRun(str(file.parent / "new.yml"), dry_run=True))
    link.answer("change_losses", {"losses": {"a": "1 keys of private state", "b": "3 queued messages that it cannot"}})
    told = applying.told(asked["ticket"])
    assert (told["over"], told["code"], told["gives_up"]) == (True, 0, "--drop a --discard")


def test_the_switch_waits_for_the_store_to_say_what_it_has_let_go(file: Path) -> None:
    """The switch names what is leaving: a node that the store has let go meanwhile would not be known to it."""
    link = Link()
    applying = applying_of(file, link)
    applying.draining.ids = ["gone"]
    applying.look(1.0)
    applying.begin(ApplyRun(str(file.parent / "new.yml")))
    link.answer("change_losses", {"losses": {}})
    applying.look(1.0 + SETTLE_S)
    assert link.asked == ["change_settle", "change_losses", "change_prepare"]
    link.answer("change_prepare", {"version": 3, "numbers": {"a": {"number": 0, "inputs": {"tick": 0}, "outputs": {}}}})
    applying.look(1.0 + SETTLE_S)
    assert "change_switch" not in link.asked
    link.answer("change_settle", {"gone": ["gone"], "inputs": {}, "left": [], "version": 2})
    applying.look(1.0 + SETTLE_S)
    assert link.asked[-1] == "change_switch"
