"""Putting what events change into an open write transaction: only comparing and putting, for others wait meanwhile.

Order matters in one place: an event is admitted (every backpressure receiver has room) before anything of it is put,
so that what is not admitted has left no trace and can be tried again later, with the handler not run again.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from noderuntime.errors import StoreError
from noderuntime.space import keys, outbox, records, shared
from noderuntime.space.batch import Acks, Batch, Sends
from noderuntime.space.ending import Links, close
from noderuntime.space.mailbox import drop_oldest, is_low, queue_of
from noderuntime.space.records import (
    BYTES,
    CLOSED,
    DISCARDED,
    DROPPED,
    EAGER,
    FLAGS,
    NOTICE_MIN,
    QUEUE,
    QUEUED,
    TAKEN,
    message_bytes,
    reference_of,
)
from noderuntime.space.segments import adjust, register
from noderuntime.space.space import Space
from noderuntime.space.staged import Input, Output, Receiver, Staged
from noderuntime.space.watching import STORE, Cursor, Watchers


class Inapplicable(Exception):
    """A shared write of event `at` of the group cannot be applied: another node has put there what it cannot merge."""

    def __init__(self, at: int, error: Exception) -> None:
        self.at = at
        self.error = error
        super().__init__(str(error))


class Writer:
    """One write transaction of a node after the other: `begin`, `write`, `finish`. After `finish`:

    `events` is how many were written, 0 when there was no room for any; `rings` are the nodes to ring; `cells` and
    `record` are those of the node; `written` is about how many bytes.
    """

    def __init__(self, space: Space, node: int, links: Links, incarnation: int, cells: int) -> None:
        self._space = space
        self._node = node
        self._links = links
        self._incarnation = incarnation
        self._node_key = keys.node(node)
        self._private_prefix = keys.private_prefix(node)
        self._origin = space.origin | node
        self._loops = any(receiver == node for receiver, _, _ in links.receivers)
        self._pack_record = struct.Struct(f"<IBxxxQ{cells}Q").pack
        self.watchers = Watchers()
        self.rings: set[int] = set()

    def begin(self, txn: Any, cells: Sequence[int], now_ns: int) -> None:
        """A new transaction, which finds the node with these `cells`."""
        self._txn = txn
        self._now_ns = now_ns
        self._sequence = self._space.base + txn.id()
        self._queues: dict[bytes, list[int]] = {}
        self._changes: shared.Changes | None = None
        self._cursor: Cursor | None = None
        self._status = records.LIVE
        self._indexes = 0
        self.cells = list(cells)
        self.events = 0
        self.written = 0
        self.outbox_last: bytes | None = None  # the newest writes on their way to a State outside the space
        self.rings = set()

    def write(self, batch: Batch, group: Sequence[Staged]) -> bool:
        """Write `batch`, the sum of `group`, or as many events from its front as there is room for; whether all."""
        if not self._loops and self._fits(batch):
            self._write(batch)
            return True
        for staged in group:  # nearly full, or what an event takes makes room for those behind it
            batch = Batch((staged,))
            if not self._admits(batch):
                return False
            self._write(batch)
        return True

    def finish(self, number: int) -> bytes:
        """Write what stands at the end of a transaction; the node's record, with `number` commits."""
        txn = self._txn
        if self._changes is not None:
            self._changes.finish()
            if self._changes.generation:
                self.rings |= self.watchers.of(txn, self._changes)
        if self._cursor is not None:
            txn.put(keys.watch_cursor(self._node), keys.place(*self._cursor))
        for queue_key, queue in self._queues.items():
            txn.put(queue_key, QUEUE.pack(*queue))
        record: bytes = self._pack_record(self._incarnation, self._status, number, *self.cells)
        txn.put(self._node_key, record)
        return record

    def _queue(self, key: bytes) -> list[int]:
        """A queue record, read once a transaction. A node that sends to itself has one for both ends."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = queue_of(self._txn, key)
        return queue

    # --- whether there is room --------------------------------------------------------------------------------------

    def _fits(self, batch: Batch) -> bool:
        """Whether all of it stays within the limits of all queues: then each event of it is admitted."""
        for output, sends in batch.sends.items():
            for receiver in output.waiting_receivers:
                queue = self._queue(receiver.queue_key)
                if queue[QUEUED] + len(sends.messages) > receiver.size:
                    return False
                if queue[BYTES] + sends.size > receiver.size_bytes:
                    return False
        return True

    def _admits(self, batch: Batch) -> bool:
        """Whether every backpressure receiver of an event has room. Two messages of a default queue always fit."""
        for output in batch.sends:
            for receiver in output.waiting_receivers:
                queue = self._queue(receiver.queue_key)
                queued = queue[QUEUED]
                if queued < receiver.size and queue[BYTES] < receiver.size_bytes:
                    continue
                if (queued >= receiver.size or queued >= receiver.messages_min) and not queue[FLAGS] & CLOSED:
                    return False
        return True

    # --- what is written --------------------------------------------------------------------------------------------

    def _write(self, batch: Batch) -> None:
        txn = self._txn
        for output, segment in batch.segments:
            open_receivers = sum(not self._queue(to.queue_key)[FLAGS] & CLOSED for to in output.receivers)
            register(txn, segment, open_receivers)
        for output, sends in batch.sends.items():
            self._send(output, sends)
        self._indexes += batch.indexes
        for input, acks in batch.acks.items():
            self._take(input, acks)
        for key in batch.attempts:
            txn.delete(keys.attempts(key))
        if batch.private:
            stamp, prefix = records.PRIVATE.pack(self._sequence), self._private_prefix
            for key, kept in batch.private.items():
                if kept is None:
                    txn.delete(prefix + key)
                else:
                    txn.put(prefix + key, stamp + kept)
                    self.written += len(kept)
        for at, writes in batch.shared:
            self._share(self.events + at, writes)
        if batch.cells:
            for cell, value in batch.cells.items():
                self.cells[cell] = value
        if batch.cursor is not None:
            self._cursor = batch.cursor
        self.events += batch.events
        if batch.ends:
            self._status = records.ENDED
            if batch.stops_all:
                txn.put(keys.STOP_ALL, self._links.node.encode())
            close(txn, self._links, self._queues, self.rings, self._sequence, self._indexes, self._now_ns)

    def _send(self, output: Output, sends: Sends) -> None:
        """Put the messages of one output into the mailboxes of its receivers."""
        count = len(sends.messages)
        start = keys.place_start(self._sequence)
        for index, receiver in enumerate(output.receivers, self._indexes):
            queue = self._queue(receiver.queue_key)
            if queue[FLAGS]:
                if queue[FLAGS] & CLOSED:
                    queue[DISCARDED] += count
                    continue
                if queue[FLAGS] & EAGER:
                    self.rings.add(receiver.node)
            if not queue[QUEUED]:
                self.rings.add(receiver.node)
            queue[QUEUED] += count
            queue[BYTES] += sends.size
            self.written += sends.size
            self._put(receiver.mailbox + start, sends.messages, index)
            if receiver.drop_oldest:
                self._drop_oldest(receiver, queue)

    def _put(self, prefix: bytes, messages: list[tuple[int, bytes]], index: int) -> None:
        """Put messages of one mailbox, whose own indexes count from `index` on."""
        if len(messages) == 1:
            self._txn.put(prefix + keys.place_end(messages[0][0] + index), messages[0][1])
            return
        if messages[-1][0] + index < keys.PLACE_ENDS_MAX:
            ends = keys.PLACE_ENDS
            puts = [(prefix + ends[at + index], record) for at, record in messages]
        else:
            puts = [(prefix + keys.place_end(at + index), record) for at, record in messages]
        self._txn.cursor().putmulti(puts)

    def _drop_oldest(self, receiver: Receiver, queue: list[int]) -> None:
        drop_oldest(
            self._txn, receiver.mailbox, queue, receiver.size, receiver.size_bytes, receiver.messages_min
        )

    def _take(self, input: Input, acks: Acks) -> None:
        """Remove the messages of one input that were handled, and ring a sender whose queue has drained by that."""
        txn = self._txn
        missing = missing_bytes = 0
        if len(acks.messages) == 1:
            key, record = acks.messages[0]
            if txn.delete(key):
                if record[1]:
                    adjust(txn, reference_of(record), -1)
            elif record[0] < NOTICE_MIN:
                missing, missing_bytes = 1, acks.size
        else:
            cursor = txn.cursor()  # they were mostly taken in the order of their keys
            at, find, delete = cursor.key, cursor.set_key, cursor.delete
            for key, record in acks.messages:
                if at() == key or find(key):
                    delete()
                    if record[1]:
                        adjust(txn, reference_of(record), -1)
                elif record[0] < NOTICE_MIN:
                    missing += 1
                    missing_bytes += message_bytes(record)
        if not acks.counted:
            return
        queue = self._queue(input.queue_key)
        limits = input.wiring.queue_size, input.wiring.queue_bytes
        was_low = is_low(queue, *limits)
        queue[TAKEN] += acks.counted
        queue[QUEUED] -= acks.counted - missing
        queue[BYTES] -= acks.size - missing_bytes
        queue[DROPPED] -= missing  # dropped while in hand: they took effect after all
        if not was_low and is_low(queue, *limits):
            self.rings.add(input.wiring.sender)

    def _share(self, at: int, writes: list[shared.SharedWrite]) -> None:
        """The shared writes of one event: applied here, or put on their way to the State outside the space."""
        if self._space.outside is not None:
            self.outbox_last = outbox.put(self._txn, self._sequence, at, self._node, writes)
            self.rings.add(STORE)
            return
        if self._changes is None:
            self._changes = shared.Changes(self._txn, self._sequence, self._now_ns, self._origin)
        try:
            for write in writes:
                self._changes.write(write)
        except (TypeError, StoreError) as error:
            raise Inapplicable(at, error) from error
