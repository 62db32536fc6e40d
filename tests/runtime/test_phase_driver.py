"""phase_driver.py: turns that fail end no run, unless nothing else comes; what led to a failure is kept."""

from __future__ import annotations

import traceback
from types import SimpleNamespace
from typing import Any

import pytest

from noderuntime.runtime.flight_recorder import FlightRecorder, parse, replay
from noderuntime.runtime.keepers import GaveUp
from noderuntime.runtime.machine import Tell
from noderuntime.runtime.phase_driver import FAILED_TURNS_MAX, PhaseDriver
from noderuntime.runtime.phases import GuardDied, Phase, RunAction, RunPhase, SpaceOpened, StartNodes


class Driven:
    """A driver, and what it has told, kept and done."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.kept: list[str] = []
        self.done: list[RunAction] = []
        log: Any = SimpleNamespace(warn=self.told.append, keep=self.kept.append)
        self.driver = PhaseDriver(RunPhase(5.0), FlightRecorder(), log, self.done.append, lambda: 0.0)

    def run(self, turn: Any, begin: Any = lambda: None) -> None:
        self.driver.run(begin, turn)


def test_turns_that_fail_now_and_then_end_no_run() -> None:
    driven = Driven()
    turns = iter(range(1000))

    def turn() -> None:
        number = next(turns)
        if number == 999:
            driven.driver.feed(GuardDied())
        elif number % 2:
            raise ValueError("odd")

    driven.run(turn)
    assert len(driven.told) == 1 and "ValueError: odd" in driven.told[0]


def test_a_run_whose_turns_all_fail_gives_up_with_the_cause() -> None:
    driven = Driven()
    turns: list[None] = []

    def turn() -> None:
        turns.append(None)
        raise ValueError("always")

    driven.run(turn)
    assert len(turns) == FAILED_TURNS_MAX + 1
    assert driven.done == [Tell("the runtime cannot go on: ValueError: always; the run ends", is_error=True)]
    assert driven.driver.phase.gave_up


@pytest.mark.parametrize(
    ("error", "why"),
    [(GaveUp("the store dies"), "the store dies"), (OSError(24, "Too many"), "the runtime cannot go on: Too many")],
)
def test_what_cannot_be_done_without_ends_the_run_at_once(error: Exception, why: str) -> None:
    driven = Driven()

    def turn() -> None:
        raise error

    driven.run(turn)
    assert driven.driver.phase.gave_up == why and driven.told == []


def test_the_phases_are_kept_in_the_log_and_their_actions_done() -> None:
    driven = Driven()
    driven.driver.feed(SpaceOpened())
    assert driven.done == [StartNodes()] and driven.driver.phase.state is Phase.RUNNING
    assert driven.kept == ["the run is running (SpaceOpened)"]


def test_what_led_to_the_first_failure_is_kept_for_a_replay() -> None:
    driven = Driven()
    driven.driver.feed(SpaceOpened())
    driven.kept.clear()
    for kind in (ValueError, KeyError, ValueError):
        driven.driver.boundary.note("a turn", kind("odd"))
    assert len(driven.told) == 2, "once for each kind of failure"
    assert len(driven.kept) == 2, "once: the phase as it was, and its step"
    earlier, steps = parse(driven.kept)
    assert replay(earlier, steps) == [(step, step.actions) for step in steps]
    assert [step.event for step in steps] == [SpaceOpened()]


def test_an_error_that_ends_the_runtime_carries_the_last_steps_into_its_report() -> None:
    def turn() -> None:
        driven.driver.feed(SpaceOpened())

    def fails() -> None:
        turn()
        raise RuntimeError("out of reach")

    driven = Driven()
    with pytest.raises(RuntimeError) as caught:
        driven.run(turn, begin=fails)
    _, steps = parse("".join(traceback.format_exception(caught.value)).splitlines())
    assert [step.event for step in steps] == [SpaceOpened()]
