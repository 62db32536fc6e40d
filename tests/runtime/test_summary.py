"""The rows of a summary: dead letters and dropped messages behind a node's reason."""

from __future__ import annotations

import pytest
from support.kit import node_figures

from noderuntime.runtime import summary


@pytest.mark.parametrize(
    ("reason", "count", "shown"),
    [("", 0, ""), ("", 1, "1 dead letter"), ("SIGKILL", 2, "SIGKILL; 2 dead letters"), ("SIGKILL", 0, "SIGKILL")],
)
def test_dead_letters_stand_behind_the_reason(reason: str, count: int, shown: str) -> None:
    assert summary.with_counts(reason, count) == shown


def test_dropped_messages_stand_behind_the_reason_too() -> None:
    assert summary.with_counts("", 1, 12) == "1 dead letter; 12 dropped"
    assert summary.dropped(node_figures(a={"taken": 1, "dropped": 5}, b={"taken": 2, "dropped": 7})) == 12
    assert summary.dropped(node_figures()) == 0
