"""The changes of an event before its commit: its handler's calls stage them in memory, commit.py commits them.

Values are copied or encoded here, at the call. So the handler may reuse its buffer at once, and the commit only
compares and puts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from time import CLOCK_BOOTTIME, clock_gettime_ns
from types import MappingProxyType
from typing import Any, Final

from noderuntime.api.values import BYTES
from noderuntime.dataflow.message_slot import message_slot
from noderuntime.dataflow.partition import Partition
from noderuntime.errors import ValueTooLarge
from noderuntime.ipc.wiring import InputWiring, ReceiverWiring
from noderuntime.space import keys, kvs, records
from noderuntime.space.segments import THRESHOLD_BYTES, Segment
from noderuntime.space.watches import Cursor

GROUP_MAX: Final = 128  # events of one commit
GROUP_BYTES_MAX: Final = 1 << 20  # of what they send: a larger transaction no longer fits into the caches of a core

LOADS_NS: Final = 500_000  # how old the lengths of queues may be by which a replica is chosen

Sent = tuple["Output", bytes, int, Segment | None]  # an output, and a message's record, number and segment


class Rare:
    """The changes that few events make."""

    attempts: bool = False  # the message has an attempts record, which is removed with it
    shared: list[kvs.SharedWrite] | None = None
    cursor: Cursor | None = None  # how far the watch of this node has come with this event
    counters: dict[int, int] | None = None
    member: int = 0  # whose event it is, by its place in its process
    event: bytes = b""  # the key under which its failure counts there, if it is no message
    writers: Sequence[int] = ()  # of a shared process: who has staged each of `shared`
    ends: bool = False  # the last event of this node: close its outputs and its mailbox
    ending: tuple[int, ...] = (0,)  # with `ends`: which operators of the process end
    stops_all: bool = False  # and the last one of the run
    flush: Sequence[tuple[Output, int]] = ()  # what waits of an output from before the message at this place is dropped
    by_itself: bool = False  # with `ends`: the operator said so, and ends its other replicas with it


class Staged:
    """The changes of one event. `ack` is (message key, its input, its record) or None. `private` has keys of the space.

    One is made for each event. So defaults are in the class, and only what is used is set; rare changes are in `rare`,
    so that a commit need not check for each of them.
    """

    ack: tuple[bytes, Input, bytes] | None = None
    private: dict[bytes, bytes | None] | None = None
    outputs: list[Sent] | None = None
    size: int = 0  # bytes of all copies of the outputs
    # Of a shared process: the number of the last message that each output sent, by its counter, wherever those went;
    # and of each message that was handled inside, the input
    numbers: dict[int, int] | None = None
    inside: list[Input] | None = None
    rare: Rare | None = None

    def also(self) -> Rare:
        """`rare`, made when it is first needed."""
        if self.rare is None:
            self.rare = Rare()
        return self.rare


class ReplicaGroup:
    """How one of the replicas of a receiver is chosen: by slot, or, without a `partition`, the one with least waiting.

    `loads()` reads how much waits for each; it is read again after LOADS_NS, and what is sent meanwhile is added.
    """

    __slots__ = ("_counts", "_loads", "_read_ns", "owners", "partition")

    def __init__(
        self, partition: Partition | None, owners: Sequence[int], loads: Callable[[], list[int]] | None = None
    ) -> None:
        self.partition = partition
        self.owners = owners
        self._loads = loads
        self._counts: list[int] = []
        self._read_ns = 0

    def choose(self, value: Any, metadata: Mapping[str, Any] | None) -> int:
        """The number of the replica that gets this message."""
        if self.partition is not None:
            return self.owners[message_slot(self.partition, value, metadata)]
        assert self._loads is not None
        now_ns = clock_gettime_ns(CLOCK_BOOTTIME)
        if not self._counts or now_ns > self._read_ns + LOADS_NS:
            self._counts = self._loads()
            self._read_ns = now_ns
        counts = self._counts
        chosen = counts.index(min(counts))
        counts[chosen] += 1
        return chosen


class Receiver:
    """One mailbox that an output goes to. `group`: see ReceiverWiring."""

    __slots__ = (
        "drop_oldest", "group", "mailbox", "messages_min", "node", "queue_key", "size", "size_bytes", "spares",
    )  # fmt: skip

    def __init__(self, wiring: ReceiverWiring) -> None:
        self.node = wiring.node
        self.mailbox = keys.mailbox(wiring.node, wiring.input)
        self.queue_key = keys.queue(wiring.node, wiring.input)
        self.size = wiring.queue_size
        self.size_bytes = wiring.queue_bytes
        self.messages_min = wiring.messages_min
        self.drop_oldest = wiring.drop_oldest
        self.spares = wiring.spares
        self.group = wiring.group


class Routes:
    """How one of the replicas of each replicated receiver of an output is chosen; the parts of the output to those.

    Routes stay as they are: with other owners or receivers, the output has other ones. So a part tells by its routes
    whether it is still the one to use, also to a thread that stages while another one commits.
    """

    __slots__ = ("_output", "_parts", "_receivers", "groups")

    def __init__(self, output: Output, receivers: Sequence[Receiver], groups: Mapping[str, ReplicaGroup]) -> None:
        self.groups = groups
        self._output = output
        self._receivers = receivers
        self._parts: dict[tuple[int, ...], Output] = {}  # by the replica of each group

    def choose(self, value: Any, metadata: Mapping[str, Any] | None) -> Output:
        """The part of the output that this message goes to."""
        chosen = tuple([group.choose(value, metadata) for group in self.groups.values()])
        return self._parts.get(chosen) or self._part(chosen)

    def _part(self, chosen: tuple[int, ...]) -> Output:
        """The output to the receivers without replicas, and to one of each group.

        If these are several, parts share receivers, whose messages must stay in order, and packs of two parts overlap.
        """
        receivers = [to for to in self._receivers if not to.group]
        for name, replica in zip(self.groups, chosen, strict=True):
            receivers.append([to for to in self._receivers if to.group == name][replica])
        whole = self._output
        part = Output(whole.name, whole.counter, receivers, whole.sent, whole.booted_ns, whole.own)
        part.loops |= part.copies > 1
        part.whole = whole
        part.chosen_by = self
        self._parts[chosen] = part
        return part


class Output:
    """One output. `counter`: where the node's counters have its messages; `sent` includes those that are only staged.
    `loops`: one of its receivers is among `own`, the nodes of this process, or it is written message by message for
    another reason. `parts`: it, without some of its receivers.

    `routes`: how the replicas of receivers are chosen, if it has such. What is staged is then a part of the output, to
    those chosen: the part of `whole` that the routes `chosen_by` have chosen.

    Messages are stamped by the space's clock (`booted_ns`, see Space), as ticks are: the wall clock may step.
    """

    __slots__ = (
        "booted_ns", "chosen_by", "copies", "counter", "drops_oldest", "loops", "name", "nodes", "own", "parts",
        "receivers", "routes", "sent", "waiting_receivers", "whole",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        counter: int,
        receivers: Sequence[Receiver],
        sent: int,
        booted_ns: int,
        own: Collection[int] = (),
        groups: Mapping[str, ReplicaGroup] = MappingProxyType({}),
    ) -> None:
        self.booted_ns = booted_ns
        self.name = name
        self.counter = counter
        self.sent = sent
        self.own = own
        self.parts: list[Output] = []
        self.whole = self
        self.chosen_by: Routes | None = None
        self.rewire(receivers, groups)

    def rewire(self, receivers: Sequence[Receiver], groups: Mapping[str, ReplicaGroup] = MappingProxyType({})) -> None:
        """These are its receivers from now on, also of what is staged already: but see `is_current`."""
        own = self.own
        known = list(receivers)
        self.routes = Routes(self, known, groups) if groups else None
        self.receivers = known
        self.loops = any(receiver.node in own for receiver in receivers)
        # A process that waited for room in a mailbox of its own would wait for ever: it comes to that mailbox first.
        self.waiting_receivers = [to for to in self.receivers if not to.drop_oldest and to.node not in own]
        self.drops_oldest = any(receiver.drop_oldest for receiver in self.receivers)
        self.copies = len(self.receivers)
        self.nodes = {receiver.node for receiver in self.receivers} - {keys.TAPS}  # to announce messages to

    def is_current(self) -> bool:
        """Whether what was staged to it goes there: it is an output without replicas among its receivers, or a part
        that the routes of now have chosen. Otherwise the message has to be routed again.
        """
        return self.whole.routes is self.chosen_by

    def narrow(self, receivers: Sequence[Receiver], groups: Mapping[str, ReplicaGroup]) -> None:
        """Those of its receivers that are not among these are gone, also for what is staged already; the others have
        the limits of these, and `groups` say how replicas are chosen. None joins before the next `rewire`, but for
        replicas of one that is there: slots may be theirs now.
        """
        there = {receiver.mailbox for receiver in self.receivers}
        known = {receiver.group for receiver in receivers if receiver.mailbox in there} - {""}
        kept = [receiver for receiver in receivers if receiver.mailbox in there or receiver.group in known]
        self.rewire(kept, {name: group for name, group in groups.items() if name in known})
        for part in self.parts:  # not before: see `without`
            part.narrow(receivers, groups)

    def without(self, mailboxes: Collection[bytes]) -> Output:
        """The same output, without the receivers that have these mailboxes. Who uses both keeps `sent` of one."""
        part = self.to(())
        self.parts.append(part)
        while True:  # a helper thread that commits may call `narrow` meanwhile
            known = self.receivers
            kept = [receiver for receiver in known if receiver.mailbox not in mailboxes]
            part.rewire(kept, self._groups_of(kept))
            if known is self.receivers:
                return part

    def to(self, receivers: Sequence[Receiver]) -> Output:
        """The same output to some of its receivers. Who uses both keeps `sent` of one."""
        groups = self._groups_of(receivers)
        return Output(self.name, self.counter, receivers, self.sent, self.booted_ns, self.own, groups)

    def _groups_of(self, receivers: Sequence[Receiver]) -> dict[str, ReplicaGroup]:
        routes = self.routes
        if routes is None:
            return {}
        kept = {to.group for to in receivers}
        return {name: group for name, group in routes.groups.items() if name in kept}

    def stage(
        self, staged: Staged, value: Any, metadata: Mapping[str, Any] | None, payloads: records.Payloads
    ) -> None:
        """Add a message to what `staged` sends. Raises TypeError, ValueTooLarge, and StoreFull when there is no room
        for a large payload; nothing is staged then.
        """
        routes = self.routes
        if routes is not None:
            part = routes.choose(value, metadata)
            part.sent = self.sent
            part.stage(staged, value, metadata, payloads)
            self.sent = part.sent
            return
        number = self.sent + 1
        segment = None
        now_ns = self.booted_ns + clock_gettime_ns(CLOCK_BOOTTIME)
        if type(value) is bytes and not metadata and len(value) < THRESHOLD_BYTES:
            record = records.pack_message(BYTES, records.INLINE, 0, 0, number, now_ns) + value
        else:
            try:
                record, segment = records.encode_message(value, metadata, number, now_ns, payloads, self.nodes)
            except ValueTooLarge as error:
                raise ValueTooLarge(f"a message to {self.name!r}", error.size_bytes, error.limit_bytes) from None
        size = staged.size + len(record) * self.copies
        if size > payloads.event_bytes_max:
            if segment is not None:
                payloads.pool.done(segment)
            what = f"with this message to {self.name!r}, what one event sends"
            raise ValueTooLarge(what, size, payloads.event_bytes_max)
        self.sent = number
        staged.size = size
        if staged.outputs is None:
            staged.outputs = [(self, record, number, segment)]
        else:
            staged.outputs.append((self, record, number, segment))


class Input:
    """One input of a node. Timers and inputs with a timeout have two counters, from `counter` on; -1: none."""

    __slots__ = ("counter", "mailbox", "name", "number", "queue_key", "source", "wiring")

    def __init__(self, node: int, wiring: InputWiring, counter: int) -> None:
        self.name = wiring.name
        self.source = wiring.source
        self.number = wiring.number
        self.mailbox = keys.mailbox(node, wiring.number)
        self.queue_key = keys.queue(node, wiring.number)
        self.wiring = wiring
        self.counter = counter
