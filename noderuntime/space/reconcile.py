"""Adapts a kept space to a changed dataflow: what still matches stays, and everything else is removed.

A node matches by its id, an input by its name and source, an output by its name. What was kept for others (private
state, queued messages, dead letters) is removed, because a node that gets their numbers later would find it.

A dataflow without a node that has something to lose is refused, unless the user gave that node up by name
(`refuse_losses`). A node that has another id now takes its belongings along (`rename`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from noderuntime.dataflow.identifiers import HELPER, node_of
from noderuntime.errors import ResumeRefused
from noderuntime.space import keys, lives, private, records, renaming
from noderuntime.space.changes import drop_input, in_words, remove_node
from noderuntime.space.environment import scan
from noderuntime.space.lives import NodeEntry, Registry
from noderuntime.space.mailbox import messages, queue_of, remove_notices
from noderuntime.space.records import FLAGS, SOURCE_ENDED
from noderuntime.space.transactions import ReadTxn, WriteTxn


def reconcile(txn: WriteTxn, wanted: list[dict[str, Any]]) -> list[str]:
    """Remove what no longer matches, before `lives.register`; returns a text for each dropped state."""
    known = lives.load(txn)
    if not known:
        return []
    new = {item["id"]: item for item in wanted}
    dropped: list[str] = []
    kept: Registry = {}
    for node_entry in known.values():
        item = new.get(node_entry.id) or new.get(node_of(node_entry.id))
        if item is None:
            dropped += _drop_node(txn, node_entry)
            continue
        sources = dict(item["inputs"])
        inputs = {}
        for name, (number, source) in node_entry.inputs.items():
            if sources.get(name) == source:
                inputs[name] = (number, source)
            else:
                dropped += _drop_input(txn, node_entry, name, number)
        for number, source in node_entry.leaving.items():
            dropped += _drop_input(txn, node_entry, source, number)
        outputs = {name: number for name, number in node_entry.outputs.items() if name in item["outputs"]}
        _forget_wiring(txn, node_entry)
        if node_entry.leaves:
            _stay(txn, known, node_entry, inputs)
        if node_entry.id in new:  # else it is one replica too many of a node that stays: see rescale.py
            kept[node_entry.id] = replace(node_entry, inputs=inputs, outputs=outputs, leaving={}, leaves=False)
    lives.put_registry(txn, kept.values())
    return dropped


def rename(txn: WriteTxn, wanted: list[dict[str, Any]], names: Mapping[str, str]) -> None:
    """Give nodes the ids that they have in the dataflow file now (old -> new). Raises ResumeRefused."""
    known = lives.load(txn)
    ids = {item["id"] for item in wanted}
    for old, new in names.items():
        if old not in known:
            raise ResumeRefused(f"--rename {old}={new}: the run had no node {old!r}", f"It had: {_named(known)}.")
        if old in ids:
            raise ResumeRefused(f"--rename {old}={new}: {old!r} is still in the dataflow file", "Leave --rename out.")
        if new not in ids:
            raise ResumeRefused(f"--rename {old}={new}: the dataflow file has no node {new!r}", "Write its id of now.")
        if new in known or list(names.values()).count(new) > 1:
            raise ResumeRefused(f"--rename {old}={new}: there is a node {new!r} already", "Choose another id.")
    why = renaming.used_before(txn, names)
    if why:
        raise ResumeRefused(why, "Choose another id.")
    renaming.rename(txn, names)


def refuse_losses(txn: ReadTxn, wanted: list[dict[str, Any]], drop: Collection[str]) -> None:
    """Raise ResumeRefused if a node that is not in `drop` would lose something."""
    known = lives.load(txn)
    ids = {item["id"] for item in wanted}
    for id in drop:
        if id in ids:
            raise ResumeRefused(f"--drop {id}: {id!r} is still in the dataflow file", "Leave --drop out.")
        if id not in known:
            raise ResumeRefused(f"--drop {id}: the run had no node {id!r}", f"It had: {_named(known)}.")
    counts: dict[str, Counter[str]] = {}  # by node: replicas are one
    for id, node_entry in known.items():
        node = node_of(id)
        if node not in ids and node not in drop and HELPER not in id:
            counts.setdefault(node, Counter()).update(_belongings(txn, node_entry))
    lost = {node: what for node, own in counts.items() if (what := in_words(own))}
    if not lost:
        return
    texts = [f"node {id!r} is no longer in the dataflow file: {what} would be lost" for id, what in lost.items()]
    first = next(iter(lost))
    new = next((item["id"] for item in wanted if item["id"] not in known), "NEW")
    drops = " ".join(f"--drop {id}" for id in lost)
    raise ResumeRefused(
        "; ".join(texts),
        f"`--rename {first}={new}` carries it over when the node has another id now; `{drops}` gives it up. "
        "Nothing was changed.",
    )


def _named(known: Registry) -> str:
    return ", ".join(dict.fromkeys(map(node_of, known))) or "none"


def _belongings(txn: ReadTxn, node_entry: NodeEntry) -> dict[str, int]:
    """What a node has to lose."""
    return {
        "keys of private state": private.size(txn, node_entry.number),
        "queued messages": sum(
            record[0] < records.NOTICE_MIN
            for number, _ in node_entry.inputs.values()
            for _, record in messages(txn, keys.mailbox(node_entry.number, number))
        ),
        "dead letters": _count(txn, keys.dead_prefix(node_entry.number)),
    }


def _count(txn: ReadTxn, prefix: bytes) -> int:
    return sum(1 for _ in scan(txn, prefix))


def adapt(txn: WriteTxn, old: Registry, registry: Registry) -> None:
    """After `lives.register`: close the new inputs of senders that have ended."""
    for node_entry in registry.values():
        before = old.get(node_entry.id)
        for name, (number, source) in node_entry.inputs.items():
            of_file = source.rpartition("/")[0] if source else ""
            senders = [entry for entry in registry.values() if of_file and node_of(entry.id) == of_file]
            is_new = before is None or before.inputs.get(name) != (number, source)
            if not senders or not is_new:
                continue
            if all(lives.status(txn, sender) != records.LIVE for sender in senders):  # they will never send again
                queue = queue_of(txn, keys.queue(node_entry.number, number))
                queue[FLAGS] |= SOURCE_ENDED
                txn.put(keys.queue(node_entry.number, number), records.pack_queue(queue))


def _stay(txn: WriteTxn, known: Registry, node_entry: NodeEntry, inputs: Mapping[str, tuple[int, str]]) -> None:
    """A node that a change of the run had removed, and that still drained, is in the file: its inputs are fed again."""
    for number, source in inputs.values():
        sender = known.get(source.rpartition("/")[0])
        if sender is not None and lives.status(txn, sender) == records.LIVE:
            key = keys.queue(node_entry.number, number)
            queue = queue_of(txn, key)
            queue[FLAGS] &= ~SOURCE_ENDED
            txn.put(key, records.pack_queue(queue))
            remove_notices(txn, keys.mailbox(node_entry.number, number), (records.INPUT_CLOSED,))


def _forget_wiring(txn: WriteTxn, node_entry: NodeEntry) -> None:
    """The runtime makes the wiring anew, from the file: what a change of the run has written no longer counts."""
    record = lives.node_record(txn, node_entry.number)
    if record.wiring:
        record.wiring = 0
        txn.put(keys.node(node_entry.number), record.pack())
        txn.delete(keys.wiring(node_entry.number))


def _drop_node(txn: WriteTxn, node_entry: NodeEntry) -> list[str]:
    what = in_words(remove_node(txn, node_entry)) or "nothing"
    return [f"node {node_entry.id!r} is no longer in the dataflow: dropped {what}"]


def _drop_input(txn: WriteTxn, node_entry: NodeEntry, name: str, number: int) -> list[str]:
    queued = drop_input(txn, node_entry.number, number)
    record = lives.node_record(txn, node_entry.number)
    counter = records.input_counter(number)
    for at in range(counter, min(counter + 2, len(record.counters))):
        record.counters[at] = 0
    txn.put(keys.node(node_entry.number), record.pack())
    text = f"input {name!r} of node {node_entry.id!r} is gone or has another source"
    return [f"{text}: dropped {queued} queued messages" if queued else f"{text}: nothing was queued"]
