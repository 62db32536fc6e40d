"""What each operation of the store takes and returns: the arguments of a request, and the result in its reply.

Arguments are dataclasses, results are the maps that travel (TypedDict), arrays with a meaning for each place are
NamedTuples; typed.py says how they look on the wire, and decodes them. Those of state are in state_records.py, those of
a change of the dataflow in change_records.py, all others here. Writing operations commit together with the
record of the request, so one that is repeated after a kill counts once.

    operation           arguments        result          what for
    open                Open             Opened          the runtime: register the dataflow, and reopen a kept space
    claim               Claim            Claimed | Over  begin a node's new life
    end                 End              Done            close a node's outputs; its mailbox too, unless it failed
    revive              NodeOf           Done            of a failed or ended node, before its next claim
    touch, quit         Nothing          Done            take the write lock once; end the process
    taps_clear          Nothing          Done            the tap server has ended: remove its mailboxes
    queues              Nothing          Queues          what waits in each queue
    figures             Nothing          Figures         what was queued, taken, dropped and sent
    in_force            Nothing          InForce         the dataflow that the run has now
    change_losses       ChangeLosses     Losses          what would be lost by a change of the dataflow
    change_prepare      ChangePrepare    Prepared        numbers for what is new in it
    change_undo         Nothing          Done            give up what was prepared
    change_switch       ChangeSwitch     Switched        make it the one in force
    change_settle       ChangeSettle     Settled         let go what has drained
    change_move         ChangeMove       Moved           move slots of replicas, with what waits for them
    resumed             Nothing          Resumed         the snapshot that the space was made from
    outbox              Nothing          Waiting         what waits for an external State
    state_ls            Listing          Listed          the command line: shared or private state
    state_get           StateKey         Value
    state_set           StateSet         Revision
    state_rm            StateKey         Removed
    kvs_get             Key              Found           shared state
    kvs_read            Keys             FoundAll
    kvs_root            Part             Root
    kvs_set             Set              Revision
    kvs_delete          Key              Deleted
    kvs_merge           Merging          Revision
    kvs_version         Nothing          Version
    kvs_diff            Since            Changes
    kvs_cells           Nothing          Everything
    kvs_apply           Applying         Applied
    kvs_watch           Watching         Updates
    letters_ls          LettersOf        Letters         dead letters
    letters_show        LettersNamed     ShownLetters
    letters_replay      LettersNamed     Replayed
    letters_drop        LettersNamed     Dropped
    snapshot_take       Take             Ticket          snapshots, if the run keeps them
    snapshot_status     TicketOf         Progress
    node_open           NodeOpen         Sent            nodes without LMDB
    node_next           NodeNext         Events
    node_part           NodePart         Bytes
    node_send           NodeSend         SentSome

docs/store-api.md has what a client in another language needs of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, NamedTuple, NotRequired, TypedDict, TypeVar, final

from noderuntime.ipc.change_records import Numbers, StoreNode
from noderuntime.ipc.typed import decode
from noderuntime.ipc.wiring import PlainPorts, PlainWiring

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Nothing:
    """No arguments."""


class Done(TypedDict):
    """It was done; there is nothing to tell."""


# ---- the runtime


@dataclass(frozen=True, slots=True)
class Open:
    """With `resume`, nodes in `drop` may lose what they had, and `rename` gives nodes their new ids (old -> new).

    `digest`, `dataflow`, `file`: see store/changes.py. `as_applied`: the dataflow in force goes on.
    """

    nodes: list[StoreNode]
    fingerprint: str
    resume: bool
    drop: list[str] = field(default_factory=list)
    rename: dict[str, str] = field(default_factory=dict)
    digest: str = ""
    dataflow: str = ""
    file: str = ""
    as_applied: bool = False


class Resumed(TypedDict):
    """A snapshot that a space was made from; `skipped`: texts about newer ones that cannot be read."""

    number: int
    created_ns: int
    skipped: list[str]


class Opened(TypedDict):
    """`numbers` by node; the nodes that have `ended` or `failed`; a text for each state that was `dropped`.

    Of a dataflow that was changed while it ran: nodes that are `leaving`, these and those with an input that `drains`,
    and the `ports` of those that were touched, with their wiring numbers.
    """

    numbers: dict[str, Numbers]
    ended: list[str]
    failed: list[str]
    leaving: NotRequired[list[str]]
    drains: NotRequired[list[str]]
    ports: NotRequired[dict[str, tuple[int, PlainPorts]]]
    dropped: list[str]
    resumed: dict[str, Any]  # Resumed, or {}


class Member(NamedTuple):
    """Another operator of the same process: its max_attempts, and what the process had of it in hand."""

    node: str
    max_attempts: int
    hands: list[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class Claim:
    """Why the last life ended ("" for the first), whether that `counts` as a failure, and what was in hand: input,
    sequence and index of messages. Sequence 0 means an event that is no message, see space/lives.py.

    `others` share the process of the node.
    """

    node: str
    cause: str
    counts: bool
    hands: list[tuple[int, int, int]]
    max_attempts: int
    trace: str
    others: list[Member] = field(default_factory=list)


@final
class Claimed(TypedDict):
    """`attempts`: [input, sequence, index, attempts] of messages in hand, and the number of their node where operators
    share a process; `buried`: uids that became dead letters, of the node `entry`.

    `by_reference`: the private state is too large for a reply, or of several operators, and is read in the space.
    `ended_members`: operators of the process that have ended; `stop_all`: one of them by Status.STOP_ALL.
    """

    incarnation: int
    attempts: list[list[int]]
    buried: NotRequired[str]
    entry: NotRequired[str]
    ended_members: NotRequired[list[str]]
    stop_all: NotRequired[bool]
    state: dict[str, bytes]
    by_reference: bool


@final
class Over(TypedDict):
    """The node has ended; `stop_all`: by Status.STOP_ALL."""

    ended: bool
    stop_all: NotRequired[bool]


@dataclass(frozen=True, slots=True)
class End:
    node: str
    failed: bool
    error: str
    others: list[str] = field(default_factory=list)  # that share its process


@dataclass(frozen=True, slots=True)
class NodeOf:
    node: str
    others: list[str] = field(default_factory=list)  # that share its process


class Queues(TypedDict):
    """For each node and input: [messages, their bytes, 1 if anything waits, notices included]."""

    nodes: dict[str, dict[str, list[int]]]


class InputFigures(TypedDict):
    queued: int
    bytes: int
    taken: int
    dropped: int
    discarded: int
    dead: int


class GoneFigures(TypedDict):
    taken: int
    dropped: int


class NodeFigures(TypedDict):
    """`outputs`: how many messages were sent to each; `gone`: what inputs have counted that a change has removed."""

    status: str
    incarnation: int
    inputs: dict[str, InputFigures]
    outputs: dict[str, int]
    gone: NotRequired[GoneFigures]
    dead_letters: int


class Figures(TypedDict):
    nodes: dict[str, NodeFigures]
    used_bytes: int
    size_bytes: int
    readers: int
    run_id: str


class Waiting(TypedDict):
    """`first`: the key of the first entry of the outbox ("": none); `trouble`: why it waits."""

    first: str
    trouble: str


# ---- dead letters


@dataclass(frozen=True, slots=True)
class LettersOf:
    """`node` "": of all nodes."""

    node: str


@dataclass(frozen=True, slots=True)
class LettersNamed:
    """No `uids`: all of the node."""

    node: str
    uids: list[str]


class PlainLetter(TypedDict):
    """What a list says of a dead letter."""

    node: str
    input: str
    uid: str
    error: str
    attempts: int
    buried_ns: int
    bytes: int


class ShownMessage(TypedDict):
    """A message as JSON has it."""

    metadata: Any
    value: Any


class ShownLetter(PlainLetter, ShownMessage):
    """All of a dead letter."""

    trace: str


class Letters(TypedDict):
    """`left_out`: how many more there are."""

    letters: list[PlainLetter]
    left_out: int


class ShownLetters(TypedDict):
    """As Letters."""

    letters: list[ShownLetter]
    left_out: int


class Replayed(TypedDict):
    replayed: int


class Dropped(TypedDict):
    dropped: int


# ---- snapshots


@dataclass(frozen=True, slots=True)
class Take:
    why: str = "asked"


@dataclass(frozen=True, slots=True)
class TicketOf:
    ticket: int


class Ticket(TypedDict):
    """Represents a cut that holds all that was committed when it was taken."""

    ticket: int


class SnapshotFacts(TypedDict):
    """A snapshot that was taken. `pinned_s`: how long the space could not reuse pages for its sake."""

    number: int
    kind: Literal["full", "incremental"]
    bytes: int
    keys: int
    growth_bytes: int
    pinned_s: float
    took_s: float


class Progress(TypedDict):
    """`unknown`: the store process was killed meanwhile; take it again."""

    state: Literal["done", "running", "failed", "unknown"]
    error: str
    snapshot: dict[str, Any]  # SnapshotFacts once it is done, before {}


# ---- nodes without LMDB


class Place(NamedTuple):
    """Names a message in the mailbox of its node: the number of its input, and its place there."""

    input: int
    sequence: int
    nth: int


class Outgoing(NamedTuple):
    """A message to be sent; `number` counts those of its output, from 1."""

    output: str
    number: int
    kind: str
    head: bytes
    body: bytes
    metadata: bytes


@dataclass(frozen=True, slots=True)
class NodeOpen:
    wiring: PlainWiring
    incarnation: int
    pid: int
    attempts: list[list[int]] = field(default_factory=list)
    in_hand: list[Place] = field(default_factory=list)


class Sent(TypedDict):
    """How many messages of each output are committed."""

    sent: dict[str, int]


@dataclass(frozen=True, slots=True)
class NodeNext:
    node: str
    incarnation: int
    ack: list[Place] = field(default_factory=list)
    limit: int | None = None
    wait: float = 0.0


class Events(TypedDict):
    """Maps whose keys depend on `type`: see docs/store-api.md."""

    events: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class NodePart:
    node: str
    incarnation: int
    place: Place
    part: str
    offset: int


class Bytes(TypedDict):
    """nil: the message was dropped meanwhile."""

    bytes: bytes | None


@dataclass(frozen=True, slots=True)
class NodeSend:
    node: str
    incarnation: int
    messages: list[Outgoing]
    wait: float = 0.0


class SentSome(TypedDict):
    """`done` false: some receiver had no room in time."""

    sent: dict[str, int]
    done: bool


# ---- reading a result

Read = Callable[[Mapping[str, object]], R]
"""Makes the record of a reply's result. Raises ProtocolError for what no store of ours answers."""

ANSWER: Final = "the store's answer"


def result(kind: type[R]) -> Read[R]:
    """Reads results of that kind."""
    return partial(_read, kind)


def _read(kind: type[R], found: Mapping[str, object]) -> R:
    return decode(kind, found, ANSWER)


def claim_result(found: Mapping[str, object]) -> Claimed | Over:
    """Reads the result of `claim`."""
    return decode(Over, found, ANSWER) if "ended" in found else decode(Claimed, found, ANSWER)
