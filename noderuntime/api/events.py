"""Events: what an operator's `on_event` and the loop of a custom node receive."""

from __future__ import annotations

import datetime as dt
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from operator import attrgetter
from typing import Any, ClassVar, Final

REPLICA_SHIFT: Final = 45  # a message's number has its sender's replica above these bits; all of it fits into a float

_UTC = dt.UTC

_INPUT = ("type", "id", "value", "metadata", "source", "timestamp", "uid", "attempt")
_TICK = ("type", "id", "value", "metadata", "source", "timestamp", "attempt")
_CLOSED = ("type", "id")
_NODE = ("type", "id", "error")
_KVS = ("type", "id", "value", "revision")
_EXTERNAL = ("type", "value")


class Event:
    """A read-only mapping whose keys are attributes, too: `event["type"]` is `event.type`.

    INPUT: `id` (the input), `value`, `metadata` (dict), `source` ("node/output"), `timestamp` (UTC datetime of
    sending), `uid` ("node/output#N", the same on every redelivery; ticks have none) and `attempt` (int, from 1).
    INPUT_CLOSED, INPUT_RECOVERED: `id`. NODE_RESTARTED, NODE_FAILED: `id` (the node), `error`.
    KVS_UPDATE: `id` (the key), `value`, `revision`. STOP: `id`, MANUAL or ALL_INPUTS_CLOSED.

    It is registered as a Mapping below: a compiled class cannot derive from it.
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

    type: ClassVar[Any] = property(attrgetter("_type"))
    id: ClassVar[Any] = property(attrgetter("_id"))
    value: ClassVar[Any] = property(attrgetter("_value"))
    metadata: ClassVar[Any] = property(attrgetter("_metadata"))
    source: ClassVar[Any] = property(attrgetter("_source"))
    attempt: ClassVar[Any] = property(attrgetter("_attempt"))
    error: ClassVar[Any] = property(attrgetter("_error"))
    revision: ClassVar[Any] = property(attrgetter("_revision"))

    @property
    def timestamp(self) -> dt.datetime:
        return utc(self._sent_ns)

    @property
    def uid(self) -> str:
        if not self._number:
            raise AttributeError("a tick has no uid")
        return f"{self._source}#{self._number}"

    def __getitem__(self, key: Any) -> Any:
        if key in self._keys:
            return getattr(self, key)
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __eq__(self, other: object) -> bool:
        return dict(self.items()) == dict(other.items()) if isinstance(other, Mapping) else NotImplemented

    __reversed__: ClassVar[None] = None

    def get(self, key: Any, default: Any = None) -> Any:
        return getattr(self, key) if key in self._keys else default

    def keys(self) -> KeysView[str]:
        return KeysView(self)

    def values(self) -> ValuesView[Any]:
        return ValuesView(self)

    def items(self) -> ItemsView[str, Any]:
        return ItemsView(self)

    def __repr__(self) -> str:
        inside = ", ".join(f"{key}={getattr(self, key)!r:.80}" for key in self._keys)
        return f"Event({inside})"


Mapping.register(Event)


def utc(ns: int) -> dt.datetime:
    """The UTC datetime of `ns` nanoseconds since the epoch (to the microsecond)."""
    return dt.datetime.fromtimestamp(ns // 1000 / 1e6, _UTC)  # a float holds all microseconds until the year 2242


class _Input(Event):
    """Holds what all messages share as class attributes: creating the event of a message then costs less."""

    __slots__ = ()
    _type = "INPUT"
    _keys: tuple[str, ...] = _INPUT


class _Tick(Event):
    __slots__ = ()
    _type = "INPUT"
    _keys: tuple[str, ...] = _TICK


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
    if not number:
        return _tick(input, value, metadata, source, sent_ns, attempt)
    event = _Input()  # of one class: compiled, its attributes are then set without a lookup
    event._id = input
    event._value = value
    event._metadata = metadata
    event._source = source
    event._sent_ns = sent_ns
    event._number = number
    event._attempt = attempt
    return event


def is_message(event: Event) -> bool:
    """Whether it is an INPUT event that is no tick."""
    return isinstance(event, _Input)


def message_of(event: Event) -> tuple[Any, dict[str, Any], int, int]:
    """Value, metadata, number and time of sending (ns) of a message, as `input_event` got them."""
    return event._value, event._metadata, event._number, event._sent_ns


def tick_event(input: str, source: str, due_ns: int, attempt: int = 1) -> Event:
    """A tick of a timer input that was due at `due_ns` since the epoch."""
    return _tick(input, None, {"due": utc(due_ns)}, source, due_ns, attempt)


def _tick(input: str, value: Any, metadata: dict[str, Any], source: str, sent_ns: int, attempt: int) -> Event:
    event = _Tick()
    event._id = input
    event._value = value
    event._metadata = metadata
    event._source = source
    event._sent_ns = sent_ns
    event._number = 0
    event._attempt = attempt
    return event


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


def external_event(value: Any) -> Event:
    """Something that did not come through the dataflow, and is handed out in order with what did."""
    event = Event()
    event._type = "EXTERNAL"
    event._value = value
    event._keys = _EXTERNAL
    return event
