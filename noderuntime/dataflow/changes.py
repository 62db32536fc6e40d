"""What has to be done to a run so that it becomes what a dataflow file says now. Pure.

`compare(old, new)` gives a `Plan`: each node that is not the same in both, and how. A node matches by its id, an input
by its name and source, an output by its name. Both have nodes as the file has them, not a node for each replica.

    added      it is only in the new one
    removed    it is only in the old one
    changed    what its process is made of differs: code, config, env, process, how it is started; or its policies: for
               restarts, failures and time limits. It gets a new life
    scaled     it has another number of replicas or another `partition_by`, and perhaps other inputs, outputs or queues.
               Replicas in both keep their process
    rewired    only its inputs, outputs or queues differ. It keeps its process
    renamed    it has another id. It is the same node, whatever else of it differs, and gets a new life under that id

Operators that share a process begin a new life together, when one of them is changed. A node that gets messages of one
that is renamed is rewired: its input has another source by name.

Others keep their process and are not in the plan; but a node whose output gets another receiver is rewired as well,
which `details` says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from noderuntime.dataflow.model import Dataflow, InputSpec, NodeSpec
from noderuntime.dataflow.renaming import renamed

Change = Literal["added", "removed", "changed", "scaled", "rewired", "renamed"]
ADDED: Final = "added"
REMOVED: Final = "removed"
CHANGED: Final = "changed"
SCALED: Final = "scaled"
REWIRED: Final = "rewired"
RENAMED: Final = "renamed"

_OF_THE_PROCESS = {  # a new life is needed when one of these changes: as they are called in the file
    "kind": "kind", "code": "code", "env": "env", "config": "config", "spawn": "spawn", "process": "process",
}  # fmt: skip
_POLICIES = {
    "restart_policy": "restart_policy", "max_restarts": "max_restarts", "restart_window": "restart_window_s",
    "restart_delay": "restart_delay_s", "max_restart_delay": "max_restart_delay_s", "max_attempts": "max_attempts",
    "start_timeout": "start_timeout_s", "health_check_timeout": "health_check_timeout_s",
}  # fmt: skip
_QUEUES = {
    "queue_size": "queue_size", "queue_bytes": "queue_bytes", "queue_policy": "queue_policy",
    "input_timeout": "input_timeout_s", "period": "period_ns",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class NodeChange:
    """What becomes of one node. `details`: what of it differs, in words. `restarts`: it begins a new life, of replicas
    each that stays. `replicas`: how many more it has (fewer: below 0).
    """

    node: str
    change: Change
    details: tuple[str, ...] = ()
    restarts: bool = False
    replicas: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """All changes, in the order of the new file, those that are removed last. `refusal`: why it cannot be done while
    the run goes on; "" when it can.
    """

    changes: tuple[NodeChange, ...] = ()
    refusal: str = ""

    def of(self, *kinds: Change) -> list[str]:
        """The nodes that are changed in one of these ways."""
        return [item.node for item in self.changes if item.change in kinds]

    @property
    def restarting(self) -> list[str]:
        """The nodes in both that begin a new life."""
        return [item.node for item in self.changes if item.restarts]

    @property
    def growing(self) -> list[str]:
        """The nodes in both that get more replicas."""
        return [item.node for item in self.changes if item.replicas > 0]


def compare(
    old: Dataflow,
    new: Dataflow,
    names: Mapping[str, str] = MappingProxyType({}),
    by_scale: Collection[str] = (),
) -> Plan:
    """The plan that makes `new` of `old`. `names`: nodes that are renamed (old -> new); `by_scale`: nodes of `old`
    whose number of replicas was set by `scale`.
    """
    known, old = old, renamed(old, names)
    written = {node.id: was for node, was in zip(old.nodes, known.nodes, strict=True)}
    before = {node.id: node for node in old.nodes}
    after = {node.id: node for node in new.nodes}
    found: dict[str, NodeChange] = {}
    for id, node in after.items():
        if id not in before:
            found[id] = NodeChange(id, ADDED, (_about(node),))
            continue
        was = before[id]
        process = _differences(was, node, _OF_THE_PROCESS)
        if old.folder != new.folder and node.kind != "dynamic":
            process.append(f"folder {new.folder}")
        process += _differences(was, node, _POLICIES)
        replicas = _replicas(was, node, written[id].id in by_scale)
        wiring = [
            *_named_otherwise(written[id], was, node), *_ports(was, node), *_receivers(old, new, id),
        ]  # fmt: skip
        details = (*process, *replicas, *wiring)
        change: Change = CHANGED if process else SCALED if replicas else REWIRED
        if id in names.values():
            change, details = RENAMED, (f"was {written[id].id}", *details)
        restarts = change in (CHANGED, RENAMED) and node.kind != "dynamic"
        if details:
            found[id] = NodeChange(id, change, details, restarts, node.replicas - was.replicas)
    found = _together(new, found)
    removed = [NodeChange(id, REMOVED) for id in before if id not in after]
    return Plan((*found.values(), *removed), _refusal(old, new, [*found.values(), *removed]))


def would_lose(losses: Mapping[str, str]) -> str:
    """What a removal of these nodes would lose, in words. `losses`: what of each, as for `gives_up`."""
    return "; ".join(f"node {id!r} is not in the new dataflow: {what} would be lost" for id, what in losses.items())


def gives_up(losses: Mapping[str, str]) -> str:
    """The options of `apply` that give up what nodes would lose, in words by node; "" when none would lose anything."""
    drops = [f"--drop {id}" for id, what in losses.items() if "private state" in what or "dead letters" in what]
    queued = any("queued messages" in what for what in losses.values())
    return " ".join([*drops, *(["--discard"] if queued else [])])


def _about(node: NodeSpec) -> str:
    kind = {"operator": "operator", "node": "custom node", "dynamic": "dynamic node"}[node.kind]
    return kind if node.kind == "dynamic" else f"{kind} {node.code}"


def _differences(was: object, now: object, names: Mapping[str, str]) -> list[str]:
    return [name for name, attribute in names.items() if getattr(was, attribute) != getattr(now, attribute)]


def _replicas(was: NodeSpec, now: NodeSpec, by_scale: bool) -> list[str]:
    rules = f", as in the file ({was.replicas} was set by `scale`)" if by_scale else ""
    found = [f"replicas {was.replicas} -> {now.replicas}{rules}"] if was.replicas != now.replicas else []
    if was.partition_by != now.partition_by:
        found.append(f"partition_by {was.partition_by or 'none'} -> {now.partition_by or 'none'}")
    return found


def _ports(was: NodeSpec, now: NodeSpec) -> list[str]:
    """What differs in the inputs and outputs of a node, in words."""
    found = []
    before = {spec.name: spec for spec in was.inputs}
    after = {spec.name: spec for spec in now.inputs}
    for name, spec in after.items():
        other = before.get(name)
        if other is None:
            found.append(f"+ input {name}: {spec.source}")
        elif other.source != spec.source:
            found.append(f"input {name}: {other.source} -> {spec.source}")
        else:
            found += _queue(name, other, spec)
    found += [f"- input {name}" for name in before if name not in after]
    found += [f"+ output {name}" for name in now.outputs if name not in was.outputs]
    found += [f"- output {name}" for name in was.outputs if name not in now.outputs]
    return found


def _named_otherwise(written: NodeSpec, was: NodeSpec, now: NodeSpec) -> list[str]:
    """The inputs that come from the same output as before, of a node that has another id."""
    sources = {spec.name: (before.source, spec.source) for before, spec in zip(written.inputs, was.inputs, strict=True)}
    return [
        f"input {spec.name}: {sources[spec.name][0]} -> {spec.source}"
        for spec in now.inputs
        if spec.name in sources and sources[spec.name][0] != spec.source == sources[spec.name][1]
    ]


def _queue(name: str, was: InputSpec, now: InputSpec) -> list[str]:
    differs = _differences(was, now, _QUEUES)
    return [f"input {name}: {', '.join(differs)}"] if differs else []


def _receivers(old: Dataflow, new: Dataflow, id: str) -> list[str]:
    """Which receivers the outputs of a node win and lose, and whose queues change."""
    found = []
    was, now = _fed_by(old, id), _fed_by(new, id)
    found += [f"{output} also to {to}" for output, to in now if (output, to) not in was]
    found += [f"{output} no longer to {to}" for output, to in was if (output, to) not in now]
    found += [
        f"queue of {to}"
        for (output, to), spec in now.items()
        if (other := was.get((output, to))) is not None and _differences(other, spec, _QUEUES)
    ]
    return found


def _fed_by(dataflow: Dataflow, id: str) -> dict[tuple[str, str], InputSpec]:
    return {
        (spec.output, f"{node.id}/{spec.name}"): spec
        for node in dataflow.nodes
        for spec in node.inputs
        if spec.node == id
    }


def _together(new: Dataflow, found: dict[str, NodeChange]) -> dict[str, NodeChange]:
    """Operators that share a process with one that is changed begin a new life with it."""
    renewed = {new.node(id).process for id, item in found.items() if item.restarts} - {""}
    made: dict[str, NodeChange] = {}
    for node in new.nodes:
        item = found.get(node.id)
        if node.process in renewed and (item is None or item.change != ADDED):
            rest = item or NodeChange(node.id, REWIRED, (f"shares the process {node.process}",))
            made[node.id] = NodeChange(node.id, rest.change, rest.details, restarts=True)
        elif item is not None:
            made[node.id] = item
    return made


def _refusal(old: Dataflow, new: Dataflow, changes: list[NodeChange]) -> str:
    """Why the run has to be stopped for this; "" when it need not."""
    again = "Stop the run, and continue it with `run FILE --resume`"
    for name, was, now in (("state", old.state, new.state), ("snapshots", old.snapshots, new.snapshots)):
        if was != now:
            return f"the section `{name}:` of the file has changed, which a run takes up at its start only. {again}"
    if old.folder != new.folder and new.state.kind not in ("memory", "redis"):  # its path is relative to the folder
        return f"the file lies in another folder, and with it what `state: kind: {new.state.kind}` names. {again}"
    before = {node.id: node for node in old.nodes}
    after = {node.id: node for node in new.nodes}
    for id in before.keys() & after.keys():
        was_kind, kind = before[id].kind, after[id].kind
        if was_kind != kind:
            names = {"operator": "an operator", "node": "a custom node", "dynamic": "a dynamic node"}
            return (
                f"node {id!r} was {names[was_kind]}, and is {names[kind]} in the file. Give it another id: then "
                "it is another node"
            )
    for process in {node.process for node in (*old.nodes, *new.nodes)} - {""}:
        members = [{node.id for node in dataflow.nodes if node.process == process} for dataflow in (old, new)]
        if all(members) and members[0] != members[1]:
            differing = ", ".join(sorted(members[0] ^ members[1]))
            return f"the process {process!r} gets or loses operators ({differing}). {again}"
    for item in changes:
        if item.change in (REMOVED, ADDED):
            continue
        feeds = {(spec.name, spec.source) for spec in after[item.node].inputs}
        fed = [spec for spec in before[item.node].inputs if not spec.is_timer]
        gone = [spec.name for spec in fed if (spec.name, spec.source) not in feeds]
        if gone and _replicas(before[item.node], after[item.node], False):
            return (
                f"node {item.node!r} gets other replicas and loses the input {gone[0]!r}, whose messages stay with the "
                "replicas of now until they are handled. Do one after the other"
            )
    moved = [id for id in before.keys() & after.keys() if before[id].process != after[id].process]
    if moved:
        they = "they run" if len(moved) > 1 else "it runs"
        return f"{', '.join(sorted(moved))} would change the process that {they} in. {again}"
    return ""
