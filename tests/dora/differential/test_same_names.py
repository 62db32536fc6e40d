"""The names and signatures of the module, the builder and the mock node: section 12 and the head of section 5."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from harness import ROOT, real_folder

from noderuntime.dora.operator_adapter import PATH

NAMES = """
import inspect, json, dora, dora.builder, dora.testing
def parameters(call):
    found = [p for p in inspect.signature(call).parameters.values() if p.name != "self"]
    return [[p.name, None if p.default is p.empty else repr(p.default), str(p.kind)] for p in found]
def public(thing):
    return sorted(name for name in dir(thing) if not name.startswith("_"))
told = {"module": public(dora), "version": dora.__version__, "status": [(s.name, s.value) for s in dora.DoraStatus]}
node = public(dora.Node)
told["Node"] = {name: parameters(getattr(dora.Node, name)) for name in node}
told["Node()"] = parameters(dora.Node)
for name in ("run", "build"): told[name] = parameters(getattr(dora, name))
mock = dora.testing.MockNode
told["MockNode"] = {name: parameters(getattr(mock, name)) for name in public(mock)}
told["MockNode()"] = parameters(mock)
for name in ("DataflowBuilder", "Node", "Operator", "Output"):
    kind = getattr(dora.builder, name)
    told["builder." + name] = {call: parameters(getattr(kind, call)) for call in public(kind)}
    told["builder." + name + "()"] = parameters(kind)
print(json.dumps(told))
"""

BUILT = """
import json
from dora.builder import DataflowBuilder, Operator
flow = DataflowBuilder("any")
a = flow.add_node("a", restart_policy="always", zeta=1).path("a.py").args("--fast").env({"K": "1", "B": 2})
a.build("make")
o = a.add_output("o"); a.add_output("o"); a.add_output("p")
b = flow.add_node("b").git("https://example.org/x.git", branch="main", tag=None, rev="abc")
b.add_input("i", o, queue_size=3, queue_policy="backpressure").add_input("t", "dora/timer/secs/1").add_input("j", "a/p")
b.add_input("k", o, queue_policy="drop_oldest")
ops = flow.add_node("c").add_operator(Operator("x", name="n", description="d", build="b", python="x.py"))
ops.add_operator(Operator("y", shared_library="s", send_stdout_as="out"))
flow.add_node("d", id_is="kept", path="x")
wrong = []
for given in ({"queue_size": 0}, {"queue_policy": "newest"}, {"queue_size": -1, "queue_policy": "x"}):
    try: b.add_input("w", o, **given)
    except Exception as error: wrong.append([type(error).__name__, str(error)[:20]])
print(json.dumps([flow.to_yaml(), wrong, str(o), DataflowBuilder().to_yaml(), DataflowBuilder().name]))
"""

MOCKED = """
import asyncio, json, datetime
from dora.testing import MockNode
told = []
def run(node):
    told.append([list(node), node.next(), node.try_recv(), node.drain(), node.is_empty()])
run(MockNode([("i", 1), ("j", [2])]))
run(MockNode([("i", 1), {"type": "STOP", "id": "MANUAL"}, {"type": "X"}], metadata={"k": 1}))
run(MockNode([]))
node = MockNode([("i", 1)], dataflow_descriptor={"nodes": []}, dataflow_id="d", node_config={"c": 1}, is_restart=True,
                restart_count=3, service_responses={"i": ["r"]})
told.append([node.dataflow_descriptor(), node.dataflow_id(), node.node_config(), node.is_restart()])
told.append(node.restart_count())
request = node.send_service_request("i", "q", {"m": 1})
told.append([event if event.get("metadata", {}).get("request_id") != request else "reply" for event in node])
again = node.send_service_request("i", "q")
node.send_output("o", [1], {"a": 1}); node.send_output(output_id="o", data=b"x".decode())
node.send_service_response("o", "d", {"request_id": "x"}); node.log("info", "m", "t", {"f": "g"}); node.log_warn("w")
told.append([node.outputs, node.logs, node.service_responses_sent, [r["metadata"] for r in node.service_requests]])
told.append([r["request_id"] in (request, again) for r in node.service_requests])
told.append(asyncio.run(MockNode([("i", 5)]).recv_async(timeout=1)))
for call in (lambda: node.send_output_raw("o", 5), lambda: node.merge_external_events(None)):
    try: call()
    except Exception as error: told.append(type(error).__name__)
told.append(node.timestamp().tzinfo is not None)
print(json.dumps(told))
"""


def both(program: str) -> tuple[Any, Any]:
    """What a program prints with the real module, and with ours."""
    real = subprocess.run(
        [str(real_folder() / "bin/python"), "-I", "-c", program], capture_output=True, text=True, check=True
    )
    begin = f"import sys; sys.path[:0] = [{PATH!r}, {str(ROOT)!r}]\n"
    ours = subprocess.run([sys.executable, "-I", "-c", begin + program], capture_output=True, text=True, check=True)
    return json.loads(real.stdout), json.loads(ours.stdout)


GAINS = {"kvs_read", "kvs_write"}


def test_names_and_signatures_are_the_same() -> None:
    real, ours = both(NAMES)
    assert set(real["module"]) - {"dora"} == set(ours["module"])
    assert set(ours["Node"]) - set(real["Node"]) == GAINS
    assert set(real["Node"]) <= set(ours["Node"])
    for kind in ("Node", "MockNode", "builder.DataflowBuilder", "builder.Node", "builder.Operator", "builder.Output"):
        for name, expected in real[kind].items():
            assert ours[kind][name] == expected, f"{kind}.{name}"
    for key in ("version", "status", "run", "build", *(key for key in real if key.endswith("()"))):
        assert ours[key] == real[key], key


def test_the_builder_writes_the_same_text() -> None:
    real, ours = both(BUILT)
    assert ours == real


def test_the_mock_node_does_the_same() -> None:
    real, ours = both(MOCKED)
    assert ours == real
