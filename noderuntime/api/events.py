"""Events: what an operator's `on_event` and the loop of a custom node receive."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

_UTC = dt.UTC

_INPUT = ("type", "id", "value", "metadata", "source", "timestamp", "uid", "attempt")
_TICK = ("type", "id", "value", "metadata", "source", "timestamp", "attempt")
_CLOSED = ("type", "id")
_NODE = ("type", "id", "error")
_KVS = ("type", "id", "value", "revision")


class Event(Mapping[str, Any]):
    """A read-only mapping whose keys are attributes, too: `event["type"]` is `event.type`.

    INPUT: `id` (the input), `value`, `metadata` (dict), `source` ("node/output"), `timestamp` (UTC datetime of
    sending), `uid` ("node/output#N", the same on every redelivery; ticks have none) and `attempt` (int, from 1).
    INPUT_CLOSED, INPUT_RECOVERED: `id`. NODE_RESTARTED, NODE_FAILED: `id` (the node), `error`.
    KVS_UPDATE: `id` (the key), `value`, `revision`. STOP: `id`, MANUAL or ALL_INPUTS_CLOSED.
    """

    __slots__ = ("_attempt", "_error", "_id", "_keys", "_metadata", "_number", "_revision", "_sent_ns", "_source",
                 "_type", "_value")  # fmt: skip

    _keys: tuple[str, ...]
    _type: str
    _id: str
    _value: Any
    _metadata: dict[str, Any]
    _source: str
    _sent_ns: int
    _number: int
    _attempt: int
    _error: str
    _revision: int

    type = property(attrgetter("_type"))
    id = property(attrgetter("_id"))
    value = property(attrgetter("_value"))
    metadata = property(attrgetter("_metadata"))
    source = property(attrgetter("_source"))
    attempt = property(attrgetter("_attempt"))
    error = property(attrgetter("_error"))
    revision = property(attrgetter("_revision"))

    @property
    def timestamp(self) -> dt.datetime:
        return utc(self._sent_ns)

    @property
    def uid(self) -> str:
        if not self._number:
            raise AttributeError("a tick has no uid")
        return f"{self._source}#{self._number}"

    def __getitem__(self, key: str) -> Any:
        if key in self._keys:
            return getattr(self, key)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        inside = ", ".join(f"{key}={getattr(self, key)!r:.80}" for key in self._keys)
        return f"Event({inside})"


def utc(ns: int) -> dt.datetime:
    """The UTC datetime of `ns` nanoseconds since the epoch (to the microsecond)."""
    return dt.datetime.fromtimestamp(ns // 1_000_000_000, _UTC).replace(microsecond=ns % 1_000_000_000 // 1000)


class _Input(Event):
    """Holds what all messages share as class attributes: creating the event of a message then costs less."""

    __slots__ = ()
    _type = "INPUT"
    _keys = _INPUT


class _Tick(Event):
    __slots__ = ()
    _type = "INPUT"
    _keys = _TICK


def input_event(
    input: str,
    value: Any,
    metadata: dict[str, Any],
    source: str,
    sent_ns: int,
    number: int,
    attempt: int = 1,
) -> Event:
    """A message of `input`. `number` counts the messages of its output from 1; 0 makes it a tick, without `uid`."""
    event = _Input() if number else _Tick()
    event._id = input
    event._value = value
    event._metadata = metadata
    event._source = source
    event._sent_ns = sent_ns
    event._number = number
    event._attempt = attempt
    return event


def tick_event(input: str, source: str, due_ns: int, attempt: int = 1) -> Event:
    """A tick of a timer input that was due at `due_ns` since the epoch."""
    return input_event(input, None, {"due": utc(due_ns)}, source, due_ns, 0, attempt)


def notice(kind: str, id: str, error: str | None = None) -> Event:
    """INPUT_CLOSED, INPUT_RECOVERED, STOP; with an error: NODE_RESTARTED, NODE_FAILED."""
    event = Event()
    event._type = kind
    event._id = id
    event._keys = _CLOSED
    if error is not None:
        event._error = error
        event._keys = _NODE
    return event


def kvs_update(key: str, value: bytes | None, revision: int) -> Event:
    """A watched key of the shared KVS has a new value (None: it was deleted or has expired)."""
    event = Event()
    event._type = "KVS_UPDATE"
    event._id = key
    event._value = value
    event._revision = revision
    event._keys = _KVS
    return event
