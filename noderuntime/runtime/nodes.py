"""All nodes of a run: whose connection a message comes over, who may connect, and what is done to all of them.

What is done for one node is in children.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from noderuntime.dataflow.identifiers import renamed_id, shown_id
from noderuntime.dataflow.model import Dataflow, NodeSpec
from noderuntime.dataflow.renaming import renamed_node
from noderuntime.ipc import doorbell, process
from noderuntime.ipc.boundary import NAME_CHARACTERS_MAX, Boundary, all_of, cut
from noderuntime.ipc.channel import Router
from noderuntime.ipc.lock_watch import Holding, Pinning
from noderuntime.ipc.protocol import VERSION, Ask, Hello, Message, Refused
from noderuntime.ipc.pulse import PulsePage
from noderuntime.ipc.rundir import RunDir
from noderuntime.ipc.wiring import Wiring
from noderuntime.runtime import lifecycle_events as su
from noderuntime.runtime.children import Child
from noderuntime.runtime.keepers import ForkServerKeeper, GaveUp
from noderuntime.runtime.lifecycle import Lifecycle
from noderuntime.runtime.lifecycle_events import DONE, LifecycleState
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.loop import Loop
from noderuntime.runtime.machine import NEVER
from noderuntime.runtime.members import Member
from noderuntime.runtime.observer import RunOptions
from noderuntime.runtime.policy import policy_of
from noderuntime.runtime.services import Services
from noderuntime.runtime.store_link import StoreLink
from noderuntime.runtime.trials import Trials, Waiting

NAMED_MAX = 5  # operators of a process that are named when it is told of
UNFINISHED = frozenset({LifecycleState.WAITING, LifecycleState.STARTING, LifecycleState.RESTORING})


def named_process(process: str, operators: list[str]) -> str:
    """What the user is told of when operators share a process."""
    more = len(operators) - NAMED_MAX
    named = operators if more <= 0 else [*operators[: NAMED_MAX - 1], f"{more + 1} more"]
    return f"process {process} ({', '.join(named)})"


class NodeSupervisor:
    """The nodes.

    `clock` gives monotonic seconds; `stop_all(node)` is called when an operator returns STOP_ALL; `on_ask` gets
    what commands ask of the run, with the identity of their connection.
    """

    def __init__(
        self,
        loop: Loop,
        router: Router,
        link: StoreLink,
        fork_server: ForkServerKeeper,
        run_log: RunLog,
        dataflow: Dataflow,
        options: RunOptions,
        run_dir: RunDir,
        clock: Callable[[], float],
        stop_all: Callable[[str], None],
        on_ask: Callable[[bytes, Ask], None],
    ) -> None:
        self._services = Services(
            loop, router, link, fork_server, run_log, dataflow, options, run_dir, clock, stop_all, self.drain
        )
        self._on_ask = on_ask
        self.trials = Trials(self._services)
        self.children: dict[str, Child] = {}
        self.ending = False  # the run stops, or all nodes are done: no life may begin any more
        self._identities: dict[bytes, Child] = {}
        self._draining = False
        self._boundary = Boundary(run_log.warn, passes=(GaveUp,))  # what peers say may make anything be raised

    @property
    def stopped(self) -> set[int]:
        """Pids of children of ours that are stopped now."""
        return self._services.stopped

    # ---- making it

    def add(self, spec: NodeSpec, wiring: Wiring, ended: bool, leaving: bool = False) -> None:
        """A node, with its bell and its pulse. Operators of one process share the bell. Those that are leaving
        are in no process with those that are not, even if both have one name.
        """
        bell_path = self._services.run_dir.bell(wiring.number)
        there = (child for child in self.children.values() if child.leaving == leaving)
        first = next((child for child in there if spec.process and child.spec.process == spec.process), None)
        if first is None:
            doorbell.create(bell_path)
        else:
            doorbell.share(bell_path, self._services.run_dir.bell(first.wiring.number))
        pulse_path = self._services.run_dir.pulse(wiring.number)
        pulse_path.parent.mkdir(mode=0o700, exist_ok=True)
        page = PulsePage(pulse_path)
        if first is not None:
            bell = doorbell.open_bell(bell_path)
            member = Member(self._services, spec, first.machine, wiring, page, bell, first=first)
            member.has_ended, member.leaving = ended, leaving
            self.children[spec.id] = member
            first.others.append(member)
            return
        machine = Lifecycle(
            shown_id(spec.id, spec.replicas),
            policy_of(spec),
            state=LifecycleState.ENDED if ended else LifecycleState.WAITING,
            # under a runtime that was killed; what was handled since is gone, and counts nothing
            left_in_hand=page.read().hands,
        )
        child = Child(self._services, spec, machine, wiring, page, doorbell.open_bell(bell_path))
        child.has_ended, child.leaving = ended, leaving
        self.children[spec.id] = child

    def add_as(self, spec: NodeSpec, wiring: Wiring, first: Child | None) -> None:
        """A node that is new. `first`: the first replica of its node, if that is there: it has ended, or is stopped, as
        that is.
        """
        has_ended = first is not None and first.state is LifecycleState.ENDED
        self.add(spec, wiring, has_ended)
        if first is not None and first.parked and not has_ended:
            child = self.children[spec.id]
            child.parked, child.machine.state = True, LifecycleState.STOPPED

    @property
    def processes(self) -> list[Child]:
        """The nodes, without those that share the process of an earlier one."""
        return [child for child in self.children.values() if child.leader is child]

    @property
    def machines(self) -> dict[str, Lifecycle]:
        """The lifecycle of each process."""
        return {child.id: child.machine for child in self.processes}

    def connect(self) -> None:
        """All nodes are there: who is whose neighbour, and which processes have something left to do?"""
        self._name_processes()
        for child in self.processes:
            if child.others:
                members = (child, *child.others)
                ended = all(member.has_ended for member in members)
                child.machine.state = LifecycleState.ENDED if ended else LifecycleState.WAITING
                child.machine.left_in_hand = tuple(
                    (*hand, member.wiring.number) for member in members for hand in member.page.read().hands
                )
        self.meet()

    def _name_processes(self) -> None:
        for child in self.processes:
            if child.others:
                members = [member.id for member in (child, *child.others)]
                child.machine.node = named_process(child.spec.process, members)

    def meet(self) -> None:
        """Who is whose neighbour now? Nodes that are leaving stay neighbours of those that they fed."""
        for child in self.children.values():
            around = {sender for spec in child.spec.inputs for sender in spec.senders}
            around |= {
                receiver.id
                for output in child.spec.outputs
                for receiver, _ in self.dataflow.receivers(child.id, output)
            }
            around |= {other.id for other in child.neighbours}
            child.neighbours = [self.children[id] for id in sorted(around - {child.id}) if id in self.children]

    @property
    def dataflow(self) -> Dataflow:
        """The one in force. Nodes that are leaving are not in it."""
        return self._services.dataflow

    @dataflow.setter
    def dataflow(self, dataflow: Dataflow) -> None:
        self._services.dataflow = dataflow

    @property
    def services(self) -> Services:
        return self._services

    def adopt(self, child: Child, waiting: Waiting) -> None:
        """A process on trial becomes the one of the node's next life."""
        child.waiting = waiting
        if waiting.identity is not None:
            self._identities[waiting.identity] = child

    def rename(self, names: Mapping[str, str]) -> None:
        """Nodes have other ids from now on (old -> new)."""
        self.children = self.under(names)
        for child in self.children.values():
            child.spec = renamed_node(child.spec, names)
            child.wiring = child.wiring.renamed(names)
            child.to_end = {renamed_id(names, id): stop for id, stop in child.to_end.items()}
            if not child.others:
                child.machine.node = shown_id(child.id, child.spec.replicas)
        self._name_processes()

    def under(self, names: Mapping[str, str]) -> dict[str, Child]:
        """The nodes by the ids that they get (old -> new)."""
        return {renamed_id(names, id): child for id, child in self.children.items()}

    def in_order(self) -> None:
        """Order the nodes as in the file; those that are leaving come last."""
        known = {spec.id: place for place, spec in enumerate(self.dataflow.nodes)}
        self.children = dict(sorted(self.children.items(), key=lambda item: known.get(item[0], len(known))))

    def remove(self, child: Child) -> None:
        """A node is gone from the run: forget it, and all that its processes used."""
        del self.children[child.id]
        for other in self.children.values():
            if child in other.neighbours:
                other.neighbours.remove(child)
        self._forget(child)
        child.close()
        run_dir, number = self._services.run_dir, child.wiring.number
        for path in (run_dir.bell(number), run_dir.pulse(number)):
            path.unlink(missing_ok=True)

    def start(self) -> None:
        """Start all that wait. One that cannot be started is told of, and keeps nothing else from its beginning."""
        waiting = [child for child in self.processes if child.machine.state is LifecycleState.WAITING]
        for child in self.processes:
            if self._services.options.dora is not None and child not in waiting:  # it has ended in an earlier run
                self._services.run_log.ended(child.id)
        self._services.barrier.expect(child.id for child in waiting if child.machine.policy.together)
        for child in waiting:
            if child.machine.state is LifecycleState.WAITING:
                self._boundary.call(f"the start of {child.id}", child.feed, su.Start())

    # ---- what peers say

    def drain(self) -> bool:
        """Take all messages that have come; whether there were any."""
        taken = False
        while (found := self._services.router.receive_nowait()) is not None:
            taken = True
            self._boundary.call(f"a message of {self._named(found[0])}", self._receive, *found)
        return taken

    def _named(self, identity: bytes) -> str:
        child = self._identities.get(identity)
        return "a peer that is not a node" if child is None else child.id

    def _receive(self, identity: bytes, message: Message) -> None:
        if isinstance(message, Ask):
            self._on_ask(identity, message)
            return
        if isinstance(message, Hello):
            self._hello(identity, message)
            return
        child = self._identities.get(identity)
        if child is not None:
            child.receive(identity, message)

    def _hello(self, identity: bytes, hello: Hello) -> None:
        if hello.life < 0 and hello.version == VERSION:  # it was started as a trial of `apply`
            if self.trials.said_hello(hello.node, hello.life, identity, hello.pid):
                return
            known = self.children.get(hello.node)
            if known is not None and known.waiting is not None and known.waiting.token == hello.life:
                known.waiting.identity, known.waiting.peer = identity, hello.pid
                self._identities[identity] = known
                return
            if known is not None and known.token[0] == hello.life:
                hello = replace(hello, life=known.token[1])
        why = self._objection(hello)
        if not why and hello.kind == "dynamic":
            why = self.children[hello.node].watch_peer(hello.pid)
        if why:
            self._services.router.send(identity, Refused(why))
            return
        child = self.children[hello.node]
        self._forget(child)
        self._identities[identity] = child
        child.greeted(identity, hello.pid)

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

    # ---- processes

    def children_changed(self) -> None:
        """SIGCHLD: a child was stopped, or continues, or has ended. A pidfd tells of the end, except for an orphan."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)) is not None:
                if found.si_code == os.CLD_STOPPED:
                    self.stopped.add(found.si_pid)
                else:
                    self.stopped.discard(found.si_pid)
        self.reap_orphans()

    def reap_orphans(self) -> None:
        """Reap what we have adopted and what has ended: grandchildren whose parents died before them."""
        if self._services.fork_server.busy:
            return  # one of them may be a child that has not told its pid yet
        known = self._services.fork_server.pids
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
            child.tick(now_s)

    def deadline_s(self) -> float:
        """When `tick` is due."""
        return min((child.deadline_s() for child in self.children.values()), default=NEVER)

    def look(self, now_s: float, holdings: list[tuple[int, Holding]], pinnings: list[Pinning]) -> None:
        """The vitals of all that live. `holdings`: process -> the lock that it holds."""
        for child in self.children.values():
            child.look(now_s, holdings, pinnings)

    # ---- the end

    def stop(self, grace_s: float, drain: bool) -> None:
        """Stop all nodes; with `drain` only those that no node feeds, and let the others end by themselves."""
        self.ending = self.ending or not drain
        self._draining = self._draining or drain
        if not drain:
            all_of(partial(child.feed, su.StopAsked(grace_s)) for child in self.processes)
            return
        asked = [
            child
            for child in self.children.values()
            if (child.spec.kind == "dynamic" and not child.alive)  # it never came
            or all(spec.is_timer for spec in child.spec.inputs)
        ]
        all_of(partial(child.end, grace_s, "MANUAL") for child in asked)

    def abort(self) -> None:
        self.ending = True
        all_of(partial(child.feed, su.Abort()) for child in self.processes)

    @property
    def done(self) -> bool:
        over = self.ending or self._draining
        return all(
            child.machine.state in DONE
            and (over or not child.parked or child.machine.state is LifecycleState.ENDED)  # while it was being stopped
            for child in self.children.values()
        )

    @property
    def failed(self) -> list[Child]:
        return [child for child in self.children.values() if child.state is LifecycleState.FAILED]

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
        """Nodes that have not been ready yet, in this run; while others wait for some of them, only these."""
        missing = self._services.barrier.missing
        if missing:
            return [child.id for child in self.children.values() if child.id in missing]
        return [
            child.id for child in self.children.values() if child.state in UNFINISHED and not child.machine.was_ready
        ]

    def close(self) -> None:
        for proc in self._services.procs:
            proc.close()
        for child in self.children.values():
            child.close()
