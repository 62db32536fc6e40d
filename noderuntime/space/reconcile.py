"""A kept space meets a changed dataflow: what still matches stays, and everything else is removed by name.

A node matches by id and kind, an input by its name and source, an output by its name. What was kept for others (private
state, queued messages, dead letters) would otherwise be found again by whoever gets their numbers later.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack

from noderuntime.space import claims, keys, records
from noderuntime.space.claims import Graph, Vertex
from noderuntime.space.mailbox import queue_of
from noderuntime.space.records import FLAGS, QUEUE, SOURCE_ENDED
from noderuntime.space.segments import adjust
from noderuntime.space.space import scan


def reconcile(txn: Any, wanted: list[dict[str, Any]]) -> list[str]:
    """Remove what no longer matches, before `claims.register`; returns a text for each dropped state."""
    known = claims.load(txn)
    if not known:
        return []
    new = {item["id"]: item for item in wanted}
    dropped: list[str] = []
    kept: Graph = {}
    for vertex in known.values():
        item = new.get(vertex.id)
        if item is None:
            dropped += _drop_node(txn, vertex)
            continue
        sources = dict(item["inputs"])
        inputs = {}
        for name, (number, source) in vertex.inputs.items():
            if sources.get(name) == source:
                inputs[name] = (number, source)
            else:
                dropped += _drop_input(txn, vertex, name, number)
        outputs = {name: number for name, number in vertex.outputs.items() if name in item["outputs"]}
        _forget_outputs(txn, vertex, outputs)
        kept[vertex.id] = replace(vertex, inputs=inputs, outputs=outputs)
    plain = [[v.id, v.number, {n: list(i) for n, i in v.inputs.items()}, v.outputs] for v in kept.values()]
    txn.put(keys.fact("graph"), msgpack.packb(plain))
    return dropped


def adapt(txn: Any, old: Graph, graph: Graph) -> None:
    """After `claims.register`: close the new inputs of senders that have ended."""
    for vertex in graph.values():
        before = old.get(vertex.id)
        for name, (number, source) in vertex.inputs.items():
            sender = graph.get(source.rpartition("/")[0]) if source else None
            is_new = before is None or before.inputs.get(name) != (number, source)
            if sender is None or not is_new:
                continue
            if claims.status(txn, sender) != records.LIVE:  # it will never send again
                queue = queue_of(txn, keys.queue(vertex.number, number))
                queue[FLAGS] |= SOURCE_ENDED
                txn.put(keys.queue(vertex.number, number), QUEUE.pack(*queue))


def _forget_outputs(txn: Any, vertex: Vertex, kept: dict[str, int]) -> None:
    record = records.NodeRecord.parse(txn.get(keys.node(vertex.number)))
    for name, number in vertex.outputs.items():
        cell = records.output_cell(number)
        if name not in kept and cell < len(record.cells):
            record.cells[cell] = 0
    txn.put(keys.node(vertex.number), record.pack())


def _drop_node(txn: Any, vertex: Vertex) -> list[str]:
    what = []
    private = _delete(txn, keys.private_prefix(vertex.number))
    if private:
        what.append(f"{private} keys of private state")
    queued = 0
    for number, _ in vertex.inputs.values():
        queued += _empty(txn, keys.mailbox(vertex.number, number))
        txn.delete(keys.queue(vertex.number, number))
    if queued:
        what.append(f"{queued} queued messages")
    letters = _delete(txn, keys.dead_prefix(vertex.number))
    if letters:
        what.append(f"{letters} dead letters")
    _delete(txn, keys.attempts_prefix(vertex.number))
    txn.delete(keys.node(vertex.number))
    return [f"node {vertex.id!r} is no longer in the dataflow: dropped {', '.join(what) or 'its counters'}"]


def _drop_input(txn: Any, vertex: Vertex, name: str, number: int) -> list[str]:
    queued = _empty(txn, keys.mailbox(vertex.number, number))
    attempts = keys.attempts(keys.mailbox(vertex.number, number))
    _delete(txn, attempts)
    txn.delete(keys.queue(vertex.number, number))
    record = records.NodeRecord.parse(txn.get(keys.node(vertex.number)))
    cell = records.input_cell(number)
    for at in range(cell, min(cell + 2, len(record.cells))):
        record.cells[at] = 0
    txn.put(keys.node(vertex.number), record.pack())
    text = f"input {name!r} of node {vertex.id!r} is gone or has another source"
    return [f"{text}: dropped {queued} queued messages" if queued else f"{text}: nothing was queued"]


def _delete(txn: Any, prefix: bytes) -> int:
    found = [key for key, _ in scan(txn, prefix)]
    for key in found:
        txn.delete(key)
    return len(found)


def _empty(txn: Any, mailbox: bytes) -> int:
    found = list(scan(txn, mailbox))
    for key, record in found:
        if record[1]:
            adjust(txn, records.reference_of(record), -1)
        txn.delete(key)
    return sum(record[0] < records.NOTICE_MIN for _, record in found)
