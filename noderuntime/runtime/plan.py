"""Dataflow + the numbers that the store gave to its parts -> what each child has to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from noderuntime.dataflow.identifiers import node_of, replica_id
from noderuntime.dataflow.model import Dataflow, InputSpec, NodeSpec
from noderuntime.dataflow.processes import processes_of
from noderuntime.ipc.change_records import Numbers, StoreNode
from noderuntime.ipc.wiring import NANOSECONDS, InputWiring, OutputWiring, ReceiverWiring, Wiring

TIMER_SENDER = -1
NEW_NODE = 65535  # the number on trial of a node that is not in the space yet: no node has it


def store_nodes(dataflow: Dataflow) -> list[StoreNode]:
    """The nodes in the form that the store's `open` takes. A timer's source node is ""."""
    found: list[StoreNode] = []
    for node in dataflow.nodes:
        inputs = [(spec.name, "" if spec.is_timer else spec.source) for spec in node.inputs]
        found.append({"id": node.id, "inputs": inputs, "outputs": list(node.outputs)})
        if node.partition_by:
            found[-1]["partition"] = node.partition_by
    return found


def wiring_kind(node: NodeSpec) -> str:
    """Only the runtime, which does not spawn it, treats a dynamic node unlike other custom nodes."""
    return "operator" if node.kind == "operator" else "node"


def plan(dataflow: Dataflow, run: str, numbers: Mapping[str, Numbers]) -> dict[str, Wiring]:
    """The wiring of every node. That of the first operator of a process has those of the others.

    `numbers` is what the store's `open` answers, {id: {number, inputs: {name: n}, outputs: {name: n}}}.
    It may hold more than this dataflow: the space remembers nodes of earlier versions of the file.
    """
    receivers: dict[tuple[str, str], list[tuple[NodeSpec, InputSpec]]] = {}
    for node in dataflow.nodes:
        for spec in node.inputs:
            if not spec.is_timer:
                receivers.setdefault((spec.node, spec.output), []).append((node, spec))
    made = {node.id: _wiring(dataflow, run, node, numbers, receivers) for node in dataflow.nodes}
    for members in processes_of(dataflow.nodes).values():
        first, *others = (node.id for node in members)
        made[first] = replace(made[first], others=tuple(made[id] for id in others))
    return made


def trial_wiring(dataflow: Dataflow, run: str, node: NodeSpec, number: int) -> Wiring:
    """The wiring of an operator on trial: nothing is sent, so its outputs have no receivers. `number`: that of the node
    whose state it gets, or NEW_NODE.
    """
    numbers: Numbers = {
        "number": number,
        "inputs": {spec.name: at for at, spec in enumerate(node.inputs)},
        "outputs": {output: at for at, output in enumerate(node.outputs)},
    }
    senders: dict[str, Numbers] = {
        id: {"number": TIMER_SENDER, "inputs": {}, "outputs": {}} for spec in node.inputs for id in spec.senders
    }
    return _wiring(dataflow, run, node, {**senders, node.id: numbers}, {})


def _wiring(
    dataflow: Dataflow,
    run: str,
    node: NodeSpec,
    numbers: Mapping[str, Numbers],
    receivers: Mapping[tuple[str, str], list[tuple[NodeSpec, InputSpec]]],
) -> Wiring:
    mine = numbers[node.id]
    replicas = _numbers_of(node, numbers)
    outputs = []
    for output in node.outputs:
        fed = receivers.get((node_of(node.id), output), [])
        outputs.append(
            OutputWiring(
                output,
                mine["outputs"][output],
                tuple(
                    ReceiverWiring(
                        node=numbers[receiver.id]["number"],
                        input=numbers[receiver.id]["inputs"][spec.name],
                        queue_size=spec.queue_size,
                        queue_bytes=spec.queue_bytes,
                        drop_oldest=spec.drop_oldest,
                        messages_min=spec.queue_messages_min,
                        spares=spec.drop_oldest and receiver.with_failures,
                        group=f"{numbers[node_of(receiver.id)]['number']}/{spec.name}" if receiver.replicas > 1 else "",
                        partition=receiver.partition_by,
                    )
                    for receiver, spec in fed
                ),
            )
        )
    code = {}
    if node.kind == "operator":
        path = str(PurePosixPath(dataflow.folder, node.code.path)) if node.code.path else ""
        code = {"path": path, "module": node.code.module, "name": node.code.name}
        if node.code.adapter:
            code["adapter"] = node.code.adapter
    return Wiring(
        run=run,
        node=node.id,
        number=mine["number"],
        kind=wiring_kind(node),
        inputs=tuple(
            InputWiring(
                name=spec.name,
                number=mine["inputs"][spec.name],
                source=spec.source,
                sender=TIMER_SENDER if spec.is_timer else numbers[spec.node]["number"],
                replicas=tuple(numbers[id]["number"] for id in spec.senders) if spec.replicas > 1 else (),
                queue_size=spec.queue_size,
                queue_bytes=spec.queue_bytes,
                drop_oldest=spec.drop_oldest,
                messages_min=spec.queue_messages_min,
                period_ns=spec.period_ns,
                timeout_ns=round((spec.input_timeout_s or 0.0) * NANOSECONDS),
                counts=spec.counts,
            )
            for spec in node.inputs
        ),
        outputs=tuple(outputs),
        config=dict(node.config),
        code=code,
        endless=node.endless,
        with_failures=node.with_failures,
        replica=node.replica,
        replicas=replicas,
        partition=node.partition_by,
    )


def _numbers_of(node: NodeSpec, numbers: Mapping[str, Numbers]) -> tuple[int, ...]:
    """The numbers of all replicas of a node; none if it is the only one."""
    if node.replicas == 1:
        return ()
    of_file = node_of(node.id)
    there = numbers[node.id]  # alone on trial
    return tuple(numbers.get(replica_id(of_file, replica), there)["number"] for replica in range(node.replicas))
