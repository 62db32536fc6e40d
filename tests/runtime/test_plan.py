"""plan.py: what each child has to know, from the dataflow and the store's numbers."""

from __future__ import annotations

import msgpack

from noderuntime.dataflow.reader import parse
from noderuntime.ipc.wiring import InputWiring, OutputWiring, ReceiverWiring, Wiring
from noderuntime.runtime.plan import plan, store_nodes

FLOW = parse(
    """
nodes:
  - {id: a, path: a.py, outputs: [x, unused]}
  - id: b
    operator: {python: ops/b.py:Sum, inputs: {i: a/x, t: timer/millis/250}, outputs: [y]}
    config: {k: [1, 2]}
  - id: c
    path: dynamic
    inputs:
      i: {source: a/x, queue_size: 7, queue_bytes: 9KB, queue_policy: drop_oldest, input_timeout: 1500ms}
      j: b/y
  - {id: d, operator: {module: pkg.d}}
""",
    folder="/flows",
)
NUMBERS = {
    "a": {"number": 1, "inputs": {}, "outputs": {"x": 10, "unused": 11}},
    "b": {"number": 2, "inputs": {"i": 20, "t": 21}, "outputs": {"y": 22}},
    "c": {"number": 3, "inputs": {"i": 30, "j": 31}, "outputs": {}},
    "d": {"number": 4, "inputs": {}, "outputs": {}},
    "from an older file": {"number": 5, "inputs": {}, "outputs": {}},
}
BYTES = 64 * 1024 * 1024


def test_an_operator_knows_its_inputs_receivers_code_and_config() -> None:
    assert plan(FLOW, "run", NUMBERS)["b"] == Wiring(
        run="run",
        node="b",
        number=2,
        kind="operator",
        inputs=(
            InputWiring("i", 20, "a/x", 1, 1000, BYTES, False, messages_min=2),
            InputWiring("t", 21, "timer/millis/250", -1, 1000, BYTES, False, messages_min=2, period_ns=250_000_000),
        ),
        outputs=(OutputWiring("y", 22, (ReceiverWiring(3, 31, 1000, BYTES, False, messages_min=2),)),),
        config={"k": [1, 2]},
        code={"path": "/flows/ops/b.py", "module": "", "name": "Sum"},
    )


def test_limits_and_timeouts_of_an_input_reach_both_ends() -> None:
    wirings = plan(FLOW, "run", NUMBERS)
    assert wirings["c"].inputs[0] == InputWiring(
        "i", 30, "a/x", 1, 7, 9 * 1024, True, messages_min=1, timeout_ns=1_500_000_000
    )
    x, unused = wirings["a"].outputs
    assert x.receivers == (
        ReceiverWiring(2, 20, 1000, BYTES, False, messages_min=2),
        ReceiverWiring(3, 30, 7, 9 * 1024, True, messages_min=1),
    )
    assert unused.receivers == ()


def test_custom_and_dynamic_nodes_have_no_code_to_load() -> None:
    wirings = plan(FLOW, "run", NUMBERS)
    assert (wirings["a"].kind, wirings["a"].code) == ("node", {})
    assert (wirings["c"].kind, wirings["c"].code) == ("node", {})
    assert wirings["d"].code == {"path": "", "module": "pkg.d", "name": "Operator"}


def test_only_nodes_of_this_dataflow_are_planned() -> None:
    assert set(plan(FLOW, "run", NUMBERS)) == {"a", "b", "c", "d"}


def test_a_wiring_survives_the_way_through_messagepack() -> None:
    for wiring in plan(FLOW, "run", NUMBERS).values():
        assert Wiring.from_plain(msgpack.unpackb(msgpack.packb(wiring.to_plain()))) == wiring


def test_the_store_is_told_ids_inputs_with_their_sources_and_outputs() -> None:
    assert store_nodes(FLOW) == [
        {"id": "a", "inputs": [], "outputs": ["x", "unused"]},
        {"id": "b", "inputs": [("i", "a/x"), ("t", "")], "outputs": ["y"]},
        {"id": "c", "inputs": [("i", "a/x"), ("j", "b/y")], "outputs": []},
        {"id": "d", "inputs": [], "outputs": []},
    ]
