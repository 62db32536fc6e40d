"""start_watch.py: when `run -d` may return, and what it says of nodes that are not ready."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from noderuntime.runtime.lifecycle_events import LifecycleState
from noderuntime.runtime.start_watch import StartWatch, standing


def child(state: LifecycleState, was_ready: bool = False, kind: str = "operator", reason: str = "") -> Any:
    machine = SimpleNamespace(state=state, was_ready=was_ready, reason=reason)
    return SimpleNamespace(id="a", machine=machine, state=state, spec=SimpleNamespace(start_timeout_s=30.0, kind=kind))


def test_a_run_is_up_when_each_node_was_ready_or_is_not_waited_for() -> None:
    ready = child(LifecycleState.BACKOFF, was_ready=True)
    dynamic = child(LifecycleState.WAITING, kind="dynamic")
    assert standing([ready, dynamic, child(LifecycleState.ENDED)], 0.0) == (False, [])


def test_a_node_is_waited_for_as_long_as_it_may_take() -> None:
    starting = child(LifecycleState.BACKOFF, reason="exit code 1")
    assert standing([starting], 29.9) == (True, [])
    assert standing([starting], 30.0) == (False, ["a is not ready after 30 s (backoff, exit code 1)"])


def test_a_node_that_failed_is_named_with_its_reason() -> None:
    failed = child(LifecycleState.FAILED, reason="no file")
    assert standing([failed], 0.0) == (False, ["a has failed for good: no file"])


def test_nodes_that_are_not_ready_are_shown_only_when_the_start_takes_long_and_until_it_is_over() -> None:
    shown: list[list[str]] = []
    waiting = ["a", "b"]
    nodes: Any = SimpleNamespace(not_ready=lambda: list(waiting))
    watch = StartWatch(nodes, SimpleNamespace(waiting=shown.append), "run", 0.0)  # type: ignore[arg-type]
    watch.show_waiting(True, 0.2)
    assert shown == []
    watch.show_waiting(True, 0.4)
    watch.show_waiting(True, 0.5)
    assert shown == [["a", "b"]]
    waiting.remove("a")
    watch.show_waiting(True, 0.6)
    watch.show_waiting(False, 0.7)
    assert shown == [["a", "b"], ["b"], []]
