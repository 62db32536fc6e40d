"""All nodes of a run: what children say and how they die becomes events, and actions are carried out."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from shlex import quote
from typing import Any

from noderuntime.dataflow.model import Dataflow, NodeSpec
from noderuntime.errors import DataflowError
from noderuntime.ipc import doorbell, process
from noderuntime.ipc.boundary import (
    ERROR_CHARACTERS_MAX,
    NAME_CHARACTERS_MAX,
    TRACE_CHARACTERS_MAX,
    Boundary,
    all_of,
    cut,
    describe,
    plain,
)
from noderuntime.ipc.channel import Router
from noderuntime.ipc.lock_watch import Holding, Pinning
from noderuntime.ipc.protocol import (
    FRAME_BYTES_MAX,
    VERSION,
    Bye,
    Failed,
    Hello,
    Log,
    Message,
    Quiet,
    Ready,
    Refused,
    Reload,
    ReloadFailed,
    RestoreState,
    Stop,
    StopAll,
    Welcome,
)
from noderuntime.ipc.pulse import PulsePage
from noderuntime.ipc.rundir import RunDir
from noderuntime.ipc.wiring import Wiring
from noderuntime.runtime import lifecycle_events as su
from noderuntime.runtime.children import Child, policy_of
from noderuntime.runtime.keepers import ForkServerKeeper, GaveUp
from noderuntime.runtime.lifecycle import NEVER, IllegalEvent, Lifecycle
from noderuntime.runtime.lifecycle_events import DONE, LifecycleState
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.loop import Loop
from noderuntime.runtime.observer import LogRecord, RunOptions
from noderuntime.runtime.orders import order_of
from noderuntime.runtime.processes import Proc, kill_strays
from noderuntime.runtime.store_link import StoreLink

LAST_WORDS_S = 0.1
RESTORE_PART_BYTES = FRAME_BYTES_MAX // 2
TIME_S_MAX = 253_402_300_800.0  # the year 10000, which no calendar here can show
LEVEL_MAX = 1_000
UNFINISHED = frozenset({LifecycleState.WAITING, LifecycleState.STARTING, LifecycleState.RESTORING})


@dataclass(slots=True)
class Voice:
    """One life of one node, as the Owner of its Proc."""

    crew: NodeSupervisor
    child: Child

    def said(self, stream: str, line: str) -> None:
        self.crew.notes.line(self.child.id, stream, line)

    def exited(self, proc: Proc, status: int) -> None:
        self.crew.exited(self.child, proc, status)

    def not_spawned(self, proc: Proc, error: OSError) -> None:
        self.crew.not_spawned(self.child, proc, error)


class NodeSupervisor:
    """The nodes. `clock` gives monotonic seconds; `stop_all` is called when an operator returns STOP_ALL."""

    def __init__(
        self,
        loop: Loop,
        router: Router,
        link: StoreLink,
        fork_server: ForkServerKeeper,
        notes: RunLog,
        dataflow: Dataflow,
        options: RunOptions,
        run_dir: RunDir,
        clock: Callable[[], float],
        stop_all: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._router = router
        self._link = link
        self._fork_server = fork_server
        self.notes = notes
        self._dataflow = dataflow
        self._options = options
        self._run_dir = run_dir
        self._clock = clock
        self._stop_all = stop_all
        self.children: dict[str, Child] = {}
        self.stopped: set[int] = set()  # pids of children of ours that are stopped now
        self.ending = False  # the run stops, or all nodes are done: no life may begin any more
        self._identities: dict[bytes, Child] = {}
        self._events: deque[tuple[Child, su.LifecycleEvent, bool]] = deque()
        self._procs: set[Proc] = set()
        self._handling = False
        self._draining = False
        self._boundary = Boundary(notes.warn, passes=(GaveUp,))  # what peers say may make anything be raised

    # ---- making it

    def add(self, spec: NodeSpec, wiring: Wiring, ended: bool) -> None:
        """A node, with its bell and its pulse."""
        bell_path = self._run_dir.bell(wiring.number)
        doorbell.create(bell_path)
        pulse_path = self._run_dir.pulse(wiring.number)
        pulse_path.parent.mkdir(mode=0o700, exist_ok=True)
        page = PulsePage(pulse_path)
        machine = Lifecycle(
            spec.id,
            policy_of(spec),
            state=LifecycleState.ENDED if ended else LifecycleState.WAITING,
            # under a runtime that was killed; what was handled since is gone, and counts nothing
            left_in_hand=page.read().hands,
        )
        self.children[spec.id] = Child(spec, machine, wiring, page, doorbell.open_bell(bell_path))

    def connect(self) -> None:
        """All nodes are there: who is whose neighbour?"""
        for child in self.children.values():
            around = {spec.node for spec in child.spec.inputs if spec.node}
            around |= {
                receiver.id
                for output in child.spec.outputs
                for receiver, _ in self._dataflow.receivers(child.id, output)
            }
            child.neighbours = [self.children[id] for id in sorted(around - {child.id})]

    def start(self) -> None:
        """Start all that wait. One that cannot be started is told of, and keeps nothing else from its beginning."""
        for child in self.children.values():
            if child.machine.state is LifecycleState.WAITING:
                self._boundary.call(f"the start of {child.id}", self.feed, child, su.Start())

    # ---- events and actions

    def feed(self, child: Child, event: su.LifecycleEvent, trusted: bool = True) -> None:
        """Hand an event to a node's supervision, and carry out what it says. Events that this causes come after it.

        What comes from a child (not `trusted`) and out of turn is dropped. An action that fails keeps neither those
        behind it nor the next events from their place, and ends the life that it was for; the first error is raised
        at the end.
        """
        self._events.append((child, event, trusted))
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

    def _handle(self, child: Child, event: su.LifecycleEvent, trusted: bool) -> None:
        before = child.machine.state
        try:
            actions = child.machine.handle(event, self._clock())
        except IllegalEvent:
            if trusted:
                raise
            return
        if child.machine.state is not before:
            self.notes.keep(f"{child.id} is {child.machine.state.value} ({type(event).__name__})")
        if isinstance(event, su.Exited):
            child.exit_status = None
        all_of(partial(self._carry_out, child, action) for action in actions)

    def _carry_out(self, child: Child, action: su.Action) -> None:
        try:
            self._do(child, action)
        except Exception as error:
            if isinstance(action, su.Spawn) and (child.proc is None or child.proc.reaped):
                child.proc = None  # that of the last life
                self.feed(child, su.SpawnFailed(f"it could not be started: {describe(error)}"))
            elif not isinstance(action, su.SendStop | su.Tell):  # a stop has its deadlines; nobody waits for a line
                self._cut_short(child)
            raise

    def _cut_short(self, child: Child) -> None:
        """Something that this life waits for will never come: end it, so that its lifecycle goes on.

        Where there is no process to be killed, `SpawnFailed` has been fed.
        """
        if not child.alive:
            return
        if child.spec.kind == "dynamic":
            self._send(child, Refused("the runtime could not take it in; connect again"))
            self._peer_gone(child)
        elif child.proc is not None:
            child.proc.signal(signal.SIGKILL)

    def _do(self, child: Child, action: su.Action) -> None:
        match action:
            case su.Spawn(life):
                self._spawn(child, life)
            case su.Claim():
                self._claim(child, action)
            case su.SendWelcome():
                self._welcome(child)
            case su.Refuse(why):
                self._send(child, Refused(why))
            case su.SendStop(grace_s, drain, id):
                self._send(child, Stop(id, grace_s, drain))
            case su.SendReload():
                self._send(child, Reload())
            case su.Signal(number):
                self._signal(child, number)
            case su.End(failed, error):
                arguments = {"node": child.id, "failed": failed, "error": error}
                self._ask("end", arguments, lambda _: child.ring())
            case su.Revive():
                self._ask("revive", {"node": child.id}, lambda _: None)
            case su.Touch():
                self._ask("touch", {}, lambda _: child.ring())
            case su.Tell(text, is_error):
                self.notes.tell(text, logging.ERROR if is_error else logging.INFO)

    def _ask(self, operation: str, arguments: Mapping[str, Any], then: Callable[[dict[str, Any]], None]) -> None:
        def refused(error: str, text: str) -> None:
            raise GaveUp(f"the store refused {operation!r}: {text} ({error})")

        self._link.request(operation, arguments, then, refused)

    def _spawn(self, child: Child, life: int) -> None:
        child.proc = None
        child.begin_life()
        try:
            order = order_of(self._dataflow, child.spec, self._options, self._run_dir.root, life)
            child.proc = self._fork_server.spawn(order, Voice(self, child))
        except DataflowError as error:
            self.feed(child, su.SpawnFailed(error.what, permanent=True))
        except OSError as error:
            self.feed(child, su.SpawnFailed(f"it could not be started: {error.strerror}"))
        else:
            self._procs.add(child.proc)

    def _claim(self, child: Child, claim: su.Claim) -> None:
        def answered(result: dict[str, Any]) -> None:
            all_of((child.ring, partial(self._claimed, child, claim.life, result)))

        arguments = {
            "node": child.id,
            "cause": claim.cause,
            "counts": claim.counts,
            "hands": [list(hand) for hand in claim.hands],
            "max_attempts": child.spec.max_attempts,
            "trace": claim.trace,
        }
        self._ask("claim", arguments, answered)

    def _claimed(self, child: Child, life: int, result: dict[str, Any]) -> None:
        """The store has answered the claim of a life."""
        if life != child.machine.life:
            return  # that life is over
        try:
            if result.get("ended"):
                self.feed(child, su.ClaimRefused())
                if result.get("stop_all"):  # killed between the commit of that event and saying so
                    self._stop_all(child.id)
                return
            child.claim = result
            buried = result.get("buried", "")
            if buried:
                attempts = child.spec.max_attempts
                times = "once" if attempts == 1 else f"{attempts} times"
                self.notes.tell(
                    f"{child.id} failed {times} on {buried}: a dead letter now, the flow goes on; "
                    f"see `noderuntime dead-letters show --run {quote(self._options.name)} {child.id}`"
                )
            self.feed(child, su.Claimed(bool(buried)))
        except Exception:
            if life == child.machine.life:
                self._cut_short(child)
            raise

    def _welcome(self, child: Child) -> None:
        claim = child.claim
        parts: list[RestoreState] = []
        if child.spec.kind == "operator":
            state: dict[str, bytes] = claim.get("state", {})
            if claim.get("by_reference") or any(len(value) > RESTORE_PART_BYTES for value in state.values()):
                parts = [RestoreState({}, True)]
            else:
                parts = [RestoreState(part, False) for part in split_state(state)]
        welcome = Welcome(claim["incarnation"], child.wiring.to_plain(), len(parts), claim.get("attempts", []))
        self._send(child, welcome)
        for part in parts:
            self._send(child, part)

    def _send(self, child: Child, message: Message) -> None:
        if child.identity is not None:
            self._router.send(child.identity, message)

    def _signal(self, child: Child, number: int) -> None:
        if child.proc is not None:
            child.proc.signal(number)
        elif child.peer_fd >= 0:
            process.signal_process(child.peer_fd, number)

    # ---- what children say

    def receive(self, identity: bytes, message: Message) -> None:
        """A message of a child's, or of somebody who says to be one."""
        if isinstance(message, Hello):
            self._hello(identity, message)
            return
        child = self._identities.get(identity)
        if child is None:
            return
        match message:
            case Log():
                self.notes.record(record_of(child.id, message))
            case ReloadFailed():
                child.reloads_failed += 1
                error, trace = cut(message.error, ERROR_CHARACTERS_MAX), cut(message.trace, TRACE_CHARACTERS_MAX)
                child.reload_error = trace or error
                self.notes.crash(child.id, "reload", f"{error} (the old code goes on)", trace)
            case Failed():
                where = cut(message.where, NAME_CHARACTERS_MAX)
                error, trace = cut(message.error, ERROR_CHARACTERS_MAX), cut(message.trace, TRACE_CHARACTERS_MAX)
                self.notes.crash(child.id, where, error, trace)
                if identity == child.identity:
                    report = su.Reported(where, error, trace, message.permanent)
                    self.feed(child, report, trusted=False)
                    self._last_words(child)
            case Bye() if identity == child.identity:
                self.feed(child, su.SaidBye(message.ended, cut(message.reason, ERROR_CHARACTERS_MAX)), trusted=False)
                self._last_words(child)
                if child.spec.kind == "dynamic":
                    self._peer_gone(child)
            case Ready() if identity == child.identity and message.incarnation == child.incarnation:
                self.feed(child, su.BecameReady(), trusted=False)
            case StopAll() if identity == child.identity:
                self._stop_all(child.id)
            case _:
                pass  # out of turn, or of a life that is over

    def _hello(self, identity: bytes, hello: Hello) -> None:
        why = self._objection(hello)
        if why:
            self._router.send(identity, Refused(why))
            return
        child = self.children[hello.node]
        if hello.kind == "dynamic":
            try:
                peer_fd = os.pidfd_open(hello.pid)
            except (OSError, OverflowError) as error:
                why = getattr(error, "strerror", None) or "that is not the number of a process"
                self._router.send(identity, Refused(f"process {hello.pid} cannot be watched: {why}"))
                return
            child.begin_life()
            child.peer_fd = peer_fd
            self._loop.watch(peer_fd, lambda: self._peer_gone(child))
        self._forget(child)
        child.identity = identity
        child.peer = hello.pid
        self._identities[identity] = child
        self.feed(child, su.SaidHello(), trusted=False)

    def _objection(self, hello: Hello) -> str:
        """Why a hello is refused; "" when it is welcome."""
        if hello.version != VERSION:
            return f"it speaks version {hello.version} of the protocol, this runtime version {VERSION}"
        child = self.children.get(hello.node)
        if child is None:
            named = cut(repr(hello.node), NAME_CHARACTERS_MAX)
            return f"the run has no node {named}; its nodes are: {', '.join(self.children)}"
        if hello.kind != child.spec.kind:
            started = "started by hand" if child.spec.kind == "dynamic" else "started by the run itself"
            return f"{hello.node!r} is {started}, see `path:` in the dataflow file"
        state = child.machine.state
        goes_on = not (self.done or self.ending or self._draining)
        if state in DONE and not (hello.kind == "dynamic" and state is LifecycleState.ENDED and goes_on):
            return f"{hello.node!r} has {state.value if state is not LifecycleState.STOPPED else 'been stopped'}"
        if hello.kind == "dynamic":
            return f"{hello.node!r} is connected already, as process {child.peer}" if child.alive else ""
        if hello.life == child.machine.life and child.alive and child.identity is not None:
            return f"{hello.node!r} is connected already, as process {child.peer}"
        if hello.life != child.machine.life or not child.alive:
            return f"this is an earlier life of {hello.node!r}"
        return ""

    def _forget(self, child: Child) -> None:
        """Connections of earlier lives, whose last log records may still have come until now."""
        for identity in [identity for identity, owner in self._identities.items() if owner is child]:
            del self._identities[identity]

    # ---- how children die

    def exited(self, child: Child, proc: Proc, status: int) -> None:
        """A process was reaped. What it said before may still be under way, when it should have said something."""
        self.stopped.discard(proc.pid)
        self._procs.discard(proc)
        if child.proc is not proc:
            return
        all_of((self.drain, partial(self._ended, child, status)))

    def _ended(self, child: Child, status: int) -> None:
        """What has come was read: is there more to come?"""
        waits = child.spec.kind == "operator" and status in (0, 1) and not child.machine.has_last_words
        child.exit_status = status  # until `Exited` was handled: where that fails, `tick` does it again
        child.last_words_s = self._clock() + (LAST_WORDS_S if waits else 0.0)
        if not waits:
            self._dead(child, status)

    def not_spawned(self, child: Child, proc: Proc, error: OSError) -> None:
        """There was no process, or it could not become the node's."""
        self._procs.discard(proc)
        if child.proc is proc or child.proc is None:  # it may be refused before `spawn` has returned it
            permanent = isinstance(error, FileNotFoundError | PermissionError) or error.errno == 8  # ENOEXEC
            what = f"{child.spec.code.path} cannot be executed" if proc.pid else "it could not be started"
            self.feed(child, su.SpawnFailed(f"{what}: {error.strerror or error}", permanent))

    def drain(self) -> bool:
        """Take all messages that have come; whether there were any."""
        taken = False
        while (found := self._router.receive_nowait()) is not None:
            taken = True
            self._boundary.call(f"a message of {self._named(found[0])}", self.on_message, *found)
        return taken

    def _named(self, identity: bytes) -> str:
        child = self._identities.get(identity)
        return "a peer that is not a node" if child is None else child.id

    on_message: Callable[[bytes, Message], None]  # set by the runtime: commands go elsewhere

    def _last_words(self, child: Child) -> None:
        if child.exit_status is not None and child.machine.has_last_words:
            self._dead(child, child.exit_status)

    def _dead(self, child: Child, status: int) -> None:
        def told() -> None:
            hands, commits = child.remains()
            child.identity = None
            self.feed(child, su.Exited(status, hands, commits))

        all_of((partial(kill_strays, self._fork_server.pids, self._run_dir.root, child.id), told))

    def _peer_gone(self, child: Child) -> None:
        """A dynamic node's process has ended, or it said goodbye."""
        if child.peer_fd >= 0:
            self._loop.close_fd(child.peer_fd)
            child.peer_fd = -1
        hands, commits = child.remains()
        child.identity = None
        if child.alive:
            self.feed(child, su.Exited(None, hands, commits))

    def reap_orphans(self) -> None:
        """Reap what we have adopted and what has ended: grandchildren whose parents died before them."""
        if self._fork_server.busy:
            return  # one of them may be a child that has not told its pid yet
        known = self._fork_server.pids
        for pid in process.children_of(os.getpid()):
            if pid not in known:
                stat = process.read_stat(pid)
                if stat is not None and stat.dead:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)

    # ---- time

    def tick(self, now_s: float) -> None:
        """Hand out what is due."""
        for child in self.children.values():
            if child.exit_status is not None and now_s >= child.last_words_s:
                self._dead(child, child.exit_status)
            if now_s >= child.machine.deadline_s:
                self.feed(child, su.Tick())

    def deadline_s(self) -> float:
        """When `tick` is due."""
        due_s = NEVER
        for child in self.children.values():
            due_s = min(due_s, child.machine.deadline_s)
            if child.exit_status is not None:
                due_s = min(due_s, child.last_words_s)
        return due_s

    def look(self, now_s: float, holdings: list[tuple[int, Holding]], pinnings: list[Pinning]) -> None:
        """The vitals of all that live. `holdings`: process -> the lock that it holds."""
        for child in self.children.values():
            if not child.alive or child.exit_status is not None:
                continue
            pid, peer = child.pid, child.peer
            stopped = pid in self.stopped
            if peer and (peer != pid or child.proc is None) and not stopped:
                stat = process.read_stat(peer)
                stopped = stat is not None and stat.stopped
            lock_s = max((held.held_s for owner, held in holdings if owner in (pid, peer)), default=0.0)
            pinned_s = max((pin.pinned_s for pin in pinnings if pin.process in (pid, peer)), default=0.0)
            glance = child.glance(now_s)
            if glance is not None:
                self.feed(child, su.Vitals(glance.commits, glance.handling_s, stopped, lock_s, pinned_s))
            elif stopped or lock_s or pinned_s or child.machine.state is not LifecycleState.RUNNING:
                self.feed(child, su.Vitals(0, 0.0, stopped, lock_s, pinned_s))

    # ---- the end

    def end(self, child: Child, grace_s: float) -> None:
        """All inputs of a node have ended, which it cannot know: it feeds itself, through others."""
        self.feed(child, su.StopAsked(grace_s, True, "ALL_INPUTS_CLOSED"))

    def quieten(self, child: Child) -> None:
        """No more ticks for this life of a node: the run is drained."""
        if child.machine.state is LifecycleState.RUNNING and child.quiet_life != child.machine.life:
            child.quiet_life = child.machine.life
            self._send(child, Quiet())

    def stop(self, grace_s: float, drain: bool) -> None:
        """Stop all nodes; with `drain` only those that nobody feeds, and let the others end by themselves."""
        self.ending = self.ending or not drain
        self._draining = self._draining or drain
        asked = [
            child
            for child in self.children.values()
            if not drain
            or (child.spec.kind == "dynamic" and not child.alive)  # it never came
            or all(spec.is_timer for spec in child.spec.inputs)
        ]
        all_of(partial(self.feed, child, su.StopAsked(grace_s, drain)) for child in asked)

    def abort(self) -> None:
        self.ending = True
        all_of(partial(self.feed, child, su.Abort()) for child in self.children.values())

    @property
    def done(self) -> bool:
        return all(child.machine.state in DONE for child in self.children.values())

    @property
    def failed(self) -> list[Child]:
        return [child for child in self.children.values() if child.machine.state is LifecycleState.FAILED]

    def has_begun(self) -> bool:
        """Whether every node has been ready, or has shown that it will not be so at its first try."""
        return all(
            child.machine.was_ready
            or child.machine.restarts > 0
            or child.machine.state not in UNFINISHED
            or child.spec.kind == "dynamic"
            for child in self.children.values()
        )

    def not_ready(self) -> list[str]:
        """Nodes that have not been ready yet, in this run."""
        return [
            child.id
            for child in self.children.values()
            if child.machine.state in UNFINISHED and not child.machine.was_ready
        ]

    def close(self) -> None:
        for proc in self._procs:
            proc.close()
        for child in self.children.values():
            child.close()


def split_state(state: Mapping[str, bytes]) -> list[dict[str, bytes]]:
    """Parts of a state that fit into a frame each. Pure."""
    parts: list[dict[str, bytes]] = []
    size = RESTORE_PART_BYTES + 1
    for key, value in state.items():
        size += len(value) + 4 * len(key) + 16
        if size > RESTORE_PART_BYTES:
            parts.append({})
            size = len(value) + 4 * len(key) + 16
        parts[-1][key] = value
    return parts


def record_of(node: str, log: Log) -> LogRecord:
    """A record as it can be shown and kept, whatever a node in whatever language has put into it. Pure."""
    at_s = log.time if 0 <= log.time < TIME_S_MAX else 0.0
    level = min(max(log.level, 0), LEVEL_MAX)
    return LogRecord(at_s, node, level, cut(log.text, TRACE_CHARACTERS_MAX), plain(log.fields))
