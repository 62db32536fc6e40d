"""outcome.py: the exit code of a run, whether its space is kept, and what the user is told."""

from __future__ import annotations

from typing import Any

import pytest
from support.kit import node_figures

from noderuntime.runtime.observer import SummaryRow
from noderuntime.runtime.outcome import FAILED, OK, Outcome, farewell
from noderuntime.runtime.phases import (
    CannotContinue,
    Delivered,
    GuardDied,
    Interrupted,
    NodesDone,
    ResumeWasRefused,
    RunEvent,
    RunPhase,
    Saved,
    SpaceOpened,
    StoreEnded,
)

SIGTERM = 15
FAILED_ROW = SummaryRow("sums", "failed", 3, 51, "failed 4 times; the last cause: restore_state: ValueError: no")
FINE = SummaryRow("sums", "finished", 0, 51, "")
STOPPED = SummaryRow("nums", "stopped", 0, 51, "")
LAST: list[RunEvent] = [NodesDone(), Delivered(), Saved(), StoreEnded()]


def led(*events: RunEvent, found_space: bool = False) -> RunPhase:
    phase = RunPhase(5.0, found_space)
    for event in events:
        phase.handle(event, 0.0)
    return phase


def over() -> RunPhase:
    """A run that came to its end in order."""
    return led(SpaceOpened(), *LAST)


def figures(dead: int) -> dict[str, Any]:
    return {"sums": node_figures({"sum": 5}, dead, n={"taken": 4}), "nums": node_figures()}


def of_failure(nodes: dict[str, Any], keeps_snapshots: bool = False) -> Outcome:
    return Outcome(over(), node_failed=True, figures=nodes, keeps_snapshots=keeps_snapshots)


# ---- the exit code


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome(over()), OK),
        (Outcome(over(), node_failed=True), FAILED),
        (Outcome(over(), undelivered="no server"), FAILED),
        (Outcome(over(), lost_messages=True), FAILED),
        (Outcome(over(), unsaved="no room"), OK),
        (Outcome(led(SpaceOpened(), CannotContinue("no store"))), FAILED),
        (Outcome(led(SpaceOpened(), Interrupted(SIGTERM, ""), *LAST)), 128 + SIGTERM),
        (Outcome(led(SpaceOpened(), Interrupted(SIGTERM, ""), *LAST), node_failed=True), 128 + SIGTERM),
    ],
)
def test_the_exit_code_is_that_of_the_signal_or_says_whether_anything_failed(outcome: Outcome, code: int) -> None:
    assert outcome.exit_code == code


# ---- what is kept


def test_of_a_run_that_came_to_its_end_nothing_is_kept() -> None:
    assert not Outcome(over(), figures=figures(0)).is_kept


@pytest.mark.parametrize(
    "phase", [led(SpaceOpened(), GuardDied()), led(GuardDied(), found_space=True), led(SpaceOpened(), NodesDone())]
)
def test_the_space_of_a_run_that_was_cut_short_is_kept(phase: RunPhase) -> None:
    assert Outcome(phase).is_kept and not Outcome(phase).is_kept_as_failed


def test_where_there_never_was_a_space_nothing_is_kept() -> None:
    assert not Outcome(led(GuardDied()), undelivered="no server", unsaved="no room").is_kept


def test_what_was_not_saved_or_not_delivered_is_kept() -> None:
    assert Outcome(over(), unsaved="no room").is_kept
    assert Outcome(over(), undelivered="no server").is_kept


def test_a_failed_run_is_kept_where_no_snapshot_has_it_and_anything_was_done() -> None:
    assert of_failure(figures(0)).is_kept and of_failure(figures(0)).is_kept_as_failed
    assert not of_failure(figures(0), keeps_snapshots=True).is_kept
    assert of_failure(figures(0), keeps_snapshots=True).is_resumable
    idle = {"a": {"inputs": {"n": {"taken": 0}}, "outputs": {"x": 0}}}
    assert not of_failure(idle).is_kept and not of_failure(idle, keeps_snapshots=True).is_resumable


def test_progress_is_what_was_taken_or_sent_and_assumed_where_it_cannot_be_known() -> None:
    assert of_failure(figures(0)).made_progress and of_failure({}).made_progress
    assert of_failure({"a": {"inputs": {}, "outputs": {"x": 1}}}).made_progress
    assert not of_failure({"a": {"inputs": {"n": {"taken": 0}}, "outputs": {"x": 0}}}).made_progress


@pytest.mark.parametrize(
    ("outcome", "rows", "word"),
    [
        (Outcome(over()), [FINE], "finished"),
        (Outcome(over()), [FINE, STOPPED], "stopped"),
        (Outcome(over()), [FINE, FAILED_ROW], "failed"),
        (Outcome(over()), [], "stopped"),
        (Outcome(led(SpaceOpened(), CannotContinue("no store"))), [FINE], "failed"),
    ],
)
def test_a_run_is_finished_stopped_or_failed(outcome: Outcome, rows: list[SummaryRow], word: str) -> None:
    assert outcome.word(rows) == word


def test_the_last_steps_are_of_interest_when_something_went_wrong() -> None:
    assert not Outcome(over()).needs_replay
    assert Outcome(over(), node_failed=True).needs_replay
    assert Outcome(led(SpaceOpened())).needs_replay and Outcome(led(SpaceOpened(), GuardDied())).needs_replay
    assert not Outcome(led(ResumeWasRefused("another file"))).needs_replay


# ---- what is told


def advice(outcome: Outcome, rows: list[SummaryRow], run: str = "flow", file: str = "/d/flow.yml") -> list[str]:
    return outcome.advice(run, file, rows)


def test_the_end_says_how_to_look_at_dead_letters() -> None:
    (hint,) = advice(Outcome(over(), figures=figures(2)), [FINE], run="my run")
    assert hint == "2 dead letters of sums: `noderuntime dead-letters show --run 'my run' sums`"
    assert advice(Outcome(over(), figures=figures(0)), [FINE]) == []


def test_a_failure_says_what_is_kept_and_how_to_go_on() -> None:
    first, second = advice(of_failure(figures(0)), [FAILED_ROW])
    assert "`noderuntime run /d/flow.yml --resume`" in first
    assert "state ls --run flow sums" in second and "state rm --run flow sums KEY" in second
    (named, _) = advice(of_failure(figures(0)), [FAILED_ROW], run="other")
    assert "--name other --resume" in named


def test_it_is_told_what_is_kept_for_a_failed_node_and_what_was_dropped() -> None:
    nodes = figures(0)
    nodes["sums"]["inputs"]["n"] |= {"queued": 1, "dropped": 7}
    _, kept, dropped, _ = advice(of_failure(nodes), [FAILED_ROW])
    assert kept == "1 message for sums: kept"
    assert dropped == "7 messages for sums: dropped, by `queue_policy: drop_oldest`"
    assert not any("for sums:" in line for line in advice(Outcome(over(), figures=nodes), [FINE]))


def test_a_failure_of_which_nothing_is_kept_promises_nothing() -> None:
    assert advice(of_failure({"sums": node_figures(n={"taken": 0})}), [FAILED_ROW]) == []


def test_what_was_not_saved_or_not_delivered_is_told_and_that_it_is_kept() -> None:
    saved, delivered = advice(Outcome(over(), unsaved="no room", undelivered="no server"), [FINE])
    assert saved == "there is no last snapshot: no room. The state is kept in memory; `--resume` continues from it"
    assert delivered == "shared writes have not arrived: no server. They are kept; `--resume` delivers them"


def test_of_a_resume_that_was_refused_nothing_more_is_told() -> None:
    assert advice(Outcome(led(ResumeWasRefused("no"), found_space=True), figures=figures(2)), [FINE]) == []


def test_the_farewell_of_a_killed_runtime_says_how_to_continue() -> None:
    assert "`noderuntime run /d/flow.yml --resume`" in farewell("flow", "/d/flow.yml")
    assert "`noderuntime clean 'my run'`" in farewell("my run", "/d/flow.yml")
