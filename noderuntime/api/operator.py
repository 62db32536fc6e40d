"""What an operator is: `Operator`, `Status`, `Source`, and `Context`, the `ctx` that its methods get.

An operator is any class with `on_event(event, ctx)`. It is created without an argument, or with `ctx` if it takes one.
Its state, as the last committed event left it, is restored before its first event:

    operator = make [restore_state] *on_event

Handling one event is one transaction: the input taken, the state saved, the shared writes and the outputs sent take
effect together, or not at all. An exception that a method raises ends the process; the next life starts from the
committed state, with the same event.

The base classes are for convenience and for type checkers; nothing checks whether a class derives from `Operator`. A
`Source` is recognised by its `produce`.
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
    STOP = "stop"  # this node has ended: its outputs close after what it has sent
    STOP_ALL = "stop_all"  # and the whole run is to stop


def make(factory: Callable[..., Any], ctx: Context) -> Any:
    """A new operator: `factory` called with `ctx` if it takes an argument, else with none. Raises TypeError."""
    made = _make(factory, ctx)
    for name in HANDLERS:
        refuse_lazy(getattr(made, name, None), f"{type(made).__name__}.{name}")
    return made


def refuse_lazy(function: Any, name: str) -> None:
    """Raises TypeError for an async or generator function: calling it would run nothing of its body."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name} is `async def`; write it as a plain `def`: events are handled one after the other")
    if inspect.isgeneratorfunction(function):
        raise TypeError(f"{name} is a generator (it has a `yield`); send what it yields with ctx.send_output instead")


def _make(factory: Callable[..., Any], ctx: Context) -> Any:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # written in C, without a signature
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
    """The Status that a return value of `on_event` means. Raises TypeError."""
    if returned is None:
        return Status.CONTINUE
    if isinstance(returned, Status):
        return returned
    raise TypeError(f"on_event returned {returned!r:.80}; return Status.CONTINUE, STOP, STOP_ALL or nothing")


class Context(Protocol):
    """What an operator sees of the runtime. Everything that it stages belongs to the transaction of the current event.

    Values are copied or encoded at the call, so a buffer may be reused at once. Reads see staged writes. In `__init__`
    and `restore_state` an operator can read, but not send or write.

    Keys hold at most 508 bytes of UTF-8 (`KeyTooLong`), stored values at most 1 MB (`ValueTooLarge`).
    """

    @property
    def node_id(self) -> str:
        """The id of this node in the dataflow file."""

    @property
    def run_id(self) -> str:
        """Identifies the run: stays the same when nodes restart and the run is resumed, and differs in each new run."""

    @property
    def config(self) -> Mapping[str, Any]:
        """`config:` of this node in the dataflow file; empty if it has none."""

    @property
    def incarnation(self) -> int:
        """Which life of this node this is, from 1."""

    @property
    def replica(self) -> int:
        """Which of the replicas of this node this is, from 0."""

    @property
    def replicas(self) -> int:
        """How many replicas this node has."""

    @property
    def is_restart(self) -> bool:
        """Whether there was a life before this one."""

    @property
    def log(self) -> logging.Logger:
        """For records that reach the run's log with this node's name on them."""

    @property
    def kvs(self) -> Any:
        """The shared KVS outside the transaction: what is called on it takes effect at once."""

    @property
    def keyed(self) -> Any:
        """The states of keys, for keyed operators: see KeyedStore in noderuntime.api.keyed.store."""

    def __call__(self, output: str, value: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """The same as `send_output`."""

    def send_output(self, output: str, value: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Send `value` to the receivers of `output`. Raises UnknownOutput, TypeError, ValueTooLarge."""

    def allocate(self, shape: int | tuple[int, ...], dtype: Any = "uint8") -> NDArray[Any]:
        """A writable array in shared memory: fill it and hand it to `send_output`, which then copies nothing."""

    def save_state(self, key: str, value: bytes) -> None:
        """Keep `value` under `key` in the private state; it comes back through `restore_state`."""

    def delete_state(self, key: str) -> None:
        """Delete `key` from the private state. A key that does not exist is not an error."""

    def load_state(self, key: str, default: bytes | None = None) -> bytes | None:
        """The private value of `key`, or `default`."""

    def state(self) -> dict[str, bytes]:
        """All of the private state, as a copy."""

    def kvs_write(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """Write to the shared KVS; with `ttl`, the value expires that many seconds after the commit."""

    def kvs_read(self, key: str, default: bytes | None = None) -> bytes | None:
        """The shared value of `key`: as this event staged it, else as committed last; or `default`."""

    def kvs_delete(self, key: str) -> None:
        """Delete a shared key. A key that does not exist is not an error."""

    def kvs_merge(self, key: str, merge: Merge) -> None:
        """Combine a shared value with `merge` inside the commit, so that no concurrent update is lost.

        Raises TypeError if the present value is not of a kind that `merge` works on.
        """


class Operator:
    """A base class for operators. Override `on_event`, and `restore_state` if you call `ctx.save_state`."""

    def restore_state(self, state: dict[str, bytes]) -> None:
        """Load the last committed private state. Called once, before any event, if there is such a state."""

    def on_event(self, event: Event, ctx: Context) -> Status | None:
        """Handle one event: see `event["type"]`. Return None for types that do not concern you."""
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
    """A replayable source: an operator without inputs, which returns its position instead of saving state.

    The position that `produce` returns is committed together with what it sent, so that after a crash the source
    continues exactly after its last committed output. The same position must lead to the same outputs. For data that
    cannot be read twice (a sensor's), write a custom node.
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
        """Send what follows `position` and return the new position, or return `Source.END` or `Source.IDLE`.

        `position` is None at first, then the value returned last, in its MessagePack form (a tuple comes back as a
        list). Keep each call short, some milliseconds: it is one commit.
        """
        raise NotImplementedError(f"{type(self).__name__} has no produce(self, position, ctx)")

    def on_event(self, event: Event, ctx: Context) -> Status | None:
        """Sources have no inputs; the only event is STOP. Override this to close files and connections."""
        return None


def packed_position(returned: Any) -> bytes | None:
    """The position that `produce` returned, to be saved under POSITION_KEY in the same transaction.

    None for Source.END and Source.IDLE, which leave it unchanged. Raises TypeError for a value that is not a position.
    """
    kind = type(returned)
    if kind is not int and kind is not str and (returned is Source.END or isinstance(returned, Idle)):
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
