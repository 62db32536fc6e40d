"""`stateful_map`: one small state per key, from a plain function. Floor 1, pure.

    @stateful_map(output="sum", key=lambda v: v % 2 == 0, default=int)
    def parity_sums(key, value, state):          # -> (message, new state)
        state += value
        return state, state

The state of a key lies in the operator's private state and is read from there for every event, so a life
after a crash sees precisely what the one before it saw: a tuple comes back as a list either way, an array
read-only.

A private key is a text, so a key of any other kind becomes one: its type, a colon, its text. `noderuntime
state ls` then shows `str:left`, `int:7`, `bool:True`. Long keys become a hash.
"""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, overload

import msgpack

from noderuntime.operator import Operator
from noderuntime.values import decode, encode, unpack

if TYPE_CHECKING:
    from noderuntime.events import Event
    from noderuntime.operator import Context, Status

Function = Callable[[Any, Any, Any], tuple[Any, Any]]

TAG_BYTES_MAX: Final = 200  # longer keys are hashed; a private key may have 508
PURGED_PER_EVENT_MAX: Final = 100  # so that one event never pays for all that has expired
_VALUE: Final = 64  # MessagePack extensions from here on: a value of values.py, 64 + its kind


def wall_clock_s() -> float:
    """Seconds since the epoch: time to live has to count while no process runs."""
    return dt.datetime.now(dt.UTC).timestamp()


def key_tag(key: Any) -> str:
    """The text under which the state of `key` is saved. Keys of different type or value have different tags.

    Raises TypeError for what MessagePack cannot carry.
    """
    kind = type(key)
    if kind is str:
        tag = f"str:{key}"
    elif kind is bool or kind is int or kind is float:
        tag = f"{kind.__name__}:{key!r}"
    else:
        tag = f"msgpack:{_pack(_sorted(key)).hex()}"
    if len(tag.encode(errors="surrogatepass")) > TAG_BYTES_MAX:
        tag = f"sha256:{hashlib.sha256(tag.encode(errors='surrogatepass')).hexdigest()}"
    return tag


def _sorted(key: Any) -> Any:
    """`key` with all its dicts in one order: equal dicts are equal keys."""
    if isinstance(key, dict):
        return {name: _sorted(key[name]) for name in sorted(key)}
    return [_sorted(part) for part in key] if isinstance(key, list | tuple) else key


def _pack(value: Any) -> bytes:
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True, datetime=True, default=_extension)
    except OverflowError:
        raise TypeError("int: MessagePack carries 64 bits, and this one is larger") from None
    return packed


def _extension(value: Any) -> msgpack.ExtType:
    """What MessagePack does not know by itself: arrays and the like."""
    kind, head, body = encode(value)
    return msgpack.ExtType(_VALUE + kind, msgpack.packb([head, body], use_bin_type=True))


def _unextension(code: int, data: bytes) -> Any:
    head, body = unpack(data)
    return decode(code - _VALUE, head, body)


def _unpack(packed: bytes) -> Any:
    return msgpack.unpackb(packed, raw=False, timestamp=3, strict_map_key=False, ext_hook=_unextension)


class KeyedOperator(Operator):
    """The operator that `stateful_map` makes of a function; it derives a class of its own for each."""

    function: Function
    output: str
    key: Callable[[Any], Any] | None
    default: Any
    ttl: float | None
    clock: Callable[[], float]

    def __init__(self) -> None:
        self._last_s: dict[str, float] = {}  # with a ttl only: tag -> its last event, the oldest first

    def restore_state(self, state: dict[str, bytes]) -> None:
        if self.ttl is not None:
            ages = ((tag, _unpack(stored)[1]) for tag, stored in state.items())
            self._last_s = dict(sorted(ages, key=lambda age: age[1]))

    def on_event(self, event: Event, ctx: Context) -> Status | None:
        if event["type"] != "INPUT":
            return None
        now_s = type(self).clock()
        if "uid" in event:  # a tick has none: it only purges
            self._handle(event["value"], now_s, ctx)
        self._purge(now_s, ctx)
        return None

    def _handle(self, value: Any, now_s: float, ctx: Context) -> None:
        cls = type(self)
        key = None if cls.key is None else cls.key(value)
        tag = key_tag(key)
        returned = cls.function(key, value, self._state_of(tag, now_s, ctx))
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise TypeError(
                f"{cls.__name__} returned {returned!r:.80}; "
                "a stateful_map function returns (message, new state)"
            )
        message, state = returned
        if message is not None:
            ctx.send_output(cls.output, message, {"key": list(key) if isinstance(key, tuple) else key})
        self._last_s.pop(tag, None)
        if state is None:
            ctx.delete_state(tag)
            return
        ctx.save_state(tag, _pack([state, now_s]))
        if cls.ttl is not None:
            self._last_s[tag] = now_s

    def _state_of(self, tag: str, now_s: float, ctx: Context) -> Any:
        stored = ctx.load_state(tag)
        if stored is not None:
            state, last_s = _unpack(stored)
            if self.ttl is None or now_s - last_s < self.ttl:
                return state
        default = type(self).default
        return default() if callable(default) else copy.deepcopy(default)

    def _purge(self, now_s: float, ctx: Context) -> None:
        if self.ttl is None:
            return
        for _ in range(PURGED_PER_EVENT_MAX):
            oldest = next(iter(self._last_s), None)
            if oldest is None or now_s - self._last_s[oldest] < self.ttl:
                return
            del self._last_s[oldest]
            ctx.delete_state(oldest)


@overload
def stateful_map(
    function: Function,
    *,
    output: str,
    key: Callable[[Any], Any] | None = None,
    default: Any = None,
    ttl: float | None = None,
    clock: Callable[[], float] = wall_clock_s,
) -> type[KeyedOperator]: ...


@overload
def stateful_map(
    function: None = None,
    *,
    output: str,
    key: Callable[[Any], Any] | None = None,
    default: Any = None,
    ttl: float | None = None,
    clock: Callable[[], float] = wall_clock_s,
) -> Callable[[Function], type[KeyedOperator]]: ...


def stateful_map(
    function: Function | None = None,
    *,
    output: str,
    key: Callable[[Any], Any] | None = None,
    default: Any = None,
    ttl: float | None = None,
    clock: Callable[[], float] = wall_clock_s,
) -> type[KeyedOperator] | Callable[[Function], type[KeyedOperator]]:
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

    def make(function: Function) -> type[KeyedOperator]:
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
        }
        return type(name, (KeyedOperator,), body)

    return make if function is None else make(function)
