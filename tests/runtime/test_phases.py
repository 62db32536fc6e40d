"""phases.py: every phase x every event, then the rules one by one."""

from __future__ import annotations

import random
from dataclasses import astuple

import pytest

from noderuntime.runtime.machine import NEVER, IllegalEvent, Tell, Tick
from noderuntime.runtime.phases import (
    AFTER_NODES,
    GIVE_UP_S,
    QUIT_S_MAX,
    RUN_EVENTS,
    TABLE,
    AbortNodes,
    AskStoreToQuit,
    CannotContinue,
    Deliver,
    Delivered,
    GuardDied,
    Interrupted,
    NodesBegan,
    NodesDone,
    Phase,
    ResumeWasRefused,
    RunAction,
    RunEvent,
    RunPhase,
    Save,
    Saved,
    ShowStopping,
    SpaceOpened,
    StartNodes,
    StopNodes,
    StopRequested,
    StopWaiting,
    StoreEnded,
)

SIGINT, SIGQUIT, SIGTERM = 2, 3, 15
STOP, DRAIN = StopRequested("stopping"), StopRequested("draining", drain=True)
INT, QUIT = Interrupted(SIGINT, "SIGINT: stopping"), Interrupted(SIGQUIT, "", at_once=True)
TROUBLE = CannotContinue("the store is gone")

AT_ALL_TIMES = "StopRequested Interrupted CannotContinue GuardDied Tick"
LEGAL = {
    Phase.STARTING: f"SpaceOpened ResumeWasRefused {AT_ALL_TIMES}",
    Phase.RUNNING: f"NodesBegan NodesDone {AT_ALL_TIMES}",
    Phase.DRAINING: f"NodesBegan NodesDone {AT_ALL_TIMES}",
    Phase.STOPPING: f"NodesDone {AT_ALL_TIMES}",
    Phase.DELIVERING: f"Delivered {AT_ALL_TIMES}",
    Phase.SAVING: f"Saved {AT_ALL_TIMES}",
    Phase.QUITTING: f"StoreEnded {AT_ALL_TIMES}",
    Phase.OVER: f"ResumeWasRefused {AT_ALL_TIMES}",
}
SAMPLES: dict[type, list[RunEvent]] = {
    SpaceOpened: [SpaceOpened()],
    ResumeWasRefused: [ResumeWasRefused("another file")],
    NodesBegan: [NodesBegan()],
    NodesDone: [NodesDone()],
    Delivered: [Delivered()],
    Saved: [Saved()],
    StoreEnded: [StoreEnded()],
    StopRequested: [STOP, DRAIN],
    Interrupted: [INT, QUIT],
    CannotContinue: [TROUBLE],
    GuardDied: [GuardDied()],
    Tick: [Tick()],
}
RUNNING: list[RunEvent] = [SpaceOpened()]
WAY: dict[Phase, list[RunEvent]] = {
    Phase.STARTING: [],
    Phase.RUNNING: RUNNING,
    Phase.DRAINING: [*RUNNING, DRAIN],
    Phase.STOPPING: [*RUNNING, STOP],
    Phase.DELIVERING: [*RUNNING, NodesDone()],
    Phase.SAVING: [*RUNNING, NodesDone(), Delivered()],
    Phase.QUITTING: [*RUNNING, NodesDone(), Delivered(), Saved()],
    Phase.OVER: [*RUNNING, NodesDone(), Delivered(), Saved(), StoreEnded()],
}


def led(*events: RunEvent, found_space: bool = False, stop_after_s: float | None = None) -> RunPhase:
    """A run to which these events have happened, at time 0."""
    run = RunPhase(5.0, found_space, stop_after_s)
    for event in events:
        run.handle(event, 0.0)
    return run


def without_tells(actions: list[RunAction]) -> list[RunAction]:
    return [action for action in actions if not isinstance(action, Tell)]


def test_the_table_has_the_rows_that_can_happen_and_no_others() -> None:
    assert {(phase, event.__name__) for phase, event in TABLE} == {
        (phase, name) for phase, names in LEGAL.items() for name in names.split()
    }


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", RUN_EVENTS)
def test_every_event_in_every_phase_is_handled_or_raises_without_effect(phase: Phase, kind: type) -> None:
    for event in SAMPLES[kind]:
        run = led(*WAY[phase])
        assert run.state is phase
        before = astuple(run)
        if (phase, kind) in TABLE:
            run.handle(event, 1.0)
        else:
            with pytest.raises(IllegalEvent, match=f"{kind.__name__} cannot happen while {phase.value}"):
                run.handle(event, 1.0)
            assert astuple(run) == before


# (phase, event) -> the next phase and what is done, for a run that was asked for nothing before
CASES: list[tuple[Phase, RunEvent, Phase, list[RunAction]]] = [
    (Phase.STARTING, SpaceOpened(), Phase.RUNNING, [StartNodes()]),
    (Phase.STARTING, ResumeWasRefused("why"), Phase.OVER, []),
    (Phase.STARTING, STOP, Phase.OVER, [ShowStopping(5.0)]),
    (Phase.STARTING, DRAIN, Phase.OVER, [ShowStopping(5.0)]),
    (Phase.STARTING, INT, Phase.OVER, [ShowStopping(5.0)]),
    (Phase.STARTING, QUIT, Phase.OVER, [ShowStopping(0.0)]),
    (Phase.STARTING, TROUBLE, Phase.OVER, []),
    (Phase.RUNNING, NodesDone(), Phase.DELIVERING, [Deliver(hurried=False)]),
    (Phase.RUNNING, DRAIN, Phase.DRAINING, [StopNodes(drain=True)]),
    (Phase.RUNNING, STOP, Phase.STOPPING, [ShowStopping(5.0), StopNodes(drain=False)]),
    (Phase.RUNNING, INT, Phase.STOPPING, [ShowStopping(5.0), StopNodes(drain=False)]),
    (Phase.RUNNING, QUIT, Phase.STOPPING, [ShowStopping(0.0), AbortNodes()]),
    (Phase.RUNNING, TROUBLE, Phase.STOPPING, [AbortNodes()]),
    (Phase.DRAINING, STOP, Phase.STOPPING, [ShowStopping(5.0), StopNodes(drain=False)]),
    (Phase.DRAINING, NodesDone(), Phase.DELIVERING, [Deliver(hurried=False)]),
    (Phase.STOPPING, STOP, Phase.STOPPING, []),
    (Phase.STOPPING, DRAIN, Phase.STOPPING, []),
    (Phase.STOPPING, INT, Phase.STOPPING, [ShowStopping(0.0), AbortNodes()]),
    (Phase.STOPPING, NodesDone(), Phase.DELIVERING, [Deliver(hurried=True)]),
    (Phase.DELIVERING, Delivered(), Phase.SAVING, [Save()]),
    (Phase.DELIVERING, INT, Phase.DELIVERING, [ShowStopping(5.0)]),
    (Phase.DELIVERING, QUIT, Phase.DELIVERING, [ShowStopping(0.0), StopWaiting()]),
    (Phase.SAVING, Saved(), Phase.QUITTING, [AskStoreToQuit()]),
    (Phase.SAVING, QUIT, Phase.SAVING, [ShowStopping(0.0), StopWaiting()]),
    (Phase.SAVING, DRAIN, Phase.SAVING, []),
    (Phase.QUITTING, StoreEnded(), Phase.OVER, []),
    (Phase.QUITTING, QUIT, Phase.OVER, [ShowStopping(0.0)]),
    (Phase.QUITTING, INT, Phase.QUITTING, [ShowStopping(5.0)]),
    (Phase.OVER, INT, Phase.OVER, []),
]  # fmt: skip


@pytest.mark.parametrize("phase, event, to, actions", CASES, ids=[f"{a.value}-{b}" for a, b, _, _ in CASES])
def test_what_happens_in_a_phase_leads_to_the_next_one(
    phase: Phase, event: RunEvent, to: Phase, actions: list[RunAction]
) -> None:
    run = led(*WAY[phase])
    assert without_tells(run.handle(event, 1.0)) == actions
    assert run.state is to


@pytest.mark.parametrize("seed", range(200))
def test_no_phase_comes_back_and_every_run_can_be_ended(seed: int) -> None:
    """Whatever happens: the phases come in their order, and two signals of urgency and the ends of all end the run."""
    chance = random.Random(seed)
    run = RunPhase(5.0, chance.random() < 0.5, chance.choice((None, 1.0)))
    order = list(Phase)
    now_s = 0.0
    for _ in range(30):
        now_s += chance.choice((0.0, 0.5, 50.0))
        before = run.state
        try:
            event = chance.choice(SAMPLES[chance.choice(RUN_EVENTS)])
            actions = run.handle(event, now_s)
        except IllegalEvent:
            continue
        assert order.index(run.state) >= order.index(before)
        assert run.broken_invariants(event, actions) == []
        assert run.state in {*AFTER_NODES, Phase.STOPPING, Phase.OVER} or not run.stopping
    for event in (QUIT, NodesDone(), Delivered(), Saved(), StoreEnded()):
        if (run.state, type(event)) in TABLE:
            run.handle(event, now_s)
    assert run.state is Phase.OVER


def test_a_broken_promise_of_a_run_is_named() -> None:
    run = led(*WAY[Phase.OVER])
    run.deadline_s = 5.0
    assert run.broken_invariants(Tick(), []) == ["nothing is due when the run is over"]


def test_the_second_signal_means_at_once_and_the_first_gives_the_exit_code() -> None:
    run = led(SpaceOpened())
    assert Tell("SIGTERM: stopping") in run.handle(Interrupted(SIGTERM, "SIGTERM: stopping"), 0.0)
    assert run.handle(INT, 1.0) == [Tell("stopping at once"), ShowStopping(0.0), AbortNodes()]
    assert run.code == 128 + SIGTERM


def test_a_drained_run_that_is_interrupted_stops_in_order() -> None:
    run = led(SpaceOpened(), DRAIN)
    assert StopNodes(drain=False) in run.handle(INT, 0.0)
    assert run.code == 128 + SIGINT


def test_a_reason_to_stop_is_told_once() -> None:
    run = led(SpaceOpened())
    assert run.handle(StopRequested("a failed", is_error=True), 0.0)[0] == Tell("a failed", is_error=True)
    assert run.handle(STOP, 0.0) == []


def test_stop_after_counts_from_when_the_nodes_have_begun() -> None:
    run = led(stop_after_s=10.0)
    assert not run.awaits_begin
    run.handle(SpaceOpened(), 0.0)
    assert run.awaits_begin and run.deadline_s == NEVER
    run.handle(NodesBegan(), 7.0)
    assert not run.awaits_begin and run.deadline_s == 17.0
    assert run.handle(Tick(), 16.9) == []
    assert run.handle(Tick(), 17.0) == [Tell("stopping after 10 s"), ShowStopping(5.0), StopNodes(drain=False)]
    assert run.deadline_s == NEVER


def test_a_run_whose_nodes_are_done_is_not_ended_by_stop_after() -> None:
    run = led(SpaceOpened(), NodesBegan(), NodesDone(), stop_after_s=10.0)
    assert run.deadline_s == NEVER and not run.stopping


def test_a_run_that_cannot_continue_has_a_moment_to_save_what_can_be_saved() -> None:
    run = led(SpaceOpened())
    told, *rest = run.handle(TROUBLE, 5.0)
    assert told == Tell("the store is gone; the run ends, and its state is kept", is_error=True)
    assert rest == [AbortNodes()] and run.deadline_s == 5.0 + GIVE_UP_S
    run.handle(NodesDone(), 6.0)
    assert run.handle(Tick(), 7.0) == [] and run.state is Phase.DELIVERING
    run.handle(Tick(), 8.0)
    assert run.state is Phase.OVER and run.was_cut_short


def test_a_second_reason_to_give_up_ends_the_run_there() -> None:
    run = led(SpaceOpened(), TROUBLE)
    assert run.handle(CannotContinue("another"), 1.0) == [] and run.state is Phase.OVER
    assert run.gave_up == TROUBLE.why


def test_a_store_that_does_not_exit_is_waited_for_only_so_long() -> None:
    run = led(*WAY[Phase.QUITTING])
    assert run.deadline_s == QUIT_S_MAX
    run.handle(Tick(), QUIT_S_MAX)
    assert run.state is Phase.OVER and not run.was_cut_short, "everything was saved before"


def test_a_run_that_came_to_its_end_in_order_was_not_cut_short() -> None:
    assert not led(*WAY[Phase.OVER], found_space=True).was_cut_short
    assert not led(SpaceOpened(), INT, NodesDone(), Delivered(), Saved(), StoreEnded()).was_cut_short


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.OVER])
def test_a_run_without_its_guard_is_over_and_its_space_is_kept(phase: Phase) -> None:
    run = led(*WAY[phase])
    run.handle(GuardDied(), 1.0)
    assert run.state is Phase.OVER and run.was_cut_short


@pytest.mark.parametrize("event", [STOP, DRAIN, INT, QUIT, ResumeWasRefused("why"), TROUBLE])
def test_a_run_that_ends_before_its_space_is_open_keeps_what_it_found(event: RunEvent) -> None:
    run = led(event, found_space=True)
    assert run.state is Phase.OVER and run.has_space and run.was_cut_short
    assert not led(event).has_space


def test_a_run_that_was_stopped_before_its_space_is_open_says_that_nothing_was_changed() -> None:
    kept = Tell("nothing was changed; `--resume` continues the run")
    assert kept in RunPhase(5.0, found_space=True).handle(INT, 0.0)
    assert kept not in RunPhase(5.0).handle(INT, 0.0)


def test_a_resume_that_is_refused_is_not_told_twice() -> None:
    run = led(found_space=True)
    assert run.handle(ResumeWasRefused("another file"), 0.0) == []
    assert run.refused == "another file"
