"""The life of nodes in the space: registering them, claiming a new incarnation, ending them. The store's side.

Each function works inside a write transaction of the caller, so that its effect and the record of the request commit
together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from noderuntime.errors import StoreError
from noderuntime.space import keys, records
from noderuntime.space.ending import Links, close, tell
from noderuntime.space.environment import Space, scan
from noderuntime.space.mailbox import queue_of
from noderuntime.space.records import (
    BYTES,
    CLOSED,
    CUT_OFF,
    DISCARDED,
    DROPPED,
    FLAGS,
    QUEUE,
    QUEUED,
    SOURCE_ENDED,
    SOURCE_FAILED,
    TAKEN,
)


@dataclass(frozen=True, slots=True)
class Vertex:
    """One node as the space knows it. `inputs`: name -> (number, source "node/output", "" for a timer)."""

    id: str
    number: int
    inputs: dict[str, tuple[int, str]]
    outputs: dict[str, int]


Graph = dict[str, Vertex]


def register(txn: Any, wanted: list[dict[str, Any]]) -> Graph:
    """Give numbers to nodes, inputs and outputs, keep them, and make the node records.

    What had a number keeps it, so that a changed dataflow finds again what still matches.
    """
    # Every number ever given: one that is not used now must not be given to anything else, whose state or messages
    # would then be those of a stranger. An input that is fed by another output is another input.
    packed = txn.get(keys.fact("numbers"))
    given: dict[str, tuple[int, dict[str, int], dict[str, int]]] = msgpack.unpackb(packed) if packed else {}
    graph: Graph = {}
    for item in wanted:
        number, inputs, outputs = given.setdefault(item["id"], (len(given), {}, {}))
        if number >= keys.NODES_MAX:
            raise StoreError(f"a space holds at most {keys.NODES_MAX} nodes")
        graph[item["id"]] = Vertex(
            item["id"],
            number,
            {name: (inputs.setdefault(f"{name} {source}", len(inputs)), source) for name, source in item["inputs"]},
            {name: outputs.setdefault(name, len(outputs)) for name in item["outputs"]},
        )
        if txn.get(keys.node(number)) is None:
            txn.put(keys.node(number), records.NodeRecord(0, records.LIVE, 0, []).pack())
    plain = [[v.id, v.number, {n: list(i) for n, i in v.inputs.items()}, v.outputs] for v in graph.values()]
    txn.put(keys.fact("graph"), msgpack.packb(plain))
    txn.put(keys.fact("numbers"), msgpack.packb(given))
    return graph


def load(txn: Any) -> Graph:
    """The graph as it was registered last; empty in a new space."""
    packed = txn.get(keys.fact("graph"))
    return {
        id: Vertex(id, number, {name: (item[0], item[1]) for name, item in inputs.items()}, outputs)
        for id, number, inputs, outputs in (msgpack.unpackb(packed) if packed else [])
    }


def status(txn: Any, vertex: Vertex) -> int:
    """records.LIVE, ENDED or FAILED."""
    return records.NodeRecord.parse(txn.get(keys.node(vertex.number))).status


def links(graph: Graph, vertex: Vertex) -> Links:
    """The mailboxes around a node."""
    numbers = {item.id: item.number for item in graph.values()}
    receivers = [
        (other.number, keys.mailbox(other.number, number), keys.queue(other.number, number))
        for other in graph.values()
        for number, source in other.inputs.values()
        if source.rpartition("/")[0] == vertex.id
    ]
    inputs = [
        (
            numbers.get(source.rpartition("/")[0], -1),
            keys.mailbox(vertex.number, number),
            keys.queue(vertex.number, number),
        )
        for number, source in vertex.inputs.values()
    ]
    return Links(vertex.id, receivers, inputs)


def claim(
    txn: Any,
    space: Space,
    graph: Graph,
    vertex: Vertex,
    *,
    cause: str,
    counts: bool,
    hands: list[tuple[int, int, int]],
    attempts_max: int,
    trace: str,
) -> dict[str, Any]:
    """Begin a new life: {"incarnation", "attempts", "buried"}, or {"ended": True, "stop_all": bool} when it has ended.

    Raises the number, which fences the old process; counts the attempt on each message that the old life had in hand
    (`counts`: as a failure too), and moves one that has failed `attempts_max` times (0: never) to the dead letters;
    tells the receivers when there is a `cause`.
    """
    record = records.NodeRecord.parse(txn.get(keys.node(vertex.number)))
    if record.status != records.LIVE:
        return {"ended": True, "stop_all": txn.get(keys.STOP_ALL) == vertex.id.encode()}
    record.incarnation += 1
    txn.put(keys.node(vertex.number), record.pack())
    sequence = space.base + txn.id()
    now_ns = space.now_ns()
    buried: list[str] = []
    for input, at, index in hands:
        key = keys.message(vertex.number, input, at, index)
        message = txn.get(key)
        if message is None or message[0] >= records.NOTICE_MIN:
            continue
        found = txn.get(keys.attempts(key))
        lives, failures = records.ATTEMPTS.unpack(found) if found else (0, 0)
        lives, failures = lives + 1, failures + counts
        if counts and 0 < attempts_max <= failures:
            buried.append(_bury(txn, vertex, key, message, lives, cause, trace, now_ns))
        else:
            txn.put(keys.attempts(key), records.ATTEMPTS.pack(lives, failures))
    if cause:
        tell(txn, links(graph, vertex), records.NODE_RESTARTED, cause, sequence, now_ns)
    attempts = []
    for key, value in list(scan(txn, keys.attempts_prefix(vertex.number))):
        place = keys.parse_message(key)
        if txn.get(keys.message(*place)) is None:  # dropped since
            txn.delete(key)
        else:
            attempts.append([*place[1:], records.ATTEMPTS.unpack(value)[0]])
    return {"incarnation": record.incarnation, "attempts": attempts, "buried": ", ".join(buried)}


def _bury(
    txn: Any, vertex: Vertex, key: bytes, message: bytes, lives: int, error: str, trace: str, now_ns: int
) -> str:
    _, input, sequence, index = keys.parse_message(key)
    name = next((name for name, (number, _) in vertex.inputs.items() if number == input), str(input))
    number = records.MESSAGE.unpack_from(message)[4]
    uid = f"{vertex.inputs[name][1] if name in vertex.inputs else name}#{number}"
    letter = {
        "input": name, "uid": uid, "message": message, "error": error, "trace": trace, "attempts": lives,
        "buried_ns": now_ns,
    }  # fmt: skip
    txn.put(keys.dead(vertex.number, sequence, index), msgpack.packb(letter))
    txn.delete(key)
    txn.delete(keys.attempts(key))
    queue_key = keys.queue(vertex.number, input)
    queue = queue_of(txn, queue_key)
    queue[QUEUED] -= 1
    queue[BYTES] -= records.message_bytes(message)
    txn.put(queue_key, QUEUE.pack(*queue))
    return uid


def end(txn: Any, space: Space, graph: Graph, vertex: Vertex, *, failed: str | None) -> None:
    """End a node that did not do it itself: fence it, close its outputs, and unless it failed its mailbox."""
    record = records.NodeRecord.parse(txn.get(keys.node(vertex.number)))
    if record.status != records.LIVE:
        return
    record.status = records.ENDED if failed is None else records.FAILED
    record.incarnation += 1
    txn.put(keys.node(vertex.number), record.pack())
    queues: dict[bytes, list[int]] = {}
    close(txn, links(graph, vertex), queues, set(), space.base + txn.id(), 0, space.now_ns(), failed)
    for queue_key, queue in queues.items():
        txn.put(queue_key, QUEUE.pack(*queue))


def revive(txn: Any, graph: Graph, vertex: Vertex) -> None:
    """Make a node that had failed, or a dynamic one that had ended, live again while the run goes on; its next claim
    tells its receivers. Twice is once.

    Receivers keep the notices of its end: they are in order before the NODE_RESTARTED of that claim. Receivers that
    have ended meanwhile stay so.
    """
    record = records.NodeRecord.parse(txn.get(keys.node(vertex.number)))
    if record.status == records.LIVE:
        return
    ended = record.status == records.ENDED
    record.status = records.LIVE
    txn.put(keys.node(vertex.number), record.pack())
    around = links(graph, vertex)
    for _, _, queue_key in around.receivers:
        _clear_flags(txn, queue_key, SOURCE_ENDED | SOURCE_FAILED)
    if ended:
        for _, _, queue_key in around.inputs:
            _clear_flags(txn, queue_key, CLOSED)
        return
    if not any(status(txn, other) == records.FAILED for other in graph.values()):
        for other in graph.values():  # who ended meanwhile has ended
            for number, _ in other.inputs.values():
                _clear_flags(txn, keys.queue(other.number, number), CUT_OFF)


def reopen(txn: Any, graph: Graph) -> None:
    """Make the nodes that had failed, or were cut off by a failed one, live again: what `--resume` begins with.

    What their receivers have not yet taken of it (NODE_FAILED, INPUT_CLOSED) is taken back.
    """
    cut_off = []
    for vertex in graph.values():
        around = links(graph, vertex)
        record = records.NodeRecord.parse(txn.get(keys.node(vertex.number)))
        flags = [queue_of(txn, queue_key)[FLAGS] for _, _, queue_key in around.inputs]
        ended = record.status == records.ENDED
        if record.status == records.FAILED or (ended and any(item & (SOURCE_FAILED | CUT_OFF) for item in flags)):
            record.status = records.LIVE
            txn.put(keys.node(vertex.number), record.pack())
            cut_off.append(around)
    for around in cut_off:
        for _, _, queue_key in around.inputs:
            _clear_flags(txn, queue_key, CLOSED)
        for _, mailbox, queue_key in around.receivers:
            _clear_flags(txn, queue_key, SOURCE_ENDED | SOURCE_FAILED | CUT_OFF)
            for key, message in list(scan(txn, mailbox)):
                if message[0] in (records.NODE_FAILED, records.INPUT_CLOSED):
                    txn.delete(key)


def reopen_ended(txn: Any, graph: Graph, first: Vertex) -> None:
    """Make a node that has ended, and what ended behind it, live again, so that it can take a message once more.

    For a run that does not run. Inputs whose senders stay ended are closed as before: each of these nodes ends again
    when it has handled what comes now.
    """
    by_number = {vertex.number: vertex for vertex in graph.values()}
    open_numbers, seen = [first.number], {first.number}
    while open_numbers:
        vertex = by_number[open_numbers.pop()]
        record = records.NodeRecord.parse(txn.get(keys.node(vertex.number)))
        if record.status != records.ENDED:
            continue
        record.status = records.LIVE
        txn.put(keys.node(vertex.number), record.pack())
        around = links(graph, vertex)
        for _, _, queue_key in around.inputs:
            _clear_flags(txn, queue_key, CLOSED)
        for number, mailbox, queue_key in around.receivers:
            _clear_flags(txn, queue_key, SOURCE_ENDED)
            for key, message in list(scan(txn, mailbox)):
                if message[0] == records.INPUT_CLOSED:
                    txn.delete(key)
            if number not in seen:
                seen.add(number)
                open_numbers.append(number)


def _clear_flags(txn: Any, queue_key: bytes, flags: int) -> None:
    queue = queue_of(txn, queue_key)
    if queue[FLAGS] & flags:
        queue[FLAGS] &= ~flags
        txn.put(queue_key, QUEUE.pack(*queue))


def private_state(txn: Any, vertex: Vertex) -> dict[str, bytes]:
    """The committed private state of a node."""
    prefix = keys.private_prefix(vertex.number)
    return {key[len(prefix) :].decode(): value[records.PRIVATE_BYTES :] for key, value in scan(txn, prefix)}


def queues(txn: Any, graph: Graph) -> dict[str, dict[str, list[int]]]:
    """What waits at one moment: {id: {input: [messages, their bytes, 1 if anything waits, notices included]}}."""
    found: dict[str, dict[str, list[int]]] = {}
    cursor = txn.cursor()
    for vertex in graph.values():
        inputs = found[vertex.id] = {}
        for name, (number, source) in vertex.inputs.items():
            if source:
                queue = queue_of(txn, keys.queue(vertex.number, number))
                mailbox = keys.mailbox(vertex.number, number)
                waits = cursor.set_range(mailbox) and cursor.key().startswith(mailbox)
                inputs[name] = [queue[QUEUED], queue[BYTES], int(waits)]
    return found


def figures(txn: Any, graph: Graph) -> dict[str, Any]:
    """What each node has queued, dropped, taken and sent: {id: {"status", "incarnation", "inputs", "outputs"}}."""
    found: dict[str, Any] = {}
    for vertex in graph.values():
        record = records.NodeRecord.parse(txn.get(keys.node(vertex.number)))
        inputs = {}
        for name, (number, _) in vertex.inputs.items():
            queue = queue_of(txn, keys.queue(vertex.number, number))
            inputs[name] = {
                "queued": queue[QUEUED],
                "bytes": queue[BYTES],
                "taken": queue[TAKEN],
                "dropped": queue[DROPPED],
                "discarded": queue[DISCARDED],
            }
        cells = record.cells
        outputs = {}
        for name, number in vertex.outputs.items():
            cell = records.output_cell(number)
            outputs[name] = cells[cell] if cell < len(cells) else 0
        found[vertex.id] = {
            "status": records.STATUSES[record.status],
            "incarnation": record.incarnation,
            "inputs": inputs,
            "outputs": outputs,
        }
    return found
