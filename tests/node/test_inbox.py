"""A message becomes an event in one place: what each kind of record becomes, and what the session learns from it."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any, cast

import pytest

from noderuntime.api import values
from noderuntime.ipc.wiring import InputWiring
from noderuntime.node import inbox
from noderuntime.node.session import NodeSession
from noderuntime.space import records
from noderuntime.space.segments import Dropped
from noderuntime.space.staging import Input

SENT_NS = 1_700_000_000_000_000_000
INPUT = Input(3, InputWiring("in", 1, "a/out", 2, 10, 1000, False), -1)
KEY = b"the key"


class Session:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def note_closed(self, input: Input, by_failure: bool) -> None:
        self.told.append(("closed", input.name, by_failure))

    def note_restarted(self, node: str) -> None:
        self.told.append(("restarted", node))

    def body(self, key: bytes, record: bytes) -> Any:
        raise Dropped


def opened(record: bytes, lives: int = 0) -> tuple[Any, list[tuple[Any, ...]]]:
    """The event that a record becomes, and what the session was told."""
    session = Session()
    event = inbox.event_of(cast(NodeSession, session), INPUT, (KEY, record), lives)
    return event, session.told


def message(value: Any, metadata: dict[str, Any] | None = None) -> bytes:
    payloads = cast(Any, SimpleNamespace(message_bytes_max=1000, event_bytes_max=1000))
    return records.encode_message(value, metadata, 7, SENT_NS, payloads, set())[0]


def notice(kind: int, id: str, error: str | None) -> bytes:
    return records.encode_notice(kind, id, error, SENT_NS)


def test_a_message_becomes_an_input_with_its_source_uid_and_attempt() -> None:
    event, told = opened(message({"x": 1}, {"unit": "m"}), lives=2)
    assert dict(event) == {
        "type": "INPUT", "id": "in", "value": {"x": 1}, "metadata": {"unit": "m"}, "source": "a/out",
        "timestamp": dt.datetime.fromtimestamp(SENT_NS / 1e9, dt.UTC), "uid": "a/out#7", "attempt": 3,
    }  # fmt: skip
    assert told == []


@pytest.mark.parametrize(("error", "by_failure"), [(None, False), ("", True), ("boom", True)])
def test_a_closed_input_is_named_as_the_receiver_names_it_and_a_failure_is_noted(
    error: str | None, by_failure: bool
) -> None:
    record = notice(records.INPUT_CLOSED, "a", error)
    assert opened(record)[0].id == "in"
    assert "error" not in opened(record)[0]
    assert opened(record)[1] == [("closed", "in", by_failure)]
    assert inbox.notice_of(INPUT, record) == ("INPUT_CLOSED", "in", "", by_failure)


def test_a_restarted_node_is_noted_and_a_failed_one_is_told_with_its_error() -> None:
    restarted, failed = notice(records.NODE_RESTARTED, "a", None), notice(records.NODE_FAILED, "a", "boom")
    assert dict(opened(restarted)[0]) == {"type": "NODE_RESTARTED", "id": "a", "error": ""}
    assert opened(restarted)[1] == [("restarted", "a")]
    assert dict(opened(failed)[0]) == {"type": "NODE_FAILED", "id": "a", "error": "boom"}
    assert opened(failed)[1] == []
    assert inbox.notice_of(INPUT, failed) == ("NODE_FAILED", "a", "boom", False)


def test_parts_of_a_message_are_its_bytes_as_sent() -> None:
    head, body, metadata = inbox.parts_of(cast(NodeSession, Session()), (KEY, message("text", {"unit": "m"})))
    assert bytes(head) == b""
    assert values.unpack(bytes(body)) == "text"
    assert values.unpack(bytes(metadata)) == {"unit": "m"}


def test_a_message_whose_segment_is_gone_is_dropped() -> None:
    record = records.pack_message(values.BYTES, records.SEGMENT, 0, 0, 7, SENT_NS) + bytes(records.REFERENCE_BYTES)
    with pytest.raises(Dropped):
        opened(record)
    with pytest.raises(Dropped):
        inbox.parts_of(cast(NodeSession, Session()), (KEY, record))


def test_an_acknowledgement_takes_the_record_of_attempts_along_only_if_there_is_one() -> None:
    record = message(1)
    assert inbox.acknowledgement(INPUT, (KEY, record), 0).rare is None
    staged = inbox.acknowledgement(INPUT, (KEY, record), 1)
    assert staged.ack == (KEY, INPUT, record)
    assert staged.rare is not None and staged.rare.attempts
