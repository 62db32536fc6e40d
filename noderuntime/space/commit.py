"""The event transaction: input, private state, shared writes and outputs of an event, all of it or nothing.

`Commits.commit` takes a group of staged events (staging.py) and commits the longest part of it that there is room for,
as one write transaction (writer.py). Values were encoded when they were staged, and the group is summed up before the
write lock is taken.

An exception from outside (a signal handler's, for instance) can arrive after LMDB's commit, before this module or the
caller notes the commit. So `Commits` remembers the events that it tried last, and numbers its commits in the node
record. When the next call finds the number of the last try there, the events are committed, and not committed again.

While the run goes on, the store can change the inputs and outputs of a node (store/changes.py). It then raises the
wiring number in the node record, so that the comparison that fences a replaced life finds this out as well: the next
commit takes up the new wiring inside its transaction, and commits what was staged to the receivers of now. The handler
does not run again. Taps that come and go (taps.py) raise the same number.

So does a slot that gets another owner (moves.py). Senders then route what is staged once more. A replica that has lost
slots must not commit: what it has handled may be with another one by now. Its commit raises Rescaled, and goes on doing
so until `start_over`.

Where operators share a process, receivers that were added join between two events instead (`Ports.join`): of what is
staged already, some stayed inside and was never encoded, and a new receiver must not get messages with gaps in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import lmdb
import msgpack

from noderuntime.errors import Fenced
from noderuntime.ipc.fault_points import point
from noderuntime.ipc.wiring import Wiring
from noderuntime.space import keys, kvs, outbox, records
from noderuntime.space.batch import sum_up
from noderuntime.space.environment import MARK_DRAIN, MARK_NEW_WORK, MARK_SINGLE, Fullness, Space, is_no_room
from noderuntime.space.mailbox import queue_of
from noderuntime.space.ports import Ports
from noderuntime.space.records import CLOSED, EAGER, FLAGS, QUEUED
from noderuntime.space.routing import Rescaled, kept_owners, loses_slots, reroute
from noderuntime.space.staging import GROUP_BYTES_MAX, GROUP_MAX, Staged
from noderuntime.space.taps import tapped
from noderuntime.space.transactions import ReadTxn
from noderuntime.space.writer import Writer


def _wiring_now(txn: ReadTxn, wiring: Wiring, version: int) -> Wiring:
    """The wiring of a node under the number in its record, and its taps; `wiring` is the one that is known so far."""
    packed = None if version == wiring.version else txn.get(keys.wiring(wiring.number))
    if packed is not None:
        wiring = wiring.rewired(msgpack.unpackb(packed), version)
    return tapped(txn, replace(wiring, version=version))


class Commits:
    """The write side of one process in one life: of one node, or of the operators that share it. After a commit:

    `rings` are the numbers of the nodes to ring; `waits_for` tells why there was no room for all ("" when there was).

    The record of the first node fences the whole process: it changes with each commit and each claim. `nodes` are the
    ports of all, `outputs` and `inputs` those of the first one; `counters` are those of all, one after the other.
    """

    def __init__(self, space: Space, wiring: Wiring, incarnation: int) -> None:
        self.space = space
        self.node = wiring.number
        self.name = wiring.node
        # A node that takes no messages only brings new ones into the space, and is refused first when it fills up. All
        # other nodes, custom nodes included, must continue, or the messages in their mailboxes could never leave it.
        # Where operators share a process, this is decided before the event: see `crowded`.
        self.fresh_work = not wiring.others and all(item.period_ns for item in wiring.inputs)
        self.rings: set[int] = set()
        self.waits_for = ""
        self._node_key = keys.node(wiring.number)
        self.outbox_last: bytes | None = None  # this node's newest writes on their way to an external State
        self._fullness = Fullness(space)
        self._group_max = GROUP_MAX
        self.flushes = False  # whether an event of this process has had a `flush`
        self._tried = 0  # the number of the last commit that was tried, and its events
        self._tried_events: Sequence[Staged] = ()
        self._routed = False  # whether what is staged may have to be routed again
        self.moved = False  # slots of this node have got other owners since `start_over`
        self._lost = False  # and it owned some of them
        self._gone: set[bytes] = set()  # mailboxes of inputs removed in this life: events of them may be in hand
        self._incarnation = incarnation
        wirings = [wiring, *wiring.others]
        with space.read() as txn:
            kept = [txn.get(keys.node(item.number)) for item in wirings]
            for at, known in enumerate(kept):
                if known is not None:  # it may have been changed since the runtime sent it
                    wirings[at] = _wiring_now(txn, wirings[at], records.NodeRecord.parse(known).wiring)
            if space.external is not None:
                self.outbox_last = outbox.last_of(txn, wiring.number)
        record = kept[0]
        if record is None or records.incarnation_of(record) != incarnation:
            raise Fenced(f"incarnation {incarnation} of {wiring.node} has been replaced")
        self._record: bytes = record
        self._number = records.NodeRecord.parse(record).commit
        self.wiring = replace(wirings[0], others=tuple(wirings[1:]))  # of the first node
        own = {item.number for item in wirings}
        self.counters: list[int] = []
        self.nodes: list[Ports] = []
        for item, found in zip(wirings, kept, strict=True):
            if found is None:
                raise Fenced(f"the record of {item.node} is gone")
            ports = Ports(space, item, records.NodeRecord.parse(found), len(self.counters), own)
            self.nodes.append(ports)
            self.counters += ports.counters
        self.statuses = [ports.status for ports in self.nodes]
        with space.read() as txn:
            self._owners = kept_owners(txn, wiring.state_number)
        self.outputs = self.nodes[0].outputs
        self.inputs = self.nodes[0].inputs
        self._writer = Writer(space, [ports.writes for ports in self.nodes], incarnation)

    def check(self, txn: ReadTxn) -> None:
        """Raise Fenced when this life is over, as the write transaction `txn` sees it."""
        record = txn.get(self._node_key)
        if record is None or records.incarnation_of(record) != self._incarnation:
            raise Fenced(f"incarnation {self._incarnation} of {self.name} has been replaced")

    def be_eager(self) -> None:
        """From now on ring this node for every message, not only for the first in an empty queue. Raises StoreFull.

        One ring is enough for a reader that looks again when it is done, but not for a thread that waits while another
        thread has the first message in hand.
        """
        with self.space.write() as txn:
            self.check(txn)
            for item in self.inputs.values():
                queue = queue_of(txn, item.queue_key)
                queue[FLAGS] |= EAGER
                txn.put(item.queue_key, records.pack_queue(queue))

    def commit(self, group: Sequence[Staged], now_ns: int) -> int:
        """Commit as many events from the front of `group` as there is room for. Returns how many, possibly 0.

        If it returns fewer than all and `waits_for` is "", call again at once. Raises Fenced when this life is over.
        """
        self.rings = set()
        self.waits_for = ""
        if not group:  # another thread has committed it
            return 0
        group = _front(group, self._group_max)  # a copy: while we wait for the lock, the handler's thread may add to it
        if self.flushes:
            group = _up_to_flush(group)
        if self._routed:
            reroute(self.space, group)
        batch = sum_up(group)
        space, writer = self.space, self._writer
        txn = space.begin()
        try:
            version = self.wiring.version
            known = self._committed_before(txn, group)
            if known:
                txn.abort()
                return known
            if self.moved and (self._lost or any(item.rare is not None and item.rare.ends for item in group)):
                raise Rescaled
            if version != self.wiring.version or self._gone:
                reroute(space, group)
                self._forget_gone(group)
                batch = sum_up(group)
            if self._fullness.look(txn) > MARK_NEW_WORK:
                allowed = self._restrain(txn, group, now_ns)
                if allowed < len(group):
                    group = group[:allowed]
                    batch = sum_up(group)
            done = writer.write(txn, group, batch, self.counters, self.statuses, self._number + 1, now_ns)
            if done < len(group):
                self.waits_for = "a receiver whose queue is full"
            if not done:
                txn.abort()
                return 0
            self._tried = self._number + 1
            self._tried_events = group[:done]
            space.commit(txn)
        except lmdb.Error as error:
            with contextlib.suppress(lmdb.Error):
                txn.abort()
            if not is_no_room(error):
                raise
            self._fullness.ran_out()
            self._group_max = max(1, len(group) // 2)  # the group may be too large, while smaller ones still fit
            self.waits_for = f"room in the space ({error})"
            return 0
        except BaseException:
            txn.abort()
            raise
        self._record = writer.record
        self._number += 1
        self.counters = writer.counters
        self.statuses = writer.statuses
        self.rings = writer.rings
        if writer.outbox_last is not None:
            self.outbox_last = writer.outbox_last
        self._fullness.wrote(writer.written)
        if self._group_max < GROUP_MAX:
            self._group_max *= 2
        return done

    def _committed_before(self, txn: ReadTxn, group: Sequence[Staged]) -> int:
        """How many events from the front of `group` the last call has committed, although an exception hid it.

        Raises Fenced when another life has written the node record.
        """
        found = txn.get(self._node_key)
        if found != self._record:
            self._follow(txn, found)
        tried = self._tried_events
        if not tried or tried[0] is not group[0]:
            return 0
        if self._number == self._tried:
            # by now it is unknown which nodes that commit should have rung
            around = (link for ports in self.nodes for link in (*ports.links.receivers, *ports.links.inputs))
            self.rings.update(node for node, _, _ in around if node >= 0)
            self.rings.update(number for ports in self.nodes for number in ports.links.senders)
            self.rings |= self._writer.watchers.all()
            return len(tried)
        # that commit was not made, and a commit of fewer events may leave the very same node record behind
        self._tried_events = ()
        return 0

    def _follow(self, txn: ReadTxn, record: bytes | None) -> None:
        """The node record is not the one that the last commit has left: that commit was made although an exception hid
        it, the store has changed the wiring, or both. Raises Fenced for anything else.
        """
        found = None if record is None else records.NodeRecord.parse(record)
        made = found is not None and found.commit == self._number + 1 == self._tried
        if (
            record is None
            or found is None
            or found.incarnation != self._incarnation
            or not (made or found.commit == self._number)
        ):
            raise Fenced(f"incarnation {self._incarnation} of {self.name} has been replaced")
        if found.wiring != self.wiring.version:
            self._rewire(txn, found.wiring)
        if made:
            self._take_up(txn, record)
        self._record = record

    def look(self) -> None:
        """Take up a wiring that was changed, before the next commit does. Not while a commit is under way."""
        with self.space.read() as txn:
            found = txn.get(self._node_key)
            if found is not None and found != self._record:
                record = records.NodeRecord.parse(found)
                if record.incarnation == self._incarnation and record.commit == self._number:
                    self._follow(txn, found)

    def _rewire(self, txn: ReadTxn, version: int) -> None:
        """Take up the wiring of this number, which is that of all nodes of the process."""
        if point is not None:
            point("rewire")
        now = [_wiring_now(txn, item, version) for item in (self.wiring, *self.wiring.others)]
        self._compare_owners(txn, now[0])  # also of one without replicas: it may have had some for a moment
        for ports, wiring in zip(self.nodes, now, strict=True):
            self._routed |= ports.has_routes()
            before = {item.mailbox for item in ports.all_inputs()}
            self.counters += [0] * ports.rewire(txn, wiring, len(self.counters))
            for counter in ports.fresh:  # an input of that number may have been here long ago
                self.counters[counter] = self.counters[counter + 1] = 0
            self._gone = (self._gone | before) - {item.mailbox for item in ports.all_inputs()}
            self._routed |= ports.has_routes()
        self.wiring = replace(now[0], others=tuple(now[1:]))
        self.fresh_work = len(now) == 1 and all(item.period_ns for item in now[0].inputs)

    def _compare_owners(self, txn: ReadTxn, wiring: Wiring) -> None:
        """Find whether slots have got other owners, and whether they were those of this node."""
        before, now = self._owners, kept_owners(txn, wiring.state_number)
        self.moved |= now != before
        self._lost |= loses_slots(before, now, self.wiring.version, wiring.replica)
        self._owners = now

    def start_over(self) -> None:
        """The node has given up what it had not committed, and reads its mailboxes again."""
        self.moved = self._lost = False
        self._tried_events = ()
        for ports in self.nodes:
            ports.start_over(self.counters)

    def _forget_gone(self, group: Sequence[Staged]) -> None:
        """Inputs that were removed with what waited in them have nothing to be acknowledged any more, or counted."""
        gone = self._gone
        for staged in group:
            if staged.ack is not None and staged.ack[1].mailbox in gone:
                staged.ack = None
                if staged.rare is not None:
                    staged.rare.attempts = False
            if staged.inside is not None:
                staged.inside = [input for input in staged.inside if input.mailbox not in gone]

    def _take_up(self, txn: ReadTxn, record: bytes) -> None:
        """An exception hid that the last commit was made: continue from what it has written."""
        self._record, self._number = record, records.NodeRecord.parse(record).commit
        kept = [records.NodeRecord.parse(txn.get(ports.writes.key) or record) for ports in self.nodes]
        self.counters = [0] * len(self.counters)
        for ports, found in zip(self.nodes, kept, strict=True):
            for cell, value in zip(ports.cells, found.counters, strict=False):
                self.counters[cell] = value
        self.statuses = [found.status for found in kept]

    def crowded(self) -> bool:
        """Whether the space is so full that new work is refused: what only brings messages into it has to wait.

        For processes of several operators, where a Source must not begin an event that cannot be committed: the others
        would be held up, who take messages out of the space.
        """
        if self._fullness.share <= MARK_NEW_WORK:
            return False
        with self.space.read() as txn:
            self._fullness.share = self.space.used_share(txn)
        return self._fullness.share > MARK_NEW_WORK

    def _restrain(self, txn: ReadTxn, group: Sequence[Staged], now_ns: int) -> int:
        """How many events from the front of the group to try while the space fills up."""
        share = self._fullness.share
        allowed = len(group) if share <= MARK_SINGLE else 1
        if self.fresh_work:
            brings = (bool(item.outputs or item.private or (item.rare and item.rare.shared)) for item in group)
            allowed = next((at for at, new in enumerate(brings) if new), allowed)
        elif share > MARK_DRAIN and self._grows(txn, group[0], now_ns):
            allowed = 0
        if not allowed:
            self.waits_for = f"room in the space ({share:.0%} of {self.space.size_bytes} bytes are used)"
        return allowed

    def _grows(self, txn: ReadTxn, staged: Staged, now_ns: int) -> bool:
        """Whether an event puts more into the space than it takes out.

        Outputs to receivers that have nothing waiting do not count: the last full mailbox of a chain must be able to
        drain through the empty ones after it, and each node has at most one event on its way like that.
        """
        growth = 0 if staged.ack is None else -len(staged.ack[2])
        receivers = {to.queue_key for output, _, _, _ in staged.outputs or () for to in output.waiting_receivers}
        queues = [queue_of(txn, key) for key in receivers]
        if any(queue[QUEUED] and not queue[FLAGS] & CLOSED for queue in queues):
            growth += staged.size
        for key, value in (staged.private or {}).items():
            old = txn.get(key)
            freed = len(old) - records.PRIVATE_BYTES if old else keys.PRIVATE_PREFIX_BYTES - len(key)
            growth += len(value or b"") - freed
        for write in (staged.rare and staged.rare.shared) or ():
            growth += kvs.growth(txn, write, now_ns)
        return growth > 0


def _up_to_flush(group: Sequence[Staged]) -> Sequence[Staged]:
    """The events from the front of a group up to one that drops what waits: those after it must not be dropped."""
    for at, staged in enumerate(group):
        if staged.rare is not None and staged.rare.flush:
            return group[: at + 1]
    return group


def _front(group: Sequence[Staged], events_max: int) -> Sequence[Staged]:
    """The events from the front of a group that one transaction takes: at least one."""
    group = group[:events_max]
    if len(group) == 1 or sum([staged.size for staged in group]) <= GROUP_BYTES_MAX:
        return group
    size = 0
    for at, staged in enumerate(group):
        size += staged.size
        if size > GROUP_BYTES_MAX:
            return group[: max(1, at)]
    return group
