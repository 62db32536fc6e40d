"""A sender may drop what waits: its message comes, those before it are gone, and counted."""

from __future__ import annotations

from typing import Any

import pytest
from support.kit import Make, commit, send, shown, staged

from noderuntime.space.commit import Commits
from noderuntime.space.records import DROPPED, QUEUED, TAKEN
from noderuntime.space.staging import GROUP_MAX, Staged
from noderuntime.space.writer import MessageGone


def nodes(policy: str, size: int = 1000) -> dict[str, Any]:
    """a sends to b and to c."""
    fed = {"source": "a/out", "queue_size": size, "queue_policy": policy}
    more = {"in": fed, "more": "a/other"}
    return {"a": {"outputs": ["out", "other"]}, "b": {"inputs": more}, "c": {"inputs": {"in": fed}}}


def flushing(commits: Commits, *sends: tuple[str, Any], at: int = 0) -> Staged:
    """An event whose message at place `at` drops what waits of its output."""
    event = staged(commits, *sends)
    assert event.outputs is not None
    event.also().flush = [(event.outputs[at][0], at)]
    commits.flushes = True
    return event


@pytest.mark.parametrize("policy", ["backpressure", "drop_oldest"])
@pytest.mark.parametrize("before", [0, 1, 5, GROUP_MAX])
def test_what_waited_is_dropped_and_counted(make: Make, policy: str, before: int) -> None:
    run = make(nodes(policy))
    a = run.begin("a")
    assert send(a, *range(before)) == before
    assert send(a, 1000, output="other") == 1
    assert commit(a, flushing(a, ("out", -1))) == 1
    assert send(a, -2, -3) == 2
    for node in ("b", "c"):
        assert run.queued(node, "in") == [-1, -2, -3]
        queue = run.queue(node, "in")
        assert (queue[QUEUED], queue[DROPPED]) == (3, before)
    assert run.queued("b", "more") == [1000]


def test_in_a_group_only_what_came_before_is_dropped(make: Make) -> None:
    run = make(nodes("backpressure"))
    a = run.begin("a")
    group = [staged(a, ("out", n)) for n in range(5)]
    group += [flushing(a, ("out", 5)), *(staged(a, ("out", n)) for n in range(6, 9))]
    assert commit(a, *group) == 6
    assert not a.waits_for
    assert commit(a, *group[6:]) == 3
    assert run.queued("b", "in") == [5, 6, 7, 8]


def test_in_an_event_only_what_came_before_is_dropped(make: Make) -> None:
    run = make(nodes("backpressure"))
    a = run.begin("a")
    send(a, 0, 1)
    assert commit(a, flushing(a, ("out", 2), ("other", 0), ("out", 3), ("other", 1), ("out", 4), at=2)) == 1
    assert run.queued("b", "in") == [3, 4]
    assert run.queued("b", "more") == [0, 1]


def test_a_message_in_hand_that_was_dropped_has_taken_effect(make: Make) -> None:
    run = make(nodes("backpressure"))
    a, b = run.begin("a"), run.begin("b")
    send(a, 0, 1)
    message = run.messages(b, 1)[0]
    assert commit(a, flushing(a, ("out", 2))) == 1
    assert commit(b, staged(b, ack=message)) == 1
    queue = run.queue("b", "in")
    assert (queue[QUEUED], queue[DROPPED], queue[TAKEN]) == (1, 1, 1)
    assert [shown(record) for _, record in run.messages(b)] == [2]


def test_where_nobody_flushes_a_message_cannot_be_gone(make: Make) -> None:
    run = make(nodes("backpressure"))
    a, b = run.begin("a"), run.begin("b")
    send(a, 0, 1)
    message = run.messages(b, 1)[0]
    run.steal("b", "in", 0)
    with pytest.raises(MessageGone):
        commit(b, staged(b, ack=message))


def test_a_notice_is_not_dropped(make: Make) -> None:
    run = make(nodes("backpressure"))
    send(run.begin("a"), 0)
    a = Commits(run.space, run.wirings["a"], run.claim("a", cause="it crashed")["incarnation"])
    send(a, 1)
    assert commit(a, flushing(a, ("out", 2))) == 1
    restarted, last = run.queued("b", "in")
    assert restarted[0] == "NODE_RESTARTED"
    assert last == 2
