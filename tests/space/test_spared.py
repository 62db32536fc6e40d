"""Requests, responses and goals are dropped only when no other message waits, where the receiver spares them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from support.kit import Make, Net, Place, commit, send

from noderuntime.space.commit import Commits
from noderuntime.space.records import DROPPED, QUEUED, decode_message, encode_message, is_spared
from noderuntime.space.staging import Staged


def net_of(make: Make, size: int, spares: bool = True) -> tuple[Net, Commits]:
    fed = {"source": "a/out", "queue_size": size, "queue_policy": "drop_oldest"}
    net = make({"a": {"outputs": ["out"]}, "b": {"inputs": {"in": fed}}})
    for output in net.wirings["a"].outputs:
        for receiver in output.receivers:
            object.__setattr__(receiver, "spares", spares)
    return net, net.begin("a")


def put(commits: Commits, *sends: tuple[int, Any]) -> None:
    """Send (value, metadata) in one group."""
    group = []
    for value, metadata in sends:
        event = Staged()
        commits.outputs["out"].stage(event, value, metadata, Place(commits))
        group.append(event)
    assert commit(commits, *group) == len(group)


REQUEST = {"request_id": "x"}


@pytest.mark.parametrize("grouped", [False, True])
def test_ordinary_messages_go_first(make: Make, grouped: bool) -> None:
    net, a = net_of(make, 10)
    sends: list[tuple[int, Any]] = [(n, REQUEST if n % 2 else {"n": n}) for n in range(12)]
    if grouped:
        put(a, *sends)
    else:
        for item in sends:
            put(a, item)
    assert net.queued("b", "in") == [1, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    queue = net.queue("b", "in")
    assert (queue[QUEUED], queue[DROPPED]) == (10, 2)


def test_when_all_are_spared_the_oldest_goes(make: Make) -> None:
    net, a = net_of(make, 3)
    put(a, *((n, REQUEST) for n in range(5)))
    assert net.queued("b", "in") == [2, 3, 4]
    put(a, (5, None))
    assert net.queued("b", "in") == [2, 3, 4]


def test_a_receiver_that_does_not_spare_drops_the_oldest(make: Make) -> None:
    net, a = net_of(make, 2, spares=False)
    put(a, (0, REQUEST), (1, None), (2, None))
    assert net.queued("b", "in") == [1, 2]


@pytest.mark.parametrize("seed", range(10))
def test_it_agrees_with_a_plain_list(make: Make, seed: int) -> None:
    rng = random.Random(seed)
    size = rng.randint(1, 8)
    net, a = net_of(make, size)
    kept: list[tuple[int, bool]] = []
    number = dropped = 0
    for _ in range(30):
        group = []
        for _ in range(rng.randint(1, 12)):
            spared = rng.random() < 0.4
            group.append((number, REQUEST if spared else rng.choice([None, {"n": number}])))
            kept.append((number, spared))
            number += 1
        put(a, *group)
        while len(kept) > size:
            dropped += 1
            kept.remove(next((item for item in kept if not item[1]), kept[0]))
        assert net.queued("b", "in") == [value for value, _ in kept]
        assert net.queue("b", "in")[DROPPED] == dropped


@pytest.mark.parametrize(
    ("metadata", "spared"),
    [
        (None, False), ({}, False), ({"request_id": 1}, True), ({"goal_id": "x"}, True), ({"goal_status": "x"}, True),
        ({"n": "request_id"}, False), ({"my_request_id": 1}, False),
    ],
)  # fmt: skip
def test_what_is_spared(metadata: Any, spared: bool) -> None:
    record, _ = encode_message(1, metadata, 1, 0)
    assert is_spared(record) is spared
    assert decode_message(record)[1] == 1


def test_nothing_is_spared_where_there_is_room(make: Make) -> None:
    net, a = net_of(make, 5)
    assert send(a, 1, 2, 3) == 3
    assert net.queued("b", "in") == [1, 2, 3]
