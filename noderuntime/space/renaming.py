"""Nodes that get another id, with all that they have: their state, queues, letters and counters are kept by number.

What waits for receivers is told under the new id: a record in a mailbox has the number of a message, and the source is
that of the input. So a uid would come twice if two nodes had the same id one after the other and counted from the
beginning. That is why an id that was given up leaves a node of its own, REMOVED, with the counters of that moment: a
node that gets the id later goes on from there. And an id under which another node has sent messages is not given to one
that has sent others; but a node can have back an id that it had, if nobody else had it meanwhile.

    given up    number of what an id left -> [number of the node that had it, its incarnation then]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

import msgpack

from noderuntime.dataflow.identifiers import node_of, renamed_id, renamed_source
from noderuntime.space import keys, lives, records
from noderuntime.space.environment import scan
from noderuntime.space.lives import Given, NodeEntry, Registry
from noderuntime.space.transactions import ReadTxn, WriteTxn

_ASIDE: Final = "\0"  # begins what no node or input is called: numbers are never given again


def renamed_registry(known: Registry, names: Mapping[str, str]) -> Registry:
    """The nodes under their new ids (old -> new), as senders too."""
    found = [
        replace(
            entry,
            id=renamed_id(names, entry.id),
            inputs={name: (number, renamed_source(names, source)) for name, (number, source) in entry.inputs.items()},
            leaving={number: renamed_source(names, source) for number, source in entry.leaving.items()},
        )
        for entry in known.values()
    ]
    return {entry.id: entry for entry in found}


def renamed_numbers(given: Given, names: Mapping[str, str]) -> Given:
    """The numbers of all nodes there ever were, under their new ids. An id that is given up gets one of its own."""
    made: Given = {id: (number, dict(inputs), dict(outputs)) for id, (number, inputs, outputs) in given.items()}
    of_replicas = {id: renamed_id(names, id) for id in given if node_of(id) in names}
    for old, new in of_replicas.items():
        if new in made:
            aside = made.pop(new)
            made[f"{_ASIDE}{new} {aside[0]}"] = aside
        made[new] = made.pop(old)
    for old, new in of_replicas.items():
        outputs = made[new][2]
        if outputs:
            made[old] = (len(made), {}, dict(outputs))
    for _, inputs, _ in made.values():
        for feed in list(inputs):
            name, space, source = feed.partition(" ")
            now = f"{name}{space}{renamed_source(names, source)}"
            if now != feed and not feed.startswith(_ASIDE):
                if now in inputs:
                    of_before = inputs.pop(now)
                    inputs[f"{_ASIDE}{now} {of_before}"] = of_before
                inputs[now] = inputs.pop(feed)
    return made


def used_before(txn: ReadTxn, names: Mapping[str, str]) -> str:
    """Why one of the new ids cannot be given to the node that is to get it, in one sentence; "" when they can."""
    given, given_up = lives.numbers_given(txn), _given_up(txn)
    for old, new in names.items():
        for id in (id for id in given if node_of(id) == new):
            number, _, outputs = given[id]
            packed = txn.get(keys.node(number))
            if packed is None:
                continue  # it never lived
            record = records.NodeRecord.parse(packed)
            of_old = given.get(f"{old}{id.removeprefix(new)}", (-1,))[0]
            sent = any(_counter(record, output) for output in outputs.values())
            if sent and given_up.get(number) != [of_old, record.incarnation]:
                return (
                    f"--rename {old}={new}: another node {new!r} has sent messages in this run before, and no uid may "
                    "come twice"
                )
    return ""


def rename(txn: WriteTxn, names: Mapping[str, str]) -> None:
    """Give nodes their new ids (old -> new). Nothing else has one of these at present: see `dataflow.renaming.problem`
    and `used_before`.
    """
    if not names:
        return
    known = lives.load(txn)
    before = lives.numbers_given(txn)
    given = renamed_numbers(before, names)
    given_up = _given_up(txn)
    for old in (id for id in before if node_of(id) in names and id in given):
        number, _, outputs = given[old]
        packed = txn.get(keys.node(before[old][0]))
        if packed is None:
            continue  # it never lived
        record = records.NodeRecord.parse(packed)
        counters = [0] * len(record.counters)
        for at in map(records.output_counter, outputs.values()):
            counters[at : at + 1] = record.counters[at : at + 1]
        txn.put(keys.node(number), records.NodeRecord(record.incarnation, records.REMOVED, 0, counters).pack())
        given_up[number] = [before[old][0], record.incarnation]
    txn.put(keys.fact("numbers"), msgpack.packb(given))
    txn.put(keys.fact("given up"), msgpack.packb(given_up))
    lives.put_registry(txn, renamed_registry(known, names).values())
    _rename_in_letters(txn, known.values(), names)
    asked = txn.get(keys.STOP_ALL)
    if asked is not None:
        txn.put(keys.STOP_ALL, renamed_id(names, asked.decode()).encode())


def _rename_in_letters(txn: WriteTxn, entries: Iterable[NodeEntry], names: Mapping[str, str]) -> None:
    for entry in entries:
        for key, packed in list(scan(txn, keys.dead_prefix(entry.number))):
            letter = msgpack.unpackb(packed)
            uid = renamed_source(names, letter["uid"])
            if uid != letter["uid"]:
                txn.put(key, msgpack.packb({**letter, "uid": uid}))


def _given_up(txn: ReadTxn) -> dict[int, list[int]]:
    packed = txn.get(keys.fact("given up"))
    return msgpack.unpackb(packed, strict_map_key=False) if packed else {}


def _counter(record: records.NodeRecord, output: int) -> int:
    at = records.output_counter(output)
    return record.counters[at] if at < len(record.counters) else 0
