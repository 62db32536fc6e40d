"""`NodeSession`: the link of one node to the space, which operator hosts and custom nodes have in common.

It brings together the open space, the commits of the node, its pulse, its doorbell and those of its neighbours.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from noderuntime.ipc import doorbell, forks, pulse
from noderuntime.ipc.fault_points import point
from noderuntime.ipc.rundir import RunDir
from noderuntime.ipc.wiring import Wiring
from noderuntime.node.cores import Cores
from noderuntime.space import keys, records
from noderuntime.space.ahead import Ahead
from noderuntime.space.commit import Commits
from noderuntime.space.environment import Space, open_space, scan
from noderuntime.space.mailbox import Message, find, next_messages, queue_of
from noderuntime.space.segments import SegmentPool, SegmentViews
from noderuntime.space.staging import Input, Staged
from noderuntime.space.watches import Subscription
from noderuntime.state import State
from noderuntime.state.external import ExternalState, ExternalSubscription, open_external
from noderuntime.state.memory import NodeState

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUIET_NS = 1_000_000  # after so long without a commit, the receivers are asleep
ANNOUNCED_MAX = 4
SLOW_CHECK_S = 5.0  # the interval at which a loop looks without being woken
ROOM_CHECK_S = 0.05  # room in the space (not in a queue) rings no bell


class NodeSession:
    """One life of one node. `attempts`: the claim's list of messages that earlier lives ended with.

    `space`: the space that this process has open already, if any. `first`: the session of the first operator of a
    shared process, for those of the others: space, commits and bells are those of the process.
    """

    def __init__(
        self,
        run_dir: RunDir,
        wiring: Wiring,
        incarnation: int,
        attempts: Sequence[Sequence[int]] = (),
        space: Space | None = None,
        first: NodeSession | None = None,
    ) -> None:
        self.wiring = wiring
        self.incarnation = incarnation
        self._first = first
        self._heard_ns = 0  # when the receivers were last rung
        self.space: Space = first.space if first else open_space(run_dir.space) if space is None else space
        self._owns_space = space is None and first is None
        self.message_bytes_max = self.space.message_bytes_max
        self.event_bytes_max = self.space.event_bytes_max
        self.commits: Commits = first.commits if first else Commits(self.space, wiring, incarnation)
        ports = next(ports for ports in self.commits.nodes if ports.writes.node == wiring.number)
        self.outputs = ports.outputs
        self.attempts = {
            keys.message(node[0] if node else wiring.number, input, sequence, index): lives
            for input, sequence, index, lives, *node in attempts
        }
        self.page = pulse.PulsePage(run_dir.pulse(wiring.number))
        try:
            self.bell = doorbell.open_bell(run_dir.bell(wiring.number))
        except BaseException:
            self.page.close()
            raise
        self._cores = Cores()
        self.page.begin(incarnation)
        self._folder = run_dir.segments
        self._pool: SegmentPool | None = None  # most nodes send nothing large
        self._views: SegmentViews | None = None
        self.bells = doorbell.Bells(run_dir, {wiring.number: self.bell})
        self.external: State | None = first.external if first else open_external(self.space) if space is None else None
        self.watch: Subscription | ExternalSubscription
        self.kvs: State
        if self.external is None:
            self.watch = watch = Subscription(self.space, wiring.number)
            self.kvs = NodeState(self.space, wiring.number, self.bells.ring, watch, self.commits.check)
        else:
            self.watch = ExternalSubscription(self.space, wiring.number, self.external, self.bell)
            self.kvs = ExternalState(self.external, self.watch)
        self.closed: set[int] = set()  # inputs that have ended, by number: their INPUT_CLOSED was taken
        self.cut_off: set[int] = set()  # inputs that a failure closed: their sender may come back
        self._dropped = 0  # see was_flushed
        self._ports = ports
        self._connect()
        self._ahead = Ahead(self.space, self.mailboxes)
        self._find_closed(self.inputs.values())

    def _connect(self) -> None:
        self.version = self.commits.wiring.version  # of the wiring that the inputs below are of
        self.inputs = {item.number: item for item in self._ports.all_inputs()}
        for number, item in self.inputs.items():
            item.counter = self._ports.counters_of[number]
        fed = [item for item in self.inputs.values() if not item.wiring.period_ns]
        self.mailboxes = [item.mailbox for item in fed]
        counting = [] if self.wiring.endless else [item for item in fed if item.wiring.counts]
        self._counting = {item.number for item in counting}
        self._has_senders = any(not item.wiring.leaving for item in counting)
        # whether messages may be gone when they have been read: only senders in dataflows of dora flush
        self.drops_oldest = any(item.wiring.drop_oldest for item in self.inputs.values())
        self.may_drop = self.drops_oldest or self.wiring.with_failures

    def follow(self) -> bool:
        """Take up the wiring that the commits have taken up, between two events. Returns whether it was another one."""
        if self.version == self.commits.wiring.version:
            return False
        if point is not None:
            point("follow")
        before = set(self.inputs)
        if not self.commits.wiring.others:
            self.wiring = self.commits.wiring
        self._ports.join()
        self._connect()
        self._ahead = self._ahead.to(self.mailboxes)
        self._dropped = -1  # those of other inputs: as if messages had been dropped
        self.closed.intersection_update(self.inputs)
        self.cut_off.intersection_update(self.inputs)
        self._find_closed([item for number, item in self.inputs.items() if number not in before])
        return True

    def start_over(self) -> None:
        """Slots of this replica have got other owners, and what it had not committed is given up: read all again."""
        self.commits.start_over()
        self._ahead = Ahead(self.space, self.mailboxes)
        self.watch.start_over()
        self.find_moved()

    def find_moved(self) -> None:
        """Messages may have come with slots: find which inputs have ended, and what earlier lives had in hand."""
        self.closed.clear()
        self.cut_off.clear()
        self._find_closed(self.inputs.values())
        with self.space.read() as txn:
            self.attempts = {
                b"m" + key[1:]: records.ATTEMPTS.unpack(value)[0]
                for key, value in scan(txn, keys.attempts_prefix(self.wiring.number))
            }

    def forked(self) -> None:
        """For an operator, in a fork of its process: what the child would use belongs to the parent."""
        self.space = self.page = self.bells = self.watch = self.kvs = self._pool = self._views = forks.GONE

    def _find_closed(self, inputs: Iterable[Input]) -> None:
        """Find which of these inputs are closed without a message: an earlier life has taken INPUT_CLOSED, or the
        sender had ended before the input was made.
        """
        with self.space.read() as txn:
            for item in inputs:
                flags = queue_of(txn, item.queue_key)[records.FLAGS]
                if flags & records.SOURCE_ENDED and not self.has_messages(item):
                    self.note_closed(item, bool(flags & records.SOURCE_FAILED))

    def note_closed(self, input: Input, by_failure: bool) -> None:
        """INPUT_CLOSED of an input was taken. An input that a failure closed does not count as ended."""
        (self.cut_off if by_failure and not self.wiring.with_failures else self.closed).add(input.number)

    def note_restarted(self, node: str) -> None:
        """NODE_RESTARTED was taken. A node that had ended, and has come back, feeds its inputs again."""
        if self.closed:
            back = {item.number for item in self.inputs.values() if item.source.rpartition("/")[0] == node}
            self.closed -= back

    @property
    def all_closed(self) -> bool:
        """Whether this node has inputs other than timers, and all have ended. A failure does not end an input.

        Inputs that are leaving do not make a node end, but what waits in them comes first.
        """
        return self._has_senders and self._counting <= self.closed

    def next_messages(self, limit: int, taken: Collection[bytes] = ()) -> list[Message]:
        """The oldest messages of all inputs, except those whose keys are in `taken`."""
        if point is not None:
            point("take")
        found = next_messages(self.space, self.mailboxes, limit, taken) if self.mailboxes else []
        if point is not None:
            point("taken")
        return found

    def read_ahead(self, limit: int) -> list[Message]:
        """The messages after those that this call returned before; about `limit`. For a node that drops none."""
        if point is not None:
            point("take")
        found = self._ahead.read(limit) if self.mailboxes else []
        if point is not None:
            point("taken")
        return found

    def was_flushed(self) -> bool:
        """Whether messages of this node have been dropped since the last call."""
        with self.space.read() as txn:
            dropped = sum(queue_of(txn, item.queue_key)[records.DROPPED] for item in self.inputs.values())
        changed, self._dropped = dropped != self._dropped, dropped
        return changed

    def has_messages(self, item: Input, taken: Collection[bytes] = ()) -> bool:
        """Whether a message of one input waits."""
        return bool(next_messages(self.space, [item.mailbox], 1, taken))

    def knows(self, key: bytes) -> bool:
        """Whether a message key belongs to an input that this node has still."""
        return (key[3] << 8 | key[4]) in self.inputs

    def input_of(self, key: bytes) -> Input:
        """The input that a message key belongs to."""
        return self.inputs[key[3] << 8 | key[4]]

    def commit(self, group: Sequence[Staged]) -> int:
        """Commit as many events from the front of `group` as there is room for, and ring the nodes concerned."""
        commits = self.commits
        words = self.page.words
        phase = words[pulse.PHASE]
        words[pulse.PHASE] = pulse.COMMITTING
        outputs = group[0].outputs if group else None
        if outputs and time.monotonic_ns() - self._heard_ns > QUIET_NS:
            one = len(outputs) == 1
            self.announce(outputs[0][0].nodes if one else {node for output, *_ in outputs for node in output.nodes})
        done = commits.commit(group, self.space.now_ns())
        self._heard_ns = time.monotonic_ns()
        words[pulse.COMMITS] += 1 if done else 0
        self.let_go(group[:done])
        self.bells.ring(commits.rings)
        words[pulse.PHASE] = phase
        return done

    def forget_gone(self, group: Sequence[Staged]) -> None:
        """Remove, from events that were not committed, acknowledgements of messages that no longer exist.

        For custom nodes, whose delivery is at least once: what they send must go out all the same.
        """
        with self.space.read() as txn:
            for staged in group:
                if staged.ack is not None and find(txn, staged.ack[0]) is None:
                    staged.ack = None

    def announce(self, nodes: Collection[int]) -> None:
        """After a pause, ring the receivers before the commit as well: they find nothing yet and sleep again.

        But they, and the core that they sleep on, wake up during the commit, so the ring after it reaches them sooner
        (bench/README.md has the figures). Not done when messages follow each other quickly, for then the receivers do
        not sleep, nor when no core is idle, for then they would delay the commit.
        """
        now_ns = time.monotonic_ns()
        if now_ns - self._heard_ns > QUIET_NS and len(nodes) <= ANNOUNCED_MAX and self._cores.spare():
            self._heard_ns = now_ns
            self.bells.ring(nodes)

    @property
    def outbox_last(self) -> bytes | None:
        """This node's newest writes on their way to an external State."""
        return self.commits.outbox_last

    @property
    def pool(self) -> SegmentPool:
        """The segments in which this process sends large payloads."""
        if self._first is not None:
            return self._first.pool
        if self._pool is None:
            self._pool = SegmentPool(self.space, self._folder, self.wiring.number)
        return self._pool

    def body(self, key: bytes, record: bytes) -> NDArray[np.uint8]:
        """The body of a message that lies in a segment (record[1]), as a read-only array. Raises Dropped."""
        if self._first is not None:
            return self._first.body(key, record)
        if self._views is None:
            self._views = SegmentViews(self.space, self._folder)
        return self._views.lease(key, records.reference_of(record))

    def let_go(self, group: Sequence[Staged]) -> None:
        """Release the segments of events that are committed or given up: the space counts their references now."""
        if point is not None:
            point("let go")
        if self._pool is not None:
            for staged in group:
                outputs, staged.outputs = staged.outputs, None  # once, even if an exception follows
                for _, _, _, segment in outputs or ():
                    if segment is not None:
                        self._pool.done(segment)
            self._pool.work_off()
        if self._views is not None:
            self._views.work_off()

    def set_phase(self, phase: int) -> None:
        words = self.page.words
        words[pulse.SINCE_NS] = time.monotonic_ns()  # first: a reader of the new phase must not see an old time
        words[pulse.PHASE] = phase

    def check(self) -> None:
        """Raise Fenced when this life is over."""
        with self.space.read() as txn:
            self.commits.check(txn)

    def publish(self) -> None:
        """Take the write lock once: this makes a commit visible whose process was killed while publishing it."""
        self.space.begin().abort()

    def poller(self, *others: int) -> select.poll:
        """A poll object over the doorbell and other descriptors."""
        poller = select.poll()
        for fd in (self.bell, *others):
            poller.register(fd, select.POLLIN)
        return poller

    def close(self) -> None:
        self.page.words[pulse.PHASE] = pulse.ENDED
        if self._pool is not None:
            self._pool.close()
        if self._views is not None:
            self._views.close()
            self._views = None
        if self._owns_space:
            self.space.close()
        if self.external is not None and self._first is None:
            self.kvs.close()
        self.bells.close()
        self._cores.close()
        os.close(self.bell)
        self.page.close()
