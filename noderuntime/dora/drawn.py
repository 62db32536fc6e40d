"""A dora dataflow as its author sees it: without the helpers that send lines and logs. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from noderuntime.dataflow.model import Code, Dataflow, InputSpec, NodeSpec
from noderuntime.dora.facts import END
from noderuntime.dora.links import LOGS, lines_id

SHOWN: Final = "dora/logs"


def as_drawn(dataflow: Dataflow) -> Dataflow:
    """What to draw and to count. Log records come from one node that stands for all of them."""
    senders = {lines_id(spec.id): spec.id for spec in dataflow.nodes}
    nodes = [_node(spec, senders) for spec in dataflow.nodes if not spec.helper]
    logs = [item.output for spec in nodes for item in spec.inputs if item.node == SHOWN]
    if logs:
        code = Code("log records of all nodes")
        nodes.append(NodeSpec(SHOWN, "operator", code, outputs=tuple(dict.fromkeys(logs)), helper=True))
    return replace(dataflow, nodes=tuple(nodes))


def _node(spec: NodeSpec, senders: dict[str, str]) -> NodeSpec:
    inputs = tuple(_input(item, senders) for item in spec.inputs)
    return replace(spec, inputs=inputs, outputs=tuple(name for name in spec.outputs if name != END))


def _input(item: InputSpec, senders: dict[str, str]) -> InputSpec:
    if item.node == LOGS:
        output = item.output.rpartition("-to-")[0]
        return replace(item, node=SHOWN, output=output, source=f"{SHOWN}/{output}")
    sender = senders.get(item.node)
    return item if sender is None else replace(item, node=sender, source=f"{sender}/{item.output}")
