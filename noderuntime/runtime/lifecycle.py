"""Lifecycle: what is done when a child starts, reports, hangs, dies or has to stop. Pure.

One `Lifecycle` per node, a machine: events go in, actions come out, time is an argument (see machine.py):

    child.handle(Exited(-9), now_s=5.0) == [Spawn(2), Claim(2, "SIGKILL", False), Tell(...)]

The states, events and actions are in lifecycle_events.py, rule 4 is in health.py, rule 6 in restart_budget.py, and
rule 7 in deaths.py.

Rules
-----
1.  A life is one process of a node. `Spawn(life)` promises that `Exited` or `SpawnFailed` of that life comes
    back, once. Each life begins with a claim. It is requested at the same time as the spawn.
2.  A child is welcomed when it has said hello *and* its claim is answered, in whichever order.
3.  From the answered claim to `BecameReady` it has `start_timeout`. (While the store is being respawned no claim is
    answered; the child is not blamed for that, nor for nodes that it starts together with.) A node without inputs and
    outputs need not say hello at all.
4.  One handler call may take `health_check_timeout`. A child is also killed when it is stopped (SIGSTOP) for
    STOPPED_S_MAX, when it holds the write lock while it is stopped, or for LOCK_S_MAX: it would block all others.
    So is one that keeps a read transaction open for PIN_S_MAX while others write: the space would grow without
    bound. Waiting for input or for room is not hanging.
5.  A death is a failure unless the node had ended, or was asked to stop or to reload. `restart_policy`
    decides: never -> FAILED; on-failure, always -> a new life. Exit 0 of a custom node is its end, except
    under `always`.
6.  The budget counts new lives since the last committed event: more than `max_restarts` of them within
    `restart_window` -> FAILED. The first is immediate, then `restart_delay` doubles up to
    `max_restart_delay`. A committed event, and a buried message, reset both. A reload costs nothing.
7.  A death counts towards `max_attempts` of the messages in hand when it is an exception, an exit, a signal
    other than SIGKILL from outside, or our own kill of a hung handler. Nothing else does: a kill from
    outside, being stopped, the lock, a slow start, a reload or a fence never bury a message.
8.  A permanent failure (the file cannot be imported, the class or the program is missing) fails a node at once
    that was never ready. Later it costs budget like any other: the user may be editing the file at that moment.
9.  Stop: STOP event, `grace`, SIGTERM, TERM_S, SIGKILL, the last two to the process group. A child that is
    not running yet cannot get the event: SIGTERM at once. A custom node without inputs may never ask for an event:
    it has DEAF_GRACE_S. A stopped node keeps its mailbox and outputs; a drained one ends. Dynamic nodes are not
    our children: they get the event, but no signal.
10. After each death the store takes the write lock once: by the claim of the next life, by the end of the
    node, or by `Touch`. Otherwise a last commit may stay invisible.
11. A restart that is asked for, or that a change of the dataflow brings, begins a new life with a new budget; its own
    death costs nothing, nor does that of a life that the switch of a change has fenced before the runtime has heard of
    it. It also brings back a node that has failed, or that was stopped or still stops, but not one that has ended.

States
------
    WAITING    not begun; or a dynamic node that has not connected
    STARTING   spawned; hello or claim still missing
    RESTORING  welcomed; restoring, not ready yet
    RUNNING    ready
    STOPPING   asked to stop, see rule 9
    KILLED     we sent SIGKILL and wait for the reap; what follows is already decided
    BACKOFF    dead, the next life is due at `deadline_s`
    STOPPED    asked to stop, and gone
    ENDED      ended by itself, outputs closed; a dynamic node may come back
    FAILED     failed for good: outputs closed, mailbox open; a reload starts an operator again

The caller hands in only events of the present life. Events that come from the child itself may be illegal at any time.

Rejected: one more state for each half of the wait in STARTING, and for each step of rule 9. They would double the
table and decide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from noderuntime.ipc.protocol import EXIT_FENCED
from noderuntime.runtime.deaths import SIGKILL, SIGTERM, Death, death_of
from noderuntime.runtime.health import reason_to_kill
from noderuntime.runtime.lifecycle_events import (
    ALIVE,
    DONE,
    Abort,
    Action,
    BecameReady,
    Claim,
    Claimed,
    ClaimRefused,
    End,
    Exited,
    Hands,
    LifecycleEvent,
    LifecycleState,
    Refuse,
    ReloadAsked,
    Reported,
    RestartAsked,
    Revive,
    SaidBye,
    SaidHello,
    SendReload,
    SendStop,
    SendWelcome,
    Signal,
    Spawn,
    SpawnFailed,
    Start,
    StopAsked,
    Touch,
    Vitals,
)
from noderuntime.runtime.machine import NEVER, IllegalEvent, Machine, Table, Tell, Tick
from noderuntime.runtime.policy import Policy
from noderuntime.runtime.restart_budget import Budget

TERM_S = 2.0
DEAF_GRACE_S = 1.0
REPLACED_S_MAX = 60.0


@dataclass(slots=True)
class Lifecycle(Machine[LifecycleState, LifecycleEvent, Action]):
    """The life of one node: its state, and what it remembers."""

    node: str  # what the user is told of
    policy: Policy
    state: LifecycleState = field(default=LifecycleState.WAITING, kw_only=True)
    life: int = 0  # spawns (dynamic: connections) so far
    restarts: int = 0  # lives after the first, whatever the reason
    reason: str = ""  # why it is in this state, for the user; "": nothing to say
    left_in_hand: Hands = ()  # by the last life under an earlier runtime, which was killed

    budget: Budget = field(init=False)
    was_ready: bool = field(init=False, default=False)
    _greeted: bool = field(init=False, default=False)
    _claimed: bool = field(init=False, default=False)
    _report: Reported | None = field(init=False, default=None)
    _bye: SaidBye | None = field(init=False, default=None)
    _our_kill: Death | None = field(init=False, default=None)  # why we killed this life
    _leave: LifecycleState | None = field(init=False, default=None)  # STOPPED or ENDED: no life follows this one
    _again: Death | None = field(init=False, default=None)  # a new life follows this one, which was asked to stop
    _death: Death | None = field(init=False, default=None)  # of the last life, for the next claim
    _commits: int = field(init=False, default=0)
    _stopped_since_s: float = field(init=False, default=NEVER)
    _terminated: bool = field(init=False, default=False)  # SIGTERM was sent

    def __post_init__(self) -> None:
        policy = self.policy
        self.budget = Budget(
            policy.max_restarts, policy.restart_window_s, policy.restart_delay_s, policy.max_restart_delay_s,
            plain=policy.plain_restarts,
        )  # fmt: skip

    def follow(self, policy: Policy) -> None:
        """The dataflow file asks for another policy from now on."""
        spent_s, streak = self.budget.spent_s, self.budget.streak
        self.policy = policy
        self.__post_init__()
        self.budget.spent_s, self.budget.streak = spent_s[-policy.max_restarts :] if policy.max_restarts else [], streak

    @property
    def has_last_words(self) -> bool:
        """Whether this life has said why it ends."""
        return self._report is not None or self._bye is not None

    def table(self) -> Table[Lifecycle, LifecycleState, LifecycleEvent, Action]:
        return TABLE

    def broken_invariants(self, event: object, actions: Sequence[object]) -> list[str]:
        """What is not as it always has to be, after `event` was handled and has led to `actions`. For the tests."""
        s, state, policy = LifecycleState, self.state, self.policy
        settling = [action for action in actions if isinstance(action, Claim | End | Touch)]
        begun = [action for action in actions if isinstance(action, Spawn | Claim)]
        promises = {
            "a live node has had a life": state not in ALIVE or self.life > 0,
            "each life but the first is a restart": self.restarts == max(0, self.life - 1),
            "nothing is due when the node is done": state not in DONE or self.deadline_s == NEVER,
            "a node that waits for its next life has a time for it": state is not s.BACKOFF or self.deadline_s < NEVER,
            "a node is welcomed once it has said hello and is claimed": (
                state is not s.RESTORING or (self._greeted and self._claimed)
            ),
            "only a claimed node runs": state is not s.RUNNING or self._claimed,
            "it is known why we killed it": state is not s.KILLED or self._our_kill is not None,
            "it is known what a stopping node becomes": (
                state is not s.STOPPING or self._leave in DONE or self._again is not None
            ),
            "a failure has a reason": state is not s.FAILED or bool(self.reason),
            "no more restarts than allowed": len(self.budget.spent_s) <= policy.max_restarts,
            "a death is followed by a claim, an end or a touch (rule 10)": (
                not isinstance(event, Exited | SpawnFailed) or len(settling) == 1
            ),
            "a life that begins is the present one": all(action.life == self.life for action in begun),
            "a dynamic node is not spawned": (
                policy.kind != "dynamic" or not any(isinstance(action, Spawn) for action in actions)
            ),
        }
        return [promise for promise, is_kept in promises.items() if not is_kept]

    # ---- a life begins

    def _begin(self, now_s: float) -> list[Action]:
        self.life += 1
        self.restarts = self.life - 1
        self.state = LifecycleState.STARTING
        self.deadline_s = NEVER
        self._greeted = self._claimed = self._terminated = False
        self._report = self._bye = self._our_kill = self._leave = self._again = None
        self._commits = 0
        self._stopped_since_s = NEVER
        death, self._death = self._death, None
        claim = (
            Claim(self.life, death.cause, death.counts, death.hands, death.trace)
            if death
            else Claim(self.life, hands=self.left_in_hand)
        )
        return [claim] if self.policy.kind == "dynamic" else [Spawn(self.life), claim]

    def _on_start(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        return [] if self.policy.kind == "dynamic" else self._begin(now_s)

    def _on_dynamic_hello(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        if self.policy.kind != "dynamic":
            raise IllegalEvent(self.state, event)
        actions = self._begin(now_s)
        self._greeted = True
        return actions

    def _on_hello(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        if self._greeted:
            raise IllegalEvent(self.state, event)
        self._greeted = True
        if self.policy.together:
            self.deadline_s = NEVER
        return self._welcome_if_due()

    def _on_claimed(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        assert isinstance(event, Claimed)
        if event.buried:
            self.budget.reset()
        self._claimed = True
        if self.policy.kind != "dynamic" and not (self._greeted and self.policy.together):
            self.deadline_s = now_s + self.policy.start_timeout_s
        actions = self._welcome_if_due()
        if self.policy.kind == "node" and not self.policy.has_ports:
            self._become_ready()
        return actions

    def _welcome_if_due(self) -> list[Action]:
        if not (self._greeted and self._claimed):
            return []
        if self.state is LifecycleState.STARTING:
            self.state = LifecycleState.RESTORING
        return [SendWelcome()]

    def _on_ready(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        self._become_ready()
        return []

    def _become_ready(self) -> None:
        self.state = LifecycleState.RUNNING
        self.deadline_s = NEVER
        self.was_ready = True
        self.reason = ""

    def _on_claim_refused(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        self._leave = LifecycleState.ENDED
        self.reason = ""  # its last life died behind its end, which took nothing from it
        refusal = Refuse("this node has ended")
        if self.policy.kind == "dynamic":  # not ours to kill
            return [refusal, *self._leave_now(LifecycleState.ENDED)]
        return [refusal, *self._kill(Death("it had ended", False))]

    # ---- a life continues

    def _on_report(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        assert isinstance(event, Reported)
        self._report = event
        return []

    def _on_bye(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        assert isinstance(event, SaidBye)
        self._bye = event
        return []

    def _on_vitals(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        assert isinstance(event, Vitals)
        self._note_commits(event.commits)
        self._stopped_since_s = min(self._stopped_since_s, now_s) if event.stopped else NEVER
        allowed_s = event.member_s_max if event.member else self.policy.health_check_timeout_s
        handling_s_max = allowed_s if self.state is LifecycleState.RUNNING else None
        why = reason_to_kill(event, now_s - self._stopped_since_s, handling_s_max)
        return [] if why is None else self._kill(why)

    def _note_commits(self, commits: int) -> None:
        if commits > self._commits:
            self._commits = commits
            self.budget.reset()

    def _on_start_tick(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        if now_s < self.deadline_s:
            return []
        missing = "it never said hello" if not self._greeted else "it was not ready"
        return self._kill(Death(f"start timeout: {missing} within {self.policy.start_timeout_s:g} s", False))

    def _on_reload(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        if self.policy.kind != "operator":
            raise IllegalEvent(self.state, event)
        return [SendReload()]

    def _kill(self, why: Death) -> list[Action]:
        self._our_kill = why
        self.state = LifecycleState.KILLED
        self.deadline_s = NEVER
        is_told = self._leave is not None or why.free  # of these the end is told
        tell = [] if is_told else [Tell(f"{self.node} {why.cause}: killing it")]
        return [*tell, Signal(SIGKILL)]

    # ---- a life is asked to end

    def _on_stop(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        assert isinstance(event, StopAsked)
        self._leave = LifecycleState.ENDED if event.drain else LifecycleState.STOPPED
        running = self.state is LifecycleState.RUNNING and self._greeted
        self.state = LifecycleState.STOPPING
        if running:
            return [self._send_stop(event.grace_s, now_s, event.drain or event.alone, event.id)]
        return self._terminate(now_s)

    def _send_stop(self, grace_s: float, now_s: float, drain: bool, id: str = "MANUAL") -> SendStop:
        """A program without inputs may never ask for an event: it has less time."""
        deaf = self.policy.kind == "node" and not self.policy.has_inputs
        grace_s = min(grace_s, DEAF_GRACE_S) if deaf else grace_s
        self.deadline_s = now_s + grace_s
        return SendStop(grace_s, drain, id)

    def _on_restart(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        """It lives: end this life, and begin another."""
        assert isinstance(event, RestartAsked)
        if self.policy.kind == "dynamic":
            raise IllegalEvent(self.state, event)
        self.budget.reset()
        why = Death(event.why, False, free=True)
        if event.at_once or self.state is not LifecycleState.RUNNING or not self._greeted:
            return self._kill(why)
        self._again = why
        self.state = LifecycleState.STOPPING
        return [self._send_stop(event.grace_s, now_s, drain=True)]

    def _on_restart_of_stopping(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        """It stops already, and was to stay so: another life follows after all."""
        assert isinstance(event, RestartAsked)
        if self._again is None:
            if self.policy.kind == "dynamic" or self._leave is not LifecycleState.STOPPED:
                raise IllegalEvent(self.state, event)
            self.budget.reset()
            self._leave, self._again = None, Death(event.why, False, free=True)
        return []

    def _on_restart_without_process(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        """It waits for its next life, has failed, or was stopped."""
        assert isinstance(event, RestartAsked)
        if self.policy.kind == "dynamic":
            raise IllegalEvent(self.state, event)
        self.budget.reset()
        had_failed = self.state is LifecycleState.FAILED
        if had_failed:
            self.was_ready = False
            self._death = Death("it is started again, after it had failed", False)
        return [*([Revive()] if had_failed else []), *self._begin(now_s)]

    def _on_stop_again(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        """It stops already. If another life was to follow, none does now."""
        if self._again is not None:
            assert isinstance(event, StopAsked)
            self._again = None
            self._leave = LifecycleState.ENDED if event.drain else LifecycleState.STOPPED
        return []

    def _on_stop_tick(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        if now_s < self.deadline_s:
            return []
        if not self._terminated:
            return self._terminate(now_s)
        return self._kill(Death("did not stop in time", False))

    def _terminate(self, now_s: float) -> list[Action]:
        if self.policy.kind == "dynamic":
            self.reason = "it did not stop in time"
            return self._leave_now(self._leave or LifecycleState.STOPPED)
        self._terminated = True
        self.deadline_s = now_s + TERM_S
        return [Signal(SIGTERM)]

    def _on_abort(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        self._leave = self._leave or LifecycleState.STOPPED
        self._again = None
        if self.policy.kind == "dynamic":
            return self._leave_now(self._leave)
        return self._kill(Death("was stopped at once", False))

    def _on_stop_while_killed(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        drain = isinstance(event, StopAsked) and event.drain
        self._leave = self._leave or (LifecycleState.ENDED if drain else LifecycleState.STOPPED)
        return []

    def _on_stop_without_process(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        drain = isinstance(event, StopAsked) and event.drain
        return self._leave_now(LifecycleState.ENDED if drain else LifecycleState.STOPPED)

    def _leave_now(self, state: LifecycleState) -> list[Action]:
        self.state = state
        self.deadline_s = NEVER
        return [End(failed=False)] if state is LifecycleState.ENDED else [Touch()]

    # ---- a life has ended

    def _on_exit(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        assert isinstance(event, Exited)
        self._note_commits(event.commits)
        bye = self._bye
        if self._leave is not None:
            said = bye is not None and bye.ended
            if self._our_kill is not None and self._leave is LifecycleState.STOPPED and not said:
                self.reason = self._our_kill.cause
            return self._leave_now(LifecycleState.ENDED if said else self._leave)
        if self._again is not None and not (bye is not None and bye.ended and self._has_ended(event)):
            self._death, again = replace(self._again, hands=event.hands), self._again
            return [*self._begin(now_s), Tell(f"{self.node} {again.cause}")]
        if self._has_ended(event):
            self.reason = bye.reason if bye is not None else ""
            return self._leave_now(LifecycleState.ENDED)
        if event.is_replaced and event.status == EXIT_FENCED:  # it has heard of the change before the runtime has
            self._death = Death("has changed: a new life begins", False, event.hands, free=True)
            self.state = LifecycleState.BACKOFF
            self.deadline_s = now_s + REPLACED_S_MAX
            return [Touch()]
        return self._after(death_of(event, self.policy.kind, self._our_kill, self._report, bye), now_s)

    def _has_ended(self, event: Exited) -> bool:
        bye = self._bye
        if self.policy.kind == "node":
            if event.status != 0 or self._our_kill is not None:
                return False
            closed = bye is not None and bye.reason == "ALL_INPUTS_CLOSED"
            return closed or self.policy.restart_policy != "always"
        return bye is not None and bye.ended

    def _on_spawn_failed(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        assert isinstance(event, SpawnFailed)
        if self.policy.kind == "dynamic":
            raise IllegalEvent(self.state, event)
        if self._leave is not None:
            return self._leave_now(self._leave)
        return self._after(Death(event.error, False, permanent=event.permanent), now_s)

    def _after(self, death: Death, now_s: float) -> list[Action]:
        """A life ended that should not have: what now?"""
        self.reason = death.cause
        if self.policy.kind == "dynamic":
            self._death = death
            self.state = LifecycleState.WAITING
            self.deadline_s = NEVER
            return [Touch(), Tell(f"{self.node} is gone; waiting for it to connect again")]
        if death.free:
            self._death = death
            return [*self._begin(now_s), Tell(f"{self.node} {death.cause}")]
        if self.policy.restart_policy == "never" or (death.permanent and not self.was_ready):
            return self._fail(death.cause)
        wait_s = self.budget.spend(now_s)
        if wait_s is None:
            times = self.budget.streak + 1
            return self._fail(f"failed {times} times without progress; the last cause: {death.cause}")
        self._death = death
        if wait_s == 0:
            return [*self._begin(now_s), Tell(f"{self.node} died ({death.cause}): restarting it")]
        self.state = LifecycleState.BACKOFF
        self.deadline_s = now_s + wait_s
        return [Touch(), Tell(f"{self.node} died ({death.cause}): restarting it in {wait_s:g} s")]

    def _fail(self, reason: str) -> list[Action]:
        self.state = LifecycleState.FAILED
        self.deadline_s = NEVER
        self.reason = reason
        return [End(failed=True, error=reason), Tell(f"{self.node} failed for good: {reason}", is_error=True)]

    def _on_backoff_tick(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        return [] if now_s < self.deadline_s else self._begin(now_s)

    def _on_backoff_reload(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        self.budget.reset()
        return self._begin(now_s)

    def _on_failed_reload(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        if self.policy.kind != "operator":
            raise IllegalEvent(self.state, event)
        self.budget.reset()
        self.was_ready = False
        self._death = Death("it is started again, after it had failed", False)
        return [Revive(), *self._begin(now_s)]

    def _on_ended_hello(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        """A dynamic node that had ended comes back."""
        if self.policy.kind == "dynamic":
            self._death = Death("it has come back, after it had ended", False)
        return [Revive(), *self._on_dynamic_hello(event, now_s)]

    def _on_late_claim(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        # of a life that is over already, or about to be; a buried message is progress all the same
        assert isinstance(event, Claimed)
        if event.buried:
            self.budget.reset()
        return []

    def _on_late_refusal(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        self._leave = LifecycleState.ENDED
        self.reason = ""
        return [Refuse("this node has ended")]

    def _on_backoff_refused(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        self.reason = ""
        return self._leave_now(LifecycleState.ENDED)

    # ---- nothing to do

    def _on_late_hello(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        return [Refuse("the run is stopping")]

    def _on_nothing(self, event: LifecycleEvent, now_s: float) -> list[Action]:
        return []


def _table() -> Table[Lifecycle, LifecycleState, LifecycleEvent, Action]:
    s, m = LifecycleState, Lifecycle
    unspawned = (s.STARTING, s.BACKOFF, s.FAILED)
    next_life = (*unspawned, s.WAITING)
    table: Table[Lifecycle, LifecycleState, LifecycleEvent, Action] = Table()
    row = table.row

    row(s.WAITING, Start, m._on_start, s.WAITING, s.STARTING)
    row(s.WAITING, SaidHello, m._on_dynamic_hello, s.STARTING)
    row(s.WAITING, Tick, m._on_nothing, s.WAITING)
    row(s.WAITING, StopAsked, m._on_stop_without_process, s.STOPPED, s.ENDED)
    row(s.WAITING, Abort, m._on_stop_without_process, s.STOPPED)

    row(s.STARTING, SaidHello, m._on_hello, s.STARTING, s.RESTORING)
    row(s.STARTING, Claimed, m._on_claimed, s.STARTING, s.RESTORING, s.RUNNING)
    row(s.STARTING, ClaimRefused, m._on_claim_refused, s.KILLED, s.ENDED)
    row(s.STARTING, SpawnFailed, m._on_spawn_failed, *unspawned)
    row(s.RESTORING, BecameReady, m._on_ready, s.RUNNING)
    # a node without inputs and outputs runs once it is claimed: its hello, or its missing program, may come later
    row(s.RUNNING, SaidHello, m._on_hello, s.RUNNING)
    row(s.RUNNING, SpawnFailed, m._on_spawn_failed, *unspawned)
    row(s.RUNNING, BecameReady, m._on_nothing, s.RUNNING)
    row(s.RUNNING, SaidBye, m._on_bye, s.RUNNING)
    row(s.RUNNING, Tick, m._on_nothing, s.RUNNING)
    row(s.RUNNING, ReloadAsked, m._on_reload, s.RUNNING)
    for state in (s.STARTING, s.RESTORING):
        row(state, Tick, m._on_start_tick, state, s.KILLED)
    for state in (s.STARTING, s.RESTORING, s.RUNNING):
        row(state, Reported, m._on_report, state)
        row(state, Vitals, m._on_vitals, state, s.KILLED)
        row(state, Exited, m._on_exit, s.ENDED, *next_life)
        early = () if state is s.RUNNING else (s.STOPPED, s.ENDED)  # a dynamic node that is not ready is left
        row(state, StopAsked, m._on_stop, s.STOPPING, *early)
        row(state, Abort, m._on_abort, s.KILLED, s.STOPPED)

    for state in (s.STARTING, s.RESTORING):
        row(state, RestartAsked, m._on_restart, s.KILLED)
    row(s.RUNNING, RestartAsked, m._on_restart, s.STOPPING, s.KILLED)
    for state in (s.BACKOFF, s.FAILED, s.STOPPED):
        row(state, RestartAsked, m._on_restart_without_process, s.STARTING)
    row(s.STOPPING, Tick, m._on_stop_tick, s.STOPPING, s.KILLED, s.STOPPED, s.ENDED)
    row(s.STOPPING, Vitals, m._on_vitals, s.STOPPING, s.KILLED)
    row(s.STOPPING, SaidHello, m._on_late_hello, s.STOPPING)
    row(s.STOPPING, Reported, m._on_report, s.STOPPING)
    row(s.STOPPING, SaidBye, m._on_bye, s.STOPPING)
    row(s.STOPPING, Abort, m._on_abort, s.KILLED, s.STOPPED, s.ENDED)
    row(s.STOPPING, StopAsked, m._on_stop_again, s.STOPPING)
    row(s.STOPPING, RestartAsked, m._on_restart_of_stopping, s.STOPPING)
    row(s.KILLED, SaidBye, m._on_bye, s.KILLED)
    row(s.KILLED, Reported, m._on_nothing, s.KILLED)
    row(s.KILLED, Vitals, m._on_nothing, s.KILLED)
    row(s.KILLED, Tick, m._on_nothing, s.KILLED)
    row(s.KILLED, SaidHello, m._on_late_hello, s.KILLED)
    row(s.KILLED, StopAsked, m._on_stop_while_killed, s.KILLED)
    row(s.KILLED, Abort, m._on_stop_while_killed, s.KILLED)
    row(s.KILLED, RestartAsked, m._on_restart_of_stopping, s.KILLED)
    for state in (s.STOPPING, s.KILLED):
        row(state, BecameReady, m._on_nothing, state)
        row(state, Claimed, m._on_late_claim, state)
        row(state, ClaimRefused, m._on_late_refusal, state)
    row(s.STOPPING, Exited, m._on_exit, s.STOPPED, s.ENDED, s.STARTING)
    row(s.STOPPING, SpawnFailed, m._on_spawn_failed, s.STOPPED, s.ENDED, s.STARTING, s.FAILED)
    row(s.KILLED, Exited, m._on_exit, s.STOPPED, s.ENDED, *next_life)
    row(s.KILLED, SpawnFailed, m._on_spawn_failed, s.STOPPED, s.ENDED, *unspawned)

    row(s.BACKOFF, Tick, m._on_backoff_tick, s.BACKOFF, s.STARTING)
    row(s.BACKOFF, ReloadAsked, m._on_backoff_reload, s.STARTING)
    row(s.BACKOFF, Claimed, m._on_late_claim, s.BACKOFF)
    row(s.BACKOFF, ClaimRefused, m._on_backoff_refused, s.ENDED)
    row(s.BACKOFF, StopAsked, m._on_stop_without_process, s.STOPPED, s.ENDED)
    row(s.BACKOFF, Abort, m._on_stop_without_process, s.STOPPED)

    for state in DONE:
        for event in (Tick, StopAsked, Abort, Claimed, ClaimRefused):
            row(state, event, m._on_nothing, state)
    row(s.FAILED, ReloadAsked, m._on_failed_reload, s.STARTING)
    row(s.ENDED, SaidHello, m._on_ended_hello, s.STARTING)
    return table


TABLE = _table()
