"""What has to be done to a run so that it becomes what a file says: a table of cases."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from noderuntime.dataflow import plain
from noderuntime.dataflow.changes import compare
from noderuntime.dataflow.model import Dataflow
from noderuntime.dataflow.reader import parse

Node = dict[str, Any]


def node(id: str, inputs: Any = None, outputs: Any = (), **more: Any) -> Node:
    operator = {"python": f"{id}.py", "inputs": inputs or {}, "outputs": list(outputs)}
    return {"id": id, "operator": operator, **more}


def dataflow(*nodes: Node, **more: Any) -> Dataflow:
    return parse(json.dumps({"nodes": list(nodes), **more}), file="flow.yml", folder="/flow", env={})


A, B = node("a", outputs=["x"]), node("b", {"in": "a/x"}, ["y"])
AB = (A, B)
C = node("c", {"in": "b/y"})
D = node("d", {"in": "a/x"})
BY = {"partition_by": "value.user"}
DROPS = {"in": {"source": "a/x", "queue_policy": "drop_oldest", "queue_size": 3}}

CASES: list[tuple[str, tuple[Node, ...], tuple[Node, ...], list[tuple[str, str, tuple[str, ...], bool]]]] = [
    ("the same", AB, AB, []),
    ("another order", AB, (B, A), []),
    ("a receiver more", AB, (*AB, C), [
        ("b", "rewired", ("y also to c/in",), False), ("c", "added", ("operator c.py:Operator",), False),
    ]),
    ("a receiver less", (*AB, C), AB, [("b", "rewired", ("y no longer to c/in",), False), ("c", "removed", (), False)]),
    ("another source", (*AB, C), (A, B, node("c", {"in": "a/x"})), [
        ("a", "rewired", ("x also to c/in",), False), ("b", "rewired", ("y no longer to c/in",), False),
        ("c", "rewired", ("input in: b/y -> a/x",), False),
    ]),
    ("an input more", (*AB, C), (A, B, node("c", {"in": "b/y", "tick": "timer/secs/1"})), [
        ("c", "rewired", ("+ input tick: timer/secs/1",), False),
    ]),
    ("another queue", AB, (A, node("b", DROPS, ["y"])), [
        ("a", "rewired", ("queue of b/in",), False), ("b", "rewired", ("input in: queue_size, queue_policy",), False),
    ]),
    ("outputs", AB, (A, node("b", {"in": "a/x"}, ["z"])), [("b", "rewired", ("+ output z", "- output y"), False)]),
    ("policies", AB, (A, {**B, "max_restarts": 9, "max_attempts": 7}), [
        ("b", "changed", ("max_restarts", "max_attempts"), True),
    ]),
    ("config", AB, (A, {**B, "config": {"k": 1}}), [("b", "changed", ("config",), True)]),
    ("env", AB, (A, {**B, "env": {"K": "1"}}), [("b", "changed", ("env",), True)]),
    ("code", AB, (A, {**B, "operator": {**B["operator"], "python": "b.py:Other"}}), [
        ("b", "changed", ("code",), True),
    ]),
    ("code and wiring", AB, (A, {**node("b", {"in": "a/x"}, ["y", "z"]), "config": {"k": 1}}), [
        ("b", "changed", ("config", "+ output z"), True),
    ]),
    ("a rename is a removal and an addition", AB, (A, node("d", {"in": "a/x"}, ["y"])), [
        ("a", "rewired", ("x also to d/in", "x no longer to b/in"), False),
        ("d", "added", ("operator d.py:Operator",), False), ("b", "removed", (), False),
    ]),
    ("more replicas", (A, {**B, "replicas": 2}), (A, {**B, "replicas": 4}), [
        ("b", "scaled", ("replicas 2 -> 4",), False),
    ]),
    ("the first replicas", AB, (A, {**B, **BY, "replicas": 3}), [
        ("b", "scaled", ("replicas 1 -> 3", "partition_by none -> value.user"), False),
    ]),
    ("fewer replicas, and a receiver more", (A, {**B, **BY, "replicas": 3}), (A, {**B, **BY}, C), [
        ("b", "scaled", ("replicas 3 -> 1", "y also to c/in"), False),
        ("c", "added", ("operator c.py:Operator",), False),
    ]),
    ("another partition", (A, {**B, **BY, "replicas": 3}), (A, {**B, "replicas": 3, "partition_by": "metadata.k"}), [
        ("b", "scaled", ("partition_by value.user -> metadata.k",), False),
    ]),
    ("more replicas with other code", (A, {**B, "replicas": 2}), (A, {**B, "replicas": 4, "config": {"k": 1}}), [
        ("b", "changed", ("config", "replicas 2 -> 4"), True),
    ]),
    ("more replicas, and another queue", (A, {**B, "replicas": 2}), (A, {**node("b", DROPS, ["y"]), "replicas": 4}), [
        ("a", "rewired", ("queue of b/in",), False),
        ("b", "scaled", ("replicas 2 -> 4", "input in: queue_size, queue_policy"), False),
    ]),
    ("more replicas of what a shared process feeds", ({**A, "process": "p"}, {**D, "process": "p"}, B),
     ({**A, "process": "p"}, {**D, "process": "p"}, {**B, "replicas": 2}), [
        ("b", "scaled", ("replicas 1 -> 2",), False),
    ]),
    ("operators that share a process are rewired in place", ({**A, "process": "p"}, {**B, "process": "p"}),
     ({**A, "process": "p"}, {**B, "process": "p"}, C), [
        ("b", "rewired", ("y also to c/in",), False), ("c", "added", ("operator c.py:Operator",), False),
    ]),
    ("operators that share a process begin a new life together", ({**A, "process": "p"}, {**B, "process": "p"}),
     ({**A, "process": "p"}, {**B, "process": "p", "config": {"n": 1}}, C), [
        ("a", "rewired", ("shares the process p",), True), ("b", "changed", ("config", "y also to c/in"), True),
        ("c", "added", ("operator c.py:Operator",), False),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "plan"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_plan(old: tuple[Node, ...], new: tuple[Node, ...], plan: Any) -> None:
    found = compare(dataflow(*old), dataflow(*new))
    assert [(item.node, item.change, item.details, item.restarts) for item in found.changes] == plan
    assert found.refusal == ""


REFUSED: list[tuple[str, Dataflow, Dataflow, str]] = [
    ("state", dataflow(*AB), dataflow(*AB, state={"size": "20MB"}), "the section `state:`"),
    ("snapshots", dataflow(*AB), dataflow(*AB, snapshots={"every": "1s"}), "the section `snapshots:`"),
    ("kind", dataflow(*AB), dataflow(A, {"id": "b", "path": "b.py", "inputs": {"in": "a/x"}}), "node 'b' was an"),
    ("a member more", dataflow({**A, "process": "p"}, B), dataflow({**A, "process": "p"}, {**B, "process": "p"}),
     "the process 'p' gets or loses operators (b)"),
    ("another process", dataflow(*AB), dataflow({**A, "process": "p"}, B), "would change the process"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "why"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_needs_a_stop_is_refused_with_a_sentence(old: Dataflow, new: Dataflow, why: str) -> None:
    assert why in compare(old, new).refusal


def test_another_folder_is_another_place_for_the_code() -> None:
    moved = replace(dataflow(*AB), folder="/elsewhere")
    assert [(item.node, item.details[0]) for item in compare(dataflow(*AB), moved).changes] == [
        ("a", "folder /elsewhere"), ("b", "folder /elsewhere"),
    ]  # fmt: skip


def test_another_folder_is_refused_where_the_shared_state_is_a_file_beside_the_dataflow() -> None:
    before = dataflow(*AB, state={"kind": "sqlite", "path": "shared.db"})
    assert "what `state: kind: sqlite` names" in compare(before, replace(before, folder="/elsewhere")).refusal


Planned = list[tuple[str, str, tuple[str, ...]]]
RENAMED: list[tuple[str, tuple[Node, ...], tuple[Node, ...], dict[str, str], Planned]] = [
    ("a receiver", AB, (A, {**B, "id": "d"}), {"b": "d"}, [("d", "renamed", ("was b",))]),
    ("a sender", AB, ({**A, "id": "d"}, node("b", {"in": "d/x"}, ["y"])), {"a": "d"}, [
        ("d", "renamed", ("was a",)), ("b", "rewired", ("input in: a/x -> d/x",)),
    ]),
    ("with what is added", AB, (*AB[:1], {**B, "id": "d"}, node("c", {"in": "d/y"})), {"b": "d"}, [
        ("d", "renamed", ("was b", "y also to c/in")), ("c", "added", ("operator c.py:Operator",)),
    ]),
    ("two at once", AB, ({**A, "id": "d"}, node("e", {"in": "d/x"}, ["y"])), {"a": "d", "b": "e"}, [
        ("d", "renamed", ("was a",)), ("e", "renamed", ("was b", "code", "input in: a/x -> d/x")),
    ]),
    ("and another source", (*AB, C), (A, {**B, "id": "d"}, node("c", {"in": "a/x"})), {"b": "d"}, [
        ("a", "rewired", ("x also to c/in",)), ("d", "renamed", ("was b", "y no longer to c/in")),
        ("c", "rewired", ("input in: d/y -> a/x",)),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "names", "plan"), [case[1:] for case in RENAMED], ids=[case[0] for case in RENAMED]
)
def test_the_plan_with_renamed_nodes(
    old: tuple[Node, ...], new: tuple[Node, ...], names: dict[str, str], plan: Any
) -> None:
    found = compare(dataflow(*old), dataflow(*new), names)
    assert [(item.node, item.change, item.details) for item in found.changes] == plan
    assert all(item.restarts == (item.change == "renamed") for item in found.changes)
    assert found.refusal == ""


@pytest.mark.parametrize("nodes", [case[2] for case in CASES], ids=[case[0] for case in CASES])
def test_a_dataflow_is_kept_as_text_and_comes_back_as_it_was(nodes: tuple[Node, ...]) -> None:
    whole = dataflow(*nodes, state={"size": "20MB"})
    back = plain.from_text(plain.to_text(whole))
    assert back == whole
    assert (back.file, back.folder) == (whole.file, whole.folder)
    assert back.node(nodes[0]["id"]).place == whole.node(nodes[0]["id"]).place
    assert compare(back, whole).changes == ()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"nodes": [{}]}', '{"nodes": 3}'])
def test_what_is_no_kept_dataflow_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        plain.from_text(text)


def test_what_a_newer_version_has_written_is_passed_over() -> None:
    kept = json.loads(plain.to_text(dataflow(*AB)))
    kept["nodes"][0]["wheels"] = 4
    del kept["nodes"][1]["max_attempts"]
    assert plain.from_text(json.dumps(kept)) == dataflow(*AB)
