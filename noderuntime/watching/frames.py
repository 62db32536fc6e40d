"""What a tap and the tap server say to each other, along a stream socket. Pure.

    tap    = tap_hello
    server = refused | (topics | event)* end

    tap -> server    ["tap", version, topics, again]     names and patterns; whether it had another server before
    server -> tap    ["refused", kind, why]              for a person; then the server closes the connection
                     ["topics", {topic: numbers}]        these are tapped from now on; what was sent last before
                     ["event", topic, number, kind, head, metadata, sent_ns, size], with the body of the value
                     ["end", {topic: numbers}]           the run is over; what was sent last

A frame is the length of its head and of its body (32 bits each, little-endian), the head, which is MessagePack, and the
body. `number` counts the messages of an output from 1; each replica of a node counts its own, with its place above
REPLICA_SHIFT bits, so `numbers` has one of each. Value and metadata are as in the space: see api/values.py. Of a
body that is larger than BODY_BYTES_MAX only the `size` is told.

The numbers are how a tap knows exactly what it has missed, whoever lost it: the mailbox, the server, or a server that
was killed. Nothing has to be told of what is dropped.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgpack

from noderuntime.errors import ProtocolError

VERSION: Final = 1
BODY_BYTES_MAX: Final = 8_000_000
HEAD_BYTES_MAX: Final = 4_000_000  # metadata is in it
HELLO_BYTES_MAX: Final = 65536

UNKNOWN_TOPIC: Final = "topic"

_LENGTHS = struct.Struct("<II")
_pack = msgpack.Packer(use_bin_type=True).pack

Frame = tuple[bytes, bytes]
"""What is before the body, and the body."""


def frame(head: Sequence[Any], body: bytes = b"") -> Frame:
    packed: bytes = _pack(head)
    return _LENGTHS.pack(len(packed), len(body)) + packed, body


def hello(topics: Sequence[str], again: bool) -> Frame:
    return frame(["tap", VERSION, list(topics), again])


def refused(kind: str, why: str) -> Frame:
    """`kind`: UNKNOWN_TOPIC, or "" for any other reason."""
    return frame(["refused", kind, why])


def topics(numbers: Mapping[str, Sequence[int]]) -> Frame:
    return frame(["topics", dict(numbers)])


def end(numbers: Mapping[str, Sequence[int]]) -> Frame:
    return frame(["end", dict(numbers)])


class Reader:
    """Bytes in, whole frames out. `bytes_max`: of one frame."""

    def __init__(self, bytes_max: int = HEAD_BYTES_MAX + BODY_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[tuple[list[Any], bytes]]:
        """The frames that `data` completes: head and body. Raises ProtocolError; then no more can be read."""
        rest = self._rest
        rest += data
        found: list[tuple[list[Any], bytes]] = []
        start = 0
        while len(rest) - start >= _LENGTHS.size:
            head_bytes, body_bytes = _LENGTHS.unpack_from(rest, start)
            if head_bytes + body_bytes > self._bytes_max:
                size = head_bytes + body_bytes
                raise ProtocolError(f"a frame of {size} bytes; at most {self._bytes_max} are allowed")
            at = start + _LENGTHS.size
            end = at + head_bytes + body_bytes
            if len(rest) < end:
                break
            with memoryview(rest) as view:
                found.append((_head(bytes(view[at : at + head_bytes])), bytes(view[at + head_bytes : end])))
            start = end
        del rest[:start]
        return found


def _head(packed: bytes) -> list[Any]:
    try:
        head = msgpack.unpackb(packed, raw=False, strict_map_key=False)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"the head of a frame is not MessagePack: {type(error).__name__}") from None
    if not isinstance(head, list) or not head or not isinstance(head[0], str):
        raise ProtocolError("the head of a frame is not an array that starts with a type")
    return head


def parse_hello(head: Sequence[Any]) -> tuple[list[str], bool]:
    """What a tap asks for, and whether it does so again. Raises ProtocolError."""
    if head[0] != "tap" or len(head) != 4:
        raise ProtocolError("a tap says first which topics it wants")
    if head[1] != VERSION:
        raise ProtocolError(f"this run speaks version {VERSION} of the taps' protocol, not {head[1]!r}")
    wanted = head[2]
    if not isinstance(wanted, list) or not all(isinstance(text, str) for text in wanted):
        raise ProtocolError("topics are a list of texts")
    return wanted, bool(head[3])
