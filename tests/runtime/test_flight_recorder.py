"""flight_recorder.py: what is kept of a run can be replayed, is bounded, and tells a broken promise."""

from __future__ import annotations

import contextlib
import random
from types import SimpleNamespace

import pytest

from noderuntime.runtime.flight_recorder import (
    THE_RUN,
    TRACE_CHARACTERS_MAX,
    BrokenInvariant,
    FlightRecorder,
    parse,
    replay,
)
from noderuntime.runtime.lifecycle import TABLE, Lifecycle
from noderuntime.runtime.lifecycle_events import (
    BecameReady,
    Claimed,
    Exited,
    LifecycleEvent,
    LifecycleState,
    ReloadAsked,
    Reported,
    SaidBye,
    SaidHello,
    Start,
    StopAsked,
    Vitals,
)
from noderuntime.runtime.machine import IllegalEvent, Tick
from noderuntime.runtime.phases import Interrupted, NodesDone, RunPhase, SpaceOpened
from noderuntime.runtime.policy import Policy

BEGIN: list[LifecycleEvent] = [Start(), SaidHello(), Claimed(), BecameReady()]
CRASH: list[LifecycleEvent] = [Reported("on_event", "ValueError: x", "t" * 50_000), Exited(1, ((1, 77, 0),), 3)]
EVENTS: list[LifecycleEvent] = [
    *BEGIN, *CRASH, Exited(-9), Claimed(True), Tick(), Vitals(3), Vitals(0, 0.0, True), SaidBye(True), ReloadAsked(),
    StopAsked(5.0),
]  # fmt: skip


def followed(recorder: FlightRecorder, node: str = "a", policy: Policy | None = None) -> Lifecycle:
    machine = Lifecycle(node, policy or Policy(max_restarts=0))
    recorder.follow(node, machine)
    return machine


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("steps_max", [7, 10_000])
def test_what_was_kept_of_a_run_of_any_length_leads_to_the_same_actions_again(seed: int, steps_max: int) -> None:
    chance = random.Random(seed)
    recorder = FlightRecorder(validating=True, steps_max=steps_max)
    machines = [followed(recorder, "a"), followed(recorder, "b", Policy("node", "always", max_restarts=3))]
    phase = RunPhase(5.0)
    recorder.follow(THE_RUN, phase)
    for machine in machines:
        for event in BEGIN:
            machine.handle(event, 0.0)
    for at_s in range(300):
        with contextlib.suppress(IllegalEvent):
            chance.choice(machines).handle(chance.choice(EVENTS), at_s * 0.3)
        if at_s in (0, 200, 250):
            phase.handle({0: SpaceOpened(), 200: Interrupted(15, "SIGTERM"), 250: NodesDone()}[at_s], at_s * 0.3)
    earlier, steps = parse(recorder.lines())
    assert steps == recorder.steps
    assert len(steps) <= min(steps_max + 2, 311)  # of each node, one glance at its vitals besides
    if steps_max == 7:
        assert isinstance(earlier["a"], Lifecycle) and earlier["a"].life > 0, "it is as it was, not a new one"
    else:
        assert any(step.actions is None for step in steps) and any(step.actions for step in steps)
    assert replay(earlier, steps) == [(step, step.actions) for step in steps]


def test_another_decision_shows_in_the_replay() -> None:
    recorder = FlightRecorder()
    machine = followed(recorder)
    for event in (*BEGIN, *CRASH):
        machine.handle(event, 1.0)
    earlier, steps = parse(recorder.lines())
    earlier["a"] = Lifecycle("a", Policy(restart_policy="never"))
    differing = [step.event for step, actions in replay(earlier, steps) if actions != step.actions]
    assert [type(event) for event in differing] == [Exited]


def test_vitals_that_change_nothing_push_nothing_out() -> None:
    recorder = FlightRecorder(steps_max=20)
    machines = [followed(recorder, node) for node in "abc"]
    for machine in machines:
        for event in BEGIN:
            machine.handle(event, 0.0)
    for number in range(1000):
        for machine in machines:
            machine.handle(Vitals(number), 1.0 + number)
    machines[0].handle(Exited(-9), 2000.0)
    assert [step.event for step in recorder.steps if step.node == "a"] == [*BEGIN, Vitals(999), Exited(-9)]
    assert [step.event for step in recorder.steps if step.node == "b"] == [*BEGIN, Vitals(999)]


def test_a_long_trace_is_cut_to_its_end_in_the_event_and_in_what_it_leads_to() -> None:
    recorder = FlightRecorder()
    machine = followed(recorder)
    for event in (*BEGIN, *CRASH):
        machine.handle(event, 1.0)
    assert sum(map(len, recorder.lines())) < 3 * TRACE_CHARACTERS_MAX + 5000
    earlier, steps = parse(recorder.lines())
    assert replay(earlier, steps) == [(step, step.actions) for step in steps]


def test_of_a_log_that_has_it_twice_the_last_is_parsed_and_other_lines_are_passed_over() -> None:
    recorder = FlightRecorder()
    machine = followed(recorder)
    machine.handle(Start(), 0.0)
    first = recorder.lines()
    machine.handle(SaidHello(), 1.0)
    _, steps = parse(["a is starting (Start)", *first, "store: restarted", *recorder.lines(), "the run is over"])
    assert [step.event for step in steps] == [Start(), SaidHello()]


def test_a_broken_invariant_is_raised_while_validating_only_past_every_boundary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def runs_unclaimed(machine: Lifecycle, event: object, now_s: float) -> list[object]:
        machine.state = LifecycleState.RUNNING
        return []

    row = SimpleNamespace(handler=runs_unclaimed, to={LifecycleState.RUNNING})
    monkeypatch.setitem(TABLE, (LifecycleState.WAITING, Start), row)
    followed(FlightRecorder()).handle(Start(), 0.0)
    with pytest.raises(BrokenInvariant, match=r"a after Start.*: .*only a claimed node runs"):
        followed(FlightRecorder(validating=True)).handle(Start(), 0.0)
    assert not issubclass(BrokenInvariant, Exception)
