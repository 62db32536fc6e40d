"""`apply` as far as it can be told without a run: Ctrl-C, and what is printed."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from noderuntime.cli import apply as module
from noderuntime.cli.output import UsageError
from noderuntime.cli.parser import parse


class Runtime:
    """Answers for a runtime; `done` is what is over, and `interrupts` says during which question Ctrl-C comes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, interrupts: str = "", **done: Any) -> None:
        self.asked: list[str] = []
        self._interrupts = interrupts
        self._done = {"ticket": 1, "over": True, "applied": False, "plan": [], "error": "", "code": 0, "drains": [],
                      "late": [], "discarded": 0, "gives_up": "", **done}  # fmt: skip
        monkeypatch.setattr(module, "choose", lambda name: None)
        monkeypatch.setattr(module, "ask_runtime", self._ask)

    def _ask(self, run: Any, what: str, arguments: Any, kind: Any) -> Any:
        self.asked.append(what)
        if what == self._interrupts:
            os.kill(os.getpid(), signal.SIGINT)
        return {**self._done, "over": what != "apply"}


def test_ctrl_c_before_the_runtime_has_answered_gives_the_change_up_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = Runtime(monkeypatch, "apply", error="it was given up", code=1)
    with pytest.raises(KeyboardInterrupt):
        module.apply(parse(["apply", "flow.yml"]))
    assert runtime.asked == ["apply", "give_up"]
    assert capsys.readouterr().err == "given up: everything is as before\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_dry_run_says_what_would_be_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = {"node": "a", "change": "removed", "details": [], "drops": "1 keys of private state", "restarts": False}
    Runtime(monkeypatch, plan=[lost], gives_up="--drop a")
    assert module.apply(parse(["apply", "flow.yml", "--dry-run"])) == 0
    said = capsys.readouterr()
    assert "would lose 1 keys of private state" in said.out
    assert "it would be refused" in said.err and "`--drop a` gives that up" in said.err


def test_a_run_without_a_file_is_told_apart_from_a_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(monkeypatch)
    monkeypatch.setattr(module, "known_runs", lambda: [SimpleNamespace(name="house")])
    with pytest.raises(UsageError, match="which FILE"):
        module.apply(parse(["apply", "house"]))
    assert runtime.asked == []
    assert module.apply(parse(["apply", "horse"])) == 0  # the runtime says that there is no such file
