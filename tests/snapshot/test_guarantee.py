"""What is said at the start about losing the machine."""

from __future__ import annotations

from noderuntime.dataflow.model import Code, Dataflow, InputSpec, NodeSpec
from noderuntime.snapshot.guarantee import guarantee

SOURCE = NodeSpec("source", "operator", Code("s.py"), outputs=("x",))
SENSOR = NodeSpec("sensor", "node", Code("sensor.py"), outputs=("x",))


def reader(id: str, source: str, kind: str = "operator") -> NodeSpec:
    inputs = (InputSpec("in", f"{source}/x", source, "x"),)
    return NodeSpec(id, kind, Code("r.py"), inputs=inputs, outputs=("x",))  # type: ignore[arg-type]


def test_where_all_sources_are_replayable_nothing_has_to_be_said() -> None:
    assert guarantee(Dataflow((SOURCE, reader("sums", "source"))), 60) == ""


def test_a_custom_node_that_only_receives_is_no_source() -> None:
    sink = NodeSpec("sink", "node", Code("sink.py"), inputs=(InputSpec("in", "source/x", "source", "x"),))
    assert guarantee(Dataflow((SOURCE, sink)), 60) == ""


def test_a_custom_node_that_sends_is_named_and_so_is_what_stays_exact() -> None:
    nodes = (SOURCE, SENSOR, reader("sums", "source"), reader("mixed", "sensor"), reader("later", "mixed"))
    text = guarantee(Dataflow(nodes), 0.5)
    assert text.startswith("snapshots every 0.5 s: if the machine is lost, what sensor sent since the last one is gone")
    assert "source, sums continue exactly" in text
    assert "mixed" not in text
    assert "exactly once" not in text


def test_several_are_named_together() -> None:
    text = guarantee(Dataflow((SENSOR, NodeSpec("radar", "dynamic", outputs=("x",)))), 60)
    assert "what sensor, radar sent" in text
    assert "they are custom nodes" in text
