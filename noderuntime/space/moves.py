"""Slots of a node with replicas get other owners while messages flow, and what waits for them moves along.

A slot has one owner at a time, and all that waits for it waits there: the transaction that gives it to another replica
also moves its messages, their attempts and its dead letters. States, timers and times to live are kept by slot (see
api/keyed/slots.py), and do not move. One transaction moves whole slots, as many as have MOVE_BYTES waiting, or one that
has more (a small message counts COUNTS_MIN); `Moves.move` is called until nothing is left. What waits is read for that
before, without the write lock (by_slot.py), so that a transaction costs what it moves, not what waits.

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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from operator import itemgetter

import msgpack

from noderuntime.api.keyed.layout import SLOTS
from noderuntime.dataflow.identifiers import node_of, replica_of
from noderuntime.dataflow.replicas import owners, rescaled
from noderuntime.errors import ChangeRefused
from noderuntime.ipc.fault_points import point
from noderuntime.space import keys, lives, packs, records, routing, taps
from noderuntime.space.by_slot import COUNTS_MIN, BySlot
from noderuntime.space.environment import Space, scan
from noderuntime.space.lives import NodeEntry, Registry
from noderuntime.space.mailbox import (
    PAST,
    Message,
    Removal,
    by_place,
    messages,
    present,
    queue_of,
    remove,
    remove_notices,
)
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
from noderuntime.space.transactions import ReadTxn, WriteTxn

MOVE_BYTES = 8_000_000  # of messages that one transaction moves, if they are of several slots; at most 5,000 of them


def replicas_of(registry: Registry, id: str) -> list[NodeEntry]:
    """The replicas of a node of the file that are in the dataflow, in order."""
    found = [entry for entry in registry.values() if node_of(entry.id) == id and not entry.leaves]
    return sorted(found, key=lambda entry: replica_of(entry.id))


class Moves:
    """The moves of slots that are under way, and what was read for them. One in each store process."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._known: dict[int, BySlot] = {}  # by the number of the first replica

    def forget(self) -> None:
        """What was read does not hold any more."""
        self._known.clear()

    def read(self, txn: ReadTxn, registry: Registry, counts: Mapping[str, int]) -> None:
        """Before the write lock is taken: read a part of what may have to move. `counts`: as for `move`."""
        moving = {id: entries[0].number for id in counts if (entries := replicas_of(registry, id))}
        self._known = {number: known for number, known in self._known.items() if number in moving.values()}
        for id in moving:
            move = self._begin(txn, registry, id, counts[id])
            if move is not None and move.by_slot is not None:
                move.by_slot.read(txn, move.losing())

    def move(self, txn: WriteTxn, registry: Registry, id: str, count: int) -> int:
        """Have the first `count` replicas of a node own equal parts of its slots: a part of that. Returns the bytes
        that have yet to move, as far as they are known; 0: that was all. Raises ChangeRefused for an unknown node.

        Slots are not moved to replicas that do not live, nor from ones that have ended.
        """
        if not replicas_of(registry, id):
            raise ChangeRefused(f"the run has no node {id!r}", "")
        move = self._begin(txn, registry, id, count)
        if move is None:
            return 0
        known = move.by_slot
        if known is not None and not (known.is_all and known.read(txn, move.losing())):
            return 1 + move.bytes_left()  # it is read on before the next part
        left = move.find(txn, MOVE_BYTES)
        if move.carry_out(txn, self._space, taps.next_wiring(txn)):
            taps.raise_wiring(txn, [entry.number for entry in registry.values()])
        if not left:
            self._known.pop(move.number, None)
        return left

    def _begin(self, txn: ReadTxn, registry: Registry, id: str, count: int) -> _Move | None:
        """The move, with what was read for it if nobody else has given slots to others since; None: one replica has
        always owned everything.
        """
        entries = replicas_of(registry, id)
        number = entries[0].number
        kept = routing.kept_owners(txn, number)
        if kept is None:
            return None
        statuses = [lives.status(txn, entry) for entry in entries]
        wanted = list(kept.owners)
        for slot, owner in enumerate(rescaled(kept.owners, min(count, len(entries)))):
            if statuses[owner] == records.LIVE and statuses[kept.owners[slot]] != records.ENDED:
                wanted[slot] = owner
        if not kept.partition:
            return _Move(entries, kept, wanted, None)
        known = self._known.get(number)
        if known is None or known.owned != kept:  # also if the transaction of the last part was not committed
            known = self._known[number] = BySlot(self._space, kept)
        return _Move(entries, kept, wanted, known)


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
        is_new = kept.partition != partition  # messages are in other slots
        kept = kept._replace(partition=partition)
        by_slot = BySlot(space, kept) if partition else None
        move = _Move(earlier, kept, wanted, by_slot, anew=is_new)
        if by_slot is not None:
            by_slot.read(txn, move.losing(), is_part=False)
        move.find(txn, None)
        move.carry_out(txn, space, version)
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
    """Slots of the replicas `entries` go to the owners `wanted`, in one transaction or several.

    `by_slot`: where messages wait, if there is a `partition_by`; `anew`: what waits for a slot can be with any replica.
    `find` chooses what moves now, `carry_out` moves it.
    """

    entries: Sequence[NodeEntry]
    kept: routing.Owners
    wanted: Sequence[int]
    by_slot: BySlot | None
    anew: bool = False
    now: Sequence[int] = ()  # the owners after this transaction
    # what moves, by replica and input: from where, and to where
    leaving: dict[tuple[int, str], list[Message]] = field(default_factory=dict)
    arriving: dict[tuple[int, str], list[Message]] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """The number of the first replica, under which the owners of slots are kept."""
        return self.entries[0].number

    def losing(self) -> dict[bytes, tuple[int, str]]:
        """The mailboxes from which something may have to move: replica and input, by prefix."""
        replicas = set(range(len(self.entries)))
        if self.by_slot is None:  # messages are in no slots: they stay with a replica that keeps any
            replicas -= set(self.wanted)
        elif not self.anew:  # all that waits for a slot waits for its owner
            replicas = {self.kept.owners[slot] for slot in self._moving()}
        return {
            keys.mailbox(self.entries[replica].number, number): (replica, name)
            for replica in sorted(replicas)
            for name, (number, source) in self.entries[replica].inputs.items()
            if source
        }

    def _moving(self) -> list[int]:
        """The slots that have yet to move."""
        return [slot for slot in range(SLOTS) if self.anew or self.wanted[slot] != self.kept.owners[slot]]

    def _sizes(self) -> dict[int, int]:
        """The bytes that wait for each slot that has yet to move, as far as they are known; the smallest first."""
        assert self.by_slot is not None
        losing = self.losing()
        found = {}
        for slot in self._moving():
            elsewhere = {mailbox for mailbox, (replica, _) in losing.items() if replica != self.wanted[slot]}
            found[slot] = self.by_slot.bytes_of(slot, elsewhere)
        return dict(sorted(found.items(), key=itemgetter(1)))

    def bytes_left(self) -> int:
        """What has yet to move, as far as it is known."""
        return sum(self._sizes().values())

    def find(self, txn: ReadTxn, bytes_max: int | None) -> int:
        """Choose what moves now: as many slots as have `bytes_max` waiting, or one that has more; None: all. Returns
        the bytes of the others.
        """
        if self.by_slot is None:
            return self._find_in_turns(txn, bytes_max)
        chosen: set[int] = set()
        size = put_off = 0
        for slot, of_slot in self._sizes().items():
            if bytes_max is None or not size or size + of_slot <= bytes_max:
                size += of_slot
                chosen.add(slot)
            else:
                put_off += of_slot
        before = self.kept.owners
        self.now = [self.wanted[slot] if slot in chosen else before[slot] for slot in range(SLOTS)]
        for mailbox, (replica, name) in self.losing().items():
            slots = {
                place: slot
                for slot in chosen
                if self.wanted[slot] != replica
                for place in self.by_slot.places(slot, mailbox)
            }
            for message in present(txn, mailbox, sorted(slots)):
                self._moves(replica, name, self.now[slots[by_place(message)]], message)
        return put_off

    def _find_in_turns(self, txn: ReadTxn, bytes_max: int | None) -> int:
        """Without a `partition_by` all slots move at once. What waits goes to the owners in turns, the oldest first."""
        self.now = self.wanted
        turns = cycle(sorted(set(self.wanted)))
        size = left = 0
        for mailbox, (replica, name) in self.losing().items():
            taken = 0
            for message in messages(txn, mailbox):
                record = message[1]
                if record[0] >= NOTICE_MIN:
                    continue
                if bytes_max is not None and size > bytes_max:
                    left += max(1, queue_of(txn, keys.queue_of(mailbox))[BYTES] - taken)
                    break
                self._moves(replica, name, next(turns), message)
                size += max(len(record), COUNTS_MIN)
                taken += records.message_bytes(record)
        return left

    def _moves(self, replica: int, name: str, to: int, message: Message) -> None:
        self.leaving.setdefault((replica, name), []).append(message)
        self.arriving.setdefault((to, name), []).append(message)

    def carry_out(self, txn: WriteTxn, space: Space, version: int) -> bool:
        """Move what was chosen, under this wiring number. Returns whether anything has changed."""
        kept = self.kept
        since = [
            version if self.anew or owner != before else since
            for since, owner, before in zip(kept.since, self.now, kept.owners, strict=True)
        ]
        now = routing.Owners(tuple(self.now), kept.partition, tuple(since))
        if routing.kept_owners(txn, self.number) == now and not self.leaving:
            return False
        if point is not None:
            point("move slots")
        routing.put_owners(txn, self.number, now.owners, now.partition, now.since)
        attempts: dict[bytes, bytes] = {}
        for entry in self.entries:
            attempts.update(scan(txn, keys.attempts_prefix(entry.number)))
        for (replica, name), gone in self.leaving.items():
            _take(txn, self.entries[replica], name, gone)
        index = 0
        for (replica, name), come in self.arriving.items():
            come.sort(key=by_place)
            index = _put(txn, space, self.entries[replica], name, come, attempts, index)
        self._letters(txn)
        if self.by_slot is not None:
            self.by_slot.owned = now
        return True

    def _letters(self, txn: WriteTxn) -> None:
        """Dead letters go with their slots; without a `partition_by`, those of replicas that own none any more."""
        turns = cycle(range(SLOTS))
        staying = set() if self.by_slot is not None else set(self.now)
        for replica, entry in enumerate(self.entries):
            if replica in staying:
                continue
            for key, packed in list(scan(txn, keys.dead_prefix(entry.number))):
                letter = msgpack.unpackb(packed)
                slot = next(turns) if self.by_slot is None else self.by_slot.of_letter(key, letter["message"])
                to = self.now[slot]
                home = self.entries[to]
                if to == replica or letter["input"] not in home.inputs:
                    continue
                sequence, index = keys.parse_place(key[3:15])
                txn.delete(key)
                txn.put(keys.dead(home.number, sequence, index, home.inputs[letter["input"]][0]), packed)


def _take(txn: WriteTxn, entry: NodeEntry, name: str, gone: list[Message]) -> None:
    """Take messages out of an input."""
    number = entry.inputs[name][0]
    key = keys.queue(entry.number, number)
    queue = queue_of(txn, key)
    freed, size = remove(txn, keys.mailbox(entry.number, number), queue, Removal(gone), releases=False, moves=True)
    queue[QUEUED] -= freed
    queue[BYTES] -= size
    txn.put(key, records.pack_queue(queue))


def _put(
    txn: WriteTxn,
    space: Space,
    entry: NodeEntry,
    name: str,
    come: Sequence[Message],
    attempts: Mapping[bytes, bytes],
    index: int,
) -> int:
    """Put messages behind what waits in an input. `index`: of the first one. Returns the index after the last."""
    number = entry.inputs[name][0]
    mailbox, queue_key = keys.mailbox(entry.number, number), keys.queue(entry.number, number)
    sequence = space.base + txn.id()
    moved = [record for _, record in come]
    for at, (key, _) in enumerate(come, index):
        known = attempts.get(keys.attempts(key))
        if known is not None:
            txn.delete(keys.attempts(key))
            txn.put(keys.attempts(keys.message(entry.number, number, sequence, at)), known)
    end = index + len(come)
    queue = queue_of(txn, queue_key)
    notice = _take_closed(txn, space, mailbox, queue) if queue[FLAGS] & SOURCE_ENDED else b""
    size = sum(map(len, moved))
    for first, record, is_pack in packs.parcels(range(index, end), moved, size, lone=any(r[1] for r in moved)):
        txn.put(mailbox + keys.place(sequence, first) + (keys.PACK_MARK if is_pack else b""), record)
    queue[QUEUED] += len(moved)
    queue[BYTES] += sum(map(records.message_bytes, moved))
    txn.put(queue_key, records.pack_queue(queue))
    if notice:
        txn.put(mailbox + keys.place(sequence, end), notice)
        end += 1
    return end


def _take_closed(txn: WriteTxn, space: Space, mailbox: bytes, queue: Sequence[int]) -> bytes:
    """Take INPUT_CLOSED out of an input whose sender has ended. Returns what is to be put behind the last message."""
    cursor = txn.cursor()
    alive = cursor.prev() if cursor.set_range(mailbox + PAST) else cursor.last()
    while alive and cursor.key().startswith(mailbox) and not keys.is_pack(cursor.key()):
        record = cursor.value()
        if record[0] < NOTICE_MIN:
            break
        if record[0] == INPUT_CLOSED:  # mostly: it is put behind all that waits
            txn.delete(cursor.key())
            return record
        alive = cursor.prev()
    error = "its sender has failed" if queue[FLAGS] & SOURCE_FAILED else None
    notice = records.encode_notice(INPUT_CLOSED, "", error, space.now_ns())
    for key, record in scan(txn, mailbox):
        if record[0] == INPUT_CLOSED and not keys.is_pack(key):
            notice = record
    remove_notices(txn, mailbox, (INPUT_CLOSED,))
    return notice
