"""`stateful_map`: one small state per key, from a plain function.

    @stateful_map(output="sum", key=lambda v: v % 2 == 0, default=int)
    def parity_sums(key, value, state):          # -> (message, new state)
        state += value
        return state, state

The result is a KeyedOperator (operator.py) without its events, contexts and timers, so that little is done per message.
With `batch=True` each message carries many records, and the cost per record is one turn of a loop.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

from noderuntime.api.keyed.batches import RecordEvent
from noderuntime.api.keyed.codecs import codec_of
from noderuntime.api.keyed.mapper import Mapper
from noderuntime.api.keyed.operator import KeyedOperator, wall_clock_s
from noderuntime.api.operator import refuse_lazy

if TYPE_CHECKING:
    from noderuntime.api.events import Event
    from noderuntime.api.operator import Context, Status

Function = Callable[[Any, Any, Any], tuple[Any, Any]]


class StatefulMap(KeyedOperator):
    """The base of the classes that `stateful_map` makes, one for each function."""

    function: Function
    output: str
    key: Callable[[Any], Any] | None

    def _prepare(self) -> None:
        super()._prepare()
        cls = type(self)
        self._function = cls.function
        self._key = cls.key
        self._needs_clock = cls.ttl is not None and not self._by_event_time
        self._is_plain = not self._needs_clock and not self._by_event_time and not cls.batch
        self._mapper = Mapper(self._keyed, cls.function, cls.key, cls.output, self._new_state, self._no_pair)

    def _has_keys(self) -> bool:
        return self._key is not None

    def on_event(self, event: Event, ctx: Context) -> Status | None:
        if self._is_plain and self._mapper.handle(event, ctx):
            return None
        return super().on_event(event, ctx)

    def _handle(self, event: Event, ctx: Context) -> None:
        at = self._moment(event) if self._by_event_time else self._keyed.now
        self._mapper.call(event.value, at, ctx)

    def _handle_batch(self, event: Event, records: Sequence[Any], ctx: Context) -> None:
        """The same for many records. All that they send is one message."""
        keyed = self._keyed
        key_of, function, timed = self._key, self._function, self._by_event_time
        near = keyed.near
        messages: list[Any] = []
        keys: list[Any] = []
        at = keyed.now
        key = slot = None
        index = -1
        try:
            for index, record in enumerate(records):
                if timed:
                    each: Any = RecordEvent(event, record, index)
                    at = self._moment(each)
                if key_of is not None:
                    key = key_of(record)
                try:
                    slot = near.get(key)
                except TypeError:  # a list or a dict
                    slot = None
                if slot is None or not slot.changed or timed or slot.kind is not type(key):
                    slot = keyed.open(key, at, ctx)
                state = slot.state
                returned = function(key, record, self._new_state() if state is None else state)
                if type(returned) is not tuple or len(returned) != 2:
                    raise self._no_pair(returned)
                message, slot.state = returned
                if message is not None:
                    messages.append(message)
                    keys.append(key)
        except Exception as error:
            error.add_note(f"in record {index} of a batch of {len(records)}")
            raise
        if messages:
            keys = [list(key) if isinstance(key, tuple) else key for key in keys]
            ctx.send_output(self.output, messages, {"keys": keys})

    def _no_pair(self, returned: Any) -> TypeError:
        return TypeError(
            f"{type(self).__name__} returned {returned!r:.80}; a stateful_map function returns (message, new state)"
        )


@overload
def stateful_map(
    function: Function,
    *,
    output: str,
    key: Callable[[Any], Any] | None = None,
    default: Any = None,
    ttl: float | None = None,
    time: Callable[[Any], float] | None = None,
    codec: Any = None,
    batch: bool = False,
    clock: Callable[[], float] = wall_clock_s,
) -> type[StatefulMap]: ...


@overload
def stateful_map(
    function: None = None,
    *,
    output: str,
    key: Callable[[Any], Any] | None = None,
    default: Any = None,
    ttl: float | None = None,
    time: Callable[[Any], float] | None = None,
    codec: Any = None,
    batch: bool = False,
    clock: Callable[[], float] = wall_clock_s,
) -> Callable[[Function], type[StatefulMap]]: ...


def stateful_map(
    function: Function | None = None,
    *,
    output: str,
    key: Callable[[Any], Any] | None = None,
    default: Any = None,
    ttl: float | None = None,
    time: Callable[[Any], float] | None = None,
    codec: Any = None,
    batch: bool = False,
    clock: Callable[[], float] = wall_clock_s,
) -> type[StatefulMap] | Callable[[Function], type[StatefulMap]]:
    """Makes an operator class from `function(key, value, state) -> (message, new state)`. Use it as a decorator, or
    call it with the function.

    For every message of every input, the function gets the state of the message's key. The message that it returns is
    sent, and the new state saved, in one transaction. The message is sent on `output` with `metadata["key"]`; if it is
    None, nothing is sent. A new state of None drops the key's state. A tick only purges expired states.

    - `key`: returns the key of a value: any value that MessagePack can carry (True, 1, 1.0 and "1" are four keys).
      None: one state for all values.
    - `default`: the state of a new key; a callable is called for each new key.
    - `ttl`: seconds after its last event until a key is forgotten. From then on it counts as new; a later event or tick
      frees its bytes.
    - `time`: returns the time of an event, for a `ttl` by event time: `time=lambda event: event["value"]["t"]`, in the
      unit of `ttl`. A key is forgotten once an event more than `ttl` later has been seen.
    - `codec`: how the state is stored: an object with encode and decode, one with dumps and loads, or two functions.
      None: MessagePack, which carries arrays and datetimes too.
    - `batch`: whether each message carries many records: a list; a numpy array (rows of a structured one are dicts); an
      Arrow table or record batch (rows are dicts too) or array. The function is called once per record, as if each had
      arrived alone. The batch is one transaction, which saves the state of each key that it touches once. The messages
      are sent as *one* list (whose items cannot be arrays), with the key of each item in `metadata["keys"]`; if there
      are none, nothing is sent. A value that is not a batch raises TypeError.
    - `clock`: returns seconds since the epoch; for tests.

    The plain function is available as `.function`. Raises TypeError and ValueError for arguments that cannot work.
    """
    if not isinstance(output, str) or not output:
        raise TypeError(f"stateful_map: output={output!r}; it is the name of an output")
    if key is not None and not callable(key):
        raise TypeError(f"stateful_map: key={key!r}; it is a function from the value to its key, or None")
    if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, int | float)):
        raise TypeError(f"stateful_map: ttl={ttl!r}; it is a number of seconds, or None")
    if ttl is not None and not (math.isfinite(ttl) and ttl > 0):
        raise ValueError(f"stateful_map: ttl={ttl!r}; it is a number of seconds above 0")
    if time is not None and not callable(time):
        raise TypeError(f"stateful_map: time={time!r}; it is a function from the event to its time, or None")
    if not isinstance(batch, bool):
        raise TypeError(f"stateful_map: batch={batch!r}; it is True when each message carries a batch of records")
    codec_of(codec)

    def make(function: Function) -> type[StatefulMap]:
        if not callable(function):
            raise TypeError(f"stateful_map: {function!r} is not a function(key, value, state)")
        name = getattr(function, "__name__", "stateful_map")
        refuse_lazy(function, f"stateful_map: {name}")
        # static: as attributes of the class, these must not become methods of its instances
        body: dict[str, Any] = {
            "__module__": getattr(function, "__module__", __name__),
            "__qualname__": getattr(function, "__qualname__", name),
            "__doc__": inspect.getdoc(function),
            "function": staticmethod(function),
            "key": key if key is None else staticmethod(key),
            "clock": staticmethod(clock),
            "default": staticmethod(default) if callable(default) else default,
            "output": output,
            "ttl": None if ttl is None else float(ttl),
            "codec": codec,
            "batch": batch,
        }
        if time is not None:
            body["time_of"] = staticmethod(time)
        return type(name, (StatefulMap,), body)

    return make if function is None else make(function)
