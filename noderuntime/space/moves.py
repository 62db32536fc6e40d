"""Slots of a node with replicas get other owners while messages flow, and what waits for them moves along.

A slot has one owner at a time, and all that waits for it waits there: the transaction that gives it to another replica
also moves its messages, their attempts and its dead letters. States, timers and times to live are kept by slot (see
api/keyed/slots.py), and do not move. One transaction moves whole slots, as many as have MOVE_BYTES waiting, or one that
has more; `move_slots` is called until nothing is left.

What is moved goes behind what the new owner has waiting already, in the order in which it was sent. So it gets other
places in the mailbox, and is packed anew; its number stays. Nothing is refused for want of room: until a mailbox has
drained to its limits, its senders wait. INPUT_CLOSED of an input that has ended comes once more behind it.

The same transaction raises the wiring number of all nodes. Commits of senders then route what is staged to the owners
of now; a replica that has lost slots gives up what it has not committed, and reads again (commit.py). Nobody has to
hear of it: whoever commits finds it.

    more replicas     the new ones own nothing at first. When they are ready, slots are moved to them
    fewer             slots are moved away first; what is left moves in the switch, which ends those that are no longer
                      wanted. They close nothing, since the others go on
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import eq
from typing import Final

import msgpack

from noderuntime.api.keyed.layout import SLOTS
from noderuntime.dataflow.identifiers import node_of, replica_of
from noderuntime.dataflow.message_slot import message_slot
from noderuntime.dataflow.partition import parse_partition
from noderuntime.dataflow.replicas import owners, rescaled
from noderuntime.errors import ChangeRefused
from noderuntime.ipc.fault_points import point
from noderuntime.space import keys, lives, packs, records, routing, taps
from noderuntime.space.environment import Space, scan
from noderuntime.space.lives import NodeEntry, Registry
from noderuntime.space.mailbox import Message, Removal, by_place, messages, queue_of, remove, remove_notices
from noderuntime.space.records import (
    BYTES,
    DISCARDED,
    DROPPED,
    FLAGS,
    INPUT_CLOSED,
    NOTICE_MIN,
    QUEUED,
    SOURCE_ENDED,
    SOURCE_FAILED,
    TAKEN,
)
from noderuntime.space.transactions import WriteTxn

MOVE_BYTES: Final = 8_000_000  # of messages that one transaction moves, if they are of several slots


def replicas_of(registry: Registry, id: str) -> list[NodeEntry]:
    """The replicas of a node of the file that are in the dataflow, in order."""
    found = [entry for entry in registry.values() if node_of(entry.id) == id and not entry.leaves]
    return sorted(found, key=lambda entry: replica_of(entry.id))


def move_slots(
    txn: WriteTxn, space: Space, registry: Registry, id: str, count: int, bytes_max: int = MOVE_BYTES
) -> int:
    """Have the first `count` replicas of a node own equal parts of its slots. Returns the bytes that have yet to move.

    Slots are not moved to replicas that do not live, nor from ones that have ended.
    """
    entries = replicas_of(registry, id)
    if not entries:
        raise ChangeRefused(f"the run has no node {id!r}", "")
    kept = routing.kept_owners(txn, entries[0].number)
    if kept is None:  # one replica, which owns everything
        return 0
    statuses = [lives.status(txn, entry) for entry in entries]
    target = list(kept.owners)
    for slot, owner in enumerate(rescaled(kept.owners, min(count, len(entries)))):
        if statuses[owner] == records.LIVE and statuses[kept.owners[slot]] != records.ENDED:
            target[slot] = owner
    move = _Move(txn, space, entries, kept, target, taps.next_wiring(txn))
    left = move.find(bytes_max)
    if move.carry_out():
        taps.raise_wiring(txn, [entry.number for entry in registry.values()])
    return left


def rescale_live(
    txn: WriteTxn,
    space: Space,
    before: Registry,
    now: Registry,
    partitions: Mapping[str, str],
    version: int,
) -> list[str]:
    """In a switch, after `lives.register`: take up the numbers of replicas and the `partition_by` of now.

    `before` and `now`: the registries; `partitions`: by node of the file. Returns the ids of replicas that have ended:
    they are no longer wanted. Raises ChangeRefused.
    """
    ended: list[str] = []
    for id in {node_of(entry.id): None for entry in now.values()}:
        entries, earlier = replicas_of(now, id), replicas_of(before, id)
        partition = partitions.get(id, "")
        first = entries[0].number
        if not earlier and (len(entries) > 1 or routing.kept_owners(txn, first) is not None):  # as at a start
            routing.put_owners(txn, first, owners(len(entries)), partition)
        if not earlier or len(entries) == len(earlier) == 1:
            continue
        kept = routing.kept_owners(txn, first) or routing.Owners(owners(len(earlier)), partition)
        if len(entries) == len(earlier) and kept.partition == partition:
            continue
        _refuse(id, entries, earlier)
        wanted = kept.owners
        if len(entries) < len(earlier):
            wanted = rescaled(kept.owners, len(entries))
        move = _Move(txn, space, earlier, kept._replace(partition=partition), wanted, version)
        if kept.partition != partition:  # messages are in other slots
            move.since = [version] * SLOTS
        move.find(None)
        move.carry_out()
        for entry in earlier[len(entries) :]:
            _end(txn, space, before, entry, entries[0])
            ended.append(entry.id)
        for entry in {**before, **now}.values():
            record = lives.node_record(txn, entry.number)
            record.wiring = version
            txn.put(keys.node(entry.number), record.pack())
    return ended


def _refuse(id: str, entries: Sequence[NodeEntry], earlier: Sequence[NodeEntry]) -> None:
    kept = {(name, source) for name, (_, source) in entries[0].inputs.items()}
    lost = [name for entry in earlier for name, (_, source) in entry.inputs.items() if (name, source) not in kept]
    leaving = any(entry.leaving for entry in earlier)
    if lost or leaving:
        what = f"loses its input {lost[0]!r}" if lost else "still handles what waited at an input that was removed"
        raise ChangeRefused(
            f"node {id!r} gets another number of replicas, and {what}", "Do one after the other: first the inputs."
        )


def _end(txn: WriteTxn, space: Space, registry: Registry, entry: NodeEntry, first: NodeEntry) -> None:
    """A replica that is no longer wanted ends. It has nothing any more; `first` takes over its counts."""
    for name, (number, source) in entry.inputs.items():
        if not source or name not in first.inputs:
            continue
        key, to_key = keys.queue(entry.number, number), keys.queue(first.number, first.inputs[name][0])
        queue, to = queue_of(txn, key), queue_of(txn, to_key)
        for at in (TAKEN, DROPPED, DISCARDED):
            to[at] += queue[at]
            queue[at] = 0
        txn.put(key, records.pack_queue(queue))
        txn.put(to_key, records.pack_queue(to))
    if lives.status(txn, entry) == records.LIVE:
        lives.end(txn, space, registry, [entry], failed=None)
        return
    record = lives.node_record(txn, entry.number)  # one that failed has no process
    record.status = records.ENDED
    txn.put(keys.node(entry.number), record.pack())


@dataclass(slots=True)
class _Move:
    """One transaction in which slots of the replicas `entries` go to the owners `wanted`.

    `find` looks for what waits and says how much of it is left for later; `carry_out` moves the rest.
    """

    txn: WriteTxn
    space: Space
    entries: Sequence[NodeEntry]
    kept: routing.Owners
    wanted: Sequence[int]
    version: int
    since: list[int] = field(default_factory=list)
    now: list[int] = field(default_factory=list)  # the owners after this transaction
    # what waits elsewhere than at the owner of then, by slot: (replica, input, message)
    held: dict[int, list[tuple[int, str, Message]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.since = list(self.kept.since)

    def find(self, bytes_max: int | None) -> int:
        """Choose the slots that move now, and find what moves. Returns the bytes of the others."""
        slot_of = self._slots()
        staying = set() if self.kept.partition else set(self.wanted)  # their messages stay where they are
        sizes: dict[int, int] = {}  # of each slot, also of those that are put off
        put_off: set[int] = set()
        held_bytes = 0
        for replica, entry in enumerate(self.entries):
            for name, (number, source) in entry.inputs.items():
                if not source or replica in staying:
                    continue
                for key, record in messages(self.txn, keys.mailbox(entry.number, number)):
                    if record[0] >= NOTICE_MIN:
                        continue
                    slot = slot_of(record)
                    if self.wanted[slot] == replica:
                        continue
                    sizes[slot] = sizes.get(slot, 0) + len(record)
                    if slot in put_off:
                        continue
                    self.held.setdefault(slot, []).append((replica, name, (key, record)))
                    held_bytes += len(record)
                    while bytes_max is not None and held_bytes > bytes_max and len(self.held) > 1:
                        largest = max(self.held, key=sizes.__getitem__)
                        held_bytes -= sizes[largest]
                        put_off.add(largest)
                        del self.held[largest]
        before = self.kept.owners
        self.now = [before[slot] if slot in put_off else self.wanted[slot] for slot in range(SLOTS)]
        self.since = [
            since if is_old else self.version
            for since, is_old in zip(self.since, map(eq, self.now, before), strict=True)
        ]
        return sum(sizes[slot] for slot in put_off)

    def carry_out(self) -> bool:
        """Returns whether anything has changed."""
        kept = self.kept
        number = self.entries[0].number
        now = routing.Owners(tuple(self.now), kept.partition, tuple(self.since))
        if routing.kept_owners(self.txn, number) == now and not self.held:
            return False
        if point is not None:
            point("move slots")
        routing.put_owners(self.txn, number, now.owners, now.partition, now.since)
        attempts: dict[bytes, bytes] = {}
        for entry in self.entries:
            attempts.update(scan(self.txn, keys.attempts_prefix(entry.number)))
        arriving: dict[tuple[int, str], list[Message]] = {}
        leaving: dict[tuple[int, str], list[Message]] = {}
        for slot, found in self.held.items():
            for replica, name, message in found:
                leaving.setdefault((replica, name), []).append(message)
                arriving.setdefault((self.now[slot], name), []).append(message)
        for (replica, name), gone in leaving.items():
            self._take(self.entries[replica], name, gone)
        index = 0
        for (replica, name), come in arriving.items():
            come.sort(key=by_place)
            index = self._put(self.entries[replica], name, come, attempts, index)
        self._letters()
        return True

    def _slots(self) -> Callable[[bytes], int]:
        """Returns the slot of a message, by its record. Without a `partition_by`, the slots are taken in turns."""
        space, partition = self.space, self.kept.partition
        if not partition:
            turns = iter(range(1 << 62))
            return lambda record: next(turns) % SLOTS
        by = parse_partition(partition)

        def slot_of(record: bytes) -> int:
            _, value, metadata, _, _ = records.decode_message(record, routing.body_of(space, record))
            return message_slot(by, value, metadata)

        return slot_of

    def _take(self, entry: NodeEntry, name: str, gone: list[Message]) -> None:
        number = entry.inputs[name][0]
        key = keys.queue(entry.number, number)
        queue = queue_of(self.txn, key)
        freed, size = remove(self.txn, keys.mailbox(entry.number, number), queue, Removal(gone), releases=False)
        queue[QUEUED] -= freed
        queue[BYTES] -= size
        self.txn.put(key, records.pack_queue(queue))

    def _put(
        self, entry: NodeEntry, name: str, come: Sequence[Message], attempts: Mapping[bytes, bytes], index: int
    ) -> int:
        """Put messages behind what waits in an input. `index`: of the first one. Returns the index after the last."""
        txn, number = self.txn, entry.inputs[name][0]
        mailbox, queue_key = keys.mailbox(entry.number, number), keys.queue(entry.number, number)
        sequence = self.space.base + txn.id()
        moved = [record for _, record in come]
        for at, (key, _) in enumerate(come, index):
            known = attempts.get(keys.attempts(key))
            if known is not None:
                txn.delete(keys.attempts(key))
                txn.put(keys.attempts(keys.message(entry.number, number, sequence, at)), known)
        end = index + len(come)
        size = sum(map(len, moved))
        for first, record, is_pack in packs.parcels(range(index, end), moved, size, lone=any(r[1] for r in moved)):
            txn.put(mailbox + keys.place(sequence, first) + (keys.PACK_MARK if is_pack else b""), record)
        queue = queue_of(txn, queue_key)
        queue[QUEUED] += len(moved)
        queue[BYTES] += sum(map(records.message_bytes, moved))
        txn.put(queue_key, records.pack_queue(queue))
        if queue[FLAGS] & SOURCE_ENDED:
            error = "its sender has failed" if queue[FLAGS] & SOURCE_FAILED else None
            notice = records.encode_notice(INPUT_CLOSED, "", error, self.space.now_ns())
            for key, record in scan(txn, mailbox):
                if record[0] == INPUT_CLOSED and not keys.is_pack(key):
                    notice = record
            remove_notices(txn, mailbox, (INPUT_CLOSED,))
            txn.put(mailbox + keys.place(sequence, end), notice)
            end += 1
        return end

    def _letters(self) -> None:
        """Dead letters go with their slots; without a `partition_by`, those of replicas that own none any more."""
        txn = self.txn
        slot_of = self._slots()
        staying = set() if self.kept.partition else set(self.now)
        for replica, entry in enumerate(self.entries):
            if replica in staying:
                continue
            for key, packed in list(scan(txn, keys.dead_prefix(entry.number))):
                letter = msgpack.unpackb(packed)
                to = self.now[slot_of(letter["message"])]
                home = self.entries[to]
                if to == replica or letter["input"] not in home.inputs:
                    continue
                sequence, index = keys.parse_place(key[3:15])
                txn.delete(key)
                txn.put(keys.dead(home.number, sequence, index, home.inputs[letter["input"]][0]), packed)
