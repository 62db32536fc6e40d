"""Checks that every input comes from an output that exists, and that no node can wait for itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

from noderuntime.dataflow.model import InputSpec, NodeSpec
from noderuntime.dataflow.yaml.fields import near
from noderuntime.dataflow.yaml.nodes import fail
from noderuntime.errors import DataflowError

ERRORS_MAX = 10
Advice: TypeAlias = dict[tuple[str, str], str]  # (node, input) -> how to make it drop_oldest


def check_links(nodes: Sequence[NodeSpec], advice: Mapping[tuple[str, str], str]) -> list[DataflowError]:
    """The errors of all inputs. Searches for cycles only if all sources exist."""
    by_id = {node.id: node for node in nodes}
    problems = (_missing(node, spec, by_id) for node in nodes for spec in node.inputs if not spec.is_timer)
    errors = list(islice((problem for problem in problems if problem is not None), ERRORS_MAX))
    if errors:
        return errors
    cycle = find_cycle(nodes)
    return [] if cycle is None else [_cycle_error(cycle, nodes, advice)]


def find_cycle(nodes: Sequence[NodeSpec]) -> list[tuple[NodeSpec, InputSpec]] | None:
    """A cycle made of backpressure inputs alone: its steps in the order in which messages flow, or None.

    Each step is a receiving node and the input over which it receives from the node of the step before.
    Why it is refused: when the mailboxes on it are full, each node waits for the next one to make room.
    """
    return _cycle(nodes, {node.id: node.id for node in nodes})


def find_process_cycle(
    nodes: Sequence[NodeSpec], alone: str = ""
) -> list[tuple[NodeSpec, InputSpec]] | None:
    """As `find_cycle`, where operators of one process count as one node, and `alone` has left its process.

    Why it is refused: a process waits for room as a whole. A -> B -> C with A and C in one process stops when both
    mailboxes are full, because while A waits for B, what B has sent to C is not taken.
    """
    return _cycle(nodes, {node.id: _vertex(node, alone) for node in nodes})


def _vertex(node: NodeSpec, alone: str) -> str:
    """The vertex of a node: its process (no id begins with a space), or itself."""
    return f" {node.process}" if node.process and node.id != alone else node.id


def _cycle(nodes: Sequence[NodeSpec], vertices: Mapping[str, str]) -> list[tuple[NodeSpec, InputSpec]] | None:
    """A cycle of backpressure inputs among the vertices of nodes. What a vertex of several nodes sends to
    itself is no part of one.
    """
    edges: dict[str, list[tuple[NodeSpec, InputSpec]]] = {vertices[node.id]: [] for node in nodes}
    for node in nodes:
        for spec in node.inputs:
            if spec.is_timer or spec.drop_oldest:
                continue
            if vertices[spec.node] != vertices[node.id] or vertices[node.id] == node.id:
                edges[vertices[spec.node]].append((node, spec))
    done: set[str] = set()
    for start in edges:
        if start in done:
            continue
        path: list[tuple[NodeSpec, InputSpec]] = []  # how the walk came to where it is
        position = {start: 0}  # vertices on the walk -> how many steps led there
        todo: list[Iterator[tuple[NodeSpec, InputSpec]]] = [iter(edges[start])]
        here = [start]
        while todo:
            step = next(todo[-1], None)
            if step is None:
                todo.pop()
                done.add(here[-1])
                del position[here.pop()]
                if path:
                    path.pop()
                continue
            receiver = vertices[step[0].id]
            if receiver in position:
                return [*path[position[receiver] :], step]
            if receiver not in done:
                path.append(step)
                position[receiver] = len(path)
                here.append(receiver)
                todo.append(iter(edges[receiver]))
    return None


def _missing(node: NodeSpec, spec: InputSpec, by_id: Mapping[str, NodeSpec]) -> DataflowError | None:
    where = f"input {spec.name!r} of node {node.id!r}"
    source = by_id.get(spec.node)
    if source is None:
        meant = near(spec.node, by_id)
        known = ", ".join(list(by_id)[:20])
        hint = f"Did you mean `{meant}/{spec.output}`?" if meant else f"The nodes are: {known}."
        return fail(spec.place, f"{where} comes from the node {spec.node!r}, which does not exist", hint)
    if spec.output in source.outputs:
        return None
    meant = near(spec.output, source.outputs)
    if not source.outputs:
        hint = f"{source.id!r} declares no outputs: give it `outputs: [{spec.output}]`."
    elif meant:
        hint = f"Did you mean `{source.id}/{meant}`?"
    else:
        hint = f"Its outputs are: {', '.join(source.outputs[:20])}."
    return fail(spec.place, f"{where} comes from {spec.source!r}, but {source.id!r} has no such output", hint)


def _cycle_error(
    cycle: list[tuple[NodeSpec, InputSpec]], nodes: Sequence[NodeSpec], advice: Mapping[tuple[str, str], str]
) -> DataflowError:
    order = {node.id: index for index, node in enumerate(nodes)}
    # The input to change is the one that feeds back: its sender comes after its receiver in the file.
    node, spec = max(cycle, key=lambda step: order[step[1].node] - order[step[0].id])
    names = [cycle[-1][0].id, *(step[0].id for step in cycle)]
    if len(names) > 12:
        names[6:-5] = ["..."]
    way = " -> ".join(names)
    what = f"a cycle in which every input waits for room: {way}"
    fix = advice.get((node.id, spec.name), "write\n    queue_policy: drop_oldest")
    hint = f"When its queues are full none of them can continue. Let one input drop instead: {fix}"
    return fail(spec.place, what, hint)
