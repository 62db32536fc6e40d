"""The phases of a run: what is done when its space is open, when its nodes are done, or when it is asked to end.

One `RunPhase` per run, a machine like `Lifecycle` (see machine.py). Pure:

    run.handle(StopRequested("stopping"), now_s=5.0) == [Tell("stopping"), ShowStopping(5.0), StopNodes(drain=False)]

    STARTING    the store opens the space; there are no nodes yet
    RUNNING     the nodes run
    DRAINING    sources stop, the other nodes end when nothing is left for them
    STOPPING    every node is asked to stop, or was killed
    DELIVERING  every node is done; shared writes of their events are sent to the store of the shared KVS
    SAVING      the last figures, then the last snapshot
    QUITTING    the store is asked to exit
    OVER        the runtime cleans up, see ending.py

Rules
-----
1.  The phases follow each other in this order; some are left out, none comes back.
2.  The first request to stop is a stop in order. Once the run is stopping, the next signal means "at once": nodes are
    killed, and the run no longer waits for shared writes or a snapshot. The first SIGQUIT means "at once", too.
3.  A run that is asked to end before its space is open ends there. A space that it found is kept for `--resume`.
4.  A run that cannot continue kills its nodes and has GIVE_UP_S to save what can be saved. A second reason to give up
    ends it there.
5.  `--stop-after` counts from the moment when every node has begun.

`TABLE` has a row for each (phase, event) that can happen, see machine.py. Any other event is a bug of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import get_args

from noderuntime.runtime.machine import NEVER, Machine, Table, Tell, Tick

GIVE_UP_S = 3.0
QUIT_S_MAX = 30.0


class Phase(Enum):
    """See the head of this module."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPING = "stopping"
    DELIVERING = "delivering"
    SAVING = "saving"
    QUITTING = "quitting"
    OVER = "over"


UP = frozenset({Phase.RUNNING, Phase.DRAINING})
WITH_NODES = UP | {Phase.STOPPING}
AFTER_NODES = frozenset({Phase.DELIVERING, Phase.SAVING, Phase.QUITTING})


# ---- events; `Tick` of machine.py is one more


@dataclass(frozen=True, slots=True)
class SpaceOpened:
    """The store has opened the space, and the nodes are laid out."""


@dataclass(frozen=True, slots=True)
class ResumeWasRefused:
    """The store has changed nothing, because the run cannot be resumed in this way."""

    why: str


@dataclass(frozen=True, slots=True)
class NodesBegan:
    """Every node has been ready, or has shown that it will not be at its first try."""


@dataclass(frozen=True, slots=True)
class NodesDone:
    """Every node has ended, stopped or failed, and the store knows it."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """No shared write waits for its store any more, or waiting is of no use."""


@dataclass(frozen=True, slots=True)
class Saved:
    """The last snapshot is safe, or there is none."""


@dataclass(frozen=True, slots=True)
class StoreEnded:
    """The process of the store has ended, as it was asked to."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """A command, an operator, an option or the stuck watch wants the run to end. `why` is told once."""

    why: str
    drain: bool = False
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A signal asks the run to end. `why` is told the first time; `at_once`: it does not want to wait."""

    number: int
    why: str
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class CannotContinue:
    """Something without which there is no run is gone: the store, the fork server, descriptors."""

    why: str


@dataclass(frozen=True, slots=True)
class GuardDied:
    """The guard was killed: nothing would clean up after us."""


RunEvent = (
    SpaceOpened | ResumeWasRefused | NodesBegan | NodesDone | Delivered | Saved | StoreEnded | StopRequested
    | Interrupted | CannotContinue | GuardDied | Tick
)  # fmt: skip
RUN_EVENTS: tuple[type, ...] = get_args(RunEvent)


# ---- actions; `Tell` of machine.py is one more


@dataclass(frozen=True, slots=True)
class StartNodes:
    """Start the nodes."""


@dataclass(frozen=True, slots=True)
class ShowStopping:
    """The observer has `grace_s` from now to show what the nodes still print."""

    grace_s: float


@dataclass(frozen=True, slots=True)
class StopNodes:
    """Ask the nodes to stop; `drain`: only those that feed the others."""

    drain: bool


@dataclass(frozen=True, slots=True)
class AbortNodes:
    """Kill the nodes."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Wait for the shared writes; `hurried`: not for long."""

    hurried: bool


@dataclass(frozen=True, slots=True)
class Save:
    """Ask for the last figures, then for the last snapshot."""


@dataclass(frozen=True, slots=True)
class StopWaiting:
    """Do not wait for shared writes or for the last snapshot any longer."""


@dataclass(frozen=True, slots=True)
class AskStoreToQuit:
    """Ask the store to exit."""


RunAction = (
    Tell | StartNodes | ShowStopping | StopNodes | AbortNodes | Deliver | Save | StopWaiting | AskStoreToQuit
)  # fmt: skip


@dataclass(slots=True)
class RunPhase(Machine[Phase, RunEvent, RunAction]):
    """The phase of one run, and what it remembers of how it came there.

    `found_space`: there is a space of an earlier runtime, to be resumed. `stop_after_s`: None for a run without end.
    """

    grace_s: float
    found_space: bool = False
    stop_after_s: float | None = None
    state: Phase = field(default=Phase.STARTING, kw_only=True)

    stopping: bool = field(init=False, default=False)  # so that the next signal means "at once"
    code: int = field(init=False, default=0)  # 128 + the signal that asked to stop
    gave_up: str = field(init=False, default="")  # why the run cannot continue
    refused: str = field(init=False, default="")  # why it cannot be resumed in this way
    _opened: bool = field(init=False, default=False)
    _begun: bool = field(init=False, default=False)

    @property
    def is_up(self) -> bool:
        """Whether nodes run that were not asked to stop."""
        return self.state in UP

    @property
    def has_space(self) -> bool:
        """Whether there is anything that can be resumed."""
        return self.found_space or self._opened

    @property
    def was_cut_short(self) -> bool:
        """Whether the run has not come to its end in order, so that what there is has to be kept."""
        return self.state is not Phase.OVER or bool(self.gave_up) or not self._opened

    @property
    def awaits_begin(self) -> bool:
        """Whether `NodesBegan` is of interest: `--stop-after` counts from then."""
        return self.is_up and self.stop_after_s is not None and not self._begun

    def table(self) -> Table[RunPhase, Phase, RunEvent, RunAction]:
        return TABLE

    def broken_invariants(self, event: object, actions: Sequence[object]) -> list[str]:
        """See `Machine`."""
        promises = {
            "nothing is due when the run is over": self.state is not Phase.OVER or self.deadline_s == NEVER,
            "a run is up only as long as it was not asked to stop": not (self.is_up and self.stopping),
            "no node is started once the run was asked to stop": not (StartNodes() in actions and self.stopping),
            "a run that gave up has a time to end": self.state is Phase.OVER
            or not self.gave_up
            or self.deadline_s < NEVER,
        }
        return [promise for promise, is_kept in promises.items() if not is_kept]

    # ---- the way of a run that nothing happens to

    def _on_opened(self, event: RunEvent, now_s: float) -> list[RunAction]:
        self._opened = True
        self.state = Phase.RUNNING
        return [StartNodes()]

    def _on_begun(self, event: RunEvent, now_s: float) -> list[RunAction]:
        if self.stop_after_s is not None and not self._begun:
            self._begun = True
            self.deadline_s = now_s + self.stop_after_s
        return []

    def _on_nodes_done(self, event: RunEvent, now_s: float) -> list[RunAction]:
        self.state = Phase.DELIVERING
        if not self.gave_up:
            self.deadline_s = NEVER
        return [Deliver(self.stopping)]

    def _on_delivered(self, event: RunEvent, now_s: float) -> list[RunAction]:
        self.state = Phase.SAVING
        return [Save()]

    def _on_saved(self, event: RunEvent, now_s: float) -> list[RunAction]:
        self.state = Phase.QUITTING
        self.deadline_s = now_s + QUIT_S_MAX
        return [AskStoreToQuit()]

    def _on_store_ended(self, event: RunEvent, now_s: float) -> list[RunAction]:
        return self._be_over()

    def _be_over(self) -> list[RunAction]:
        self.state = Phase.OVER
        self.deadline_s = NEVER
        return []

    # ---- a request to end

    def _on_stop(self, event: RunEvent, now_s: float) -> list[RunAction]:
        assert isinstance(event, StopRequested)
        return self._stop(Tell(event.why, event.is_error), event.drain)

    def _on_stop_tick(self, event: RunEvent, now_s: float) -> list[RunAction]:
        return [] if now_s < self.deadline_s else self._stop(Tell(f"stopping after {self.stop_after_s:g} s"))

    def _stop(self, why: Tell, drain: bool = False) -> list[RunAction]:
        if self.stopping:
            return []
        if self.state is Phase.STARTING:
            self.stopping = True
            return [why, ShowStopping(self.grace_s), *self._leave_before_it_began()]
        if drain:
            if self.state not in UP:
                return []
            self.state = Phase.DRAINING
            return [why, StopNodes(drain=True)]
        self.stopping = True
        actions: list[RunAction] = [why, ShowStopping(self.grace_s)]
        if self.state in UP:
            self.state = Phase.STOPPING
            self.deadline_s = NEVER
            actions.append(StopNodes(drain=False))
        return actions

    def _leave_before_it_began(self) -> list[RunAction]:
        kept = [Tell("nothing was changed; `--resume` continues the run")] if self.found_space else []
        return [*kept, *self._be_over()]

    def _on_interrupted(self, event: RunEvent, now_s: float) -> list[RunAction]:
        assert isinstance(event, Interrupted)
        self.code = self.code or 128 + event.number
        if not (self.stopping or event.at_once):
            return self._stop(Tell(event.why))
        self.stopping = True
        actions: list[RunAction] = [Tell("stopping at once"), ShowStopping(0.0)]
        if self.state is Phase.STARTING:
            return [*actions, *self._leave_before_it_began()]
        if self.state is Phase.QUITTING:
            return [*actions, *self._be_over()]
        return [*actions, *self._abort()] if self.state in WITH_NODES else [*actions, StopWaiting()]

    def _abort(self) -> list[RunAction]:
        if self.state in UP:
            self.state = Phase.STOPPING
            self.deadline_s = NEVER
        return [AbortNodes()]

    # ---- it cannot continue

    def _on_refused(self, event: RunEvent, now_s: float) -> list[RunAction]:
        assert isinstance(event, ResumeWasRefused)
        self.refused = self.gave_up = event.why
        return self._be_over()

    def _on_trouble(self, event: RunEvent, now_s: float) -> list[RunAction]:
        assert isinstance(event, CannotContinue)
        if self.gave_up:
            return self._be_over()
        self.gave_up = event.why
        self.stopping = True
        kept = ", and its state is kept" if self.has_space else ""
        tell = Tell(f"{event.why.rstrip('.')}; the run ends{kept}", is_error=True)
        if self.state in (Phase.STARTING, Phase.OVER):
            return [tell, *self._be_over()]
        actions = self._abort() if self.state in WITH_NODES else []
        self.deadline_s = now_s + GIVE_UP_S
        return [tell, *actions]

    def _on_guard_died(self, event: RunEvent, now_s: float) -> list[RunAction]:
        self.gave_up = "the guard process was killed"
        return [Tell("the guard process was killed: ending the run; `--resume` continues it"), *self._be_over()]

    def _on_last_tick(self, event: RunEvent, now_s: float) -> list[RunAction]:
        return [] if now_s < self.deadline_s else self._be_over()

    def _on_nothing(self, event: RunEvent, now_s: float) -> list[RunAction]:
        return []


def _table() -> Table[RunPhase, Phase, RunEvent, RunAction]:
    p, m = Phase, RunPhase
    table: Table[RunPhase, Phase, RunEvent, RunAction] = Table()
    row = table.row

    row(p.STARTING, SpaceOpened, m._on_opened, p.RUNNING)
    row(p.STARTING, ResumeWasRefused, m._on_refused, p.OVER)
    row(p.STARTING, StopRequested, m._on_stop, p.OVER)
    row(p.STARTING, Interrupted, m._on_interrupted, p.OVER)
    row(p.STARTING, CannotContinue, m._on_trouble, p.OVER)
    row(p.STARTING, Tick, m._on_nothing, p.STARTING)

    for phase in (p.RUNNING, p.DRAINING):
        row(phase, NodesBegan, m._on_begun, phase)
        row(phase, StopRequested, m._on_stop, p.DRAINING, p.STOPPING)
        row(phase, Interrupted, m._on_interrupted, p.STOPPING)
        row(phase, CannotContinue, m._on_trouble, p.STOPPING)
        row(phase, Tick, m._on_stop_tick, phase, p.STOPPING)
    row(p.STOPPING, StopRequested, m._on_nothing, p.STOPPING)
    row(p.STOPPING, Interrupted, m._on_interrupted, p.STOPPING)
    for phase in (p.RUNNING, p.DRAINING, p.STOPPING):
        row(phase, NodesDone, m._on_nodes_done, p.DELIVERING)

    row(p.DELIVERING, Delivered, m._on_delivered, p.SAVING)
    row(p.SAVING, Saved, m._on_saved, p.QUITTING)
    row(p.QUITTING, StoreEnded, m._on_store_ended, p.OVER)
    row(p.DELIVERING, Interrupted, m._on_interrupted, p.DELIVERING)
    row(p.SAVING, Interrupted, m._on_interrupted, p.SAVING)
    row(p.QUITTING, Interrupted, m._on_interrupted, p.QUITTING, p.OVER)
    for phase in (p.DELIVERING, p.SAVING, p.QUITTING):
        row(phase, StopRequested, m._on_stop, phase)
    for phase in (p.STOPPING, p.DELIVERING, p.SAVING, p.QUITTING):
        row(phase, CannotContinue, m._on_trouble, phase, p.OVER)
        row(phase, Tick, m._on_last_tick, phase, p.OVER)

    for phase in Phase:
        row(phase, GuardDied, m._on_guard_died, p.OVER)
    # what the same turn of the loop still brings
    row(p.OVER, CannotContinue, m._on_trouble, p.OVER)
    for event in (ResumeWasRefused, StopRequested, Interrupted, Tick):
        row(p.OVER, event, m._on_nothing, p.OVER)
    return table


TABLE = _table()
