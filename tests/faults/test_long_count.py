"""Many messages through three operators while some process of the run is killed about every 50 ms."""

from __future__ import annotations

import random

import pytest
from support.cast import MODULUS, Adder, digest, source_value
from support.flows import Flow, Link, Vertex, source
from support.stage import Stage

NAMES = ("a", "b", "c")


def adders(count: int) -> Flow:
    nodes = {"source": source(count)}
    for name, before in zip(NAMES, ("source", *NAMES), strict=False):
        nodes[name] = Vertex("adder", {"in": Link(f"{before}/o0")}, ["o0"])
    return Flow(nodes, size="256MB")


def expected(count: int) -> dict[str, tuple[int, ...]]:
    """The states of all adders, by a loop."""
    values = [source_value(1, number) for number in range(1, count + 1)]
    states = {}
    for name in NAMES:
        total = came = order = went = 0
        made = []
        for number, value in enumerate(values, 1):
            total = (total + value) % MODULUS
            came, order, went = digest(came, value), digest(order, number), digest(went, total)
            made.append(total)
        states[name] = count, total, came, order, went
        values = made
    return states


def count_under_kills(count: int, every_s: float, kills: int) -> int:
    flow = adders(count)
    with Stage() as stage:
        stage.start(flow.yaml(str(stage.root)))
        killed = stage.complete(flow, random.Random(1), every_s, kills, within_s=600.0)
        found = stage.found(flow)
        assert {name: Adder.STATE.unpack(found.states[name]["numbers"]) for name in NAMES} == expected(count)
        for name in NAMES:
            assert (found.taken[name, "in"], found.sent[name, "o0"], found.queued[name, "in"]) == (count, count, 0)
        stage.finish()
    return killed


def test_ten_thousand_messages_are_counted_exactly_under_kills() -> None:
    count_under_kills(10_000, 0.05, 10)


@pytest.mark.long
@pytest.mark.timeout(700)
def test_three_hundred_thousand_messages_are_counted_exactly_under_kills() -> None:
    assert count_under_kills(300_000, 0.05, 10_000) > 100
