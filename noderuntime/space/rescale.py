"""At the start of a run: its nodes have as many replicas as the file says now, and what waited for them is distributed.

No state is moved: that of keys is kept by slot, under the number of the first replica, and slots get other owners.
Messages, their attempts and dead letters go to the mailboxes of the owners that their slots have now, in the order in
which they were sent; of nodes without a `partition_by`, in turns. The node record of a replica that is no longer there
stays, so that its messages go on being counted if it comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgpack

from noderuntime.dataflow.identifiers import node_of, replica_of
from noderuntime.dataflow.replicas import owners, rescaled
from noderuntime.space import keys, lives, records, routing
from noderuntime.space.by_slot import slots_of
from noderuntime.space.environment import Space, scan
from noderuntime.space.lives import NodeEntry, Registry
from noderuntime.space.mailbox import Message, messages, queue_of
from noderuntime.space.records import (
    BYTES,
    CLOSED,
    CUT_OFF,
    DISCARDED,
    DROPPED,
    FLAGS,
    MARK_INDEX,
    MARK_SEQUENCE,
    NOTICE_MIN,
    QUEUED,
    SOURCE_ENDED,
    SOURCE_FAILED,
    TAKEN,
)
from noderuntime.space.transactions import WriteTxn

_OF_SENDER = SOURCE_ENDED | SOURCE_FAILED | CUT_OFF


def even_out(txn: WriteTxn, space: Space, registry: Registry) -> None:
    """Slots may have been on their way to other owners when the run ended: have each replica own as many again."""
    there = {id: entry for id, entry in registry.items() if not entry.leaves}
    kept = {id: routing.kept_owners(txn, entries[0].number) for id, entries in _by_node(there).items()}
    partitions = {id: owned.partition for id, owned in kept.items() if owned is not None}  # others: one replica, always
    there = {id: entry for id, entry in there.items() if node_of(id) in partitions}
    rescale(txn, space, there, there, partitions)


def rescale(txn: WriteTxn, space: Space, before: Registry, now: Registry, partitions: Mapping[str, str]) -> list[str]:
    """After `lives.register`. `before`: the registry of the last start; `partitions`: by node of the file. Returns a
    text for each node whose number of replicas has changed.
    """
    told = []
    for id, entries in _by_node(now).items():
        earlier = _by_node(before).get(id, [])
        partition = partitions.get(id, "")
        if len(entries) == len(earlier) == 1:
            continue
        first = entries[0].number
        kept = routing.kept_owners(txn, first)
        owned = owners(len(entries)) if kept is None else rescaled(kept.owners, len(entries))
        routing.put_owners(txn, first, owned, partition)
        if not earlier or (len(earlier) == len(entries) and kept is not None and kept[:2] == (owned, partition)):
            continue
        _Distribution(txn, space, earlier, entries, _router(space, owned, partition, len(entries))).carry_out()
        there = sum(not entry.leaves for entry in earlier)
        if there != len(entries):
            told.append(f"node {id!r} has {len(entries)} replicas now; before it had {there}")
    return told


def _by_node(registry: Registry) -> dict[str, list[NodeEntry]]:
    """The replicas of each node, in order; without those that were no longer wanted, and have ended."""
    found: dict[str, list[NodeEntry]] = {}
    for entry in registry.values():
        found.setdefault(node_of(entry.id), []).append(entry)
    for id, entries in found.items():
        staying = [entry for entry in entries if not entry.leaves]
        found[id] = sorted(staying or entries, key=lambda entry: replica_of(entry.id))
    return found


def _router(space: Space, owned: Sequence[int], partition: str, replicas: int) -> Callable[[bytes], int]:
    """Returns the replica of a message, by its record."""
    if not partition:
        turns = iter(range(1 << 62))
        return lambda record: next(turns) % replicas
    slot_of = slots_of(space, partition)
    return lambda record: owned[slot_of(record)]


@dataclass(slots=True)
class _Distribution:
    """What waits for the replicas `old` goes to those in `new`, which are partly the same. `route` takes a record."""

    txn: WriteTxn
    space: Space
    old: Sequence[NodeEntry]
    new: Sequence[NodeEntry]
    route: Callable[[bytes], int]

    def carry_out(self) -> None:
        txn = self.txn
        is_live = any(lives.status(txn, entry) != records.ENDED for entry in self.old)
        for entry in self.new:
            record = lives.node_record(txn, entry.number)
            record.status = records.LIVE if is_live else records.ENDED
            txn.put(keys.node(entry.number), record.pack())
        for name, (_, source) in self.new[0].inputs.items():
            if source:
                self._input(name, is_live)
        self._letters()
        for entry in self.old:
            if entry.number not in {other.number for other in self.new}:
                for key, _ in list(scan(txn, keys.attempts_prefix(entry.number))):
                    txn.delete(key)
                record = lives.node_record(txn, entry.number)
                for number, _ in entry.all_inputs():
                    record.forget_input(number)
                txn.put(keys.node(entry.number), record.pack())

    def _input(self, name: str, is_live: bool) -> None:
        txn = self.txn
        waiting: list[Message] = []
        flags = 0
        counts = [0] * 3
        gone = {entry.number for entry in self.old} - {entry.number for entry in self.new}
        for entry in self.old:
            if name not in entry.inputs:
                continue
            number = entry.inputs[name][0]
            mailbox, queue_key = keys.mailbox(entry.number, number), keys.queue(entry.number, number)
            queue = queue_of(txn, queue_key)
            flags |= queue[FLAGS] & _OF_SENDER
            waiting += messages(txn, mailbox)
            for key, _ in list(scan(txn, mailbox)):
                txn.delete(key)
            queue[QUEUED] = queue[BYTES] = queue[MARK_SEQUENCE] = queue[MARK_INDEX] = 0
            if entry.number in gone:
                counts = [count + queue[at] for count, at in zip(counts, (TAKEN, DROPPED, DISCARDED), strict=True)]
                txn.delete(queue_key)
            else:
                txn.put(queue_key, records.pack_queue(queue))
        waiting.sort(key=lambda message: message[0][keys.MAILBOX_PREFIX_BYTES :])
        queues = [queue_of(txn, keys.queue(entry.number, entry.inputs[name][0])) for entry in self.new]
        for place, at in enumerate((TAKEN, DROPPED, DISCARDED)):
            queues[0][at] += counts[place]
        closed = b""
        for key, record in waiting:
            if record[0] >= NOTICE_MIN:
                closed = record if record[0] == records.INPUT_CLOSED else closed
                continue
            replica = self.route(record)
            entry = self.new[replica]
            _, _, sequence, index = keys.parse_message(key)
            moved = keys.message(entry.number, entry.inputs[name][0], sequence, index)
            txn.put(moved, record)
            queues[replica][QUEUED] += 1
            queues[replica][BYTES] += records.message_bytes(record)
            attempts = txn.get(keys.attempts(key))
            if attempts is not None and moved != key:
                txn.delete(keys.attempts(key))
                txn.put(keys.attempts(moved), attempts)
        sequence = self.space.base + txn.id()
        for replica, (entry, queue) in enumerate(zip(self.new, queues, strict=True)):
            queue[FLAGS] = (queue[FLAGS] & ~_OF_SENDER & ~(CLOSED if is_live else 0)) | flags
            if flags & SOURCE_ENDED and is_live:  # once more, behind the last message
                notice = closed or records.encode_notice(records.INPUT_CLOSED, "", None, self.space.now_ns())
                txn.put(keys.mailbox(entry.number, entry.inputs[name][0]) + keys.place(sequence, replica), notice)
            txn.put(keys.queue(entry.number, entry.inputs[name][0]), records.pack_queue(queue))

    def _letters(self) -> None:
        txn = self.txn
        for key, packed in list(self._old_letters()):
            letter = msgpack.unpackb(packed)
            home = self.new[self.route(letter["message"])]
            input = home.inputs.get(letter["input"], (keys.NO_INPUT, ""))[0]
            sequence, index = keys.parse_place(key[3:15])
            txn.delete(key)
            txn.put(keys.dead(home.number, sequence, index, input), packed)

    def _old_letters(self) -> Iterator[tuple[bytes, bytes]]:
        for entry in self.old:
            yield from scan(self.txn, keys.dead_prefix(entry.number))
