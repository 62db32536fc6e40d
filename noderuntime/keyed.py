"""`stateful_map`: one small state per key, from a plain function. Floor 1, pure.

    @stateful_map(output="sum", key=lambda v: v % 2 == 0, default=int)
    def parity_sums(key, value, state):          # -> (message, new state)
        state += value
        return state, state

The state of a key lies in the operator's private state and is read from there for every event, so a life
after a crash sees precisely what the one before it saw: a tuple comes back as a list either way, an array
read-only. It is a KeyedOperator (keyed_operator.py) made of a function.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

from noderuntime.keyed_operator import KeyedOperator, wall_clock_s
from noderuntime.keyed_values import codec_of

if TYPE_CHECKING:
    from noderuntime.events import Event

Function = Callable[[Any, Any, Any], tuple[Any, Any]]


class StatefulMap(KeyedOperator):
    """The operator that `stateful_map` makes of a function; it derives a class of its own for each."""

    function: Function
    output: str
    key: Callable[[Any], Any] | None

    def key_of(self, event: Event) -> Any:
        key = type(self).key
        return None if key is None else key(event["value"])

    def on_key_event(self, key: Any, event: Event, state: Any, ctx: Any) -> Any:
        cls = type(self)
        returned = cls.function(key, event["value"], state)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise TypeError(
                f"{cls.__name__} returned {returned!r:.80}; "
                "a stateful_map function returns (message, new state)"
            )
        message, new = returned
        if message is not None:
            ctx.send_output(cls.output, message, {"key": list(key) if isinstance(key, tuple) else key})
        return new


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
    clock: Callable[[], float] = wall_clock_s,
) -> type[StatefulMap] | Callable[[Function], type[StatefulMap]]:
    """An operator class from `function(key, value, state) -> (message, new state)`. A decorator, or called
    with it.

    For every message of every input the function gets the state of the message's key, and what it returns is
    sent and saved in one transaction. The message goes out on `output` with `metadata["key"]`; a message of
    None sends nothing. A new state of None drops the key's state. A tick only purges what has expired.

    - `key`: from the value to its key, anything MessagePack can carry (True, 1, 1.0 and "1" are four keys).
      None: one state for all.
    - `default`: the state of a new key; a callable is called for each.
    - `ttl`: seconds after its last event when a key is forgotten. It is seen as new from then on; its bytes
      are freed when a later event or a tick comes by.
    - `time`: from the event to its time, for a `ttl` by event time: `time=lambda event: event["value"]["t"]`,
      in any unit that `ttl` has too. A key is forgotten when an event more than `ttl` later has been seen.
    - `codec`: how the state is stored: an object with encode and decode, one with dumps and loads, or two
      functions. None: MessagePack, which carries arrays and datetimes too.
    - `clock`: seconds since the epoch; for tests.

    The plain function stays reachable as `.function`. Raises TypeError and ValueError for arguments that
    cannot work.
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
    codec_of(codec)

    def make(function: Function) -> type[StatefulMap]:
        if not callable(function):
            raise TypeError(f"stateful_map: {function!r} is no function(key, value, state)")
        name = getattr(function, "__name__", "stateful_map")
        # static: found on the class, these must not turn into methods of its instances
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
        }
        if time is not None:
            body["time_of"] = staticmethod(time)
        return type(name, (StatefulMap,), body)

    return make if function is None else make(function)
