"""How a message of a mailbox becomes an event, and what its acknowledgement stages: decided here, and nowhere else.

Reading messages out of the space is space/mailbox.py. The operator host and custom nodes hand out the `event_of` a
message. The store gives nodes without LMDB the `parts_of` a message, which their program decodes, and the `notice_of` a
notice.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from noderuntime.api import values
from noderuntime.api.events import Event, input_event, notice
from noderuntime.space.mailbox import Message
from noderuntime.space.records import (
    INPUT_CLOSED,
    MESSAGE,
    MESSAGE_BYTES,
    NODE_RESTARTED,
    NOTICE_MIN,
    NOTICE_TYPES,
    decode_message,
)
from noderuntime.space.staging import Input, Staged


class Receiver(Protocol):
    """What is needed of a NodeSession."""

    def body(self, key: bytes, record: bytes) -> Any: ...

    def note_closed(self, input: Input, by_failure: bool) -> None: ...

    def note_restarted(self, node: str) -> None: ...


class Notice(NamedTuple):
    """A notice to this node about an input or another node. `id`: of the input that closed, otherwise of the node."""

    type: str  # INPUT_CLOSED, NODE_RESTARTED or NODE_FAILED
    id: str
    error: str  # "": no error
    by_failure: bool  # INPUT_CLOSED only: its sender failed and may come back, so the input has not ended


def is_notice(record: bytes) -> bool:
    return record[0] >= NOTICE_MIN


def notice_of(input: Input, record: bytes) -> Notice:
    """The notice in a record."""
    kind, value, _, _, _ = decode_message(record)
    return _notice(input, kind, value)


def _notice(input: Input, kind: int, value: Any) -> Notice:
    _, error = value
    if kind == INPUT_CLOSED:
        return Notice("INPUT_CLOSED", input.name, "", error is not None)
    # by the id of now, as the source of messages: the one in the notice is of when it was written
    return Notice(NOTICE_TYPES[kind], input.source.rpartition("/")[0], error or "", False)


def event_of(
    session: Receiver, input: Input, message: Message, lives: int, decode: values.Decode = values.decode
) -> Event:
    """The event to hand out for a message that `lives` earlier lives ended with. The session notes a notice.

    `decode` makes the values that are views. Raises Dropped, and any exception of decoding for bytes that are not a
    value.
    """
    key, record = message
    body = session.body(key, record) if record[1] else None
    kind, value, metadata, number, sent_ns = decode_message(record, body, decode)
    if kind < NOTICE_MIN:
        return input_event(input.name, value, metadata, input.source, sent_ns, number, lives + 1)
    told = _notice(input, kind, value)
    if kind == INPUT_CLOSED:
        session.note_closed(input, told.by_failure)
        return notice(told.type, told.id)
    if kind == NODE_RESTARTED:
        session.note_restarted(told.id)
    return notice(told.type, told.id, told.error)


def parts_of(session: Receiver, message: Message) -> tuple[memoryview, memoryview, memoryview]:
    """Head, body and metadata of a message, neither copied nor decoded. Raises Dropped."""
    key, record = message
    _, in_segment, head_bytes, metadata_bytes, _, _ = MESSAGE.unpack_from(record)
    view = memoryview(record)
    at = MESSAGE_BYTES + metadata_bytes
    body = session.body(key, record).data if in_segment else view[at + head_bytes :]
    return view[at : at + head_bytes], body, view[MESSAGE_BYTES:at]


def acknowledgement(input: Input, message: Message, lives: int) -> Staged:
    """A staged event that removes a message from its mailbox, with the record of its attempts, if there is one."""
    key, record = message
    staged = Staged()
    staged.ack = key, input, record
    if lives:
        staged.also().attempts = True
    return staged
