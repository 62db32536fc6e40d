"""What the store's operations on the dataflow in force take and return: see store_records.py, which lists them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NotRequired, TypedDict

from noderuntime.ipc.wiring import PlainPorts


class StoreNode(TypedDict):
    """A node of the dataflow. An input is its name and its source ("node/output"; "" for a timer). `partition`: see
    `partition_by`; only of nodes that have one.
    """

    id: str
    inputs: list[tuple[str, str]]
    outputs: list[str]
    partition: NotRequired[str]


class InForce(TypedDict):
    """See store/changes.py."""

    dataflow: str
    leaving: str
    file: str
    digest: str
    changing: str
    applied: bool
    version: int
    changes: int
    scaled: NotRequired[dict[str, int]]  # an earlier store has none


@dataclass(frozen=True, slots=True)
class ChangeLosses:
    """`rename`: nodes that get other ids (old -> new)."""

    nodes: list[StoreNode]
    drop: list[str] = field(default_factory=list)
    discard: bool = False
    rename: dict[str, str] = field(default_factory=dict)


class Losses(TypedDict):
    """What each node that is not given up would lose, in words."""

    losses: dict[str, str]


@dataclass(frozen=True, slots=True)
class ChangePrepare:
    nodes: list[StoreNode]
    file: str = ""
    rename: dict[str, str] = field(default_factory=dict)


class Numbers(TypedDict):
    """The numbers of a node, of its inputs and of its outputs."""

    number: int
    inputs: dict[str, int]
    outputs: dict[str, int]


class Prepared(TypedDict):
    """`version`: the number of the change, for its switch."""

    version: int
    numbers: dict[str, Numbers]


@dataclass(frozen=True, slots=True)
class ChangeSwitch:
    """`ports`: by node, what it is wired to now; `renewed`: nodes of one process each, whose process is replaced;
    `revived`: nodes that failed and begin anew; `scale`: by node, its number of replicas, if that is all that changes;
    `dataflow`, `leaving`: see store/changes.py. All under the ids of now: `rename` (old -> new) comes first.
    """

    version: int
    nodes: list[StoreNode]
    ports: dict[str, PlainPorts]
    renewed: list[list[str]]
    revived: list[str]
    discard: bool
    drop: list[str]
    dataflow: str
    leaving: str
    file: str
    fingerprint: str
    rename: dict[str, str] = field(default_factory=dict)
    scale: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChangeMove:
    """Have the first replicas of these nodes of the file, so many of each, own all of its slots. One call moves a part;
    it is asked again until nothing is left.
    """

    counts: dict[str, int]


class Moved(TypedDict):
    """`left`: bytes that have yet to move."""

    left: int


class Switched(TypedDict):
    """`leaving`: nodes that are removed and drain; `discarded`: messages that were dropped because of `discard`."""

    leaving: list[str]
    discarded: int


@dataclass(frozen=True, slots=True)
class ChangeSettle:
    """`nodes`: those that are leaving, and whose processes have ended. `together`: groups of those that share a
    process, which take up another wiring together.
    """

    nodes: list[str] = field(default_factory=list)
    together: list[list[str]] = field(default_factory=list)


class Settled(TypedDict):
    """`gone`: nodes; `inputs`: numbers of those that a node has lost, under the wiring number `version`; `left`: nodes
    that still drain, or have an input that does.
    """

    gone: list[str]
    inputs: dict[str, list[int]]
    left: list[str]
    version: int
