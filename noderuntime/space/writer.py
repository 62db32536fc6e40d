"""Puts the changes of events into an open write transaction. It only compares and puts, because other writers wait.

Order matters in one place: an event is admitted (every backpressure receiver has room) before any of its changes is
put. So an event that is not admitted leaves no trace and can be tried again later, without running its handler again.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from noderuntime.errors import Fenced, StoreError
from noderuntime.space import keys, kvs, outbox, records
from noderuntime.space.admission import Queues, admits, admitted, fits
from noderuntime.space.batch import Batch, Sending
from noderuntime.space.ending import Links, close, end_replicas, forget_events
from noderuntime.space.environment import Space
from noderuntime.space.mailbox import Removal, drop_oldest, drop_ordinary, is_low, queue_of, remove
from noderuntime.space.records import (
    BYTES,
    CLOSED,
    DISCARDED,
    DROPPED,
    EAGER,
    FLAGS,
    FLUSHED,
    NOTICE_MIN,
    QUEUED,
    TAKEN,
    message_bytes,
    reference_of,
)
from noderuntime.space.segments import adjust, register
from noderuntime.space.staging import Input, Output, Staged
from noderuntime.space.transactions import ReadTxn, WriteTxn
from noderuntime.space.watches import STORE, Cursor, Watchers

_ANY_SIZE = 1 << 62


class Inapplicable(Exception):
    """A shared write (number `write`) of event `at` of the group cannot be applied: it cannot merge into the value of
    another node.
    """

    def __init__(self, at: int, write: int, error: Exception) -> None:
        self.at = at
        self.write = write
        self.error = error
        super().__init__(str(error))


class MessageGone(Fenced):
    """An event to commit was handled for a message that is not in the mailbox, and nothing drops from that input.

    Then the same message may have taken effect in another process: nothing of the group is committed, and a new life,
    which remembers nothing of it, must read the mailbox again.
    """

    def __init__(self, input: str) -> None:
        super().__init__(f"a message of input {input!r} was taken away while it was in hand; the mailbox is read again")


class Writes:
    """What the commits of a process write for one of its nodes: the record of node number `node`. Its counters are
    those of the process from `first` to before `last`, and those at the places in `more`, which changes have added.
    `wiring`: its wiring number, as it stands in the record.
    """

    __slots__ = ("first", "key", "last", "links", "more", "node", "pack", "wiring")

    def __init__(self, node: int, links: Links, first: int, last: int, wiring: int) -> None:
        self.node = node
        self.first = first
        self.last = last
        self.key = keys.node(node)
        self.rewire(links, [], wiring)

    def rewire(self, links: Links, more: list[int], wiring: int) -> None:
        """The node has another wiring from now on, and perhaps more counters."""
        self.links = links
        self.more = more
        self.wiring = wiring << records.WIRING_SHIFT
        self.pack = struct.Struct(f"<IIQ{self.last - self.first + len(more)}Q").pack

    def own(self, counters: list[int]) -> list[int]:
        """Those of its node among the counters of the process."""
        own = counters[self.first : self.last]
        if self.more:
            own += [counters[at] for at in self.more]
        return own


class Writer:
    """The write transactions of a process, one after the other. After `write`:

    `rings` are the nodes to ring, `counters` and `statuses` those of its nodes, `record` that of the first one, which
    changes with each commit, `written` is about how many bytes, and `outbox_last` the newest writes on their way to an
    external State, if there were any.
    """

    def __init__(self, space: Space, nodes: Sequence[Writes], incarnation: int) -> None:
        self._space = space
        self._nodes = nodes
        self._first = nodes[0]
        self._others = nodes[1:]
        self._node = nodes[0].node
        self._incarnation = incarnation
        self._origin = space.origin | self._node
        self.watchers = Watchers()
        self.rings: set[int] = set()
        self.counters: list[int] = []
        self.statuses: list[int] = []
        self.record = b""
        self.written = 0
        self.outbox_last: bytes | None = None
        self._changes: kvs.Changes | None = None
        self._cursors: dict[int, Cursor] = {}

    def _forget(self) -> None:
        """Forget the last transaction. Not in `write`: compiled, an attribute set to None there is None to its end."""
        self.written = 0
        self.outbox_last = self._changes = None
        if self._cursors:
            self._cursors = {}

    def write(
        self,
        txn: WriteTxn,
        group: Sequence[Staged],
        batch: Batch | None,
        before: list[int],
        statuses: Sequence[int],
        number: int,
        now_ns: int,
    ) -> int:
        """Write the events of `group`, or as many from its front as there is room for. Returns how many.

        `batch` is their sum, if there are several events or messages. `before` and `statuses` are the counters and
        statuses before it, `number` counts the commits of the process after this one.
        """
        rings: set[int] = set()
        self.rings = rings
        self.counters = counters = list(before)
        self.statuses = list(statuses)
        self._forget()
        queues: Queues = {}
        sequence = self._space.base + txn.id()
        if batch is not None and not batch.loops:
            done = len(group)
            if not fits(txn, batch, queues):
                done = admitted(txn, group, queues)
                if not done:
                    return 0
                if done < len(group):
                    batch = Batch(group[:done])
            private = self._write_all(txn, batch, queues, sequence, now_ns)
        else:
            private, done = self._write_each(txn, group, queues, sequence, now_ns)
            if not done:
                return 0
        if private:
            stamp = records.PRIVATE.pack(sequence)
            for key, kept in private.items():
                if kept is None:
                    txn.delete(key)
                else:
                    txn.put(key, stamp + kept)
                    self.written += len(kept)
        if self._changes is not None:
            self._changes.finish()
            if self._changes.generation:
                rings |= self.watchers.of(txn, self._changes)
        for member, cursor in self._cursors.items():
            txn.put(keys.watch_cursor(self._nodes[member].node), keys.place(*cursor))
        for queue_key, queue in queues.items():
            txn.put(queue_key, records.pack_queue(queue))
        first = self._first
        own = counters
        if self._others:
            own = first.own(counters)
            self._write_others(txn, before, statuses, number)
        self.record = first.pack(self._incarnation, self.statuses[0] | first.wiring, number, *own)
        txn.put(first.key, self.record)
        return done

    def _write_others(self, txn: WriteTxn, before: list[int], statuses: Sequence[int], number: int) -> None:
        """Write the records of the other nodes of the process, if they have changed: the first one's is the fence."""
        for at, node in enumerate(self._others, 1):
            own = node.own(self.counters)
            if own != node.own(before) or self.statuses[at] != statuses[at]:
                txn.put(node.key, node.pack(self._incarnation, self.statuses[at] | node.wiring, number, *own))

    # --- event by event ---------------------------------------------------------------------------------------------

    def _write_each(
        self, txn: WriteTxn, group: Sequence[Staged], queues: Queues, sequence: int, now_ns: int
    ) -> tuple[dict[bytes, bytes | None], int]:
        """Write events one by one, as long as there is room. Returns what they keep, and how many they were.

        This is one function because a message that comes alone waits for it, on cold caches, where each call costs a
        microsecond (bench/README.md).
        """
        counters, rings = self.counters, self.rings
        start = keys.place_start(sequence)
        private: dict[bytes, bytes | None] = {}
        done = index = 0
        for staged in group:
            outputs = staged.outputs
            if outputs is not None:
                if not admits(txn, outputs, queues):
                    break
                for output, record, sent, segment in outputs:
                    counters[output.counter] = sent
                    size = len(record) if segment is None else message_bytes(record)
                    first = index
                    for receiver in output.receivers:
                        queue = queues[receiver.queue_key]
                        if queue[FLAGS]:
                            if queue[FLAGS] & CLOSED:
                                queue[DISCARDED] += 1
                                continue
                            if queue[FLAGS] & EAGER:
                                rings.add(receiver.node)
                        if not queue[QUEUED]:
                            rings.add(receiver.node)
                        queue[QUEUED] += 1
                        queue[BYTES] += size
                        self.written += size
                        txn.put(receiver.mailbox + start + keys.place_end(index), record)
                        index += 1
                    if segment is not None:
                        register(txn, segment, index - first)
                    if output.drops_oldest:
                        _drop_oldest(txn, output, queues)
            if staged.ack is not None:
                key, input, record = staged.ack
                present = txn.delete(key)
                if record[0] < NOTICE_MIN:
                    if not present:  # it is in a pack, or gone
                        self._take(txn, input, Removal([(key, record)]), queues)
                    else:
                        if record[1]:
                            adjust(txn, reference_of(record), -1)
                        queue = _queue(txn, input, queues)
                        self._settle(input, queue, 1, 1, message_bytes(record))
            if staged.numbers is not None:
                for counter, number in staged.numbers.items():
                    counters[counter] = number
            if staged.inside is not None:
                for input in staged.inside:
                    _queue(txn, input, queues)[TAKEN] += 1
            if staged.private is not None:
                private.update(staged.private)
            if staged.rare is not None:
                self._write_rare(txn, done, staged, queues, sequence, index, now_ns)
            done += 1
        return private, done

    # --- a batch ----------------------------------------------------------------------------------------------------

    def _write_all(
        self, txn: WriteTxn, batch: Batch, queues: Queues, sequence: int, now_ns: int
    ) -> dict[bytes, bytes | None]:
        """Write a batch that fits. Returns what it keeps."""
        for output, sends in batch.sends.items():
            self._send(txn, output, sends, queues, sequence)
        for output, segment in batch.segments:
            register(txn, segment, sum(not queues[to.queue_key][FLAGS] & CLOSED for to in output.receivers))
        for output in batch.sends:
            if output.drops_oldest:
                _drop_oldest(txn, output, queues)
        for input, acks in batch.acks.items():
            self._take(txn, input, acks, queues)
        for input, count in batch.inside.items():
            _queue(txn, input, queues)[TAKEN] += count
        for counter, number in batch.counters.items():
            self.counters[counter] = number
        for at, staged in batch.rare:
            self._write_rare(txn, at, staged, queues, sequence, batch.indexes, now_ns)
        return batch.private

    def _send(self, txn: WriteTxn, output: Output, sending: Sending, queues: Queues, sequence: int) -> None:
        """Put the messages of one output into the mailboxes of its receivers."""
        count, size = sending.count, sending.size
        start = keys.place_start(sequence)
        for copy, receiver in enumerate(output.receivers):
            queue = queues[receiver.queue_key]
            if queue[FLAGS]:
                if queue[FLAGS] & CLOSED:
                    queue[DISCARDED] += count
                    continue
                if queue[FLAGS] & EAGER:
                    self.rings.add(receiver.node)
            if not queue[QUEUED]:
                self.rings.add(receiver.node)
            queue[QUEUED] += count
            queue[BYTES] += size
            self.written += size
            prefix = receiver.mailbox + start
            for first, record, is_pack in sending.records:
                key = prefix + keys.place_end(first + copy)
                if is_pack:
                    key += keys.PACK_MARK
                txn.put(key, record)

    # --- both -------------------------------------------------------------------------------------------------------

    def _take(self, txn: WriteTxn, input: Input, removal: Removal, queues: Queues) -> None:
        """Remove the messages of one input that were handled."""
        queue = _queue(txn, input, queues)
        freed, freed_bytes = remove(txn, input.mailbox, queue, removal)
        if removal.count:
            self._settle(input, queue, removal.count, freed, freed_bytes)

    def _settle(self, input: Input, queue: list[int], taken: int, freed: int, freed_bytes: int) -> None:
        """Note in the queue of an input what was taken, notices not counted, and ring a sender when it has drained."""
        limits = input.wiring.queue_size, input.wiring.queue_bytes
        was_low = is_low(queue, *limits)
        queue[TAKEN] += taken
        queue[QUEUED] -= freed
        queue[BYTES] -= freed_bytes
        if taken != freed:
            if not input.wiring.drop_oldest and not queue[FLAGS] & FLUSHED:
                raise MessageGone(input.name)
            queue[DROPPED] -= taken - freed  # dropped while in hand, but they have taken effect
        if not was_low and is_low(queue, *limits):
            self.rings.add(input.wiring.sender)
            self.rings.update(input.wiring.replicas)

    def _write_rare(
        self, txn: WriteTxn, at: int, staged: Staged, queues: Queues, sequence: int, index: int, now_ns: int
    ) -> None:
        """Write the rare changes of event `at` of the transaction, which has `index` copies of messages before it."""
        rare = staged.rare
        assert rare is not None
        for output, place in rare.flush:
            kept = sum(sent[0].counter == output.counter for sent in (staged.outputs or [])[place:])
            _drop_earlier(txn, output, kept, queues)
        if rare.attempts and staged.ack is not None:
            txn.delete(keys.attempts(staged.ack[0]))
        if rare.shared and self._space.external is not None:
            self.outbox_last = outbox.put(txn, sequence, at, self._node, rare.shared)
            self.rings.add(STORE)
        elif rare.shared:
            if self._changes is None:
                self._changes = kvs.Changes(txn, sequence, now_ns, self._origin)
            done = 0
            try:
                for write in rare.shared:
                    self._changes.write(write)
                    done += 1
            except (TypeError, StoreError) as error:
                raise Inapplicable(at, done, error) from error
        if rare.cursor is not None:
            self._cursors[rare.member] = rare.cursor
        if rare.counters is not None:
            for counter, value in rare.counters.items():
                self.counters[counter] = value
        if rare.ends:  # it is the last event of these nodes
            for at in rare.ending:
                links = self._nodes[at].links
                self.statuses[at] = records.ENDED
                if rare.stops_all:
                    txn.put(keys.STOP_ALL, links.node.encode())
                if rare.by_itself and links.replicas:
                    end_replicas(txn, links, queues, self.rings)
                close(txn, links, queues, self.rings, sequence, index, now_ns)
                if self._others:
                    forget_events(txn, self._nodes[at].node)


def _queue(txn: ReadTxn, input: Input, queues: Queues) -> list[int]:
    """The queue record of one of this node's inputs, read once a transaction."""
    queue = queues.get(input.queue_key)
    if queue is None:
        queue = queues[input.queue_key] = queue_of(txn, input.queue_key)
    return queue


def _drop_earlier(txn: WriteTxn, output: Output, kept: int, queues: Queues) -> None:
    """Drop what waits of an output, but for the last `kept` messages. They are the last ones of this transaction."""
    for receiver in output.receivers:
        queue = queues.get(receiver.queue_key) if receiver.node != keys.TAPS else None  # who looks sees them all
        if queue is not None and queue[QUEUED] > kept and not queue[FLAGS] & CLOSED:
            queue[FLAGS] |= FLUSHED
            drop_oldest(txn, receiver.mailbox, queue, kept, _ANY_SIZE, kept)


def _drop_oldest(txn: WriteTxn, output: Output, queues: Queues) -> None:
    """Bring the queues of receivers with `drop_oldest` back within their limits."""
    for receiver in output.receivers:
        queue = queues[receiver.queue_key]
        if receiver.drop_oldest and not queue[FLAGS] & CLOSED:
            if receiver.spares and queue[QUEUED] > receiver.size:
                drop_ordinary(
                    txn, receiver.mailbox, queue, receiver.size, receiver.size_bytes, receiver.messages_min
                )
            drop_oldest(txn, receiver.mailbox, queue, receiver.size, receiver.size_bytes, receiver.messages_min)
