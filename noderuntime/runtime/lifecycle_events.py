"""The vocabulary of `Lifecycle`: the states of a node, the events that it is told, the actions that it asks for.

Plain data without rules. The rules are in lifecycle.py; nodes.py turns what happens into events and carries out the
actions. Not to be confused with the messages of ipc/protocol.py: `SaidHello` is the event that follows the message
`Hello`, and the action `SendStop` becomes the message `Stop`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import get_args

from noderuntime.runtime.machine import Tell, Tick


class LifecycleState(Enum):
    """See "States" in lifecycle.py."""

    WAITING = "waiting"
    STARTING = "starting"
    RESTORING = "restoring"
    RUNNING = "running"
    STOPPING = "stopping"
    KILLED = "killed"
    BACKOFF = "backoff"
    STOPPED = "stopped"
    ENDED = "ended"
    FAILED = "failed"


ALIVE = frozenset(
    {
        LifecycleState.STARTING,
        LifecycleState.RESTORING,
        LifecycleState.RUNNING,
        LifecycleState.STOPPING,
        LifecycleState.KILLED,
    }
)
DONE = frozenset({LifecycleState.STOPPED, LifecycleState.ENDED, LifecycleState.FAILED})

Hands = tuple[tuple[int, ...], ...]
"""Input number, sequence and index: messages' places in the mailbox. Then the number of their node, where operators
share a process.
"""


# ---- events


@dataclass(frozen=True, slots=True)
class Start:
    """The run begins."""


@dataclass(frozen=True, slots=True)
class SaidHello:
    """The child of this life connected."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The store answered the claim of this life. `buried`: a message in hand became a dead letter."""

    buried: bool = False


@dataclass(frozen=True, slots=True)
class ClaimRefused:
    """The store answered: this node has ended; its last life committed its end before it died."""


@dataclass(frozen=True, slots=True)
class BecameReady:
    """The child has restored and handles events."""


@dataclass(frozen=True, slots=True)
class Reported:
    """The child sent `failed`, and will exit."""

    where: str
    error: str
    trace: str = ""
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class SaidBye:
    """The child ends on purpose. `ended`: the node is done, else it only stopped."""

    ended: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Exited:
    """The child was reaped. `status`: exit code, or minus the signal; None when it is unknown (dynamic
    nodes).

    `hands`: the messages that this life had in hand, from its pulse; `commits` made in this life. `is_replaced`: the
    switch of a change fences this life; the next one, or its end, is asked for as soon as the store has answered.
    """

    status: int | None
    hands: Hands = ()
    commits: int = 0
    is_replaced: bool = False


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """There is no process. `permanent`: the program is missing or not executable."""

    error: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the loop sees of a live child, some times a second.

    `commits` in this life; `handling_s`: for how long the present handler call has been running (0 = none);
    `lock_s`: for how long it has held the write lock (0 = it does not); `pinned_s`: for how long it has had
    a read transaction open that others have written behind (0 = it has not). `member`: whose handler runs, where
    operators share a process, and how long a call of it may take.
    """

    commits: int = 0
    handling_s: float = 0.0
    stopped: bool = False
    lock_s: float = 0.0
    pinned_s: float = 0.0
    member: str = ""
    member_s_max: float | None = None


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The node has to stop in order; `drain`: to end, so that receivers get INPUT_CLOSED and finish what is queued.

    `id`: of the STOP event, MANUAL or ALL_INPUTS_CLOSED. `alone`: the others go on, so what it sends still finds room.
    """

    grace_s: float
    drain: bool = False
    id: str = "MANUAL"
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Abort:
    """The node has to stop at once."""


@dataclass(frozen=True, slots=True)
class ReloadAsked:
    """Take over new code: between two events, at once where the node waits for its next life, or has failed."""


@dataclass(frozen=True, slots=True)
class RestartAsked:
    """Begin a new life, with a new budget, also after a failure or a stop. `why`: for people and for the receivers.

    A life that runs ends behind its STOP event, within `grace_s`; `at_once`: without it.
    """

    why: str
    grace_s: float = 0.0
    at_once: bool = False


LifecycleEvent = (
    Start | SaidHello | Claimed | ClaimRefused | BecameReady | Reported | SaidBye | Exited | SpawnFailed | Vitals | Tick
    | StopAsked | Abort | ReloadAsked | RestartAsked
)  # fmt: skip
EVENTS: tuple[type, ...] = get_args(LifecycleEvent)


# ---- actions


@dataclass(frozen=True, slots=True)
class Spawn:
    """Make a process for this life."""

    life: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Ask the store for a new incarnation. `cause`: why the last life ended ("" for the first)."""

    life: int
    cause: str = ""
    counts: bool = False
    hands: Hands = ()
    trace: str = ""


@dataclass(frozen=True, slots=True)
class SendWelcome:
    """Send `welcome` and the claimed state."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the child that it may not take part."""

    why: str


@dataclass(frozen=True, slots=True)
class SendStop:
    """Send the STOP event."""

    grace_s: float
    drain: bool = False
    id: str = "MANUAL"


@dataclass(frozen=True, slots=True)
class SendReload:
    """Send `reload`."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Signal the process group. When the process is not known yet: as soon as it is."""

    number: int


@dataclass(frozen=True, slots=True)
class End:
    """Ask the store to close the node's outputs; its mailbox too, unless it `failed`."""

    failed: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class Revive:
    """Ask the store to make a failed node live again, before its next claim."""


@dataclass(frozen=True, slots=True)
class Touch:
    """Ask the store to take the write lock once (rule 10)."""


Action = Spawn | Claim | SendWelcome | Refuse | SendStop | SendReload | Signal | End | Revive | Touch | Tell
