"""What the store is asked at the switch of a change: the wiring of each node from then on, and whose process goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from noderuntime.dataflow import plain
from noderuntime.dataflow.changes import SCALED, Plan
from noderuntime.dataflow.identifiers import node_of
from noderuntime.dataflow.model import Dataflow
from noderuntime.dataflow.renaming import renamed_node
from noderuntime.dataflow.replicas import written
from noderuntime.ipc.change_records import Prepared
from noderuntime.ipc.control_records import ApplyRun
from noderuntime.ipc.wiring import Wiring
from noderuntime.runtime.children import Child
from noderuntime.runtime.draining import is_replica_in
from noderuntime.runtime.lifecycle_events import LifecycleState
from noderuntime.runtime.nodes import NodeSupervisor
from noderuntime.runtime.plan import plan, store_nodes


@dataclass(frozen=True, slots=True)
class Switching:
    """`wirings` of all nodes of the new dataflow; the `arguments` of the store's `change_switch`."""

    wirings: dict[str, Wiring]
    arguments: dict[str, Any]


def switching(
    nodes: NodeSupervisor,
    new: Dataflow,
    changes: Plan,
    asked: ApplyRun,
    prepared: Prepared,
    run: str,
    scale: Mapping[str, int],
) -> Switching:
    """The switch to `new`, with a node for each replica. Nodes that are touched get the number of the change as their
    wiring number.
    """
    version = prepared["version"]
    made = plan(new, run, prepared["numbers"])
    children = nodes.under(asked.rename)
    id_of = {child: id for id, child in children.items()}
    before = {id: child.wiring.renamed(asked.rename) for id, child in children.items()}
    wirings = {
        spec.id: _wiring(children.get(spec.id), before.get(spec.id), made[spec.id], asked.discard) for spec in new.nodes
    }
    leaving = {id: child for id, child in children.items() if id not in wirings}
    restarting = set(changes.restarting)
    scaled = set(changes.of(SCALED))
    touched: set[str] = set()
    renewed: list[list[str]] = []
    revived: list[str] = []
    for child in nodes.processes:
        if id_of[child] in leaving:
            continue
        group = [child, *child.others]
        ids = [id_of[member] for member in group]
        begins_anew = not restarting.isdisjoint(map(node_of, ids))
        differs = any(_differs(member, wirings[id]) for id, member in zip(ids, group, strict=True))
        if not begins_anew and not differs:
            continue
        touched.update(ids)  # all of a process, whose first operator has the record that its commits compare
        has_failed = child.machine.state is LifecycleState.FAILED
        if begins_anew or (has_failed and node_of(ids[0]) in scaled):
            revived += ids if has_failed else []
            renewed += [ids] if child.spec.kind == "operator" else []
    for id in touched:
        wirings[id] = replace(wirings[id], version=version)
    for child in nodes.processes:  # in the order of its process, whatever the order of the file is now
        if child.others and id_of[child] not in leaving:
            others = tuple(replace(wirings[id_of[other]], others=()) for other in child.others)
            wirings[id_of[child]] = replace(wirings[id_of[child]], others=others)
    known = [*nodes.dataflow.nodes, *(child.spec for child in leaving.values())]
    specs = [renamed_node(spec, asked.rename) for spec in known]
    left = {spec.id: spec for spec in specs if spec.id not in wirings}
    arguments = {
        "version": version,
        "nodes": store_nodes(new),
        "ports": {id: wirings[id].ports() for id in touched} | {id: before[id].ports() for id in leaving},
        "renewed": renewed,
        "revived": revived,
        "discard": asked.discard,
        "drop": list(asked.drop),
        "dataflow": plain.to_text(written(new)),
        "leaving": plain.to_text(replace(new, folder=nodes.dataflow.folder, nodes=tuple(left.values()))),
        "file": asked.file,
        "fingerprint": new.fingerprint(),
        "rename": dict(asked.rename),
        "scale": scale,
    }
    return Switching(wirings, arguments)


def expect_fences(nodes: NodeSupervisor, new: Dataflow, asked: ApplyRun, made: Switching) -> None:
    """Note which processes the switch fences: they may find it out before the runtime has heard of it."""
    renewed = {ids[0] for ids in made.arguments["renewed"]}
    for id, child in nodes.under(asked.rename).items():
        is_over = id not in made.wirings and (asked.discard or is_replica_in(child, new))
        child.leader.is_replaced |= id in renewed or is_over


def _wiring(child: Child | None, before: Wiring | None, made: Wiring, discard: bool) -> Wiring:
    """The wiring of a node in the new dataflow, with the inputs of `before` that drain."""
    if child is None or before is None:
        return made
    if discard or child.state is LifecycleState.ENDED:
        return replace(made, version=before.version)
    kept = {item.number for item in made.inputs}
    drain = [
        replace(item, leaving=True)
        for item in before.inputs
        if item.number not in kept and not item.period_ns
    ]
    return replace(made, inputs=(*made.inputs, *drain), version=before.version)


def _differs(child: Child, wiring: Wiring) -> bool:
    return child.wiring.ports() != wiring.ports()
