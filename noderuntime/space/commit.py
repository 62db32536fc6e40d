"""The event transaction: input, private state, shared writes and outputs of an event, all of it or nothing.

`Commits.commit` takes a group of staged events and commits the longest part of it that there is room for, as one
write transaction. Inside the write lock it only compares and puts; all encoding was done when things were staged.

Order matters in one place: an event is admitted (every backpressure receiver has room) before anything of it is put,
so that what is not admitted has left no trace and can be tried again later, with the handler not run again.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from typing import Any

import lmdb

from noderuntime.errors import Fenced, StoreError
from noderuntime.space import keys, records, shared
from noderuntime.space.ending import Links, close
from noderuntime.space.mailbox import drop_oldest, is_full, is_low, queue_of
from noderuntime.space.records import (
    BYTES,
    CLOSED,
    DISCARDED,
    FLAGS,
    QUEUE,
    QUEUED,
    TAKEN,
    message_bytes,
    reference_of,
)
from noderuntime.space.segments import Segment, adjust, register
from noderuntime.space.space import MARK_DRAIN, MARK_NEW_WORK, MARK_SINGLE, Space, is_no_room, yield_lock
from noderuntime.space.watching import Cursor, Watchers
from noderuntime.wiring import InputWiring, OutputWiring, ReceiverWiring, Wiring

_LOOK_EVERY = 16  # commits between two looks at how full the space is, while it is far from full
_LOOK_SHARE = 0.5
_LOOK_BYTES = 256 * 1024


Sent = tuple["Output", bytes, int, Segment | None]  # an output, and a message's record, number and segment


class Inapplicable(Exception):
    """A shared write of event `at` of the group cannot be applied: another node has put there what it cannot merge."""

    def __init__(self, at: int, error: Exception) -> None:
        self.at = at
        self.error = error
        super().__init__(str(error))


class Staged:
    """What one event is to change. `ack` is (message key, its input, its record) or None."""

    __slots__ = ("ack", "attempts", "cells", "cursor", "ends", "outputs", "private", "shared")

    def __init__(self) -> None:
        self.ack: tuple[bytes, Input, bytes] | None = None
        self.attempts = False  # the message has an attempts record, which goes with it
        self.private: dict[bytes, bytes | None] | None = None
        self.shared: list[shared.SharedWrite] | None = None
        self.cursor: Cursor | None = None  # how far the watch of this node has come with this event
        self.outputs: list[Sent] | None = None
        self.cells: dict[int, int] | None = None
        self.ends = False  # the last event of this node: close its outputs and its mailbox


class Receiver:
    """One mailbox that an output goes to."""

    __slots__ = ("drop_oldest", "mailbox", "messages_min", "node", "queue_key", "size", "size_bytes")

    def __init__(self, wiring: ReceiverWiring) -> None:
        self.node = wiring.node
        self.mailbox = keys.mailbox(wiring.node, wiring.input)
        self.queue_key = keys.queue(wiring.node, wiring.input)
        self.size = wiring.queue_size
        self.size_bytes = wiring.queue_bytes
        self.messages_min = wiring.messages_min
        self.drop_oldest = wiring.drop_oldest


class Output:
    """One output: its cell in the node record counts its messages; `sent` counts those that are staged as well."""

    __slots__ = ("cell", "name", "receivers", "sent", "waiting_receivers")

    def __init__(self, wiring: OutputWiring, sent: int) -> None:
        self.name = wiring.name
        self.cell = wiring.number
        self.sent = sent
        self.receivers = [Receiver(receiver) for receiver in wiring.receivers]
        self.waiting_receivers = [receiver for receiver in self.receivers if not receiver.drop_oldest]


class Input:
    """One input of this node. Timers and inputs with a timeout have two cells, from `cell` on; -1: none."""

    __slots__ = ("cell", "mailbox", "name", "number", "queue_key", "wiring")

    def __init__(self, node: int, wiring: InputWiring, cell: int) -> None:
        self.name = wiring.name
        self.number = wiring.number
        self.mailbox = keys.mailbox(node, wiring.number)
        self.queue_key = keys.queue(node, wiring.number)
        self.wiring = wiring
        self.cell = cell


class Commits:
    """The write side of one node in one life.

    `fresh_work`: Sources and custom nodes, whose sends are refused first when the space fills up.
    """

    def __init__(self, space: Space, wiring: Wiring, incarnation: int, *, fresh_work: bool = False) -> None:
        self.space = space
        self.node = wiring.number
        self.name = wiring.node
        self.fresh_work = fresh_work
        self.rings: set[int] = set()  # numbers of the nodes to ring after the last commit
        self.waits_for = ""  # why the last commit was not complete
        self._node_key = keys.node(wiring.number)
        self._private_prefix = keys.private_prefix(wiring.number)
        self._origin = space.origin | wiring.number
        self._watchers = Watchers()
        self._look_in = 0
        self._share = 0.0
        with space.read() as txn:
            record = txn.get(self._node_key)
        if record is None or records.NodeRecord.parse(record).incarnation != incarnation:
            raise Fenced(f"incarnation {incarnation} of {wiring.node} has been replaced")
        self._record: bytes = record
        parsed = records.NodeRecord.parse(record)
        self._incarnation = incarnation
        self._number = parsed.commit
        self.cells = parsed.cells
        first_cell = max((output.number + 1 for output in wiring.outputs), default=0)
        self.outputs: dict[str, Output] = {}
        self.inputs: dict[str, Input] = {}
        cells = first_cell + 2 * max((item.number + 1 for item in wiring.inputs), default=0)
        self.cells.extend([0] * (cells - len(self.cells)))
        for item in wiring.outputs:
            self.outputs[item.name] = Output(item, self.cells[item.number])
        for entry in wiring.inputs:
            watched = entry.period_ns or entry.timeout_ns
            cell = first_cell + 2 * entry.number if watched else -1
            self.inputs[entry.name] = Input(wiring.number, entry, cell)
        self.links = Links(
            self.name,
            [(to.node, to.mailbox, to.queue_key) for output in self.outputs.values() for to in output.receivers],
            [(item.wiring.sender, item.mailbox, item.queue_key) for item in self.inputs.values()],
        )
        self._pack_record = struct.Struct(f"<IBxxxQ{len(self.cells)}Q").pack

    def commit(self, group: Sequence[Staged], now_ns: int) -> int:
        """Commit as many events from the front of `group` as there is room for; how many, 0 included.

        After it, `rings` holds the nodes to ring. Raises Fenced when this life is over.
        """
        self.rings = rings = set()
        self.waits_for = ""
        space = self.space
        txn = space.begin()
        try:
            if txn.get(self._node_key) != self._record:
                raise Fenced(f"incarnation {self._incarnation} of {self.name} has been replaced")
            self._look_in -= 1
            if self._look_in <= 0 or self._share > _LOOK_SHARE:
                self._share = space.used_share(txn)
                self._look_in = _LOOK_EVERY
            if self._share > MARK_NEW_WORK:
                group = self._restrain(group)
            sequence = space.base + txn.id()
            queues: dict[bytes, list[int]] = {}
            cells = self.cells.copy()
            private: dict[bytes, bytes | None] = {}
            place = keys.place
            status = records.LIVE
            changes: shared.Changes | None = None
            cursor: Cursor | None = None
            done = index = written = 0
            for staged in group:
                outputs = staged.outputs
                if outputs:
                    if not self._admits(txn, outputs, queues):
                        break
                    for output, record, number, segment in outputs:
                        cells[output.cell] = number
                        first = index
                        size = len(record) if segment is None else message_bytes(record)
                        for receiver in output.receivers:
                            queue = queues.get(receiver.queue_key)
                            if queue is None:
                                queue = queues[receiver.queue_key] = queue_of(txn, receiver.queue_key)
                            if queue[FLAGS] & CLOSED:
                                queue[DISCARDED] += 1
                                continue
                            txn.put(receiver.mailbox + place(sequence, index), record)
                            index += 1
                            written += len(record)
                            if not queue[QUEUED]:
                                rings.add(receiver.node)
                            queue[QUEUED] += 1
                            queue[BYTES] += size
                            if receiver.drop_oldest:
                                limits = receiver.size, receiver.size_bytes, receiver.messages_min
                                drop_oldest(txn, receiver.mailbox, queue, *limits)
                        if segment is not None:
                            register(txn, segment, index - first)
                if staged.ack is not None:
                    self._acknowledge(txn, staged, queues)
                if staged.private:
                    private.update(staged.private)
                if staged.shared:
                    if changes is None:
                        changes = shared.Changes(txn, sequence, now_ns, self._origin)
                    try:
                        for write in staged.shared:
                            changes.write(write)
                    except (TypeError, StoreError) as error:
                        raise Inapplicable(done, error) from error
                if staged.cursor:
                    cursor = staged.cursor
                if staged.cells:
                    for cell, value in staged.cells.items():
                        cells[cell] = value
                done += 1
                if staged.ends:
                    status = records.ENDED
                    close(txn, self.links, queues, rings, sequence, index, now_ns)
            if not done and group:
                txn.abort()
                self.waits_for = self.waits_for or "a receiver whose queue is full"
                return 0
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
            if cursor is not None:
                txn.put(keys.watch_cursor(self.node), place(*cursor))
            for queue_key, queue in queues.items():
                txn.put(queue_key, QUEUE.pack(*queue))
            record = self._pack_record(self._incarnation, status, self._number + 1, *cells)
            txn.put(self._node_key, record)
            crowded = space.has_waiters()
            txn.commit()
        except lmdb.Error as error:
            with contextlib.suppress(lmdb.Error):
                txn.abort()
            if not is_no_room(error):
                raise
            rings.clear()
            self._look_in = 0
            self.waits_for = f"room in the space ({error})"
            return 0
        except BaseException:
            txn.abort()
            raise
        self._record = record
        self._number += 1
        self.cells = cells
        if written > _LOOK_BYTES:
            self._look_in = 0
        if crowded:
            yield_lock()
        return done

    def _restrain(self, group: Sequence[Staged]) -> Sequence[Staged]:
        """What of the group may be tried in a space that fills up; what only drains always may."""
        if self._share > MARK_DRAIN or self.fresh_work:
            for count, staged in enumerate(group):
                if staged.outputs or (self.fresh_work and staged.ack is None and not staged.ends):
                    self.waits_for = f"room in the space ({self._share:.0%} of {self.space.size_bytes} bytes are used)"
                    return group[:count]
        return group[:1] if self._share > MARK_SINGLE else group

    def _admits(
        self, txn: Any, outputs: list[Sent], queues: dict[bytes, list[int]]
    ) -> bool:
        for output, _, _, _ in outputs:
            for receiver in output.waiting_receivers:
                queue = queues.get(receiver.queue_key)
                if queue is None:
                    queue = queues[receiver.queue_key] = queue_of(txn, receiver.queue_key)
                if queue[FLAGS] & CLOSED:
                    continue
                if is_full(queue, receiver.size, receiver.size_bytes, receiver.messages_min):
                    return False
        return True

    def _acknowledge(self, txn: Any, staged: Staged, queues: dict[bytes, list[int]]) -> None:
        assert staged.ack is not None
        key, input, record = staged.ack
        if staged.attempts:
            txn.delete(keys.attempts(key))
        present = txn.delete(key)
        if record[0] >= records.NOTICE_MIN:
            return
        queue = queues.get(input.queue_key)
        if queue is None:
            queue = queues[input.queue_key] = queue_of(txn, input.queue_key)
        queue[TAKEN] += 1
        wiring = input.wiring
        if present:
            was_low = is_low(queue, wiring.queue_size, wiring.queue_bytes)
            queue[QUEUED] -= 1
            queue[BYTES] -= message_bytes(record)
            if record[1]:
                adjust(txn, reference_of(record), -1)
            if not was_low and is_low(queue, wiring.queue_size, wiring.queue_bytes):
                self.rings.add(wiring.sender)
        else:  # dropped while it was in hand: it took effect after all
            queue[records.DROPPED] -= 1

