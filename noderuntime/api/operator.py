"""What an operator is: `Operator`, `Status`, `Source`, and `Context`, the `ctx` that its methods get. Floor
1, pure.

An operator is any class with `on_event(event, ctx)`. It is made with no argument, or with one: then it gets
`ctx`. Its state is restored before its first event, from what the last committed event left:

    operator = make [restore_state] *on_event

Handling one event is one transaction: the input taken, the state saved, the shared writes and the outputs
sent take effect together, or not at all. An exception that leaves a method ends the process; the next life
starts from the committed state, with the same event.

The base classes are for convenience and for type checkers; nothing asks whether a class derives from
`Operator`. A `Source` is recognised by its `produce`.
"""

from __future__ import annotations

import enum
import inspect
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from noderuntime.api.handlers import HANDLERS
from noderuntime.api.keyed.codecs import pack, unpack_stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from noderuntime.api.events import Event
    from noderuntime.merges import Merge

IDLE_S: Final = 0.1
POSITION_KEY: Final = "source.position"  # the key of a Source's position in its private state


class Status(enum.Enum):
    """What `on_event` may return; None means CONTINUE."""

    CONTINUE = "continue"
    STOP = "stop"  # this node has ended: its outputs close behind what it has sent
    STOP_ALL = "stop_all"  # and the whole run is to stop


def make(factory: Callable[..., Any], ctx: Context) -> Any:
    """A new operator: `factory` called with `ctx` if it takes an argument, else with none. Raises TypeError."""
    made = _make(factory, ctx)
    for name in HANDLERS:
        refuse_lazy(getattr(made, name, None), f"{type(made).__name__}.{name}")
    return made


def refuse_lazy(function: Any, name: str) -> None:
    """Raises TypeError for a function whose call only makes a coroutine or a generator: nothing of it would run."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name} is `async def`; write it as a plain `def`: events are handled one after the other")
    if inspect.isgeneratorfunction(function):
        raise TypeError(f"{name} is a generator (it has a `yield`); send what it yields with ctx.send_output instead")


def _make(factory: Callable[..., Any], ctx: Context) -> Any:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # written in C, and silent about what it takes
        return factory()
    for arguments in ((ctx,), ()):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return factory(*arguments)
    name = getattr(factory, "__name__", repr(factory))
    raise TypeError(f"{name}{signature} cannot be made: an operator takes no argument, or one, which is ctx")


def status_of(returned: Any) -> Status:
    """The Status that a return value of `on_event` stands for. Raises TypeError."""
    if returned is None:
        return Status.CONTINUE
    if isinstance(returned, Status):
        return returned
    raise TypeError(f"on_event returned {returned!r:.80}; return Status.CONTINUE, STOP, STOP_ALL or nothing")


class Context(Protocol):
    """What an operator sees of the runtime. All that it stages belongs to the transaction of the event in
    hand.

    Values are copied or encoded at the call, so a buffer may be reused at once. Reads see staged writes
    first. In `__init__` and `restore_state` nothing can be sent or written; reading works.

    Keys hold at most 508 bytes of UTF-8 (`KeyTooLong`), stored values at most 1 MB (`ValueTooLarge`).
    """

    @property
    def node_id(self) -> str:
        """The id of this node in the dataflow file."""

    @property
    def run_id(self) -> str:
        """Which run this is: the same in all its lives and when it is resumed, another one in each new run."""

    @property
    def config(self) -> Mapping[str, Any]:
        """`config:` of this node in the dataflow file; empty when it has none."""

    @property
    def incarnation(self) -> int:
        """Which life of this node this is, from 1."""

    @property
    def is_restart(self) -> bool:
        """Whether there was a life before this one."""

    @property
    def log(self) -> logging.Logger:
        """For records that reach the run's log with this node's name on them."""

    @property
    def kvs(self) -> Any:
        """The shared KVS outside the transaction: what is called on it takes effect at once."""

    def __call__(self, output: str, value: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """The same as `send_output`."""

    def send_output(self, output: str, value: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Send `value` to the receivers of `output`. Raises UnknownOutput, TypeError, ValueTooLarge."""

    def allocate(self, shape: int | tuple[int, ...], dtype: Any = "uint8") -> NDArray[Any]:
        """A writable array in shared memory: fill it and hand it to `send_output`, which then copies nothing."""

    def save_state(self, key: str, value: bytes) -> None:
        """Keep `value` under `key` in the private state; it comes back through `restore_state`."""

    def delete_state(self, key: str) -> None:
        """Forget `key` of the private state. One that is not there is no error."""

    def load_state(self, key: str, default: bytes | None = None) -> bytes | None:
        """The private value of `key`, or `default`."""

    def state(self) -> dict[str, bytes]:
        """All of the private state, as a copy."""

    def kvs_write(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """Write to the shared KVS; the value is gone `ttl` seconds after the commit, if given."""

    def kvs_read(self, key: str, default: bytes | None = None) -> bytes | None:
        """The shared value of `key`: as this event staged it, else as committed last; or `default`."""

    def kvs_delete(self, key: str) -> None:
        """Delete a shared key. One that is not there is no error."""

    def kvs_merge(self, key: str, merge: Merge) -> None:
        """Combine a shared value with `merge` inside the commit, so that no concurrent update is lost.

        Raises TypeError when the present value is not of the kind that `merge` works on.
        """


class Operator:
    """A base class for operators. Override `on_event`, and `restore_state` if you call `ctx.save_state`."""

    def restore_state(self, state: dict[str, bytes]) -> None:
        """Take over the last committed private state. Called once, before any event, when there is some."""

    def on_event(self, event: Event, ctx: Context) -> Status | None:
        """Handle one event: see `event["type"]`. Types that do not concern you: return None."""
        raise NotImplementedError(f"{type(self).__name__} has no on_event(self, event, ctx)")


@dataclass(frozen=True, slots=True)
class Idle:
    """What `Source.idle(seconds)` returns: ask again after `seconds`, from the same position."""

    seconds: float


class _End(enum.Enum):
    END = "Source.END"

    def __repr__(self) -> str:
        return self.value


class Source(Operator):
    """A replayable source: an operator without inputs, which says where it stands instead of saving state.

    The position that `produce` returns is committed together with what it sent, so that after a crash the
    source goes on exactly behind its last committed output. Position and world must go together: the same
    position has to lead to the same outputs. Where the world cannot be asked twice (a sensor), a custom node
    is the better shape.
    """

    END: ClassVar[_End] = _End.END  #: exhausted: what was sent is committed, then the outputs close
    IDLE: ClassVar[Idle] = Idle(IDLE_S)  #: nothing yet: called again a little later

    @staticmethod
    def idle(seconds: float) -> Idle:
        """Nothing yet: called again `seconds` later."""
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"Source.idle({seconds!r}): the pause is a number of seconds, 0 or more")
        return Idle(float(seconds))

    def produce(self, position: Any, ctx: Context) -> Any:
        """Send what comes behind `position` and return the new position; or `Source.END`, or `Source.IDLE`.

        `position` is None at first, then what was returned last, in its MessagePack form (a tuple comes back
        as a list). Keep one call short, some milliseconds: each is one commit.
        """
        raise NotImplementedError(f"{type(self).__name__} has no produce(self, position, ctx)")

    def on_event(self, event: Event, ctx: Context) -> Status | None:
        """Sources have no inputs; the one event that comes is STOP. Override it to close what is open."""
        return None


def packed_position(returned: Any) -> bytes | None:
    """The position that `produce` returned, to be saved under POSITION_KEY in the same transaction.

    None for Source.END and Source.IDLE, which leave it as it was. Raises TypeError for what is no position.
    """
    if returned is Source.END or isinstance(returned, Idle):
        return None
    if returned is None:
        raise TypeError("produce returned None; return the new position, Source.END or Source.IDLE")
    try:
        return pack(returned)
    except TypeError as error:
        raise TypeError(
            f"produce returned a {type(returned).__name__} that MessagePack cannot carry ({error}); "
            "a position is made of None, bool, int, float, str, bytes, list and dict"
        ) from None


def own_state(state: Mapping[str, bytes]) -> dict[str, bytes]:
    """The private state as `restore_state` gets it: without a Source's position."""
    return {key: value for key, value in state.items() if key != POSITION_KEY}


def position_of(state: Mapping[str, bytes]) -> Any:
    """The position in a Source's private state, to hand to `produce`; None at first."""
    saved = state.get(POSITION_KEY)
    if saved is None:
        return None
    return unpack_stored(saved)
