"""The control protocol: every message that crosses one of our ZeroMQ sockets, sorted by edge.

    child   = hello (refused | welcome *restore_state (ready *traffic [bye] | failed))
    traffic = log | log_of | stop_all | member_ended | reload_failed | failed | stop | stop_member | quiet
            | quiet_member | reload | rewired
    command = ask answer
    client  = request reply

    child -> runtime      hello           who I am; the first message
                          ready           restored; from here on I handle events
                          log             one log record
                          log_of          one log record of an operator that shares its process
                          failed          about to exit because of an error
                          stop_all        a handler returned Status.STOP_ALL
                          member_ended    an operator that shares its process has ended
                          reload_failed   the new code does not import
                          bye             I exit on purpose
    runtime -> child      refused         you may not take part
                          welcome         your incarnation and wiring
                          restore_state   a part of the private state (operators)
                          quiet           make no more ticks
                          quiet_member    the same for one operator of a shared process
                          stop            finish
                          stop_member     one operator of a shared process has to end
                          reload          try the new code (operators)
                          rewired         your inputs and outputs have changed
    command -> runtime    ask             what a command of the command line wants
    runtime -> command    answer          what it gets
    client -> store       request         one operation on the space
    store -> client       reply           its result, or its error

The runtime binds a ROUTER (`runtime.sock`); each child and each command connects a DEALER. The store binds a ROUTER
(`store.sock`); its clients (the runtime, commands, nodes without LMDB) connect a DEALER.

A message is one frame of at most FRAME_BYTES_MAX bytes: MessagePack of the array [type, field, ...], with the fields
in the order in which the classes below declare them. `decode` accepts exactly that: a type that belongs on the
receiver's edge, the right number of fields, each of its declared type, and no byte behind it. Anything else raises
ProtocolError, and nothing but ProtocolError. The version is checked at hello, ask and request. (Rejected: one decoder
for all edges. Each receiver then has to ignore, one by one, the messages that it itself sends.)

A client numbers its requests upwards and repeats each until it is answered. The store keeps the result of the last
number of each client, so a request that is repeated after the store was killed takes effect once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from types import UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints, is_typeddict

import msgpack

from noderuntime.errors import NodeRuntimeError, ProtocolError
from noderuntime.ipc.boundary import ERROR_CHARACTERS_MAX, cut, describe
from noderuntime.ipc.wiring import PlainPorts, PlainWiring

VERSION = 1
FRAME_BYTES_MAX = 16 * 1024 * 1024
TEXT_ERRORS = "surrogateescape"  # how Python represents paths that are not UTF-8
WELCOME_S: Final = 60.0  # how long a child waits for welcome, and for each restore_state

# Exit codes of our child processes; any other code is that of the user's program.
EXIT_FENCED = 75  # a newer incarnation has replaced this process; not a failure
EXIT_RELOAD = 76  # the new code imports: begin a new life with it


class Edge(Enum):
    """Who sends, and who receives."""

    CHILD_TO_RUNTIME = "child -> runtime"
    RUNTIME_TO_CHILD = "runtime -> child"
    COMMAND_TO_RUNTIME = "command -> runtime"
    RUNTIME_TO_COMMAND = "runtime -> command"
    CLIENT_TO_STORE = "client -> store"
    STORE_TO_CLIENT = "store -> client"


TO_RUNTIME: Final = (Edge.CHILD_TO_RUNTIME, Edge.COMMAND_TO_RUNTIME)
"""What arrives at the runtime's socket."""


# child -> runtime


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message: who I am. `kind`: operator | node | dynamic. `life`: $NODERUNTIME_LIFE, or 0."""

    version: int
    node: str
    kind: str
    pid: int
    life: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Restored; from here on I handle events."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Log:
    """One structured log record. `time`: seconds since the epoch, `level`: Python's logging level."""

    time: float
    level: int
    text: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LogOf:
    """As Log, of one of the operators that share the process."""

    node: str
    time: float
    level: int
    text: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The process is about to exit because of an error. `where`: import | init | restore_state | on_event | produce.

    `permanent`: the same would happen again at once (a file that is missing, a class that is not there). `node`: which
    operator of a shared process raised; "" where the process is of one node.
    """

    where: str
    error: str
    trace: str
    permanent: bool
    node: str = ""


@dataclass(frozen=True, slots=True)
class MemberEnded:
    """This operator of a shared process has ended: its outputs are closed in the space already."""

    node: str


@dataclass(frozen=True, slots=True)
class StopAll:
    """From operators: the handler returned Status.STOP_ALL, and that event is committed."""


@dataclass(frozen=True, slots=True)
class ReloadFailed:
    """From operators: the new code does not import; the old code continues."""

    error: str
    trace: str


@dataclass(frozen=True, slots=True)
class Bye:
    """I exit on purpose. `ended`: my outputs are closed in the space already (operators)."""

    ended: bool
    reason: str


# runtime -> child


@dataclass(frozen=True, slots=True)
class Refused:
    """You may not take part; `why` is for a person. The child exits."""

    why: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """Your incarnation and your wiring (see wiring.py); `states` RestoreState messages follow.

    `attempts`: [input, sequence, index, attempts] of each message that earlier lives ended with, and the number of
    its node where operators share a process.
    """

    incarnation: int
    wiring: PlainWiring
    states: int
    attempts: list[list[int]]


@dataclass(frozen=True, slots=True)
class RestoreState:
    """To operators: the last committed private state, in parts; `by_reference`: too large, read it in the space."""

    state: dict[str, bytes]
    by_reference: bool


@dataclass(frozen=True, slots=True)
class Quiet:
    """Make no more ticks: the run is draining, and ticks would keep it from ending."""


@dataclass(frozen=True, slots=True)
class QuietMember:
    """Make no more ticks of this operator of a shared process."""

    node: str


@dataclass(frozen=True, slots=True)
class StopMember:
    """This operator of a shared process has to end: its STOP event (`id` as in Stop), then its outputs close."""

    node: str
    id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Finish. `id`: MANUAL | ALL_INPUTS_CLOSED. SIGTERM follows after `grace` seconds.

    `drain`: the receivers continue, so sends still find room.
    """

    id: str
    grace: float
    drain: bool = False


@dataclass(frozen=True, slots=True)
class Reload:
    """To operators: try the new code; if it imports, exit with EXIT_RELOAD, so that a new life takes over."""


@dataclass(frozen=True, slots=True)
class Rewired:
    """Your inputs or outputs have changed: this is what they are under the wiring number `version`.

    For a node with LMDB it is a hint only: the record in the space says it, and its next commit finds it out as well.
    """

    version: int
    ports: PlainPorts


# command -> runtime


@dataclass(frozen=True, slots=True)
class Ask:
    """`what` and `arguments`: see control_records.py."""

    version: int
    what: str
    arguments: Mapping[str, object]


# runtime -> command


@dataclass(frozen=True, slots=True)
class Answer:
    """`result`: see control_records.py. `error` is "" when it worked."""

    result: Mapping[str, object]
    error: str


# client -> store


@dataclass(frozen=True, slots=True)
class Request:
    """One operation of store_records.py. The numbers of one client rise."""

    version: int
    client: str
    number: int
    operation: str
    arguments: Mapping[str, object]


# store -> client


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to request `number`. `error`: "" or the name of an error class, with `text` for a person."""

    number: int
    result: Mapping[str, object]
    error: str
    text: str = field(default="")


Message = (
    Hello | Ready | Log | LogOf | Failed | StopAll | MemberEnded | ReloadFailed | Bye | Refused | Welcome | RestoreState
    | Quiet | QuietMember | Stop | StopMember | Reload | Rewired | Ask | Answer | Request | Reply
)  # fmt: skip

MESSAGES: Final[dict[Edge, dict[str, type[Message]]]] = {
    Edge.CHILD_TO_RUNTIME: {
        "hello": Hello, "ready": Ready, "log": Log, "log_of": LogOf, "failed": Failed, "stop_all": StopAll,
        "member_ended": MemberEnded, "reload_failed": ReloadFailed, "bye": Bye,
    },
    Edge.RUNTIME_TO_CHILD: {
        "refused": Refused, "welcome": Welcome, "restore_state": RestoreState, "quiet": Quiet,
        "quiet_member": QuietMember, "stop": Stop, "stop_member": StopMember, "reload": Reload, "rewired": Rewired,
    },
    Edge.COMMAND_TO_RUNTIME: {"ask": Ask},
    Edge.RUNTIME_TO_COMMAND: {"answer": Answer},
    Edge.CLIENT_TO_STORE: {"request": Request},
    Edge.STORE_TO_CLIENT: {"reply": Reply},
}  # fmt: skip
"""The types of messages that go along each edge, by the name that the frame carries."""


def _kinds(hint: Any) -> tuple[type, ...]:
    if isinstance(hint, UnionType):
        return tuple(kind for part in get_args(hint) for kind in _kinds(part))
    kind = get_origin(hint) or hint
    return (dict if is_typeddict(hint) or kind is Mapping else kind,)


def shape(kind: type[Message]) -> list[tuple[str, tuple[type, ...]]]:
    """The fields of a message, in the order of its frame, each with the types that a value of it may have."""
    hints = get_type_hints(kind)
    return [(item.name, _kinds(hints[item.name])) for item in fields(kind)]


NAMES: Final = {kind: name for named in MESSAGES.values() for name, kind in named.items()}

_SHAPES: Final = {name: (edge, kind, shape(kind)) for edge, named in MESSAGES.items() for name, kind in named.items()}


def encode(message: Message) -> bytes:
    """The frame of `message`. Raises ProtocolError when it is too large, or holds what MessagePack cannot carry."""
    name = NAMES[type(message)]
    values = [name, *(getattr(message, item) for item, _ in _SHAPES[name][2])]
    try:
        frame: bytes = msgpack.packb(values, use_bin_type=True, unicode_errors=TEXT_ERRORS)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:  # a lone surrogate, an int over 64 bits
        raise ProtocolError(f"{name}: {describe(error)}") from None
    if len(frame) > FRAME_BYTES_MAX:
        raise ProtocolError(f"{name}: {len(frame)} bytes; a frame holds at most {FRAME_BYTES_MAX}")
    return frame


def refusal(number: int, operation: str, error: BaseException) -> Reply:
    """The answer to a request that has raised: our own errors are named; any other is blamed on the arguments."""
    if isinstance(error, NodeRuntimeError):
        return Reply(number, {}, type(error).__name__, cut(str(error), ERROR_CHARACTERS_MAX))
    return Reply(number, {}, "ProtocolError", f"{operation[:40]}: wrong arguments ({describe(error)})")


def decode(frame: bytes | memoryview, *edges: Edge) -> Message:
    """The message in `frame`, which came along one of the receiver's `edges`.

    Any bytes either decode or raise ProtocolError, never anything else.
    """
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
    edge, kind, declared = _SHAPES[body[0]]
    if edge not in edges:
        raise ProtocolError(f"{body[0]} goes {edge.value}; it came {' or '.join(came.value for came in edges)}")
    if len(body) != len(declared) + 1:
        raise ProtocolError(f"{body[0]}: {len(body) - 1} fields instead of {len(declared)}")
    for value, (name, kinds) in zip(body[1:], declared, strict=True):
        # bool is an int in Python, not in a protocol
        if type(value) not in kinds and not (float in kinds and type(value) is int):
            raise ProtocolError(f"{body[0]}: {name} is {type(value).__name__}, not {kinds[0].__name__}")
    build: Callable[..., Message] = kind
    return build(*body[1:])
