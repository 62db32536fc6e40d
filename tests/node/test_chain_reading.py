"""How a process of several operators reads what waits: ahead, in groups, each message once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.fake_runtime import Run
from support.procs import wait_until

from noderuntime.space import keys
from noderuntime.space.environment import scan

Make = Callable[..., Run]

OPERATORS = """
class Pass:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.save_state("last", repr(event["value"]).encode())
            ctx.send_output("out", [event["id"], event["value"]])
"""


def operator(**inputs: str) -> dict[str, Any]:
    return {"process": "p", "operator": {"python": "op.py:Pass", "inputs": inputs, "outputs": ["out"]}}


def records_of(r: Run, node: str, input: str) -> int:
    """How many records a mailbox has; messages of one commit are packs."""
    numbers = r.numbers[node]
    with r.space.read() as txn:
        return len(list(scan(txn, keys.mailbox(numbers["number"], numbers["inputs"][input]))))


def test_messages_that_wait_are_committed_in_groups(run: Make) -> None:
    nodes = {
        "a": {"outputs": ["out"]},
        "x": operator(n="a/out"),
        "y": operator(n="x/out"),
        "c": {"inputs": {"in": "y/out"}},
    }
    r = run(nodes, op=OPERATORS)
    r.send("a", *range(300))
    child = r.begun("x")
    wait_until(lambda: r.queue("c", "in")[0] == 300, str(child))
    assert child.pulse.commits < 300, "a group is one commit"
    assert records_of(r, "c", "in") < 300, "and what it sends outside are packs"
    assert r.queue("x", "n")[0] == 0 and r.private("y") == {"last": b"['n', 299]"}
    assert [value for _, (_, value) in r.take("c", 300)] == [*range(300)]


def test_messages_of_several_inputs_outside_are_read_once_and_in_the_order_of_each(run: Make) -> None:
    nodes = {
        "a": {"outputs": ["out"]},
        "b": {"outputs": ["out"]},
        "x": operator(a="a/out"),
        "y": operator(x="x/out", b="b/out"),
        "c": {"inputs": {"in": {"source": "y/out", "queue_size": 2000}}},
    }
    r = run(nodes, op=OPERATORS)
    for number in range(0, 600, 30):  # in blocks, so that what was read of one input waits for the other
        r.send("a", *range(number, number + 30))
        r.send("b", *range(number, number + 10))
    r.begun("x")
    found = r.take("c", 800)
    of_a = [value[1] for id, value in found if id == "x"]
    of_b = [value for id, value in found if id == "b"]
    assert of_a == [*range(600)]
    assert of_b == [value for number in range(0, 600, 30) for value in range(number, number + 10)]
    assert r.queue("x", "a")[2] == 600 and r.queue("y", "b")[2] == 200, "each was taken once"


BURSTS = """
class Bursts:
    '''At each tick more messages than are handled inside: the last one goes through the mailbox.'''
    def __init__(self):
        self.ticks = 0
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            self.ticks += 1
            for number in range(1001):
                ctx.send_output("out", [self.ticks, number])

class Takes:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT" and event["id"] == "b":
            ctx.send_output("out", ["b", event["value"]])
        elif event["type"] == "INPUT" and event["value"][1] == 1000:
            ctx.send_output("out", ["x", event["value"][0]])
"""


@pytest.mark.parametrize("period", ["millis/5", "hz/10000"], ids=["now and then", "always due"])
def test_what_was_read_ahead_is_handled_once_when_messages_inside_come_first(run: Make, period: str) -> None:
    def of(name: str, inputs: dict[str, str]) -> dict[str, Any]:
        return {"process": "p", "operator": {"python": f"op.py:{name}", "inputs": inputs, "outputs": ["out"]}}

    nodes = {
        "b": {"outputs": ["out"]},
        "x": of("Bursts", {"tick": f"timer/{period}"}),
        "y": of("Takes", {"x": "x/out", "b": "b/out"}),
        "c": {"inputs": {"in": {"source": "y/out", "queue_size": 2000}}},
    }
    r = run(nodes, op=BURSTS)
    r.send("b", *range(900))
    r.begun("x")
    found: list[Any] = []
    while sum(id == "b" for id, _ in found) < 900 or sum(id == "x" for id, _ in found) < 5:
        found += r.take("c")
    assert [value for id, value in found if id == "b"] == [*range(900)]
    assert [value for id, value in found if id == "x"] == [*range(1, 1 + sum(id == "x" for id, _ in found))]
