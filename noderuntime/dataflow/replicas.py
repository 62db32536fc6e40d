"""Replicas: one node of the file as several processes, each with mailboxes of its own. Pure.

The runtime and the store know each replica as a node: number 0 has the id of the node, the others are called ID[1],
ID[2], ... ("[" is in no id of a file). What is shown to users takes them as one node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from noderuntime.api.keyed.layout import SLOTS
from noderuntime.dataflow.identifiers import nearest, replica_id
from noderuntime.dataflow.model import Dataflow, NodeSpec, Place
from noderuntime.dataflow.yaml.nodes import fail
from noderuntime.errors import DataflowError

REPLICAS_MAX: Final = SLOTS


def owners(replicas: int) -> tuple[int, ...]:
    """Which replica owns each slot at the start: equal parts."""
    return tuple(slot * replicas // SLOTS for slot in range(SLOTS))


def rescaled(before: Sequence[int], replicas: int) -> tuple[int, ...]:
    """Owners with another number of replicas: as few slots move as equal parts allow."""
    share, more = divmod(SLOTS, replicas)
    held: dict[int, list[int]] = {replica: [] for replica in range(replicas)}
    free: list[int] = []
    for slot, owner in enumerate(before):
        (held[owner] if owner < replicas else free).append(slot)
    # those that hold most may keep one more than the share
    order = sorted(held, key=lambda replica: (-len(held[replica]), replica))
    wanted = {replica: share + (place < more) for place, replica in enumerate(order)}
    for replica, slots in held.items():
        free += slots[wanted[replica] :]
        del slots[wanted[replica] :]
    free.sort(reverse=True)
    for replica, slots in held.items():
        while len(slots) < wanted[replica]:
            slots.append(free.pop())
    made = {slot: replica for replica, slots in held.items() for slot in slots}
    return tuple(made[slot] for slot in range(SLOTS))


def check_replicas(nodes: Sequence[NodeSpec], places: Mapping[str, Mapping[str, Place]]) -> list[DataflowError]:
    """What of `replicas` and `partition_by` can be refused without the code of the operator."""
    errors = []
    for node in nodes:
        written = places.get(node.id, {})
        at = written.get("replicas", node.place)
        where = f"node {node.id!r}"
        if node.partition_by and node.kind != "operator":
            what = f"`partition_by` of {where}, which is no operator"
            errors.append(fail(written.get("partition_by", node.place), what, "Remove it."))
        if node.replicas == 1:
            continue
        if node.kind != "operator":
            what = f"`replicas` of {where}, which is no operator"
            hint = "Remove it: only operators can have replicas, because their messages and state are in the space."
            errors.append(fail(at, what, hint))
        elif node.process:
            what = f"`replicas` of {where}, which shares the process {node.process!r}"
            hint = "Remove `replicas`, or take it out of the process: operators of one process are one each."
            errors.append(fail(at, what, hint))
        elif not any(not spec.is_timer for spec in node.inputs):
            what = f"`replicas` of {where}, which takes no messages"
            hint = "Remove it: a Source, or an operator with timers alone, would do everything several times."
            errors.append(fail(at, what, hint))
    return errors


def expanded(dataflow: Dataflow) -> Dataflow:
    """The dataflow with a node for each replica, those of a node one after the other."""
    counts = {node.id: node.replicas for node in dataflow.nodes}
    nodes: list[NodeSpec] = []
    for written in dataflow.nodes:
        inputs = tuple(replace(spec, replicas=counts.get(spec.node, 1)) for spec in written.inputs)
        node = replace(written, inputs=inputs)
        nodes += (replace(node, id=replica_id(node.id, replica), replica=replica) for replica in range(node.replicas))
    return replace(dataflow, nodes=tuple(nodes))


def written(dataflow: Dataflow) -> Dataflow:
    """What `expanded` was made of."""
    nodes = [
        replace(node, inputs=tuple(replace(spec, replicas=1) for spec in node.inputs))
        for node in dataflow.nodes
        if not node.replica
    ]
    return replace(dataflow, nodes=tuple(nodes))


def scaled(dataflow: Dataflow, node: str, replicas: int) -> Dataflow:
    """A dataflow (not expanded) with another number of replicas of one node. Raises DataflowError."""
    if not 1 <= replicas <= REPLICAS_MAX:
        hint = f"Give a number from 1 to {REPLICAS_MAX}: keys fall into so many slots, and a replica owns at least one."
        raise DataflowError(f"{replicas} replicas of node {node!r}", hint=hint)
    if node not in (spec.id for spec in dataflow.nodes):
        ids = [spec.id for spec in dataflow.nodes]
        near = nearest(node, ids)
        hint = f"Did you mean {near!r}?" if near else f"Its nodes are: {', '.join(ids)}."
        raise DataflowError(f"the run has no node {node!r}", hint=hint)
    made = replace(spec := dataflow.node(node), replicas=replicas)
    nodes = tuple(made if other is spec else other for other in dataflow.nodes)
    if errors := check_replicas([made], {}):
        why = errors[0].hint.partition(": ")[2]  # behind what to do with the line in the file: there is none
        raise DataflowError(errors[0].what, hint=why[:1].upper() + why[1:])
    return replace(dataflow, nodes=nodes)
