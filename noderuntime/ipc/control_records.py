"""What a command asks of a runtime, and what it is answered: the contents of Ask and Answer.

As in store_records.py, arguments are dataclasses and results are the maps that travel; typed.py decodes both.

    ask      arguments    result      what for
    status   Nothing      RunStatus   the run and its nodes
    stop     StopRun      Done        end the run
    reload   ReloadNode   Reloading   have an operator take over its changed code
    apply    ApplyRun     Applied     begin to make the run what a file says now
    scale    ScaleRun     Applied     begin to give a node another number of replicas
    applied  AppliedOf    Applied     how far such a change has come
    give_up  AppliedOf    Applied     do not make that change, if it is not in force yet
    restart  OneNode      Together    begin a new life of a node
    halt     OneNode      Together    stop a node; its queue is kept
    start    OneNode      Together    begin a life of a node that was stopped or has failed
    taps     Nothing      TapsState   have a tap server, see watching/tap.py
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypedDict

RUNTIME_ANSWER: Final = "the runtime's answer"


@dataclass(frozen=True, slots=True)
class StopRun:
    """`drain`: the Sources stop first, and what is under way is handled."""

    drain: bool = False


@dataclass(frozen=True, slots=True)
class ReloadNode:
    node: str


@dataclass(frozen=True, slots=True)
class OneNode:
    node: str


class Together(TypedDict):
    """`together`: operators that share its process, with which the same is done; `lives`: by each of its replicas with
    which it is done, which life is or was the last.
    """

    together: list[str]
    lives: dict[str, int]


@dataclass(frozen=True, slots=True)
class ApplyRun:
    """`file`: absolute. `timeout`: seconds, 0: as long as the longest start that is concerned, but at least 30 s."""

    file: str
    dry_run: bool = False
    timeout: float = 0.0
    discard: bool = False
    drop: list[str] = field(default_factory=list)
    rename: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScaleRun:
    """`timeout`: as of ApplyRun."""

    node: str
    replicas: int
    timeout: float = 0.0


@dataclass(frozen=True, slots=True)
class AppliedOf:
    ticket: int


class PlannedChange(TypedDict):
    """`change`: added, removed, changed, scaled or rewired; `drops`: what would be lost, "" for nothing."""

    node: str
    change: str
    details: list[str]
    drops: str
    restarts: bool


class Applied(TypedDict):
    """`over`: nothing more happens; `applied`: the new dataflow is in force; `code`: the exit code of the command;
    `drains`: nodes that still handle what waited for an input or a node that is removed; `late`: new replicas that were
    not ready in time; `gives_up`: the options that give up what the plan would lose.
    """

    ticket: int
    over: bool
    applied: bool
    plan: list[PlannedChange]
    error: str
    code: int
    drains: list[str]
    late: list[str]
    discarded: int
    gives_up: str


class TapsState(TypedDict):
    """`why`: why there will be no tap server; "" when there is one, or is about to be, or the run is `ending`. `pid`:
    its process, or 0.
    """

    why: str
    ending: bool
    pid: int


class Reloading(TypedDict):
    """`together`: operators that share its process, and so take over their code with it."""

    together: list[str]


class NodeStatus(TypedDict):
    """`state`: a LifecycleState; `pid` 0: it has no process; `reason`: why it is in that state, and whom it waits for.

    `phase`: what it is doing, "" if that cannot be seen; `handled`: events, of all its lives; `reloads_failed`: changed
    code that did not import, the last time because of `reload_error`; `since_s`: how long it is in that state.
    """

    id: str
    kind: str
    state: str
    pid: int
    restarts: int
    incarnation: int
    handled: int
    reason: str
    phase: str
    reloads_failed: int
    reload_error: str
    start_timeout_s: float
    since_s: float


class RunStatus(TypedDict):
    """`pid`: of the runtime; `started`: seconds since the epoch."""

    run: str
    pid: int
    file: str
    started: float
    state: Literal["running", "stopping"]
    nodes: list[NodeStatus]
