"""What the values in the space look like. Pure; all numbers little-endian.

Messages (`m`): kind, lengths, number, sending time, then metadata, head and body. `kind` below NOTICE_MIN is a kind of
values.py; from there on it is a notice, whose body is MessagePack [id, error].
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import msgpack

from noderuntime import values

# --- messages -------------------------------------------------------------------------------------------------------

NOTICE_MIN = 64
INPUT_CLOSED, NODE_RESTARTED, NODE_FAILED = range(NOTICE_MIN, NOTICE_MIN + 3)
NOTICE_TYPES = {INPUT_CLOSED: "INPUT_CLOSED", NODE_RESTARTED: "NODE_RESTARTED", NODE_FAILED: "NODE_FAILED"}

MESSAGE = struct.Struct("<BBHIQq")  # kind, 0, head bytes, metadata bytes, number, sent (ns since the epoch)
pack_message = MESSAGE.pack
MESSAGE_BYTES = MESSAGE.size


def encode_message(value: Any, metadata: Mapping[str, Any] | None, number: int, sent_ns: int) -> bytes:
    """The record of a message. Raises TypeError for what cannot travel."""
    kind, head, body = values.encode(value)
    if metadata:
        if not isinstance(metadata, Mapping):
            raise TypeError(f"metadata is a dict, not {type(metadata).__name__}")
        packed = values.pack(dict(metadata))
        return b"".join((pack_message(kind, 0, len(head), len(packed), number, sent_ns), packed, head, body))
    if head:
        return b"".join((pack_message(kind, 0, len(head), 0, number, sent_ns), head, body))
    return pack_message(kind, 0, 0, 0, number, sent_ns) + body


def decode_message(record: bytes) -> tuple[int, Any, dict[str, Any], int, int]:
    """(kind, value, metadata, number, sent_ns); for a notice the value is [id, error]."""
    kind, _, head_bytes, metadata_bytes, number, sent_ns = MESSAGE.unpack_from(record)
    body = MESSAGE_BYTES + metadata_bytes + head_bytes
    view = memoryview(record)
    if kind == values.MSGPACK or kind >= NOTICE_MIN:
        value = values.unpack(view[body:])
    elif kind == values.BYTES:
        value = record[body:]
    else:
        value = values.decode(kind, record[body - head_bytes : body], view[body:])
    metadata = values.unpack(view[MESSAGE_BYTES : MESSAGE_BYTES + metadata_bytes]) if metadata_bytes else {}
    return kind, value, metadata, number, sent_ns


def encode_notice(kind: int, id: str, error: str | None, sent_ns: int) -> bytes:
    body: bytes = msgpack.packb([id, error])
    return pack_message(kind, 0, 0, 0, 0, sent_ns) + body


# --- queues ---------------------------------------------------------------------------------------------------------

QUEUE = struct.Struct("<6Q")
QUEUED, BYTES, TAKEN, DROPPED, DISCARDED, FLAGS = range(6)
EMPTY_QUEUE = (0, 0, 0, 0, 0, 0)

CLOSED = 1  # the receiver has ended: later messages are discarded and counted
SOURCE_ENDED = 2  # the sender has closed this input: INPUT_CLOSED is in the queue or was taken
SOURCE_FAILED = 4  # it failed, or was cut off by one that failed: `--resume` makes it live again
EAGER = 8  # several threads wait for messages: ring for each commit, not only when the queue was empty

# --- nodes ----------------------------------------------------------------------------------------------------------

NODE_HEAD = struct.Struct("<IBxxxQ")  # incarnation, status, commit number; cells of 64 bits follow
LIVE, ENDED, FAILED = range(3)
STATUSES = ("live", "ended", "failed")


def output_cell(number: int) -> int:
    """The cell that counts the messages of an output. Cells are interleaved, so that none moves when one is added."""
    return 3 * number


def input_cell(number: int) -> int:
    """The first of the two cells of an input: tick number, or time of the last arrival and whether it timed out."""
    return 3 * number + 1


class NodeRecord:
    """incarnation, status, commit number, and cells: see output_cell and input_cell."""

    __slots__ = ("cells", "commit", "incarnation", "status")

    def __init__(self, incarnation: int, status: int, commit: int, cells: list[int]) -> None:
        self.incarnation = incarnation
        self.status = status
        self.commit = commit
        self.cells = cells

    @classmethod
    def parse(cls, record: bytes) -> NodeRecord:
        incarnation, status, commit = NODE_HEAD.unpack_from(record)
        cells = list(memoryview(record)[NODE_HEAD.size :].cast("Q"))
        return cls(incarnation, status, commit, cells)

    def pack(self) -> bytes:
        head = NODE_HEAD.pack(self.incarnation, self.status, self.commit)
        return head + struct.pack(f"<{len(self.cells)}Q", *self.cells)


# --- private and shared values --------------------------------------------------------------------------------------

PRIVATE = struct.Struct("<Q")  # the sequence of the commit that wrote it; the value follows
PRIVATE_BYTES = PRIVATE.size

SHARED = struct.Struct("<QqqQ")  # revision, written (ns since the epoch), expires (ns, 0: never), origin
SHARED_BYTES = SHARED.size

ATTEMPTS = struct.Struct("<II")  # lives that ended with the message in hand, those that count as its failures
