"""`KeyedOperator`: a state and a timer per key, for operators that need more than `stateful_map`.

    class Sessions(KeyedOperator):
        default = int
        ttl = 3600.0

        def key_of(self, event):
            return event["value"]["user"]

        def on_key_event(self, key, event, state, ctx):
            ctx.set_timer(ctx.now + 30.0)
            return state + 1                       # the new state; None drops the key

        def on_timer(self, key, due, state, ctx):
            ctx.send_output("session", {"user": key, "clicks": state})
            return None

        def on_end(self, key, state, ctx):         # all inputs have ended
            ctx.send_output("session", {"user": key, "clicks": state})

Time is the wall clock or, if `time_of` is overridden, event time: the highest time seen so far, which does not advance
while no events arrive. Event time is part of the state, so it continues after a crash.

This module decides what happens in which order; see states.py for how states are kept.
"""

from __future__ import annotations

import copy
import datetime as dt
import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from noderuntime.api.keyed.batches import RecordEvent, records_of
from noderuntime.api.keyed.codecs import codec_of
from noderuntime.api.keyed.states import NEVER, KeyedStates, Slot
from noderuntime.api.operator import Operator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noderuntime.api.events import Event
    from noderuntime.api.operator import Context, Status


CALLS_MAX: Final = 100_000  # calls of on_timer for one key in one event, by event time; beyond that, the event fails
CALLS_MAX_WALL_CLOCK: Final = 1000  # the same by the wall clock (after a pause); the next event continues


def wall_clock_s() -> float:
    """Seconds since the epoch, not a monotonic clock: time to live also passes while no process runs."""
    return dt.datetime.now(dt.UTC).timestamp()


class KeyContext:
    """The `ctx` of on_key_event, on_timer and on_end: the operator's ctx, with the timer of the current key.

    `due`: the time of the timer that on_timer handles now.
    """

    def __init__(self, ctx: Context, now: float, timer: float | None, due: float = NEVER) -> None:
        self._ctx = ctx
        self._due = due
        self.now = now
        self.timer = timer

    def set_timer(self, at: float) -> None:
        """Call on_timer for this key when time reaches `at`. A key has one timer: a later call moves it.

        A key is kept at least until its timer has fired, even if its `ttl` is over before that. In on_timer, `at` must
        be later than `due`. Raises TypeError and ValueError.
        """
        if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at):
            raise TypeError(f"set_timer({at!r}): the time is a finite number of seconds, as ctx.now is")
        if at <= self._due:
            raise ValueError(f"set_timer({at!r}) in on_timer: the time has to be later than due, {self._due!r}")
        self.timer = float(at)

    def cancel_timer(self) -> None:
        self.timer = None

    def __call__(self, *arguments: Any, **named: Any) -> None:
        self._ctx(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


class KeyedOperator(Operator):
    """See the head of this module. `default`: the state of a new key; a callable is called for each new key.

    `ttl`: seconds (or the unit of `time_of`) after its last event until a key is forgotten. By the wall clock, that is
    when this time is reached; by event time, when it is passed; never before the key's timer has fired. `codec`: see
    codec_of.

    `batch`: whether each message carries many records, as a list, a numpy array or an Arrow table (see records_of).
    Each method is then called once per record, with an event whose value is the record. The whole message is one
    transaction, which saves the state of each key that it touches once; the wall clock does not advance in it.
    """

    default: ClassVar[Any] = None
    ttl: ClassVar[float | None] = None
    codec: ClassVar[Any] = None
    batch: ClassVar[bool] = False

    _keyed: KeyedStates
    _by_event_time: bool
    _needs_clock: bool

    def key_of(self, event: Event) -> Any:
        """The key of an INPUT event: any value that MessagePack can carry."""
        return None

    def time_of(self, event: Event) -> float | None:
        """The time of an INPUT event. Override it for event time."""
        return None

    def clock(self) -> float:
        """The wall clock, in seconds since the epoch."""
        return wall_clock_s()

    def on_key_event(self, key: Any, event: Event, state: Any, ctx: Any) -> Any:
        """Handle one event of one key. Returns the new state; None drops the key, and its timer."""
        raise NotImplementedError(f"{type(self).__name__} has no on_key_event(self, key, event, state, ctx)")

    def on_timer(self, key: Any, due: float, state: Any, ctx: Any) -> Any:
        """Handle the timer of a key that is due. Returns the new state, as on_key_event does."""
        raise NotImplementedError(f"{type(self).__name__} has no on_timer(self, key, due, state, ctx)")

    def on_end(self, key: Any, state: Any, ctx: Any) -> None:
        """All inputs have ended. Called once for each key that has a state, the key with the oldest last event first.

        Send what is still open. The return value is ignored and the state stays as it is. If the run is stopped before
        its inputs have ended, this is not called: `--resume` continues the run.
        """

    def live_keys(self, ctx: Any) -> list[Any]:
        """The keys that have a state now, the key with the oldest last event first. Reads the states of all keys."""
        return self._keyed.live(ctx)

    def replica_problem(self) -> str:
        """Why this operator cannot have replicas; "" if it can."""
        if self.batch:
            return "with `batch=True` one message holds records of many keys"
        if self._by_event_time:
            return "event time advances with all messages, and each replica sees a part of them"
        return "" if self._has_keys() else "it has one state for all messages (no key)"

    def _has_keys(self) -> bool:
        return type(self).key_of is not KeyedOperator.key_of

    # --- what the host calls ----------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Set up the instance. Not in __init__, which belongs to the user's class."""
        cls = type(self)
        self._by_event_time = cls.time_of is not KeyedOperator.time_of
        has_timers = cls.on_timer is not KeyedOperator.on_timer
        self._needs_clock = not self._by_event_time
        self._keyed = KeyedStates(codec_of(cls.codec), cls.ttl, self._by_event_time, has_timers)

    def __new__(cls, *arguments: Any, **named: Any) -> Self:
        self = super().__new__(cls)
        self._prepare()
        return self

    def restore_state(self, state: dict[str, bytes]) -> None:
        self._keyed.restore(state)

    def on_event(self, event: Event, ctx: Context) -> Status | None:
        if event.type != "INPUT":
            if event.type == "STOP" and event["id"] == "ALL_INPUTS_CLOSED":
                self._handle_end(ctx)
            return None
        keyed = self._keyed
        keyed.begin(ctx)
        keyed.now = self.clock() if self._needs_clock else keyed.time
        if event.value is None and "uid" not in event:  # a tick only advances the clock
            self._fire(ctx)
        elif self.batch:
            self._handle_batch(event, self._records(event), ctx)
        else:
            self._handle(event, ctx)
        keyed.save(ctx)
        return None

    def _handle_end(self, ctx: Context) -> None:
        """Call on_end for each live key."""
        if type(self).on_end is KeyedOperator.on_end:
            return
        keyed = self._keyed
        keyed.begin(ctx)
        keyed.now = self.clock() if self._needs_clock else keyed.time
        self._fire(ctx)
        for tag, number, key in keyed.live_tags(ctx):
            slot = keyed.by_tag(tag, number, ctx.keyed)
            if slot is not None:
                self.on_end(key, slot.state, KeyContext(ctx, keyed.now, slot.timer))
        keyed.save(ctx)

    def _records(self, event: Event) -> Sequence[Any]:
        try:
            return records_of(event.value)
        except TypeError as error:
            name = type(self).__name__
            raise TypeError(f"{name} takes batches, and on its input {event.id!r} came {error}") from None

    def _handle_batch(self, event: Event, records: Sequence[Any], ctx: Context) -> None:
        for index, record in enumerate(records):
            each: Any = RecordEvent(event, record, index)
            self._handle(each, ctx)

    def _handle(self, event: Event, ctx: Context) -> None:
        keyed = self._keyed
        at = self._moment(event) if self._by_event_time else keyed.now
        self._fire(ctx)
        key = self.key_of(event)
        slot = keyed.find(key, ctx)
        state = self._new_state() if slot.state is None else slot.state
        own = KeyContext(ctx, keyed.now, slot.timer)
        self._change(slot, self.on_key_event(key, event, state, own), at, own, ctx)

    def _moment(self, event: Event) -> float:
        """The time of an event; event time advances to it if it is later."""
        at = self.time_of(event)
        if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at):
            raise TypeError(f"{type(self).__name__}.time_of returned {at!r:.60}; it is a finite number")
        keyed = self._keyed
        if at > keyed.time:
            keyed.time = at
        keyed.now = keyed.time
        return float(at)

    def _new_state(self) -> Any:
        default = type(self).default
        return default() if callable(default) else copy.deepcopy(default)

    def _change(self, slot: Slot, state: Any, at: float, own: KeyContext, ctx: Context) -> None:
        keyed = self._keyed
        slot.state = state
        slot.timer = None if state is None else own.timer
        keyed.note(slot, at)
        keyed.schedule(slot, ctx.keyed)

    def _fire(self, ctx: Context) -> None:
        """Call on_timer for every timer that is due, in order of time."""
        keyed = self._keyed
        calls: dict[str, int] = {}
        while (first := keyed.take_timer(ctx.keyed)) is not None:
            due, slot = first
            called = calls[slot.tag] = calls.get(slot.tag, 0) + 1
            if called > (CALLS_MAX if self._by_event_time else CALLS_MAX_WALL_CLOCK):
                if self._by_event_time:
                    raise ValueError(
                        f"{type(self).__name__}.on_timer was called {CALLS_MAX} times for the key {slot.key!r:.60} in "
                        f"one event, which moves time to {keyed.now!r}; the timer is at {due!r} now. Is the time of "
                        "this event in another unit than that of others, as milliseconds among seconds?"
                    )
                keyed.schedule(slot, ctx.keyed)
                return
            own = KeyContext(ctx, due, None, due)
            self._change(slot, self.on_timer(slot.key, due, slot.state, own), NEVER, own, ctx)


def doubt_states(operator: Any) -> None:
    """Have a keyed operator read its states again: slots have got other owners, or what was staged is given up."""
    if isinstance(operator, KeyedOperator):
        operator._keyed.doubt()
