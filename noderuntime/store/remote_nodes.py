"""Custom nodes without LMDB: the store takes their events out of the space, and puts what they send into it.

A program in any language says hello to the runtime, as every node does, and then works with the operations node_open,
node_next, node_part and node_send (see noderuntime.ipc.store_records and docs/store-api.md).

Nothing of it needs to be remembered if the store is killed: messages that are not acknowledged are still in the mailbox
(`in_hand` names those that the program still has), acknowledging twice is once, and messages carry their number
in their output, so that sending twice is once. A request for events that is repeated gets the same events: the first
answer may be lost. What is too large for one answer is fetched in parts. docs/store-api.md tells all of it.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from noderuntime.api import values
from noderuntime.api.events import utc
from noderuntime.errors import Fenced, NodeRuntimeError, ProtocolError, UnknownOutput, ValueTooLarge
from noderuntime.ipc import pulse
from noderuntime.ipc.protocol import Request
from noderuntime.ipc.rundir import RunDir
from noderuntime.ipc.store_records import (
    Bytes,
    Events,
    NodeNext,
    NodeOpen,
    NodePart,
    NodeSend,
    Outgoing,
    Place,
    Sent,
    SentSome,
)
from noderuntime.ipc.typed import decode
from noderuntime.ipc.wiring import Wiring
from noderuntime.node import inbox
from noderuntime.node.session import NodeSession
from noderuntime.space import keys, records
from noderuntime.space.environment import Space
from noderuntime.space.lives import Registry, node_record
from noderuntime.space.mailbox import find
from noderuntime.space.routing import route
from noderuntime.space.segments import Dropped
from noderuntime.space.staging import Staged
from noderuntime.space.writer import MessageGone
from noderuntime.store.dispatch import ARGUMENTS
from noderuntime.store.kvs import node_entry_of
from noderuntime.store.parked import limit_of

EVENTS_MAX: Final = 64
BATCH_BYTES_MAX: Final = 4 << 20
PART_BYTES: Final = 4 << 20  # of head, body and metadata; a frame holds 16 MiB
PARTS: Final = ("head", "body", "metadata")
HANDS_KEPT_MAX: Final = 10_000
CHECKED_BYTES_MAX: Final = 64 * 1024  # some milliseconds at the most
NEVER_USED: Final = 0xC1  # first bytes in MessagePack
LONG_MAPS: Final = (0xDE, 0xDF, *range(0x80, 0x90))
SIMPLE_DTYPE: Final = re.compile(r"[<>|=][biufc](\d{1,2})")
KINDS: Final = {values.MSGPACK: "msgpack", values.BYTES: "bytes", values.VIEW: "view", values.NDARRAY: "ndarray",
                values.ARROW: "arrow"}  # fmt: skip
NUMBERS: Final = {name: number for number, name in KINDS.items()}

Event = dict[str, Any]  # as it travels: see docs/store-api.md


class RemoteNode:
    """One life of one such node."""

    def __init__(self, run_dir: RunDir, space: Space, asked: NodeOpen) -> None:
        wiring = Wiring.from_plain(asked.wiring)
        self.session = NodeSession(run_dir, wiring, asked.incarnation, asked.attempts, space)
        self.taken: dict[bytes, tuple[bytes, int]] = {}  # key -> record, slot in the pulse
        self._asked: tuple[str, int] = "", 0  # the latest request that was answered with events
        self._given: list[bytes] = []  # their keys
        self._free = list(range(pulse.HANDS_MAX - 1, -1, -1))
        self._inputs: set[int] = set()  # those of this life, with those that were removed meanwhile
        try:
            self.session.page.words[pulse.PID] = asked.pid
            for place in asked.in_hand:
                self._take_again(self._key(place))
            self.session.commits.be_eager()
            self.session.set_phase(pulse.WAITING)
        except BaseException:
            self.session.close()
            raise

    def follow(self) -> None:
        """The store may have changed the inputs and outputs of this node: go on with those of now."""
        session = self.session
        session.commits.look()
        if session.follow():
            for key in [key for key in self.taken if not session.knows(key)]:
                _, slot = self.taken.pop(key)
                if slot >= 0:
                    session.page.release(slot)
                    self._free.append(slot)
            session.commits.be_eager()

    def _key(self, place: Place) -> bytes:
        input, sequence, nth = place
        self._inputs |= self.session.inputs.keys()
        if input not in self._inputs:
            raise ProtocolError(f"node {self.session.wiring.node!r} has no input of number {input!r}")
        return keys.message(self.session.wiring.number, input, sequence, nth)

    def _take_again(self, key: bytes) -> None:
        with self.session.space.read() as txn:
            record = find(txn, key)
        if record is not None:
            self._take(key, record)

    def _take(self, key: bytes, record: bytes) -> None:
        slot = self._free.pop() if self._free else -1
        if slot >= 0:
            self.session.page.take(slot, key)
        self.taken[key] = record, slot

    def acknowledge(self, places: list[Place]) -> None:
        """These events were handled. Raises Fenced."""
        session = self.session
        group = []
        for key in [self._key(place) for place in places]:  # all of them first: one that is wrong takes none
            found = self.taken.pop(key, None)
            if found is None:
                continue  # acknowledged before
            record, slot = found
            if slot >= 0:
                session.page.release(slot)
                self._free.append(slot)
            lives = session.attempts.pop(key, 0)
            group.append(inbox.acknowledgement(session.input_of(key), (key, record), lives))
            session.page.words[pulse.HANDLED] += 1
        while group:
            try:
                done = session.commit(group)
            except MessageGone:
                session.forget_gone(group)
                continue
            if not done and session.commits.waits_for:  # not even room to delete
                for staged in group:
                    if staged.ack is not None:
                        self._take(staged.ack[0], staged.ack[2])
                raise ProtocolError(f"nothing can be acknowledged: {session.commits.waits_for}; ask again")
            del group[:done]
        session.set_phase(pulse.HANDLING if self.taken else pulse.WAITING)

    def events(self, limit: int, asked: tuple[str, int]) -> list[Event] | None:
        """The next events, which are in hand then; for a repeated request those that it got. None: there are none."""
        if asked[0] == self._asked[0] and asked[1] <= self._asked[1]:
            return self._given_again() if asked == self._asked else []
        found = self._next_events(limit)
        if found:
            self._asked, self._given = asked, [self._key(event["place"]) for event in found]
        return found or None

    def _given_again(self) -> list[Event]:
        found: list[Event] = []
        for key in self._given:
            if key in self.taken:
                with contextlib.suppress(Dropped):
                    found.append(self._event(key, self.taken[key][0]))
        return found

    def part(self, place: Place, part: str, offset: int) -> bytes | None:
        """Up to PART_BYTES of a part of an event that was told by its size; None: the message was dropped meanwhile."""
        if part not in PARTS or offset < 0:
            raise ProtocolError(f"part is one of {', '.join(PARTS)}, and offset a number of bytes")
        key = self._key(place)
        if key not in self.taken:
            raise ProtocolError(f"the event {list(place)!r:.60} is not in hand")
        try:
            whole = inbox.parts_of(self.session, (key, self.taken[key][0]))[PARTS.index(part)]
        except Dropped:
            return None
        return bytes(memoryview(whole)[offset : offset + PART_BYTES])

    def _next_events(self, limit: int) -> list[Event]:
        if len(self.taken) >= HANDS_KEPT_MAX:
            raise ProtocolError(f"{HANDS_KEPT_MAX} events are in hand; acknowledge some of them")
        found: list[Event] = []
        size = 0
        for key, record in self.session.next_messages(limit, self.taken):
            if self.session.input_of(key).wiring.leaving and record[0] == records.INPUT_CLOSED:
                self._take(key, record)
                self.acknowledge([Place(*keys.parse_message(key)[1:])])
                continue
            try:
                event = self._event(key, record)
            except Dropped:
                continue
            size += sum(len(event.get(part, b"")) for part in PARTS)
            if found and size > BATCH_BYTES_MAX:
                break
            found.append(event)
            self._take(key, record)
        if found:
            self.session.set_phase(pulse.HANDLING)
        return found

    def _event(self, key: bytes, record: bytes) -> Event:
        session = self.session
        input = session.input_of(key)
        place = Place(*keys.parse_message(key)[1:])
        if inbox.is_notice(record):
            told = inbox.notice_of(input, record)
            if told.type == "INPUT_CLOSED":
                return {"type": told.type, "id": told.id, "failed": told.by_failure, "place": place}
            return {"type": told.type, "id": told.id, "error": told.error, "place": place}
        kind, _, _, _, sent, sent_ns = records.MESSAGE.unpack_from(record)
        parts = dict(zip(PARTS, inbox.parts_of(session, (key, record)), strict=True))
        event = {
            "type": "INPUT", "id": input.name, "kind": KINDS[kind],
            "source": input.wiring.source, "uid": f"{input.wiring.source}#{sent}",
            "timestamp": utc(sent_ns).isoformat(), "attempt": session.attempts.get(key, 0) + 1, "place": place,
        }  # fmt: skip
        sizes = {part: view.nbytes for part, view in parts.items() if view.nbytes > PART_BYTES}
        if sizes:
            event["sizes"] = sizes
        return {**event, **{part: bytes(view) for part, view in parts.items() if part not in sizes}}

    def stage(self, messages: list[Outgoing]) -> list[Staged]:
        """What a client wants to send, checked. Raises UnknownOutput, ProtocolError, ValueTooLarge."""
        session = self.session
        outputs = session.outputs
        sent = {name: session.commits.counters[output.counter] for name, output in outputs.items()}
        staged = []
        for name, number, kind, head, body, metadata in messages:
            output = outputs.get(name)
            if output is None:
                raise UnknownOutput(session.wiring.node, name, sorted(outputs))
            if number <= sent[name]:
                continue  # sent before
            if number != sent[name] + 1:
                raise ProtocolError(f"the next message of output {name!r} is number {sent[name] + 1}, not {number}")
            sent[name] = number
            record = self._record(name, number, kind, head, body, metadata)
            item = Staged()
            item.size = len(record) * output.copies
            if item.size > session.event_bytes_max:
                raise ValueTooLarge(f"a message to {name!r}", item.size, session.event_bytes_max)
            item.outputs = [(route(session.space, output, record), record, number, None)]
            staged.append(item)
        return staged

    def _record(self, name: str, number: int, kind: str, head: bytes, body: bytes, metadata: bytes) -> bytes:
        if kind not in NUMBERS:
            raise ProtocolError(f"there is no kind of value {kind!r}; there are {', '.join(NUMBERS)}")
        if len(body) > self.session.message_bytes_max:
            raise ValueTooLarge(f"a message to {name!r}", len(body), self.session.message_bytes_max)
        try:
            check_value(NUMBERS[kind], head, body)
        except Exception as error:
            raise ProtocolError(f"message {number} of {name!r} is no {kind}: {error}") from None
        try:
            check_metadata(metadata)
        except Exception as error:
            text = f"the metadata of message {number} of {name!r} is no map with text keys: {error}"
            raise ProtocolError(text) from None
        sent_ns = self.session.space.now_ns()
        start = records.pack_message(NUMBERS[kind], records.INLINE, len(head), len(metadata), number, sent_ns)
        return b"".join((start, metadata, head, body))

    def sent(self) -> dict[str, int]:
        """How many messages of each output are committed."""
        commits = self.session.commits
        return {name: commits.counters[output.counter] for name, output in commits.outputs.items()}

    def close(self) -> None:
        self.session.close()


class Nodes:
    """All of them. `bells` tells the loop which descriptors to poll and drain."""

    def __init__(
        self, run_dir: RunDir, space: Space, registry: Callable[[], Registry], changed: Callable[[], None]
    ) -> None:
        self._run_dir = run_dir
        self._space = space
        self._registry = registry
        self._changed = changed
        self._nodes: dict[str, RemoteNode] = {}

    def open(self, asked: NodeOpen) -> Sent:
        """The operation `node_open`: begin a life, or continue it after the store was killed."""
        id = asked.wiring["node"]
        if not 0 < asked.pid < 1 << 31:
            raise ProtocolError(f"{asked.pid} is not the number of a process")
        self._check(Wiring.from_plain(asked.wiring), asked.incarnation)
        node = RemoteNode(self._run_dir, self._space, asked)
        old = self._nodes.pop(id, None)
        if old is not None:
            old.close()
            node.session.page.words[pulse.PHASE] = pulse.WAITING
        self._nodes[id] = node
        self._changed()
        return {"sent": node.sent()}

    def _check(self, wiring: Wiring, incarnation: int) -> None:
        """Raise unless this is what the runtime has welcomed the node with: nothing of another life may be touched."""
        registry = self._registry()
        node_entry = node_entry_of(registry, wiring.node)
        nodes = {known.number for known in registry.values()}
        inputs = {
            item.name: (item.number, "" if item.period_ns else item.source)
            for item in wiring.inputs
            if not item.leaving
        }
        outputs = {item.name: item.number for item in wiring.outputs}
        receivers = {receiver.node for item in wiring.outputs for receiver in item.receivers}
        with self._space.read() as txn:
            record = node_record(txn, node_entry.number)
            current = record.incarnation
        numbers = wiring.number == node_entry.number and inputs == node_entry.inputs and outputs == node_entry.outputs
        # that of a welcome before the dataflow was changed is not used: see Commits
        is_right = numbers and receivers <= nodes
        if wiring.number != node_entry.number or (record.wiring == wiring.version and not is_right):
            raise ProtocolError(f"wiring is what the welcome of node {wiring.node!r} has said")
        if incarnation != current:
            raise Fenced(f"incarnation {incarnation} of {wiring.node} has been replaced")

    def follow(self) -> None:
        """The dataflow may have changed."""
        for node in self._nodes.values():
            node.follow()

    def node(self, id: str, incarnation: int) -> RemoteNode:
        """A node in that life. Raises NodeNotOpen, Fenced."""
        found = self._nodes.get(id)
        if found is None:
            raise NodeNotOpen(f"the store knows nothing of node {id!r} yet: call node_open (again)")
        if found.session.incarnation != incarnation:
            raise Fenced(f"incarnation {incarnation} of {id} has been replaced")
        return found

    def part(self, asked: NodePart) -> Bytes:
        """The operation `node_part`."""
        node = self.node(asked.node, asked.incarnation)
        return {"bytes": node.part(asked.place, asked.part, asked.offset)}

    def forget(self, id: str) -> None:
        """The node has ended, or begins a new life."""
        node = self._nodes.pop(id, None)
        if node is not None:
            node.close()
            self._changed()

    @property
    def bells(self) -> list[int]:
        return [node.session.bell for node in self._nodes.values()]

    def close(self) -> None:
        for node in self._nodes.values():
            node.close()
        self._nodes.clear()


def check_value(kind: int, head: bytes, body: bytes) -> None:
    """Raise ValueError for what is certainly no value of that kind.

    Claims wait for the loop that does this, so it takes a bounded time: only a short body is decoded, of arrays no
    more than the head is looked at, and neither numpy nor pyarrow is imported. What is wrong all the same becomes a
    dead letter of its receiver.
    """
    if kind == values.MSGPACK:
        if len(body) <= CHECKED_BYTES_MAX:
            values.unpack(body)
        elif body[0] == NEVER_USED:
            raise ValueError("no MessagePack begins with 0xc1")
    elif kind == values.NDARRAY:
        if len(head) > CHECKED_BYTES_MAX:
            raise ValueError(f"its head has {len(head)} bytes")
        dtype, shape = values.unpack(head)
        if type(shape) is not list or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("its shape is not a list of whole numbers")
        described = SIMPLE_DTYPE.fullmatch(dtype) if type(dtype) is str else None
        if described is not None and math.prod(shape) * int(described[1]) != len(body):
            raise ValueError(f"{len(body)} bytes are not {shape} of {dtype}")
    elif kind == values.ARROW and (not head or not body):
        raise ValueError("an Arrow stream has a head and a body")


def check_metadata(metadata: bytes) -> None:
    """Raise ValueError for what is certainly no map; as `check_value`, in a bounded time."""
    if len(metadata) > CHECKED_BYTES_MAX:
        if metadata[0] not in LONG_MAPS:
            raise ValueError("it is something else")
        return
    found = values.unpack(metadata) if metadata else {}
    if type(found) is not dict or not all(type(key) is str for key in found):
        raise ValueError(f"it is {type(found).__name__}")


class NodeNotOpen(NodeRuntimeError):
    """A request about a node that this store process has not opened: it may have been killed since. Open it again."""


@dataclass(slots=True)
class NextEvents:
    """A request of `node_next`, `by` its client and number. `ack`: what it has still to acknowledge."""

    node: str
    incarnation: int
    ack: list[Place]
    limit: int
    wait: float
    by: tuple[str, int]

    @classmethod
    def of(cls, request: Request) -> NextEvents:
        """Raises ProtocolError."""
        asked = decode(NodeNext, request.arguments, ARGUMENTS)
        limit = limit_of(asked.limit, 1, EVENTS_MAX)
        return cls(asked.node, asked.incarnation, asked.ack, limit, asked.wait, (request.client, request.number))


def next_events(nodes: Nodes, asked: NextEvents, over: bool) -> Events | None:
    """The operation `node_next`; None: no events yet, and the time is not `over`."""
    node = nodes.node(asked.node, asked.incarnation)
    acknowledged, asked.ack = asked.ack, []
    if acknowledged:
        node.acknowledge(acknowledged)
    events = node.events(asked.limit, asked.by)
    if events is None:
        return {"events": []} if over else None
    return {"events": events}


def send_messages(nodes: Nodes, asked: NodeSend, over: bool) -> SentSome | None:
    """The operation `node_send`: waits for room, as every sender does; None: no room, and the time is not `over`."""
    node = nodes.node(asked.node, asked.incarnation)
    staged = node.stage(asked.messages)
    while staged:
        done = node.session.commit(staged)
        del staged[:done]
        if not done and node.session.commits.waits_for:
            node.session.set_phase(pulse.WAITING_FOR_ROOM)
            return {"sent": node.sent(), "done": False} if over else None
    node.session.set_phase(pulse.HANDLING if node.taken else pulse.WAITING)
    return {"sent": node.sent(), "done": True}
