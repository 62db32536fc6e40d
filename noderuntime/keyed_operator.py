"""`KeyedOperator`: a state and a timer per key, for when a function is not enough. Floor 1, pure.

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

Time is the wall clock, or event time where `time_of` is overridden: then it is the highest time seen so far, and it
stands still while nothing comes. Both are the same in the life after a crash: event time is part of the state.

The state of a key lies in the private state under its tag (keyed_values.py), as [state, time of its last event, timer,
key]; it is read from there for every event. In memory there is only what is needed to know what is due next.
"""

from __future__ import annotations

import copy
import datetime as dt
import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final

from noderuntime.keyed_values import Codec, codec_of, key_tag, pack, unpack_stored
from noderuntime.operator import Operator

if TYPE_CHECKING:
    from noderuntime.events import Event
    from noderuntime.operator import Context, Status

PURGED_PER_EVENT_MAX: Final = 100  # so that one event never pays for all that has expired
TIME_KEY: Final = "keyed.time"  # no tag: they all hold a colon


def wall_clock_s() -> float:
    """Seconds since the epoch: time to live has to count while no process runs."""
    return dt.datetime.now(dt.UTC).timestamp()


class Deadlines:
    """Texts with a time each; the earliest comes first. Those that were moved stay in the heap until they come up."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def load(self, items: dict[str, float]) -> None:
        self._at = items
        self._heap = [(at, tag) for tag, at in items.items()]
        heapq.heapify(self._heap)

    def set(self, tag: str, at: float) -> None:
        if self._at.get(tag) == at:
            return
        self._at[tag] = at
        heapq.heappush(self._heap, (at, tag))
        if len(self._heap) > 2 * len(self._at) + 1000:
            self.load(self._at)

    def discard(self, tag: str) -> None:
        self._at.pop(tag, None)

    def first(self) -> tuple[float, str] | None:
        """The earliest, which stays."""
        while self._heap:
            at, tag = self._heap[0]
            if self._at.get(tag) == at:
                return at, tag
            heapq.heappop(self._heap)
        return None


class KeyContext:
    """The `ctx` of on_key_event and on_timer: everything of the operator's ctx, and the timer of the key in hand."""

    def __init__(self, ctx: Context, now: float, timer: float | None) -> None:
        self._ctx = ctx
        self.now = now
        self.timer = timer

    def set_timer(self, at: float) -> None:
        """Call on_timer for this key when the time has come to `at`. A key has one timer: a later call moves it."""
        if isinstance(at, bool) or not isinstance(at, int | float):
            raise TypeError(f"set_timer({at!r}): the time is a number of seconds, as ctx.now is")
        self.timer = float(at)

    def cancel_timer(self) -> None:
        self.timer = None

    def __call__(self, *arguments: Any, **named: Any) -> None:
        self._ctx(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


class KeyedOperator(Operator):
    """See the head of this module. `default`: the state of a new key; a callable is called for each.

    `ttl`: seconds (or whatever unit `time_of` counts) after its last event when a key is forgotten: by the wall clock
    at that time, by event time behind it. `codec`: see codec_of.
    """

    default: ClassVar[Any] = None
    ttl: ClassVar[float | None] = None
    codec: ClassVar[Any] = None

    _codec: Codec
    _by_event_time: bool

    def key_of(self, event: Event) -> Any:
        """The key of an INPUT event: anything MessagePack can carry."""
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
        """The timer of a key has come. Returns the new state, as on_key_event does."""
        raise NotImplementedError(f"{type(self).__name__} has no on_timer(self, key, due, state, ctx)")

    def live_keys(self, ctx: Any) -> list[Any]:
        """The keys that have a state now, those whose last event is the oldest first. It reads all of them."""
        found = []
        for tag in list(ctx.state()):
            stored = None if tag == TIME_KEY else ctx.load_state(tag)
            if stored is not None:
                _, last, _, key = unpack_stored(stored)
                if not self._is_over(last, self._time):
                    found.append((last, tag, key))
        return [key for _, _, key in sorted(found, key=lambda item: item[:2])]

    # --- what the host calls ----------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """The instance's own part; __init__ belongs to the user's class."""
        self._codec = codec_of(type(self).codec)
        self._by_event_time = type(self).time_of is not KeyedOperator.time_of
        self._ends = Deadlines()
        self._timers = Deadlines()
        self._time = float("-inf")  # event time so far

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        self = super().__new__(cls)
        self._prepare()
        return self

    def restore_state(self, state: dict[str, bytes]) -> None:
        ends: dict[str, float] = {}
        timers: dict[str, float] = {}
        if TIME_KEY in state:
            self._time = unpack_stored(state[TIME_KEY])
        for tag, stored in state.items():
            if tag == TIME_KEY:
                continue
            if self.ttl is None and not self._has_timers:
                break  # nothing will ever be due
            _, last, timer, _ = unpack_stored(stored)
            if self.ttl is not None:
                ends[tag] = last + self.ttl
            if timer is not None:
                timers[tag] = timer
        self._ends.load(ends)
        self._timers.load(timers)

    @property
    def _has_timers(self) -> bool:
        return type(self).on_timer is not KeyedOperator.on_timer

    def on_event(self, event: Event, ctx: Context) -> Status | None:
        if event["type"] != "INPUT":
            return None
        is_message = "uid" in event  # a tick has none: it only moves the clock
        now = self._now(event if is_message else None, ctx)
        self._fire(now, ctx)
        if is_message:
            self._handle(event, now, ctx)
        self._purge(now, ctx)
        return None

    def _now(self, event: Event | None, ctx: Context) -> float:
        if not self._by_event_time:
            return self.clock()
        if event is not None:
            at = self.time_of(event)
            if isinstance(at, bool) or not isinstance(at, int | float):
                raise TypeError(f"{type(self).__name__}.time_of returned {at!r:.60}; it is a number")
            if at > self._time:
                self._time = at
                ctx.save_state(TIME_KEY, pack(at))
        return self._time

    def _is_over(self, last: float, now: float) -> bool:
        if self.ttl is None:
            return False
        if self._by_event_time:
            return now > last + self.ttl
        return self.clock() >= last + self.ttl

    def _handle(self, event: Event, now: float, ctx: Context) -> None:
        key = self.key_of(event)
        tag = key_tag(key)
        stored = ctx.load_state(tag)
        timer = None
        state = None
        if stored is not None:
            packed, last, timer, _ = unpack_stored(stored)
            if self._is_over(last, now):
                stored = timer = None
            else:
                state = self._codec.decode(packed)
        if stored is None:
            state = self._new_state()
        at = now
        if self._by_event_time:
            at = float(self.time_of(event) or 0.0)
        keyed = KeyContext(ctx, now, timer)
        self._keep(key, tag, self.on_key_event(key, event, state, keyed), at, keyed, ctx)

    def _new_state(self) -> Any:
        default = type(self).default
        return default() if callable(default) else copy.deepcopy(default)

    def _keep(self, key: Any, tag: str, state: Any, last: float, keyed: KeyContext, ctx: Context) -> None:
        if state is None:
            self._drop(tag, ctx)
            return
        ctx.save_state(tag, pack([self._codec.encode(state), last, keyed.timer, key]))
        if self.ttl is not None:
            self._ends.set(tag, last + self.ttl)
        if keyed.timer is None:
            self._timers.discard(tag)
        else:
            self._timers.set(tag, keyed.timer)

    def _drop(self, tag: str, ctx: Context) -> None:
        ctx.delete_state(tag)
        self._ends.discard(tag)
        self._timers.discard(tag)

    def _fire(self, now: float, ctx: Context) -> None:
        """Call on_timer for what is due, in order of time."""
        while (first := self._timers.first()) is not None and first[0] <= now:
            due, tag = first
            self._timers.discard(tag)
            stored = ctx.load_state(tag)
            if stored is None:
                continue
            packed, last, _, key = unpack_stored(stored)
            if self._is_over(last, due):
                continue
            keyed = KeyContext(ctx, due, None)
            state = self.on_timer(key, due, self._codec.decode(packed), keyed)
            self._keep(key, tag, state, last, keyed, ctx)

    def _purge(self, now: float, ctx: Context) -> None:
        """Free what has expired, some of it: a key that has is seen as new in any case."""
        for _ in range(PURGED_PER_EVENT_MAX):
            first = self._ends.first()
            if first is None or self.ttl is None or not self._is_over(first[0] - self.ttl, now):
                return
            self._drop(first[1], ctx)
