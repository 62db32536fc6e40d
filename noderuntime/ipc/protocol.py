"""The control protocol: every message that crosses a ZeroMQ socket of ours.

    child      = hello (refused | welcome *restore_state (ready *traffic [bye] | failed))
    traffic    = log | stop_all | stop | reload | reload_failed | failed
    command    = ask answer          ; the command line and the runtime
    client     = request reply       ; anybody and the store process

Sockets: the runtime binds a ROUTER (`runtime.sock`); each child and each command connects one DEALER. The store binds
a ROUTER (`store.sock`); its clients (the runtime, commands, nodes without LMDB) do the same.

A message is one frame: MessagePack of the array [type, field, ...], fields in the order in which they stand below.
`decode` accepts exactly that: a known type, the right number of fields, each of its declared type, no byte behind it.
Anything else raises ProtocolError and nothing else. The version is checked at hello; a frame has at most
FRAME_BYTES_MAX bytes.

Requests carry (client, number); a client numbers its requests upwards and repeats one until it is answered. The store
keeps the result of the last number of each client, so a request repeated after the store was killed counts once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgpack

from noderuntime.errors import NodeRuntimeError, ProtocolError
from noderuntime.ipc.boundary import ERROR_CHARACTERS_MAX, cut, describe

VERSION = 1
FRAME_BYTES_MAX = 16 * 1024 * 1024
TEXT_ERRORS = "surrogateescape"  # paths that are not UTF-8 are such texts in Python

# Exit codes of our child processes; any other one is the user's code speaking, or its death.
EXIT_FENCED = 75  # this process belongs to an incarnation that has been replaced: no failure
EXIT_RELOAD = 76  # the new code imports: begin a new life with it


@dataclass(frozen=True, slots=True)
class Hello:
    """child -> runtime, first: who I am. `kind`: operator | node | dynamic. `life`: $NODERUNTIME_LIFE, or 0."""

    version: int
    node: str
    kind: str
    pid: int
    life: int


@dataclass(frozen=True, slots=True)
class Refused:
    """runtime -> child: you may not take part; `why` is for a person. The child ends."""

    why: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """runtime -> child: your incarnation and your wiring (see wiring.py); `states` tells how many restore_state follow.

    `attempts`: the claim's [[input, sequence, index, attempts], ...], messages that earlier lives ended with.
    """

    incarnation: int
    wiring: dict[str, Any]
    states: int
    attempts: list[Any]


@dataclass(frozen=True, slots=True)
class RestoreState:
    """runtime -> operator: last committed private state, in parts; `by_reference`: too large, read it in the space."""

    state: dict[str, Any]
    by_reference: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """child -> runtime: restored; from here on I handle events."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Log:
    """child -> runtime: one structured log record. `time`: seconds since the epoch, `level`: Python's logging level."""

    time: float
    level: int
    text: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """child -> runtime, before an exit for an error. `where`: import | init | restore_state | on_event | produce.

    `permanent`: the same would happen again at once (a file that is missing, a class that is not there).
    """

    where: str
    error: str
    trace: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class StopAll:
    """operator -> runtime: its event handler returned Status.STOP_ALL, and that event is committed."""


@dataclass(frozen=True, slots=True)
class Bye:
    """child -> runtime: I end on purpose. `ended`: my outputs are closed in the space already (operators)."""

    ended: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """runtime -> child: finish. `id`: MANUAL | ALL_INPUTS_CLOSED. SIGTERM follows after `grace` seconds.

    `drain`: the receivers go on, so what was sent still finds room.
    """

    id: str
    grace: float
    drain: bool = False


@dataclass(frozen=True, slots=True)
class Quiet:
    """runtime -> child: make no more ticks. The run is drained, and with them it would never end."""


@dataclass(frozen=True, slots=True)
class Reload:
    """runtime -> operator: try the new code; if it imports, end with EXIT_RELOAD, so that a new life takes over."""


@dataclass(frozen=True, slots=True)
class ReloadFailed:
    """operator -> runtime: the new code does not import; the old one goes on."""

    error: str
    trace: str


@dataclass(frozen=True, slots=True)
class Ask:
    """command -> runtime. `what`: status | stop | reload; `arguments` by name."""

    version: int
    what: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """runtime -> command. `error` is "" when it worked."""

    result: dict[str, Any]
    error: str


@dataclass(frozen=True, slots=True)
class Request:
    """client -> store: one operation, see store.py for the table. Numbers of one client rise."""

    version: int
    client: str
    number: int
    operation: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """store -> client: the answer to request `number`. `error`: "" or an error class's name, `text` for a person."""

    number: int
    result: dict[str, Any]
    error: str
    text: str = field(default="")


Message = (
    Hello | Refused | Welcome | RestoreState | Ready | Log | Failed | StopAll | Bye | Stop | Quiet | Reload
    | ReloadFailed | Ask | Answer | Request | Reply
)  # fmt: skip

_NAMES: dict[type, str] = {
    Hello: "hello", Refused: "refused", Welcome: "welcome", RestoreState: "restore_state", Ready: "ready", Log: "log",
    Failed: "failed", StopAll: "stop_all", Bye: "bye", Stop: "stop", Quiet: "quiet", Reload: "reload",
    ReloadFailed: "reload_failed", Ask: "ask", Answer: "answer", Request: "request", Reply: "reply",
}  # fmt: skip


def _kinds(hint: Any) -> tuple[type, ...]:
    if isinstance(hint, UnionType):
        return tuple(kind for part in get_args(hint) for kind in _kinds(part))
    return (get_origin(hint) or hint,)


def _shape(kind: type) -> list[tuple[str, tuple[type, ...]]]:
    hints = get_type_hints(kind)
    return [(item.name, _kinds(hints[item.name])) for item in fields(kind)]


_SHAPES: dict[str, tuple[type, list[tuple[str, tuple[type, ...]]]]] = {
    name: (kind, _shape(kind)) for kind, name in _NAMES.items()
}

M = TypeVar("M")


def encode(message: Message) -> bytes:
    """The frame that carries `message`. Raises ProtocolError when it is too large, or holds what cannot be packed."""
    kind = type(message)
    name = _NAMES[kind]
    values = [name, *(getattr(message, item) for item, _ in _SHAPES[name][1])]
    try:
        frame: bytes = msgpack.packb(values, use_bin_type=True, unicode_errors=TEXT_ERRORS)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:  # a lone surrogate, an int over 64 bits
        raise ProtocolError(f"{name}: {describe(error)}") from None
    if len(frame) > FRAME_BYTES_MAX:
        raise ProtocolError(f"{name}: {len(frame)} bytes; a frame holds at most {FRAME_BYTES_MAX}")
    return frame


def refusal(number: int, operation: str, error: BaseException) -> Reply:
    """The answer to a request that has raised: errors of ours are named, anything else is taken for the arguments'."""
    if isinstance(error, NodeRuntimeError):
        return Reply(number, {}, type(error).__name__, cut(str(error), ERROR_CHARACTERS_MAX))
    return Reply(number, {}, "ProtocolError", f"{operation[:40]}: wrong arguments ({describe(error)})")


def decode(frame: bytes | memoryview) -> Message:
    """The message in `frame`. Any bytes either decode or raise ProtocolError, never anything else."""
    if len(frame) > FRAME_BYTES_MAX:
        raise ProtocolError(f"{len(frame)} bytes; a frame holds at most {FRAME_BYTES_MAX}")
    try:
        body = msgpack.unpackb(frame, raw=False, strict_map_key=False, unicode_errors=TEXT_ERRORS)
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError, TypeError, OverflowError) as error:
        raise ProtocolError(f"not one MessagePack value: {type(error).__name__}") from None
    if not isinstance(body, list) or not body or not isinstance(body[0], str):
        raise ProtocolError("not an array that starts with a type")
    if body[0] not in _SHAPES:
        raise ProtocolError(f"unknown type {body[0][:40]!r}")
    kind, shape = _SHAPES[body[0]]
    if len(body) != len(shape) + 1:
        raise ProtocolError(f"{body[0]}: {len(body) - 1} fields instead of {len(shape)}")
    for value, (name, kinds) in zip(body[1:], shape, strict=True):
        # bool is an int in Python, not in a protocol
        if type(value) not in kinds and not (float in kinds and type(value) is int):
            raise ProtocolError(f"{body[0]}: {name} is {type(value).__name__}, not {kinds[0].__name__}")
    build: Callable[..., Message] = kind
    return build(*body[1:])
