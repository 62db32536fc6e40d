"""claims.py: what of a process was in hand is told of the operator whose it was."""

from __future__ import annotations

from dataclasses import replace

from noderuntime.dataflow.model import NodeSpec
from noderuntime.dataflow.reader import parse
from noderuntime.runtime.claims import burial, claim_of
from noderuntime.runtime.lifecycle_events import Claim

FLOW = """
nodes:
- {id: a, path: a.py, outputs: [out]}
- {id: x, operator: {python: op.py, inputs: {in: a/out}, outputs: [out]}, process: p}
- {id: y, operator: {python: op.py, inputs: {in: x/out}}, process: p, max_attempts: 1}
"""


def members() -> list[tuple[NodeSpec, int]]:
    nodes = {node.id: node for node in parse(FLOW).nodes}
    return [(nodes["x"], 7), (nodes["y"], 9)]


def test_each_operator_of_a_process_gets_what_was_in_hand_of_it() -> None:
    found = claim_of(Claim(3, "no", True, ((0, 5, 1, 9), (2, 6, 3, 7)), "trace"), members())
    assert (found["node"], found["hands"], found["max_attempts"]) == ("x", [[2, 6, 3]], 3)
    assert found["others"] == [["y", 1, [[0, 5, 1]]]]
    assert (found["cause"], found["counts"], found["trace"]) == ("no", True, "trace")


def test_all_that_a_node_with_a_process_of_its_own_had_in_hand_is_its_own() -> None:
    found = claim_of(Claim(3, "no", True, ((0, 5, 1),), ""), members()[:1])
    assert (found["hands"], found["others"]) == ([[0, 5, 1]], [])


def test_a_burial_says_where_the_dead_letter_is() -> None:
    (x, _), (y, _) = members()
    assert burial("a/out#1", x, "a run") == (
        "x failed 3 times on a/out#1: a dead letter now, the flow continues; "
        "see `noderuntime dead-letters show --run 'a run' x`"
    )
    assert "y failed once on" in burial("x/out#1", y, "run")
    assert "x failed 9 times" in burial("a/out#1", replace(x, max_attempts=9), "run")
