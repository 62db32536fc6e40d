"""The event transaction: input, private state, shared writes and outputs of an event, all of it or nothing.

`Commits.commit` takes a group of staged events and commits the longest part of it that there is room for, as one
write transaction. Inside the write lock it only compares and puts; all encoding was done when things were staged.

Order matters in one place: an event is admitted (every backpressure receiver has room) before anything of it is put,
so that what is not admitted has left no trace and can be tried again later, with the handler not run again.

An exception from outside (a signal handler's, say) can arrive behind LMDB's commit, before it is noted here or by the
caller. So the events that were tried last are remembered with the node record that they were to leave behind: when that
is what the next call finds in the space, they are done, and are not committed twice.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import lmdb

from noderuntime.errors import Fenced, StoreError
from noderuntime.space import keys, outbox, records, shared
from noderuntime.space.ending import Links, close
from noderuntime.space.mailbox import drop_oldest, is_low, queue_of
from noderuntime.space.records import (
    BYTES,
    CLOSED,
    DISCARDED,
    EAGER,
    FLAGS,
    QUEUE,
    QUEUED,
    TAKEN,
    message_bytes,
    reference_of,
)
from noderuntime.space.segments import adjust, register
from noderuntime.space.space import MARK_DRAIN, MARK_NEW_WORK, MARK_SINGLE, Space, is_no_room, yield_lock
from noderuntime.space.staged import Input, Output, Receiver, Sent, Staged
from noderuntime.space.watching import STORE, Cursor, Watchers
from noderuntime.wiring import Wiring

_LOOK_EVERY = 16  # commits between two looks at how full the space is, while it is far from full
_LOOK_SHARE = 0.5
_LOOK_BYTES = 256 * 1024
_GROUP_MAX = 64


class Inapplicable(Exception):
    """A shared write of event `at` of the group cannot be applied: another node has put there what it cannot merge."""

    def __init__(self, at: int, error: Exception) -> None:
        self.at = at
        self.error = error
        super().__init__(str(error))


class Applied(NamedTuple):
    """What a write transaction holds that is about to be committed."""

    done: int  # events
    record: bytes  # the node record
    cells: list[int]
    written: int  # bytes
    outbox_last: bytes | None


class Commits:
    """The write side of one node in one life. After a commit:

    `rings` are the numbers of the nodes to ring; `waits_for` tells why there was no room for all ("" when there was).
    """

    def __init__(self, space: Space, wiring: Wiring, incarnation: int) -> None:
        self.space = space
        self.node = wiring.number
        self.name = wiring.node
        # Who takes no messages brings new ones into the space, and is refused first when it fills up. Everybody else
        # has to go on, custom nodes included, or what is in their mailboxes could never leave it.
        self.fresh_work = all(item.period_ns for item in wiring.inputs)
        self.rings: set[int] = set()
        self.waits_for = ""
        self._node_key = keys.node(wiring.number)
        self._private_prefix = keys.private_prefix(wiring.number)
        self._origin = space.origin | wiring.number
        self.outbox_last: bytes | None = None  # this node's newest writes on their way to a State outside the space
        self._watchers = Watchers()
        self._look_in = 0
        self._look_bytes = min(_LOOK_BYTES, space.size_bytes // 256)
        self._share = 0.0
        self._group_max = _GROUP_MAX
        self._tried = b""  # the node record of the last commit that was tried, and its events
        self._tried_events: Sequence[Staged] = ()
        with space.read() as txn:
            record = txn.get(self._node_key)
            if space.outside is not None:
                self.outbox_last = outbox.last_of(txn, wiring.number)
        if record is None or records.NodeRecord.parse(record).incarnation != incarnation:
            raise Fenced(f"incarnation {incarnation} of {wiring.node} has been replaced")
        self._record: bytes = record
        parsed = records.NodeRecord.parse(record)
        self._incarnation = incarnation
        self._number = parsed.commit
        self.cells = parsed.cells
        self.outputs: dict[str, Output] = {}
        self.inputs: dict[str, Input] = {}
        cells = [records.output_cell(item.number) + 1 for item in wiring.outputs]
        cells += [records.input_cell(item.number) + 2 for item in wiring.inputs if item.period_ns or item.timeout_ns]
        self.cells.extend([0] * (max(cells, default=0) - len(self.cells)))
        for item in wiring.outputs:
            self.outputs[item.name] = Output(item, self.cells[records.output_cell(item.number)])
        for entry in wiring.inputs:
            watched = entry.period_ns or entry.timeout_ns
            cell = records.input_cell(entry.number) if watched else -1
            self.inputs[entry.name] = Input(wiring.number, entry, cell)
        self._receivers = [receiver for output in self.outputs.values() for receiver in output.receivers]
        self._mailboxes = [item for item in self.inputs.values() if not item.wiring.period_ns]
        self._loops = any(receiver.node == self.node for receiver in self._receivers)  # it sends to itself
        self.links = Links(
            self.name,
            [(to.node, to.mailbox, to.queue_key) for output in self.outputs.values() for to in output.receivers],
            [(item.wiring.sender, item.mailbox, item.queue_key) for item in self.inputs.values()],
        )
        self._pack_record = struct.Struct(f"<IBxxxQ{len(self.cells)}Q").pack

    def check(self, txn: Any) -> None:
        """Raise Fenced when this life is over, as the write transaction `txn` sees it."""
        record = txn.get(self._node_key)
        if record is None or records.NodeRecord.parse(record).incarnation != self._incarnation:
            raise Fenced(f"incarnation {self._incarnation} of {self.name} has been replaced")

    def be_eager(self) -> None:
        """From now on ring this node for every message, not only for the first in an empty queue. Raises StoreFull.

        That one ring is enough for who looks again when done; not for a thread that waits while another one has the
        first message in hand.
        """
        with self.space.write() as txn:
            self.check(txn)
            for item in self.inputs.values():
                queue = queue_of(txn, item.queue_key)
                queue[FLAGS] |= EAGER
                txn.put(item.queue_key, QUEUE.pack(*queue))

    def commit(self, group: Sequence[Staged], now_ns: int) -> int:
        """Commit as many events from the front of `group` as there is room for; how many, 0 included.

        Fewer than all, and `waits_for` is "": call again at once. Raises Fenced when this life is over.
        """
        self.rings = set()
        self.waits_for = ""
        if not group:  # another thread was first
            return 0
        space = self.space
        txn = space.begin()
        try:
            known = self._committed_before(txn, group)
            if known:
                txn.abort()
                return known
            self._look_in -= 1
            if self._look_in <= 0 or self._share > _LOOK_SHARE:
                self._share = space.used_share(txn)
                self._look_in = _LOOK_EVERY
            if len(group) > self._group_max:
                group = group[: self._group_max]
            if self._share > MARK_NEW_WORK:
                group = self._restrain(txn, group, now_ns)
            applied = self._apply(txn, group, now_ns)
            done = applied.done
            if not done:
                txn.abort()
                return 0
            self._tried = applied.record
            self._tried_events = group[:done]
            crowded = space.has_waiters()
            txn.commit()
        except lmdb.Error as error:
            with contextlib.suppress(lmdb.Error):
                txn.abort()
            if not is_no_room(error):
                raise
            self.rings.clear()
            self._look_in = 0
            self._group_max = max(1, len(group) // 2)  # it may be the group that is too large, not the rest
            self.waits_for = f"room in the space ({error})"
            return 0
        except BaseException:
            txn.abort()
            raise
        self._record = applied.record
        self._number += 1
        self.cells = applied.cells
        if applied.outbox_last is not None:
            self.outbox_last = applied.outbox_last
        if applied.written > self._look_bytes:
            self._look_in = 0
        if self._group_max < _GROUP_MAX:
            self._group_max *= 2
        if crowded:
            yield_lock()
        return done

    def _committed_before(self, txn: Any, group: Sequence[Staged]) -> int:
        """How many events from the front of `group` the last call has committed, although an exception hid it.

        Raises Fenced when the node record is none that this life has left.
        """
        found = txn.get(self._node_key)
        if found != self._record:
            if found != self._tried:
                raise Fenced(f"incarnation {self._incarnation} of {self.name} has been replaced")
            parsed = records.NodeRecord.parse(found)
            self._record, self._number, self.cells = found, parsed.commit, parsed.cells
        tried = self._tried_events
        if not tried or tried[0] is not group[0]:
            return 0
        if found == self._tried:
            # whom it should have rung is unknown by now
            self.rings.update(node for node, _, _ in (*self.links.receivers, *self.links.inputs) if node >= 0)
            self.rings |= self._watchers.all()
            return len(tried)
        # that commit was not made, and another one of fewer events may leave the very same node record behind
        self._tried_events = ()
        return 0

    def _apply(self, txn: Any, group: Sequence[Staged], now_ns: int) -> Applied:
        """Put what the longest part of `group` that there is room for changes; nothing, when that is none of it."""
        rings = self.rings
        queues: dict[bytes, list[int]] = {}
        for receiver in self._receivers:
            receiver.queue = None
        for input in self._mailboxes:
            input.taken = input.freed = input.freed_bytes = 0
        sequence = self.space.base + txn.id()
        cells = self.cells.copy()
        private: dict[bytes, bytes | None] = {}
        changes: shared.Changes | None = None
        outbox_last: bytes | None = None
        watched: Cursor | None = None
        status = records.LIVE
        puts: list[tuple[bytes, bytes]] = []  # messages: put together at the end
        place_start, place_ends, notice_min = keys.place_start(sequence), keys.PLACE_ENDS, records.NOTICE_MIN
        taker = None
        room = room_bytes = 0  # as long as there are some, every receiver has room, whichever it is
        if len(group) > 1:
            taker = txn.cursor()  # messages are mostly taken in the order of their keys
            room, room_bytes = self._room(txn, queues)
        done = index = written = 0
        for staged in group:
            outputs = staged.outputs
            if outputs is not None:
                if (room <= 0 or room_bytes <= 0) and not self._admits(txn, outputs, queues):
                    self.waits_for = "a receiver whose queue is full"
                    break
                for output, record, number, segment in outputs:
                    cells[output.cell] = number
                    first = index
                    size = len(record)
                    written += size
                    if segment is not None:
                        size = message_bytes(record)
                    for receiver in output.receivers:
                        queue = receiver.queue or _load(txn, receiver, queues)
                        if queue[FLAGS]:
                            if queue[FLAGS] & CLOSED:
                                queue[DISCARDED] += 1
                                continue
                            if queue[FLAGS] & EAGER:
                                rings.add(receiver.node)
                        end = place_ends[index] if index < keys.PLACE_ENDS_MAX else keys.place_end(index)
                        index += 1
                        room -= 1
                        room_bytes -= size
                        if not queue[QUEUED]:
                            rings.add(receiver.node)
                        queue[QUEUED] += 1
                        queue[BYTES] += size
                        if receiver.drop_oldest:
                            txn.put(receiver.mailbox + place_start + end, record)
                            limits = receiver.size, receiver.size_bytes, receiver.messages_min
                            drop_oldest(txn, receiver.mailbox, queue, *limits)
                        else:
                            puts.append((receiver.mailbox + place_start + end, record))
                    if segment is not None:
                        register(txn, segment, index - first)
            if staged.ack is not None:
                key, input, message = staged.ack
                if taker is None:
                    present = txn.delete(key)
                elif present := taker.key() == key or taker.set_key(key):
                    taker.delete()
                if message[0] < notice_min:
                    input.taken += 1
                    if present:
                        input.freed += 1
                        if message[1]:
                            input.freed_bytes += message_bytes(message)
                            adjust(txn, reference_of(message), -1)
                        else:
                            input.freed_bytes += len(message)
                    if self._loops:
                        self._settle(txn, queues)
            if staged.private is not None:
                private.update(staged.private)
            done += 1
            rare = staged.rare
            if rare is not None:
                if rare.attempts and staged.ack is not None:
                    txn.delete(keys.attempts(staged.ack[0]))
                if rare.shared and self.space.outside is not None:
                    outbox_last = outbox.put(txn, sequence, done - 1, self.node, rare.shared)
                    rings.add(STORE)
                elif rare.shared:
                    if changes is None:
                        changes = shared.Changes(txn, sequence, now_ns, self._origin)
                    try:
                        for write in rare.shared:
                            changes.write(write)
                    except (TypeError, StoreError) as error:
                        raise Inapplicable(done - 1, error) from error
                if rare.cursor is not None:
                    watched = rare.cursor
                if rare.cells is not None:
                    for cell, value in rare.cells.items():
                        cells[cell] = value
                if rare.ends:
                    _put_all(txn, puts)
                    self._settle(txn, queues)
                    status = records.ENDED
                    if rare.stops_all:
                        txn.put(keys.STOP_ALL, self.name.encode())
                    close(txn, self.links, queues, rings, sequence, index, now_ns)
        if not done:
            return Applied(0, b"", cells, 0, None)
        _put_all(txn, puts)
        self._settle(txn, queues)
        if private:
            stamp = records.PRIVATE.pack(sequence)
            for key, kept in private.items():
                if kept is None:
                    txn.delete(self._private_prefix + key)
                else:
                    txn.put(self._private_prefix + key, stamp + kept)
                    written += len(kept)
        if changes is not None:
            changes.finish()
            if changes.generation:
                rings |= self._watchers.of(txn, changes)
        if watched is not None:
            txn.put(keys.watch_cursor(self.node), keys.place(*watched))
        for queue_key, queue in queues.items():
            txn.put(queue_key, QUEUE.pack(*queue))
        record = self._pack_record(self._incarnation, status, self._number + 1, *cells)
        txn.put(self._node_key, record)
        return Applied(done, record, cells, written, outbox_last)

    def _restrain(self, txn: Any, group: Sequence[Staged], now_ns: int) -> Sequence[Staged]:
        """What of the group may be tried in a space that fills up."""
        allowed = len(group) if self._share <= MARK_SINGLE else 1
        if self.fresh_work:
            brings = (bool(item.outputs or item.private or (item.rare and item.rare.shared)) for item in group)
            allowed = next((at for at, new in enumerate(brings) if new), allowed)
        elif self._share > MARK_DRAIN and self._grows(txn, group[0], now_ns):
            allowed = 0
        if not allowed:
            self.waits_for = f"room in the space ({self._share:.0%} of {self.space.size_bytes} bytes are used)"
        return group[:allowed]

    def _grows(self, txn: Any, staged: Staged, now_ns: int) -> bool:
        """Whether an event puts more into the space than it takes out.

        Outputs to receivers that have nothing waiting do not count: the last full mailbox of a chain has to be able to
        drain through those behind it, and no more than one event of each node can be on its way like that.
        """
        growth = 0 if staged.ack is None else -len(staged.ack[2])
        receivers = {to.queue_key for output, _, _, _ in staged.outputs or () for to in output.waiting_receivers}
        queues = [queue_of(txn, key) for key in receivers]
        if any(queue[QUEUED] and not queue[FLAGS] & CLOSED for queue in queues):
            growth += staged.size
        for key, value in (staged.private or {}).items():
            old = txn.get(self._private_prefix + key)
            growth += len(value or b"") - (len(old) - records.PRIVATE_BYTES if old else -len(key))
        for write in (staged.rare and staged.rare.shared) or ():
            growth += shared.growth(txn, write, now_ns)
        return growth > 0

    def _room(self, txn: Any, queues: dict[bytes, list[int]]) -> tuple[int, int]:
        """How many messages and bytes there is room for in the fullest of the queues that are never full."""
        room, room_bytes = sys.maxsize, sys.maxsize
        for receiver in self._receivers:
            if not receiver.drop_oldest:
                queue = _load(txn, receiver, queues)
                room = min(room, receiver.size - queue[QUEUED])
                room_bytes = min(room_bytes, receiver.size_bytes - queue[BYTES])
        return room, room_bytes

    def _admits(self, txn: Any, outputs: list[Sent], queues: dict[bytes, list[int]]) -> bool:
        """Whether every backpressure receiver of an event has room. Two messages of a default queue always fit."""
        for output, _, _, _ in outputs:
            for receiver in output.waiting_receivers:
                queue = receiver.queue or _load(txn, receiver, queues)
                queued = queue[QUEUED]
                if queued < receiver.size and queue[BYTES] < receiver.size_bytes:
                    continue
                if (queued >= receiver.size or queued >= receiver.messages_min) and not queue[FLAGS] & CLOSED:
                    return False
        return True

    def _settle(self, txn: Any, queues: dict[bytes, list[int]]) -> None:
        """Note in the queues of this node what the group has taken, and ring senders whose queue has drained."""
        for input in self._mailboxes:
            if not input.taken:
                continue
            queue = queues.get(input.queue_key)
            if queue is None:
                queue = queues[input.queue_key] = queue_of(txn, input.queue_key)
            limits = input.wiring.queue_size, input.wiring.queue_bytes
            was_low = is_low(queue, *limits)
            queue[TAKEN] += input.taken
            queue[QUEUED] -= input.freed
            queue[BYTES] -= input.freed_bytes
            queue[records.DROPPED] -= input.taken - input.freed  # dropped while in hand: they took effect after all
            if not was_low and is_low(queue, *limits):
                self.rings.add(input.wiring.sender)
            input.taken = input.freed = input.freed_bytes = 0


def _put_all(txn: Any, puts: list[tuple[bytes, bytes]]) -> None:
    """Put these messages; the list is empty afterwards."""
    if len(puts) == 1:
        txn.put(*puts[0])
    elif puts:
        txn.cursor().putmulti(puts)
    puts.clear()


def _load(txn: Any, receiver: Receiver, queues: dict[bytes, list[int]]) -> list[int]:
    """The queue record of a receiver, once per commit; shared with this node's own inputs, should it send to itself."""
    queue = queues.get(receiver.queue_key)
    if queue is None:
        queue = queues[receiver.queue_key] = queue_of(txn, receiver.queue_key)
    receiver.queue = queue
    return queue
