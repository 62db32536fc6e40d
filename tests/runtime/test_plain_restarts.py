"""Restarts as the fields of a dora file say: all are counted, the first one waits too; and who starts together."""

from __future__ import annotations

from math import inf

from noderuntime.runtime.lifecycle import Lifecycle
from noderuntime.runtime.lifecycle_events import (
    Claim,
    Claimed,
    LifecycleState,
    SaidHello,
    SendWelcome,
    Spawn,
    Start,
    Vitals,
)
from noderuntime.runtime.machine import NEVER, Tick
from noderuntime.runtime.policy import Policy
from noderuntime.runtime.restart_budget import Budget


def test_the_delay_doubles_from_the_first_restart_on() -> None:
    budget = Budget(0, inf, 0.3, 1.0, plain=True)
    assert [budget.spend(float(at)) for at in range(4)] == [0.3, 0.6, 1.0, 1.0]


def test_without_a_delay_each_restart_is_immediate() -> None:
    budget = Budget(0, inf, 0.0, 1e9, plain=True)
    assert [budget.spend(float(at)) for at in range(100)] == [0.0] * 100


def test_progress_does_not_renew_it() -> None:
    budget = Budget(2, inf, 0.1, 1.0, plain=True)
    for at in range(2):
        assert budget.spend(float(at)) is not None
        budget.reset()
    assert budget.spend(1e9) is None


def test_the_window_begins_with_the_first_restart_in_it() -> None:
    budget = Budget(2, 10.0, 0.1, 1.0, plain=True)
    assert [budget.spend(at) for at in (0.0, 9.0, 9.5)] == [0.1, 0.2, None]
    budget = Budget(2, 10.0, 0.1, 1.0, plain=True)
    assert [budget.spend(at) for at in (0.0, 9.0, 10.0, 19.0, 19.5)] == [0.1, 0.2, 0.1, 0.2, None]


def test_a_node_that_waits_for_others_is_not_late() -> None:
    child = Lifecycle("a", Policy(kind="node", start_timeout_s=5.0, together=True))
    assert child.handle(Start(), 0.0) == [Spawn(1), Claim(1)]
    assert child.handle(SaidHello(), 1.0) == []
    assert child.handle(Claimed(), 2.0) == [SendWelcome()]
    assert child.deadline_s == NEVER
    assert child.handle(Vitals(), 1000.0) == []
    assert child.state is LifecycleState.RESTORING


def test_one_that_says_no_hello_is_late_all_the_same() -> None:
    child = Lifecycle("a", Policy(kind="node", start_timeout_s=5.0, together=True))
    child.handle(Start(), 0.0)
    child.handle(Claimed(), 1.0)
    assert child.deadline_s == 6.0
    assert child.handle(Tick(), 6.0)
    assert child.state is LifecycleState.KILLED
