"""The layouts of the values in the space. Pure; all numbers are little-endian.

Messages (`m`): kind, lengths, number, sending time, then metadata, head and body. A `kind` below NOTICE_MIN is one of
values.py; NOTICE_MIN and above is a notice, whose body is MessagePack [id, error].
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import msgpack

from noderuntime.api import values
from noderuntime.api.events import REPLICA_SHIFT as REPLICA_SHIFT
from noderuntime.errors import ValueTooLarge
from noderuntime.space.segments import (
    REFERENCE_BYTES,
    THRESHOLD_BYTES,
    Segment,
    SegmentPool,
    referenced_bytes,
)

# --- messages -------------------------------------------------------------------------------------------------------

NOTICE_MIN = 64
INPUT_CLOSED, NODE_RESTARTED, NODE_FAILED = range(NOTICE_MIN, NOTICE_MIN + 3)
NOTICE_TYPES = {INPUT_CLOSED: "INPUT_CLOSED", NODE_RESTARTED: "NODE_RESTARTED", NODE_FAILED: "NODE_FAILED"}

MESSAGE = struct.Struct("<BBHIQq")  # kind, where the body is, head and metadata bytes, number, sent (ns, epoch)
pack_message = MESSAGE.pack
_unpack_message = MESSAGE.unpack_from
MESSAGE_BYTES = MESSAGE.size
INLINE, SEGMENT = 0, 1
_BYTES = values.BYTES
_MSGPACK = values.MSGPACK
_SMALL = values.SMALL
_unpack = values.unpack
_unpack_small = values.unpack_small


class Payloads(Protocol):
    """Where large bodies go: a pool of segments, made when first needed, and the limits on their sizes."""

    message_bytes_max: int
    event_bytes_max: int

    @property
    def pool(self) -> SegmentPool: ...

    def announce(self, nodes: Collection[int]) -> None:
        """A message to these nodes will be committed soon."""


def encode_message(
    value: Any,
    metadata: Mapping[str, Any] | None,
    number: int,
    sent_ns: int,
    place: Payloads | None = None,
    to: Collection[int] = (),
) -> tuple[bytes, Segment | None]:
    """The record of a message to the nodes `to`, and the segment of `place` that its body went to when it is large.

    Raises TypeError for a value that cannot be sent, ValueTooLarge, and StoreFull without room for a segment.
    """
    kind, head, body = values.encode(value)
    packed = b""
    if metadata:
        if type(metadata) is not dict:
            if not isinstance(metadata, Mapping):
                raise TypeError(f"metadata is a dict, not {type(metadata).__name__}")
            metadata = dict(metadata)
        packed = values.pack(metadata)
    if place is not None and len(body) >= THRESHOLD_BYTES:
        if len(body) > place.message_bytes_max:
            raise ValueTooLarge("a message", len(body), place.message_bytes_max)
        pool = place.pool
        is_array = kind == values.NDARRAY and type(value) is not values.Encoded
        segment = pool.segment_of(value, views=1) if is_array else None
        if segment is None:
            segment = pool.fill(body, partial(place.announce, to))
        start = pack_message(kind, SEGMENT, len(head), len(packed), number, sent_ns)
        return b"".join((start, packed, head, segment.reference(len(body)))), segment
    start = pack_message(kind, INLINE, len(head), len(packed), number, sent_ns)
    if packed or head:
        return b"".join((start, packed, head, body)), None
    return start + body, None


def decode_message(
    record: bytes, outside: Any = None, decode: values.Decode = values.decode
) -> tuple[int, Any, dict[str, Any], int, int]:
    """(kind, value, metadata, number, sent_ns); for a notice the value is [id, error].

    `outside` is the body, as a buffer, when it lies in a segment. `decode` makes the values that are views of it.
    """
    kind, _, head_bytes, metadata_bytes, number, sent_ns = _unpack_message(record)
    if kind == _BYTES and not metadata_bytes and outside is None:
        return kind, record[MESSAGE_BYTES:], {}, number, sent_ns
    head = MESSAGE_BYTES + metadata_bytes
    start = head + head_bytes
    if kind == _MSGPACK or kind >= NOTICE_MIN:
        if outside is None:
            packed = record[start:]
            value = _unpack_small(packed) if packed and packed[0] in _SMALL else _unpack(packed)
        else:
            value = _unpack(outside)
    elif kind == _BYTES:
        value = record[start:] if outside is None else bytes(outside)
    else:  # a view of the record, valid as long as the record is
        value = decode(kind, record[head:start], memoryview(record)[start:] if outside is None else outside)
    metadata = _unpack(record[MESSAGE_BYTES:head]) if metadata_bytes else {}
    return kind, value, metadata, number, sent_ns


def reference_of(record: bytes) -> bytes:
    """The segment reference of a message whose body lies in a segment (record[1] == SEGMENT)."""
    return record[-REFERENCE_BYTES:]


def message_bytes(record: bytes) -> int:
    """The bytes that a message counts in its queue: its record, and its body in a segment."""
    return len(record) + referenced_bytes(record[-REFERENCE_BYTES:]) if record[1] else len(record)


_SPARED = (b"request_id", b"goal_id", b"goal_status")
_SPARED_KEYS = frozenset(key.decode() for key in _SPARED)


def is_spared(record: bytes) -> bool:
    """Whether the metadata of a message make it a request, a response or a goal, in dora's sense."""
    _, _, _, metadata_bytes, _, _ = _unpack_message(record)
    metadata = record[MESSAGE_BYTES : MESSAGE_BYTES + metadata_bytes]
    return any(key in metadata for key in _SPARED) and not _SPARED_KEYS.isdisjoint(_unpack(metadata))


def encode_notice(kind: int, id: str, error: str | None, sent_ns: int) -> bytes:
    body: bytes = msgpack.packb([id, error])
    return pack_message(kind, INLINE, 0, 0, 0, sent_ns) + body


# --- queues ---------------------------------------------------------------------------------------------------------

QUEUED, BYTES, TAKEN, DROPPED, DISCARDED, FLAGS, MARK_SEQUENCE, MARK_INDEX = range(8)
"""The mark is the place of a message in a pack: that one, and those before it in its pack, are taken. 0, 0: no pack
is taken in part."""

_QUEUE = struct.Struct("<6Q")
_MARKED_QUEUE = struct.Struct("<8Q")  # only with a mark, so that a space without packs is as it has always been


def pack_queue(queue: Sequence[int]) -> bytes:
    """The record of a queue."""
    record = _MARKED_QUEUE.pack(*queue)
    return record if queue[MARK_SEQUENCE] else record[: _QUEUE.size]


def parse_queue(record: bytes | None) -> list[int]:
    """A queue, as a list to change; an empty one without a record."""
    if record is None:
        return [0, 0, 0, 0, 0, 0, 0, 0]
    if len(record) == _MARKED_QUEUE.size:
        return list(_MARKED_QUEUE.unpack(record))
    return [*_QUEUE.unpack(record), 0, 0]


CLOSED = 1  # the receiver has ended: later messages are discarded and counted
SOURCE_ENDED = 2  # the sender has closed this input: INPUT_CLOSED is in the queue or was taken
SOURCE_FAILED = 4  # the sender failed: this input is closed, but not ended, for the sender may come back
EAGER = 8  # several threads wait for messages: ring for each commit, not only when the queue was empty
CUT_OFF = 16  # the sender ended while an input of its own was SOURCE_FAILED or CUT_OFF: `--resume` makes it live again

FLUSHED = 32  # a sender has dropped what waited here: messages may be gone while in hand, as with drop_oldest

# --- nodes ----------------------------------------------------------------------------------------------------------

NODE_HEAD = struct.Struct("<IIQ")  # incarnation, status and wiring number, commit number; counters of 64 bits follow
WIRING_SHIFT = 8  # where the wiring number stands, above the status; 0: the wiring that the node began with
WIRING_MAX = (1 << 24) - 1
LIVE, ENDED, FAILED, REMOVED = range(4)  # REMOVED: of a node that left the dataflow; its numbers continue if it returns
STATUSES = ("live", "ended", "failed", "removed")


def incarnation_of(record: bytes) -> int:
    """The incarnation in a node record, without the rest of it."""
    return int.from_bytes(record[:4], "little")


def output_counter(number: int) -> int:
    """Where a node record counts the messages of an output. Outputs and inputs interleave: adding one moves none."""
    return 3 * number


def input_counter(number: int) -> int:
    """The first of two counters of an input. Of a timer: the tick number. Of an input with a timeout: when its last
    message came (nanoseconds since boot), and in the second counter, whether it has timed out since.
    """
    return 3 * number + 1


def status_of(record: bytes | None) -> int:
    """The status in a node record, without the rest of it; ENDED of a node that is not there."""
    return ENDED if record is None else record[4]


COUNT_MASK = (1 << REPLICA_SHIFT) - 1


class NodeRecord:
    """`counters` are numbered by output_counter and input_counter."""

    __slots__ = ("commit", "counters", "incarnation", "status", "wiring")

    def __init__(self, incarnation: int, status: int, commit: int, counters: list[int], wiring: int = 0) -> None:
        self.incarnation = incarnation
        self.status = status
        self.commit = commit
        self.counters = counters
        self.wiring = wiring

    @classmethod
    def parse(cls, record: bytes) -> NodeRecord:
        incarnation, state, commit = NODE_HEAD.unpack_from(record)
        counters = list(memoryview(record)[NODE_HEAD.size :].cast("Q"))
        return cls(incarnation, state & 0xFF, commit, counters, state >> WIRING_SHIFT)

    def pack(self) -> bytes:
        head = NODE_HEAD.pack(self.incarnation, self.status | self.wiring << WIRING_SHIFT, self.commit)
        return head + struct.pack(f"<{len(self.counters)}Q", *self.counters)

    def forget_input(self, number: int) -> None:
        """A timer, or the timeout of an input, begins anew when it comes back; what the node has sent is counted on."""
        counter = input_counter(number)
        for at in range(counter, min(counter + 2, len(self.counters))):
            self.counters[at] = 0


# --- private and shared values --------------------------------------------------------------------------------------

PRIVATE = struct.Struct("<Q")  # the sequence of the commit that wrote it; the value follows
PRIVATE_BYTES = PRIVATE.size

# revision, stamp (ns since the epoch), next expiry of the visible value (ns, 0: never), origin, contribution to the
# digest, index, flags; the value follows
SHARED = struct.Struct("<QqqQ16sIBxxx")
SHARED_BYTES = SHARED.size
GONE = 1  # a deletion in force; nothing follows but perhaps the cell
MERGED = 2  # before the visible value: its length, and when all of it has expired; after it: the whole cell
UNMARKED = 4  # with MERGED: the visible value is not marked as MessagePack; otherwise it is
VISIBLE = struct.Struct("<Iq")

# digest, digest before the oldest change kept, last stamp, last revision and index, changes kept, changes to keep,
# default time to live (ns, 0: none), how often watches were changed
HEAD = struct.Struct("<16s16sqQIQQqQ")
EMPTY_HEAD = (bytes(16), bytes(16), 0, 0, 0, 0, 10_000, 0, 0)

CHANGE_HEAD_BYTES = 17  # digest after the change, and 1 for a deletion; the key follows

ATTEMPTS = struct.Struct("<II")  # lives that ended with the message in hand, those that count as its failures
