"""`Harness`: an operator in pytest, without processes, with the semantics of a run. Floor 4.

    h = Harness(RunningSum, outputs=["sum"])
    h.send("n", 3)
    h.crash()
    h.send("n", 4)
    assert h.outputs("sum") == [3, 7]

What an event stages is visible to its own reads, is committed when the handler returns, and is discarded when
it raises. Values are encoded and decoded as on their way between two nodes. Time stands still until
`advance`.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from noderuntime.errors import NodeRuntimeError, OperatorError, RevisionConflict, UnknownOutput
from noderuntime.events import Event, input_event, kvs_update, notice, tick_event
from noderuntime.operator import (
    POSITION_KEY,
    Idle,
    Source,
    Status,
    make,
    own_state,
    packed_position,
    position_of,
    status_of,
)
from noderuntime.space.keys import user_key
from noderuntime.space.records import decode_message, encode_message
from noderuntime.space.shared import check_value, ttl_to_ns
from noderuntime.state import Entry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from noderuntime.merges import Merge

PRODUCE_CALLS_MAX: Final = 100_000

_START = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Sent:
    """One committed message, as its receivers get it."""

    output: str
    value: Any
    metadata: dict[str, Any]
    uid: str


@dataclass(frozen=True, slots=True)
class _Kept:
    value: bytes
    revision: int
    written: dt.datetime
    expires: dt.datetime | None


class SharedKVS(MutableMapping[str, bytes]):
    """The shared KVS of one or several Harnesses: `h.kvs["limit"] = b"5"`; `Harness(Other, kvs=h.kvs)`."""

    def __init__(self, given: Mapping[str, bytes] | None = None) -> None:
        self.now = _START
        self.revision = 0
        self._kept: dict[str, _Kept] = {}
        self.changed: dict[str, int] = {}  # key -> revision of its last change
        self.update(given or {})

    def __getitem__(self, key: str) -> bytes:
        kept = self._kept[key]
        if self._expired(kept):
            raise KeyError(key)
        return kept.value

    def __setitem__(self, key: str, value: bytes) -> None:
        self.write(key, value)

    def __delitem__(self, key: str) -> None:
        del self._kept[key]
        self.revision += 1
        self._note(key)

    def _note(self, key: str) -> None:
        self.changed.pop(key, None)  # so that they stand in order
        self.changed[key] = self.revision

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(key for key, kept in self._kept.items() if not self._expired(kept)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"SharedKVS({dict(self)!r})"

    def _expired(self, kept: _Kept) -> bool:
        return kept.expires is not None and kept.expires <= self.now

    def write(self, key: str, value: bytes, ttl: float | None = None) -> int:
        """Set `key`, for `ttl` seconds of the Harness's time if given; returns its revision."""
        user_key(key)
        ttl_ns = ttl_to_ns(ttl)
        expires = self.now + dt.timedelta(microseconds=ttl_ns / 1000) if ttl_ns else None
        copied = check_value(f"the value of {key!r}", value)
        self.revision += 1
        self._kept[key] = _Kept(copied, self.revision, self.now, expires)
        self._note(key)
        return self.revision

    def delete(self, key: str) -> bool:
        """Delete `key`; whether it was there."""
        present = key in self
        if self._kept.pop(key, None) is not None:
            self.revision += 1
            self._note(key)
        return present

    def merge(self, key: str, merge: Merge) -> int:
        """Combine `key` with `merge`; returns its revision."""
        expires = self._kept[key].expires if key in self else None
        revision = self.write(key, merge.apply(self.get(key)))
        self._kept[key] = replace(self._kept[key], expires=expires)  # a time to live goes on
        return revision

    def entry(self, key: str) -> Entry | None:
        """Value, revision and times of `key`, None when it is not there."""
        user_key(key)
        if key not in self:
            return None
        kept = self._kept[key]
        ttl = None if kept.expires is None else (kept.expires - self.now).total_seconds()
        return Entry(kept.value, kept.revision, kept.written, ttl, f"{0:012x}/0")


class HarnessState:
    """`ctx.kvs` of a Harness: what is called takes effect at once. See noderuntime.state.MemoryState."""

    def __init__(self, kvs: SharedKVS, watched: set[str]) -> None:
        self._kvs = kvs
        self._watched = watched
        self.get = kvs.entry
        self.delete = kvs.delete
        self.merge = kvs.merge

    def get_or(self, key: str, default: bytes) -> bytes:
        found = self._kvs.entry(key)
        return default if found is None else found.value

    def get_root(self) -> dict[str, Entry]:
        entries = {key: self._kvs.entry(key) for key in self._kvs}
        return {key: entry for key, entry in entries.items() if entry is not None}

    def watch(self, prefix: str = "") -> None:
        """Get KVS_UPDATE events for keys that start with `prefix`; `Harness.update` hands them out."""
        user_key(prefix)
        self._watched.add(prefix)

    @contextmanager
    def snapshot(self) -> Iterator[HarnessState]:
        yield self  # nobody else writes meanwhile

    def set(self, key: str, value: bytes, ttl: float | None = None, expect: int | None = None) -> int:
        found = self._kvs.entry(key)
        revision = found.revision if found else 0
        if expect is not None and revision != expect:
            raise RevisionConflict(key, expect, revision)
        return self._kvs.write(key, value, ttl)


@dataclass(slots=True)
class _Staged:
    """What one event wants to change. Messages are records, as they would lie in a mailbox."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)
    private: dict[str, bytes | None] = field(default_factory=dict)
    shared: dict[str, list[Callable[[SharedKVS], object]]] = field(default_factory=dict)


class HarnessContext:
    """The `ctx` of a Harness: see noderuntime.operator.Context."""

    def __init__(self, harness: Harness, incarnation: int) -> None:
        self.node_id = harness.node_id
        self.config = MappingProxyType(dict(harness.config))
        self.incarnation = incarnation
        self.is_restart = incarnation > 1
        self.log = logging.getLogger(harness.node_id)
        self.kvs = HarnessState(harness.kvs, harness.watched)
        self._harness = harness
        self._staged: _Staged | None = None  # None: no event in hand, nothing may be staged

    def begin(self) -> _Staged:
        """From here on what is called belongs to one event."""
        self._staged = _Staged()
        return self._staged

    def end(self) -> None:
        self._staged = None

    def _staging(self, call: str) -> _Staged:
        if self._staged is None:
            raise NodeRuntimeError(
                f"{call}: there is no event in hand. Sending and writing belong to on_event or produce; "
                "__init__ and restore_state can only read."
            )
        return self._staged

    def __call__(self, output: str, value: Any, metadata: Mapping[str, Any] | None = None) -> None:
        self.send_output(output, value, metadata)

    def send_output(self, output: str, value: Any, metadata: Mapping[str, Any] | None = None) -> None:
        staged = self._staging("send_output")
        known = self._harness.declared
        if known is not None and output not in known:
            raise UnknownOutput(self.node_id, output, known)
        record, _ = encode_message(value, metadata, 0, 0)
        staged.messages.append((output, record))

    def allocate(self, shape: int | tuple[int, ...], dtype: Any = "uint8") -> NDArray[Any]:
        import numpy

        return numpy.empty(shape, dtype)

    def save_state(self, key: str, value: bytes) -> None:
        user_key(key)
        self._staging("save_state").private[key] = check_value(f"the state {key!r}", value)

    def delete_state(self, key: str) -> None:
        user_key(key)
        self._staging("delete_state").private[key] = None

    def load_state(self, key: str, default: bytes | None = None) -> bytes | None:
        user_key(key)
        staged = self._staged_private()
        value = staged[key] if key in staged else self._harness.state.get(key)
        return default if value is None else value

    def state(self) -> dict[str, bytes]:
        merged = {**self._harness.state, **self._staged_private()}
        return {key: value for key, value in sorted(merged.items()) if value is not None}

    def _staged_private(self) -> dict[str, bytes | None]:
        return self._staged.private if self._staged else {}

    def kvs_write(self, key: str, value: bytes, ttl: float | None = None) -> None:
        copied = check_value(f"the value of {key!r}", value)
        ttl_to_ns(ttl)
        self._stage_shared("kvs_write", key, lambda kvs: kvs.write(key, copied, ttl))

    def kvs_read(self, key: str, default: bytes | None = None) -> bytes | None:
        user_key(key)
        return self._preview(key).get(key, default)

    def kvs_delete(self, key: str) -> None:
        self._stage_shared("kvs_delete", key, lambda kvs: kvs.delete(key))

    def kvs_merge(self, key: str, merge: Merge) -> None:
        if not hasattr(merge, "apply"):
            raise TypeError(f"kvs_merge takes one of noderuntime.merges, not {type(merge).__name__}")
        user_key(key)
        self._preview(key).merge(key, merge)  # raises now what the commit would raise
        self._stage_shared("kvs_merge", key, lambda kvs: kvs.merge(key, merge))

    def _stage_shared(self, call: str, key: str, step: Callable[[SharedKVS], object]) -> None:
        user_key(key)
        self._staging(call).shared.setdefault(key, []).append(step)

    def _preview(self, key: str) -> SharedKVS:
        """A KVS of this one key as it would be after the commit."""
        shared = self._harness.kvs
        preview = SharedKVS({key: shared[key]} if key in shared else None)
        for step in self._staged.shared.get(key, []) if self._staged else []:
            step(preview)
        return preview


class Harness:
    """Runs one operator, or Source, event by event.

    - `operator`: its class, or whatever makes one without arguments or with `ctx`.
    - `config`: what `config:` holds in the dataflow file.
    - `outputs`: the declared outputs; sending to another raises UnknownOutput. None: all are allowed.
    - `kvs`: the shared KVS, a dict of bytes or another Harness's `kvs`.
    - `state`: the private state that an earlier run has left.

    An exception of a handler comes out of the call that delivered the event; nothing of that event is
    committed, and the operator is dead, as its process would be. `redeliver()` is what a run does next: a new
    life handles the same event. Any other call starts a new life, too, and leaves that event behind.
    """

    def __init__(
        self,
        operator: Callable[..., Any],
        *,
        config: Mapping[str, Any] | None = None,
        outputs: Iterable[str] | None = None,
        kvs: Mapping[str, bytes] | None = None,
        state: Mapping[str, bytes] | None = None,
        node_id: str = "operator",
    ) -> None:
        if not callable(operator):
            raise TypeError(f"Harness({operator!r:.80}): give its class: each life makes a new one")
        self.node_id = node_id
        self.config: Mapping[str, Any] = dict(config or {})
        self.declared = None if outputs is None else list(outputs)
        self.kvs = kvs if isinstance(kvs, SharedKVS) else SharedKVS(kvs)
        self.watched: set[str] = set()
        self._seen = self.kvs.revision
        self.state: dict[str, bytes] = dict(state or {})
        self.sent: list[Sent] = []
        self.ended = False
        self._factory = operator
        self._incarnation = 0
        self._numbers: dict[str, int] = {}
        self._in_hand: tuple[Callable[[int], Event], int] | None = None  # set while an event is not committed
        self._start()

    # -- what the world does --

    def send(
        self, input: str, value: Any, metadata: Mapping[str, Any] | None = None, *, crashes: int = 0
    ) -> Status:
        """A message arrives at `input`. The first `crashes` lives die between handler and commit."""
        source = f"test/{input}"
        number = self._next(source)
        record, _ = encode_message(value, metadata, number, _nanoseconds(self.now))

        def event(attempt: int) -> Event:
            _, carried, its_metadata, number, sent_ns = decode_message(record)
            return input_event(input, carried, its_metadata, source, sent_ns, number, attempt)

        return self._deliver(event, crashes)

    def tick(self, input: str = "tick") -> Status:
        """A timer input is due now."""
        due_ns = _nanoseconds(self.now)
        return self._deliver(lambda attempt: tick_event(input, "timer", due_ns, attempt))

    def close_input(self, id: str) -> Status:
        """The last message of `id` has been handled."""
        return self.notice("INPUT_CLOSED", id)

    def notice(self, type: str, id: str, error: str | None = None) -> Status:
        """INPUT_CLOSED, INPUT_RECOVERED, STOP; with an error: NODE_RESTARTED, NODE_FAILED."""
        return self._deliver(lambda attempt: notice(type, id, error))

    def update(self) -> int:
        """Hand out, as KVS_UPDATE events, what has changed of the watched keys since the last call; how many."""
        news = [
            (revision, key)
            for key, revision in self.kvs.changed.items()
            if revision > self._seen and any(key.startswith(prefix) for prefix in self.watched)
        ]
        for revision, key in sorted(news):
            event = kvs_update(key, self.kvs.get(key), revision)
            self._deliver(lambda attempt, event=event: event)  # type: ignore[misc]
            self._seen = revision
        self._seen = max(self._seen, self.kvs.revision)
        return len(news)

    def stop(self, id: str = "MANUAL") -> Status:
        """The run stops (MANUAL), or all inputs have ended (ALL_INPUTS_CLOSED). The operator ends."""
        status = self.notice("STOP", id)
        self.ended = True
        return status

    def crash(self) -> None:
        """The process is killed between two events; a new life restores the committed state."""
        self._in_hand = None
        self._start()

    def redeliver(self) -> Status:
        """After a handler raised: a new life gets the same event, its `attempt` one higher."""
        if self._in_hand is None:
            raise RuntimeError("redeliver(): the last event was committed, so nothing would come again")
        event, attempt = self._in_hand
        return self._deliver(event, attempt=attempt + 1)

    def produce(self, *, crashes: int = 0) -> Any:
        """One call of a Source's `produce`, committed. Returns what it returned."""
        if self.ended:
            return Source.END
        for _ in range(crashes):
            self._transact(self._produce_once, commit=False)
            self._start()
        returned = self._transact(self._produce_once)
        self.ended = returned is Source.END
        return returned

    def produce_all(self) -> None:
        """`produce` until it says END or IDLE."""
        for _ in range(PRODUCE_CALLS_MAX):
            returned = self.produce()
            if returned is Source.END or isinstance(returned, Idle):
                return
        raise RuntimeError(f"produce was called {PRODUCE_CALLS_MAX} times and has not come to an end")

    def advance(self, seconds: float) -> None:
        """Let time pass: for timestamps, ticks and the time to live of shared keys."""
        self.kvs.now += dt.timedelta(seconds=seconds)

    # -- what can be seen --

    @property
    def now(self) -> dt.datetime:
        """The time of the Harness, shared with all that share its `kvs`."""
        return self.kvs.now

    @property
    def incarnation(self) -> int:
        return self._incarnation

    @property
    def position(self) -> Any:
        """A Source's committed position; None at first."""
        return position_of(self.state)

    def outputs(self, name: str) -> list[Any]:
        """The committed values of one output, oldest first."""
        if self.declared is not None and name not in self.declared:
            raise UnknownOutput(self.node_id, name, self.declared)
        return [sent.value for sent in self.sent if sent.output == name]

    # -- a life, and a transaction --

    def _start(self) -> None:
        self._incarnation += 1
        self._alive = True
        self._ctx = HarnessContext(self, self._incarnation)
        self._operator = make(self._factory, self._ctx)
        state = own_state(self.state)
        if state and hasattr(self._operator, "restore_state"):
            self._operator.restore_state(state)

    def _deliver(self, event: Callable[[int], Event], crashes: int = 0, attempt: int = 1) -> Status:
        if self.ended:  # as in a run: what comes after the end is discarded
            return Status.STOP
        last = attempt + crashes
        for doomed in range(attempt, last):
            self._transact(partial(self._handle, event(doomed)), commit=False)
            self._start()
        self._in_hand = event, last
        status: Status = self._transact(partial(self._handle, event(last)))
        self._in_hand = None
        self.ended = status is not Status.CONTINUE
        return status

    def _handle(self, event: Event) -> Status:
        returned = self._operator.on_event(event, self._ctx)
        try:
            return status_of(returned)
        except TypeError as error:
            raise OperatorError("on_event", str(error)) from None

    def _produce_once(self) -> Any:
        returned = self._operator.produce(self.position, self._ctx)
        try:
            position = packed_position(returned)
        except TypeError as error:
            raise OperatorError("produce", str(error)) from None
        if position is not None:
            self._ctx.save_state(POSITION_KEY, position)
        return returned

    def _transact(self, handler: Callable[[], Any], commit: bool = True) -> Any:
        if not self._alive:
            self._start()
        staged = self._ctx.begin()
        self._alive = False  # unless the handler returns
        try:
            result = handler()
        finally:
            self._ctx.end()
        self._alive = True
        if commit:
            self._commit(staged)
        return result

    def _commit(self, staged: _Staged) -> None:
        for key, value in staged.private.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        for steps in staged.shared.values():
            for step in steps:
                step(self.kvs)
        for output, record in staged.messages:
            _, value, metadata, _, _ = decode_message(record)
            uid = f"{self.node_id}/{output}#{self._next(output)}"
            self.sent.append(Sent(output, value, metadata, uid))

    def _next(self, counted: str) -> int:
        self._numbers[counted] = self._numbers.get(counted, 0) + 1
        return self._numbers[counted]


def _nanoseconds(moment: dt.datetime) -> int:
    return (moment - dt.datetime.fromtimestamp(0, dt.UTC)) // dt.timedelta(microseconds=1) * 1000
