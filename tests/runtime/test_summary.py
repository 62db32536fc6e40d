"""The end of a run in words: dead letters, and what a failure leaves."""

from __future__ import annotations

from typing import Any

import pytest

from noderuntime.runtime import summary
from noderuntime.runtime.observer import SummaryRow

FAILED = SummaryRow("sums", "failed", 3, 51, "failed 4 times; the last cause: restore_state: ValueError: no")
FINE = SummaryRow("sums", "finished", 0, 51, "")


def figures(dead: int) -> dict[str, Any]:
    sums = {"inputs": {"n": {"taken": 4}}, "outputs": {"sum": 5}, "dead_letters": dead}
    return {"sums": sums, "nums": {"outputs": {}}}


@pytest.mark.parametrize(
    ("reason", "count", "shown"),
    [("", 0, ""), ("", 1, "1 dead letter"), ("SIGKILL", 2, "SIGKILL; 2 dead letters"), ("SIGKILL", 0, "SIGKILL")],
)
def test_dead_letters_stand_behind_the_reason(reason: str, count: int, shown: str) -> None:
    assert summary.with_counts(reason, count) == shown


def test_dropped_messages_stand_behind_the_reason_too() -> None:
    assert summary.with_counts("", 1, 12) == "1 dead letter; 12 dropped"
    taken = {"inputs": {"a": {"taken": 1, "dropped": 5}, "b": {"taken": 2, "dropped": 7}}, "outputs": {}}
    assert summary.dropped(taken) == 12 and summary.dropped({}) == 0


def test_the_end_says_how_to_look_at_dead_letters() -> None:
    (hint,) = summary.hints("my run", "flow.yml", [FINE], figures(2), kept=False)
    assert hint == "2 dead letters of sums: `noderuntime dead-letters show --run 'my run' sums`"
    assert summary.hints("flow", "flow.yml", [FINE], figures(0), kept=False) == []


def test_a_failure_says_what_is_kept_and_how_to_go_on() -> None:
    first, second = summary.hints("flow", "/d/flow.yml", [FAILED], figures(0), kept=True)
    assert "`noderuntime run /d/flow.yml --resume`" in first
    assert "state ls --run flow sums" in second and "state rm --run flow sums KEY" in second
    (named, _) = summary.hints("other", "/d/flow.yml", [FAILED], figures(0), kept=True)
    assert "--name other --resume" in named


def test_it_is_told_what_is_kept_for_a_failed_node_and_what_was_dropped() -> None:
    nodes = figures(0)
    nodes["sums"]["inputs"]["n"] |= {"queued": 1, "dropped": 7}
    _, kept, dropped, _ = summary.hints("f", "f.yml", [FAILED], nodes, kept=True)
    assert kept == "1 message for sums: kept"
    assert dropped == "7 messages for sums: dropped, by `queue_policy: drop_oldest`"
    assert not any("for sums:" in line for line in summary.hints("f", "f.yml", [FINE], nodes, True))


def test_a_failure_of_which_nothing_is_kept_promises_nothing() -> None:
    assert summary.hints("flow", "flow.yml", [FAILED], figures(0), kept=False) == []


def test_there_is_progress_when_anything_was_taken_or_sent_or_nobody_knows() -> None:
    assert summary.made_progress(figures(0))
    assert summary.made_progress({})
    assert not summary.made_progress({"a": {"inputs": {"n": {"taken": 0}}, "outputs": {"x": 0}}})
    assert summary.made_progress({"a": {"inputs": {}, "outputs": {"x": 1}}})
