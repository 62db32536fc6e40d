"""Taps: copies of what outputs send, for those who look at a run (noderuntime/watching).

An output that is tapped has one more receiver: a mailbox of node number keys.TAPS, which no node has. It is one mailbox
however many look, it drops its oldest messages, and it holds at most TAP_BYTES and one message. It belongs to the tap
server (watching/server.py), which is the only process that reads it. There are no notices in it.

    v node      [[output, input], ...]: which outputs of a node are tapped, and the mailbox of each

Taps come and go in one transaction, which makes or empties the mailboxes and raises the wiring number in the records of
their senders. The next commit of a sender finds that number, as it finds a dataflow that was changed (commit.py), and
takes up the taps of now. So no message goes to a mailbox that is gone, and no sender knows of one before it is there;
without taps there is nothing to be read, compared or put.

A wiring number is the number of the change of the dataflow that gave it (store/changes.py) plus how often taps, or the
owners of slots (moves.py), have changed. Each change of any kind raises the sum by one, so it never repeats.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgpack

from noderuntime.dataflow.identifiers import node_of, replica_of
from noderuntime.errors import StoreError
from noderuntime.ipc.wiring import OutputWiring, ReceiverWiring, Wiring
from noderuntime.space import keys, lives, records
from noderuntime.space.environment import scan
from noderuntime.space.in_force import in_force
from noderuntime.space.mailbox import Message, Removal, empty, oldest, queue_of, remove
from noderuntime.space.records import BYTES, DROPPED, QUEUED, SEGMENT, TAKEN
from noderuntime.space.transactions import ReadTxn, WriteTxn

TAP_BYTES: Final = 8_000_000  # of what waits in one mailbox
TAP_MESSAGES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Topic:
    """An output of a registered node, by the numbers that the space has for them. `name`: "node/output", of replicas
    with the id of each. To those who look, the outputs of all replicas are one topic, `shown`.
    """

    name: str
    node: int
    output: int
    shown: str
    replica: int = 0


def topics(txn: ReadTxn) -> dict[str, Topic]:
    """All outputs of the run by name, in the order of the dataflow."""
    return {
        name: Topic(name, entry.number, number, f"{node_of(entry.id)}/{output}", replica_of(entry.id))
        for entry in lives.load(txn).values()
        for output, number in entry.outputs.items()
        for name in [f"{entry.id}/{output}"]
    }


def tapped(txn: ReadTxn, wiring: Wiring) -> Wiring:
    """The wiring of a node, its outputs with the taps that there are now and no others."""
    packed = txn.get(keys.tapped(wiring.number))
    known: dict[int, int] = dict(msgpack.unpackb(packed)) if packed else {}
    outputs = tuple(_tapped_output(item, known.get(item.number)) for item in wiring.outputs)
    return wiring if outputs == wiring.outputs else replace(wiring, outputs=outputs)


def _tapped_output(output: OutputWiring, input: int | None) -> OutputWiring:
    kept = tuple(to for to in output.receivers if to.node != keys.TAPS)
    if input is not None:
        kept += (ReceiverWiring(keys.TAPS, input, TAP_MESSAGES, TAP_BYTES, drop_oldest=True),)
    return output if kept == output.receivers else replace(output, receivers=kept)


def changes(txn: ReadTxn) -> int:
    """How often taps, or the owners of slots, have changed."""
    packed = txn.get(keys.TAP_CHANGES)
    return int(msgpack.unpackb(packed)) if packed else 0


def present(txn: ReadTxn) -> dict[tuple[int, int], int]:
    """The input number of the mailbox of each tapped (node, output)."""
    return {
        (keys.parse_tapped(key), output): input
        for key, packed in scan(txn, keys.TAPPED_PREFIX)
        for output, input in msgpack.unpackb(packed)
    }


def change(
    txn: WriteTxn,
    come: Collection[Topic],
    go: Collection[tuple[int, int]],
    process_of: Mapping[int, Iterable[int]],
) -> dict[str, tuple[int, int]]:
    """Tap the topics in `come`, and stop tapping the (node, output) in `go`. Returns by name the input number of each
    new mailbox, and the number of the last message that was sent before.

    `process_of`: the nodes that share a process, by each of them; any one may have the record that its commits compare.
    Raises StoreError when taps have come and gone some millions of times.
    """
    there = present(txn)
    made: dict[str, tuple[int, int]] = {}
    nodes: set[int] = set()
    for place in go:
        input = there.pop(place, None)
        if input is not None:
            _remove(txn, input)
            nodes.add(place[0])
    used = set(there.values())
    for topic in come:
        input = there.get((topic.node, topic.output))
        if input is None:
            input = _free(used)
            there[topic.node, topic.output] = input
            nodes.add(topic.node)
        made[topic.name] = input, sent(txn, topic)
    if nodes:
        _put(txn, there, nodes)
        raise_wiring(txn, {other for node in nodes for other in (node, *process_of.get(node, ()))})
    return made


def _free(used: set[int]) -> int:
    """The lowest number that is not `used`, which it is from now on."""
    found = next(number for number in range(len(used) + 1) if number not in used)
    used.add(found)
    return found


def extend(txn: WriteTxn, before: lives.Registry, now: lives.Registry) -> None:
    """Replicas that are new get the taps of their node, so that those who look see them from their first message on.
    None of them has a life yet, which finds its taps at its beginning.
    """
    there = present(txn)
    used = set(there.values())
    nodes: set[int] = set()
    for id, entry in now.items() if there else ():
        first = now.get(node_of(id))
        if first is None or first is entry or id in before:
            continue
        for output, number in entry.outputs.items():
            if (first.number, first.outputs.get(output, -1)) in there and (entry.number, number) not in there:
                there[entry.number, number] = _free(used)
                nodes.add(entry.number)
    _put(txn, there, nodes)


def clear(txn: WriteTxn) -> int:
    """Nobody taps anything: remove all of it. Returns how many outputs were tapped."""
    nodes = [keys.parse_tapped(key) for key, _ in scan(txn, keys.TAPPED_PREFIX)]
    there = present(txn)
    for input in there.values():
        _remove(txn, input)
    _put(txn, {}, set(nodes))
    if nodes:
        raise_wiring(txn, {entry.number for entry in lives.load(txn).values()})
    return len(there)


def sent(txn: ReadTxn, topic: Topic) -> int:
    """The number of the last message that an output has sent, in whatever life: how many there were, and above that
    the replica that it belongs to.
    """
    counters = lives.node_record(txn, topic.node).counters
    at = records.output_counter(topic.output)
    count = counters[at] if at < len(counters) else 0
    return count or topic.replica << records.REPLICA_SHIFT


def _put(txn: WriteTxn, there: Mapping[tuple[int, int], int], nodes: Collection[int]) -> None:
    for node in nodes:
        known = [[output, input] for (sender, output), input in there.items() if sender == node]
        if known:
            txn.put(keys.tapped(node), msgpack.packb(known))
        else:
            txn.delete(keys.tapped(node))


def next_wiring(txn: ReadTxn) -> int:
    """The wiring number that `raise_wiring` gives."""
    return changes(txn) + 1 + int(in_force(txn).get("version", 0))


def raise_wiring(txn: WriteTxn, nodes: Iterable[int]) -> None:
    """Have the next commit of each of these nodes look what has changed: which of its outputs are tapped, for example.
    """
    number = next_wiring(txn)
    txn.put(keys.TAP_CHANGES, msgpack.packb(changes(txn) + 1))
    if number > records.WIRING_MAX:
        raise StoreError("taps or replicas have come and gone too often in this run: stop it, and resume it")
    for node in nodes:
        packed = txn.get(keys.node(node))
        if packed is not None:
            record = records.NodeRecord.parse(packed)
            record.wiring = number
            txn.put(keys.node(node), record.pack())


def _remove(txn: WriteTxn, input: int) -> None:
    key = keys.queue(keys.TAPS, input)
    empty(txn, keys.mailbox(keys.TAPS, input), queue_of(txn, key))
    txn.delete(key)


# --- the mailboxes --------------------------------------------------------------------------------------------------


def waiting(txn: ReadTxn, input: int, limit: int) -> list[Message]:
    """Up to about `limit` of the oldest messages of a tap."""
    return oldest(txn, keys.mailbox(keys.TAPS, input), limit, (), of_pack=limit)[0]


def take(txn: WriteTxn, input: int, messages: list[Message]) -> list[bool]:
    """Remove messages that `waiting` has returned. Returns for each whether what it refers to is what was sent.

    A body in a segment is copied between the two calls, without a lock: the segment stays as it is for as long as a
    message refers to it. If the message is still here, it has been so all the time.
    """
    key = keys.queue(keys.TAPS, input)
    queue = queue_of(txn, key)
    good = [record[1] != SEGMENT or txn.get(at) is not None for at, record in messages]
    removal = Removal(messages)
    freed, freed_bytes = remove(txn, keys.mailbox(keys.TAPS, input), queue, removal)
    queue[TAKEN] += removal.count
    queue[QUEUED] -= freed
    queue[BYTES] -= freed_bytes
    queue[DROPPED] -= removal.count - freed
    txn.put(key, records.pack_queue(queue))
    return good

