"""A dataflow whose nodes get other ids while it runs: `apply --rename OLD=NEW`. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from noderuntime.dataflow.identifiers import nearest, renamed_id, renamed_source
from noderuntime.dataflow.model import Dataflow, NodeSpec


def renamed(dataflow: Dataflow, names: Mapping[str, str]) -> Dataflow:
    """The dataflow with these nodes under their new ids (old -> new), as senders too."""
    return replace(dataflow, nodes=tuple(renamed_node(node, names) for node in dataflow.nodes)) if names else dataflow


def renamed_node(node: NodeSpec, names: Mapping[str, str]) -> NodeSpec:
    """The node under its new id, and with the new ids of its senders."""
    inputs = tuple(
        spec
        if spec.is_timer
        else replace(spec, source=renamed_source(names, spec.source), node=renamed_id(names, spec.node))
        for spec in node.inputs
    )
    return replace(node, id=renamed_id(names, node.id), inputs=inputs)


def problem(names: Mapping[str, str], before: Collection[str], after: Collection[str]) -> str:
    """Why nodes of a run cannot be renamed so, in one sentence; "" when they can. `before`: the ids of its nodes;
    `after`: those in the file.
    """
    for old, new in names.items():
        where = f"--rename {old}={new}"
        if old not in before:
            return f"{where}: the run has no node {old!r}; {_instead(old, before)}"
        if old in after:
            return f"{where}: {old!r} is still in the dataflow file; take it out of the file, or leave --rename out"
        if new not in after:
            return f"{where}: the dataflow file has no node {new!r}; {_instead(new, after)}"
        if new in before or list(names.values()).count(new) > 1:
            return f"{where}: the run has a node {new!r} already, and a name is given once; choose another id"
    return ""


def _instead(id: str, known: Collection[str]) -> str:
    near = nearest(id, known)
    return f"did you mean {near!r}?" if near else f"its nodes are: {', '.join(known)}"
