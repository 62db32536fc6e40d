"""A node as the runtime sees it: its lifecycle, its process and connection, its pulse and its bells.

What its process says and how it dies becomes events of its lifecycle; the actions that answer them are carried out
here. What all the nodes of a run share is in services.py; what is done to all of them, in nodes.py.
"""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from noderuntime.dataflow.model import NodeSpec
from noderuntime.errors import DataflowError
from noderuntime.ipc import doorbell, process
from noderuntime.ipc.boundary import all_of, describe
from noderuntime.ipc.lock_watch import Holding, Pinning
from noderuntime.ipc.protocol import Message, Quiet, QuietMember, Refused, Reload, Stop, StopMember
from noderuntime.ipc.pulse import HANDLED, MEMBER, Glance, PulsePage
from noderuntime.ipc.store_records import Claimed, Done, Over, claim_result, result
from noderuntime.ipc.wiring import Wiring
from noderuntime.runtime import lifecycle_events as su
from noderuntime.runtime.claims import burial, claim_of
from noderuntime.runtime.hearing import greet, hear, hear_line, note_state
from noderuntime.runtime.lifecycle import Lifecycle
from noderuntime.runtime.lifecycle_events import ALIVE, DONE, Hands, LifecycleState
from noderuntime.runtime.machine import IllegalEvent, Tell, Tick
from noderuntime.runtime.orders import order_of
from noderuntime.runtime.processes import Proc, kill_strays
from noderuntime.runtime.pulse_reading import PulseReading
from noderuntime.runtime.services import Services
from noderuntime.runtime.trials import Waiting

LAST_WORDS_S = 0.1


@dataclass(slots=True, eq=False)
class Child:
    """A node as the runtime knows it; the Owner of its Proc. The fields from `proc` on belong to its present life."""

    services: Services
    spec: NodeSpec
    machine: Lifecycle
    wiring: Wiring
    page: PulsePage
    bell: int
    neighbours: list[Child] = field(default_factory=list)
    others: list[Child] = field(default_factory=list)  # operators that share its process (members.py)
    has_ended: bool = False  # although its process continues for others
    to_end: dict[str, str] = field(default_factory=dict)  # operators of its process that have to: the id of their STOP
    handled_before: int = 0  # events of earlier lives
    reloads_failed: int = 0  # changed code that did not import
    reload_error: str = ""  # of the last one, with its traceback
    parked: bool = False  # stopped by `node stop`: the run waits for it
    leaving: bool = False  # no longer in the dataflow: it handles what waits, and ends
    is_replaced: bool = False  # a switch is under way that fences its process
    waiting: Waiting | None = None  # a process that is to be that of its next life: `apply` has tried it
    token: tuple[int, int] = (0, 0)  # the number by which such a process knows its life, and that life
    told_wiring: int = 0  # the number of the wiring that its process knows of
    waits: str = ""  # whom it waits for, in words, when it is stuck (noderuntime.runtime.stuck)
    _quiet_life: int = 0  # the life that was told to make no more ticks
    _events: deque[tuple[su.LifecycleEvent, bool]] = field(default_factory=deque)
    _handling: bool = False
    proc: Proc | None = None
    identity: bytes | None = None  # of its connection
    called: str = ""  # its id when this life began: a change of the dataflow may have given it another one
    peer: int = 0  # the pid that said hello; a shell script's Python is not the process that was spawned
    peer_fd: int = -1  # dynamic nodes: their pidfd
    claim: Claimed | None = None  # the store's answer
    exit_status: int | None = None  # it has ended, and its last words may still be under way:
    last_words_s: float = 0.0  # until then
    _pulse: PulseReading = field(init=False)

    def __post_init__(self) -> None:
        self._pulse = PulseReading(self.page)

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def leader(self) -> Child:
        """The first of the operators that share its process; itself if it shares none."""
        return self

    @property
    def state(self) -> LifecycleState:
        return LifecycleState.ENDED if self.has_ended else self.machine.state

    @property
    def alive(self) -> bool:
        return self.machine.state in ALIVE

    @property
    def pid(self) -> int:
        """Of the process that was spawned; of a dynamic node, of the one that joined."""
        return self.proc.pid if self.proc is not None else self.peer

    @property
    def incarnation(self) -> int:
        """Claimed for this life; 0 before."""
        return 0 if self.claim is None else self.claim["incarnation"]

    def begin_life(self) -> None:
        """Forget what belonged to the last one."""
        for member in (self, *self.others):
            member.called = member.id
        self.identity = None
        self.peer = 0
        self.claim = None
        self.exit_status = None
        self._pulse.begin_life()

    def has_pulse(self) -> bool:
        return self._pulse.is_of(self.incarnation)

    def remains(self) -> tuple[Hands, int]:
        """What the life that has just ended had in hand, and how often it had committed."""
        if not self.has_pulse():
            return (), 0
        pulse = self.page.read()
        self.handled_before += pulse.handled
        if not self.others:
            return pulse.hands, pulse.commits
        found: list[tuple[Hands, int]] = [(pulse.hands, self.wiring.number)]
        found += [(other.remains()[0], other.wiring.number) for other in self.others]
        return tuple((*hand, number) for hands, number in found for hand in hands), pulse.commits

    def handled(self) -> int:
        """Events handled in all lives."""
        now = self.page.words[HANDLED] if self.alive and self.has_pulse() else 0
        return self.handled_before + now

    def glance(self, now_s: float) -> Glance | None:
        """None before this life has begun to write its pulse."""
        return self._pulse.glance(now_s, bool(self.others)) if self.has_pulse() else None

    def ring(self) -> None:
        """Wake this node and all around it: some ring may have died with its process."""
        around = (*self.neighbours, *(node for other in self.others for node in other.neighbours))
        all_of(partial(doorbell.ring, node.bell) for node in (self, *around))

    # ---- events and actions

    def feed(self, event: su.LifecycleEvent, trusted: bool = True) -> None:
        """Hand an event to the lifecycle, and carry out what it says. Events that this causes come after it.

        What comes from its process (not `trusted`) and out of turn is dropped. An action that fails keeps neither those
        behind it nor the next events from their place, and ends the life that it was for; the first error is raised
        at the end.
        """
        self._events.append((event, trusted))
        if self._handling:
            return
        self._handling = True
        try:
            all_of(self._handlings())
        finally:
            self._handling = False

    def _handlings(self) -> Iterator[Callable[[], None]]:
        while self._events:
            yield partial(self._handle, *self._events.popleft())

    def _handle(self, event: su.LifecycleEvent, trusted: bool) -> None:
        before = self.machine.state
        try:
            actions = self.machine.handle(event, self.services.clock())
        except IllegalEvent:
            if trusted:
                raise
            return
        if self.machine.state is not before:
            note_state(self, before, event)
        if isinstance(event, su.Exited):
            self.exit_status = None
        arrived = isinstance(event, su.SaidHello) or self.machine.state in DONE
        due = self.services.barrier.arrived(self.id) if arrived else []
        all_of((*(partial(self._carry_out, action) for action in actions), *due))

    def _carry_out(self, action: su.Action) -> None:
        try:
            self._do(action)
        except Exception as error:
            if isinstance(action, su.Spawn) and (self.proc is None or self.proc.reaped):
                self.proc = None  # that of the last life
                self.feed(su.SpawnFailed(f"it could not be started: {describe(error)}"))
            elif not isinstance(action, su.SendStop | Tell):  # a stop has its deadlines; nothing waits for a line
                self._cut_short()
            raise

    def _cut_short(self) -> None:
        """Something that this life waits for will never come: end it, so that its lifecycle continues.

        Where there is no process to be killed, `SpawnFailed` has been fed.
        """
        if not self.alive:
            return
        if self.spec.kind == "dynamic":
            self.send(Refused("the runtime could not take it in; connect again"))
            self.peer_gone()
        elif self.proc is not None:
            self.proc.signal(signal.SIGKILL)

    def _do(self, action: su.Action) -> None:
        match action:
            case su.Spawn(life):
                self._spawn(life)
            case su.Claim():
                self._claim(action)
            case su.SendWelcome():
                self.services.barrier.hold(self.id, partial(greet, self, self.machine.life))
            case su.Refuse(why):
                self.send(Refused(why))
            case su.SendStop(grace_s, drain, id):
                self.send(Stop(id, grace_s, drain))
            case su.SendReload():
                self.send(Reload())
            case su.Signal(number):
                self._signal(number)
            case su.End(failed, error):
                ended = {"failed": failed, "error": error}
                self.services.ask("end", lambda: {**self._named(), **ended}, result(Done), lambda _: self.ring())
            case su.Revive():
                self.services.ask("revive", self._named, result(Done), lambda _: None)
            case su.Touch():
                self.services.ask("touch", {}, result(Done), lambda _: self.ring())
            case Tell(text, is_error):
                self.services.run_log.tell(text, logging.ERROR if is_error else logging.INFO)

    def _named(self) -> dict[str, Any]:  # the nodes of its process, for the store
        return {"node": self.id, "others": [other.id for other in self.others]}

    def _spawn(self, life: int) -> None:
        self.proc = None
        self.begin_life()
        waiting, self.waiting = self.waiting, None
        if waiting is not None and waiting.become(self, life):
            return
        try:
            order = order_of(self.services.dataflow, self.spec, self.services.options, self.services.run_dir.root, life)
            self.proc = self.services.fork_server.spawn(order, self)
        except DataflowError as error:
            self.feed(su.SpawnFailed(error.what, permanent=True))
        except OSError as error:
            self.feed(su.SpawnFailed(f"it could not be started: {error.strerror}"))
        else:
            self.services.procs.add(self.proc)

    def _claim(self, claim: su.Claim) -> None:
        def arguments() -> dict[str, Any]:
            return claim_of(claim, [(node.spec, node.wiring.number) for node in (self, *self.others)])

        def answered(found: Claimed | Over) -> None:
            all_of((self.ring, partial(self._claimed, claim.life, found)))

        self.services.ask("claim", arguments, claim_result, answered)

    def _claimed(self, life: int, found: Claimed | Over) -> None:
        """The store has answered the claim of a life."""
        if life != self.machine.life:
            return  # that life is over
        try:
            if "ended" in found:
                self.feed(su.ClaimRefused())
                if found.get("stop_all"):  # killed between the commit of that event and saying so
                    self.services.stop_all(self.id)
                return
            self.claim = found
            for node in (self, *self.others):
                node.has_ended = node.id in found.get("ended_members", ())
            if found.get("stop_all"):
                self.services.stop_all(self.id)
            buried = found.get("buried", "")
            if buried:
                entry = next((node for node in self.others if node.id == found.get("entry")), self)
                self.services.run_log.tell(burial(buried, entry.spec, self.services.options.name))
            self.feed(su.Claimed(bool(buried)))
        except Exception:
            if life == self.machine.life:
                self._cut_short()
            raise

    def send(self, message: Message) -> None:
        if self.identity is not None:
            self.services.router.send(self.identity, message)

    def _signal(self, number: int) -> None:
        if self.proc is not None:
            self.proc.signal(number)
        elif self.peer_fd >= 0:
            process.signal_process(self.peer_fd, number)

    # ---- what its process says

    def watch_peer(self, pid: int) -> str:
        """A dynamic node's process wants to connect. Why it cannot; "" when its life begins."""
        try:
            peer_fd = os.pidfd_open(pid)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or "that is not the number of a process"
            return f"process {pid} cannot be watched: {why}"
        self.begin_life()
        self.peer_fd = peer_fd
        self.services.loop.watch(peer_fd, self.peer_gone)
        return ""

    def greeted(self, identity: bytes, pid: int) -> None:
        """It has said hello over a new connection, and nothing forbids it."""
        self.identity = identity
        self.peer = pid
        self.feed(su.SaidHello(), trusted=False)

    def receive(self, identity: bytes, message: Message) -> None:
        """A message over a connection of this node's, its present one or one of an earlier life."""
        hear(self, identity, message)

    def member(self, id: str) -> Child:
        """The operator that its process calls so; this one, if there is none."""
        return next((other for other in self.others if other.called == id), self)

    # ---- how its process dies

    def said(self, stream: str, line: str) -> None:
        """Its process printed a line."""
        hear_line(self, stream, line)

    def exited(self, proc: Proc, status: int) -> None:
        """A process was reaped. What it said before may still be under way, when it should have said something."""
        self.services.stopped.discard(proc.pid)
        self.services.procs.discard(proc)
        if self.proc is not proc:
            return
        all_of((self.services.drain, partial(self._ended, status)))

    def _ended(self, status: int) -> None:
        """What has come was read: is there more to come?"""
        waits = self.spec.kind == "operator" and status in (0, 1) and not self.machine.has_last_words
        self.exit_status = status  # until `Exited` was handled: where that fails, `tick` does it again
        self.last_words_s = self.services.clock() + (LAST_WORDS_S if waits else 0.0)
        if not waits:
            self._dead(status)

    def not_spawned(self, proc: Proc, error: OSError) -> None:
        """There was no process, or it could not become the node's."""
        self.services.procs.discard(proc)
        if self.proc is proc or self.proc is None:  # it may be refused before `spawn` has returned it
            permanent = isinstance(error, FileNotFoundError | PermissionError) or error.errno == 8  # ENOEXEC
            what = f"{self.spec.code.path} cannot be executed" if proc.pid else "it could not be started"
            self.feed(su.SpawnFailed(f"{what}: {error.strerror or error}", permanent))

    def check_last_words(self) -> None:
        if self.exit_status is not None and self.machine.has_last_words:
            self._dead(self.exit_status)

    def _dead(self, status: int) -> None:
        def told() -> None:
            self.identity = None
            self.feed(su.Exited(status, *self.remains(), self.is_replaced))

        all_of((partial(kill_strays, self.services.fork_server.pids, self.services.run_dir.root, self.called), told))

    def peer_gone(self) -> None:
        """A dynamic node's process has ended, or it said goodbye."""
        if self.peer_fd >= 0:
            self.services.loop.close_fd(self.peer_fd)
            self.peer_fd = -1
        hands, commits = self.remains()
        self.identity = None
        if self.alive:
            self.feed(su.Exited(None, hands, commits))

    # ---- time

    def tick(self, now_s: float) -> None:
        """Hand out what is due."""
        if self.exit_status is not None and now_s >= self.last_words_s:
            self._dead(self.exit_status)
        if now_s >= self.machine.deadline_s:
            self.feed(Tick())

    def deadline_s(self) -> float:
        """When `tick` is due."""
        due_s = self.machine.deadline_s
        return due_s if self.exit_status is None else min(due_s, self.last_words_s)

    def look(self, now_s: float, holdings: list[tuple[int, Holding]], pinnings: list[Pinning]) -> None:
        """Its vitals, if it lives. `holdings`: process -> the lock that it holds."""
        if not self.alive or self.exit_status is not None:
            return
        pid, peer = self.pid, self.peer
        stopped = pid in self.services.stopped
        if peer and (peer != pid or self.proc is None) and not stopped:
            stat = process.read_stat(peer)
            stopped = stat is not None and stat.stopped
        lock_s = max((held.held_s for owner, held in holdings if owner in (pid, peer)), default=0.0)
        pinned_s = max((pin.pinned_s for pin in pinnings if pin.process in (pid, peer)), default=0.0)
        glance = self.glance(now_s)
        if glance is not None and self.others:
            at = self.page.words[MEMBER]
            member = (self, *self.others)[at] if at <= len(self.others) else self
            vitals = su.Vitals(glance.commits, glance.handling_s, stopped, lock_s, pinned_s)
            self.feed(replace(vitals, member=member.id, member_s_max=member.spec.health_check_timeout_s))
        elif glance is not None:
            self.feed(su.Vitals(glance.commits, glance.handling_s, stopped, lock_s, pinned_s))
        elif stopped or lock_s or pinned_s or self.machine.state is not LifecycleState.RUNNING:
            self.feed(su.Vitals(0, 0.0, stopped, lock_s, pinned_s))

    # ---- the end

    def end(self, grace_s: float, id: str = "ALL_INPUTS_CLOSED") -> None:
        """End it, with a STOP event of that id: all its inputs have ended, which it cannot know, since it feeds itself,
        through others; or the run is drained. Of operators that share a process only this one ends.
        """
        if self.others:
            self.end_member(self.id, id)
        else:
            self.feed(su.StopAsked(grace_s, True, id))

    def end_member(self, member: str, id: str) -> None:
        """End one operator of its process, now or as soon as the process is ready."""
        self.to_end[member] = id
        if self.machine.state is LifecycleState.RUNNING:
            self.tell_who_ends()

    def tell_who_ends(self) -> None:
        for member, id in self.to_end.items():
            self.send(StopMember(member, id))

    def quieten(self) -> None:
        """No more ticks for this life: the run is drained."""
        if self.machine.state is LifecycleState.RUNNING and self._quiet_life != self.machine.life:
            self._quiet_life = self.machine.life
            self.send(QuietMember(self.id) if self.others else Quiet())

    def quieten_member(self, member: str) -> None:
        """No more ticks of one operator of its process."""
        self.send(QuietMember(member))

    def close(self) -> None:
        if self.peer_fd >= 0:
            os.close(self.peer_fd)
            self.peer_fd = -1
        os.close(self.bell)
        self.page.close()
