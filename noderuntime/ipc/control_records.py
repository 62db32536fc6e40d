"""What a command asks of a runtime, and what it is answered: the contents of Ask and Answer.

As in store_records.py, arguments are dataclasses and results are the maps that travel; typed.py decodes both.

    ask      arguments    result      what for
    status   Nothing      RunStatus   the run and its nodes
    stop     StopRun      Done        end the run
    reload   ReloadNode   Reloading   have an operator take over its changed code
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypedDict

RUNTIME_ANSWER: Final = "the runtime's answer"


@dataclass(frozen=True, slots=True)
class StopRun:
    """`drain`: the Sources stop first, and what is under way is handled."""

    drain: bool = False


@dataclass(frozen=True, slots=True)
class ReloadNode:
    node: str


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
