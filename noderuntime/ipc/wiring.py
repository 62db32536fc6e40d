"""The part of the dataflow that one child needs: its inputs, its outputs, and their receivers.

The runtime builds it from the dataflow file and the numbers that the store gave to nodes, inputs and outputs, and
sends it in `welcome`, as dicts and lists, which MessagePack can carry. The numbers are small integers that the space
keeps, so that its keys are short and survive a change of the dataflow file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NotRequired, TypedDict, cast

from noderuntime.dataflow.identifiers import renamed_id, renamed_source

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class InputWiring:
    """One input. `sender` is the sending node's number (-1 for a timer); `period_ns` > 0 makes it a timer."""

    name: str
    number: int
    source: str  # "node/output", or "timer/..." as written
    sender: int
    queue_size: int
    queue_bytes: int
    drop_oldest: bool
    messages_min: int = 1  # admitted regardless of their size
    period_ns: int = 0
    timeout_ns: int = 0
    counts: bool = True  # False: the node ends when all others have ended, as if this were a timer
    leaving: bool = False  # no longer in the dataflow: what waits is handled, nothing new comes
    replicas: tuple[int, ...] = ()  # of the sender: the numbers of all of them, if it has several


@dataclass(frozen=True, slots=True)
class ReceiverWiring:
    """One receiver of an output: the mailbox (node, input) and its limits. `spares`: requests, responses and goals are
    dropped only when no other message waits (in dataflows of dora).

    Those of the replicas of one node, for one of its inputs, have the same `group` ("NUMBER/input", with the number of
    the first replica) and are in order: a message goes to one of them, which `partition` (as in the file; "": any)
    decides.
    """

    node: int
    input: int
    queue_size: int
    queue_bytes: int
    drop_oldest: bool
    messages_min: int = 1
    spares: bool = False
    group: str = ""
    partition: str = ""


@dataclass(frozen=True, slots=True)
class OutputWiring:
    """One output, and every input that receives it."""

    name: str
    number: int
    receivers: tuple[ReceiverWiring, ...]


class PlainInput(TypedDict):
    """InputWiring in `welcome`."""

    name: str
    number: int
    source: str
    sender: int
    queue_size: int
    queue_bytes: int
    drop_oldest: bool
    messages_min: int
    period_ns: int
    timeout_ns: int
    counts: bool
    replicas: list[int]
    leaving: NotRequired[bool]


class PlainReceiver(TypedDict):
    """ReceiverWiring in `welcome`."""

    node: int
    input: int
    queue_size: int
    queue_bytes: int
    drop_oldest: bool
    messages_min: int
    spares: bool
    group: str
    partition: str


class PlainOutput(TypedDict):
    """OutputWiring in `welcome`."""

    name: str
    number: int
    receivers: list[PlainReceiver]


class PlainNode(TypedDict):
    """Wiring in `welcome`, of one node."""

    run: str
    node: str
    number: int
    kind: str
    inputs: list[PlainInput]
    outputs: list[PlainOutput]
    config: dict[str, Any]
    code: dict[str, str]
    endless: bool
    with_failures: bool
    ticks_from_ns: int
    replica: int
    replicas: list[int]
    partition: str
    version: NotRequired[int]


class PlainWiring(PlainNode):
    """Wiring in `welcome`."""

    others: NotRequired[list[PlainNode]]


class PlainPorts(TypedDict):
    """The inputs and outputs of a node whose wiring was changed, and its replicas, as its record in the space has them.
    """

    inputs: list[PlainInput]
    outputs: list[PlainOutput]
    replicas: NotRequired[list[int]]  # earlier versions write none
    partition: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Wiring:
    """Everything about one node that its own process needs.

    `kind` is "operator" or "node"; `code` is for operators: {"path": FILE or "", "module": NAME or "", "name": NAME,
    and where there is one "adapter": "module:function"}. An `endless` node does not end when all its inputs have;
    `with_failures`: an input ends when its sender fails, too. Its first ticks are due at `ticks_from_ns` of
    CLOCK_BOOTTIME; 0: a period after the beginning of the space's clock.
    `others` are the operators that share the process of this one, which is then the first of them. `version` is the
    wiring number: where that of the node's record in the space is another one, inputs and outputs are read there.
    `replicas` are the numbers of all replicas of the node, if it has several; `replica` is the place of this one among
    them. What keys have as state is kept under the number of the first.
    """

    run: str
    node: str
    number: int
    kind: str
    inputs: tuple[InputWiring, ...]
    outputs: tuple[OutputWiring, ...]
    config: dict[str, Any] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    endless: bool = False
    with_failures: bool = False
    ticks_from_ns: int = 0
    others: tuple[Wiring, ...] = ()
    replica: int = 0
    replicas: tuple[int, ...] = ()
    partition: str = ""
    version: int = 0

    @property
    def state_number(self) -> int:
        """The number under which the states of keys are kept."""
        return self.replicas[0] if self.replicas else self.number

    def ticking_from(self, moment_ns: int) -> Wiring:
        """The same, of the other operators too, with ticks from that moment of CLOCK_BOOTTIME on."""
        others = tuple(replace(other, ticks_from_ns=moment_ns) for other in self.others)
        return replace(self, ticks_from_ns=moment_ns, others=others)

    def to_plain(self) -> PlainWiring:
        """The form that MessagePack can carry."""
        plain = asdict(replace(self, others=()))
        plain["inputs"] = [item | {"replicas": list(item["replicas"])} for item in plain["inputs"]]
        plain["replicas"] = list(plain["replicas"])
        plain["outputs"] = [output | {"receivers": list(output["receivers"])} for output in plain["outputs"]]
        plain["others"] = [other.to_plain() for other in self.others]
        return cast(PlainWiring, plain)

    @classmethod
    def from_plain(cls, plain: PlainWiring | PlainNode) -> Wiring:
        """The wiring of a `welcome`."""
        others = cast(PlainWiring, plain).get("others", [])
        return cls(
            run=plain["run"],
            node=plain["node"],
            number=plain["number"],
            kind=plain["kind"],
            inputs=_inputs(plain["inputs"]),
            outputs=_outputs(plain["outputs"]),
            config=plain["config"],
            code=plain["code"],
            endless=plain["endless"],
            with_failures=plain["with_failures"],
            ticks_from_ns=plain["ticks_from_ns"],
            replica=plain["replica"],
            replicas=tuple(plain["replicas"]),
            partition=plain["partition"],
            others=tuple(cls.from_plain(other) for other in others),
            version=plain.get("version", 0),
        )

    def ports(self) -> PlainPorts:
        """What can change while the node runs, in the form that MessagePack can carry."""
        plain = self.to_plain()
        names = ("inputs", "outputs", "replicas", "partition")
        return cast(PlainPorts, {name: plain[name] for name in names})  # type: ignore[literal-required]

    def renamed(self, names: Mapping[str, str]) -> Wiring:
        """The same when nodes are called otherwise (old -> new)."""
        inputs = tuple(replace(item, source=renamed_source(names, item.source)) for item in self.inputs)
        others = tuple(other.renamed(names) for other in self.others)
        return replace(self, node=renamed_id(names, self.node), inputs=inputs, others=others)

    def rewired(self, ports: PlainPorts, version: int) -> Wiring:
        """The same node with these inputs, outputs and replicas."""
        return replace(
            self,
            inputs=_inputs(ports["inputs"]),
            outputs=_outputs(ports["outputs"]),
            replicas=tuple(ports.get("replicas", self.replicas)),
            partition=ports.get("partition", self.partition),
            version=version,
        )


def _inputs(plain: list[PlainInput]) -> tuple[InputWiring, ...]:
    return tuple(
        replace(InputWiring(**item), replicas=tuple(item["replicas"]))  # type: ignore[arg-type]
        for item in plain
    )


def _outputs(plain: list[PlainOutput]) -> tuple[OutputWiring, ...]:
    return tuple(
        OutputWiring(item["name"], item["number"], tuple(ReceiverWiring(**to) for to in item["receivers"]))
        for item in plain
    )
