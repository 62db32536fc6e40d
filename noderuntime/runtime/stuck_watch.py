"""Looks after runs that cannot go on: asks the store what waits, reads the pulses, and carries out verdicts.

What is decided is in stuck.py. The queues are those of one transaction of the store; what each node was doing is read
from its pulse before and after it, and the verdict has to stay the same for STUCK_S, with nothing handled meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

from noderuntime.dataflow.model import Dataflow, InputSpec, NodeSpec
from noderuntime.ipc.pulse import COMMITTING, HANDLED, WAITING, WAITING_FOR_ROOM
from noderuntime.ipc.store_records import Queues, result
from noderuntime.runtime.children import Child
from noderuntime.runtime.lifecycle_events import LifecycleState
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.nodes import NodeSupervisor
from noderuntime.runtime.store_link import StoreLink
from noderuntime.runtime.stuck import Doing, Place, Verdict, endless, judge, on_cycle, reachable, told, waits_text

LOOK_S = 0.2
STUCK_S = 1.0
TOLD_S = 60.0

Seen = tuple[Doing, int, int, int]  # what a node does; its life, and what it has handled and committed in that
Waiting = dict[str, dict[str, list[int]]]  # node -> input -> messages, bytes, whether anything waits


class _Steady:
    """For how long something has been the same."""

    def __init__(self) -> None:
        self._what: object = None
        self._since_s = 0.0

    def for_s(self, what: object, now_s: float) -> float:
        if what != self._what:
            self._what, self._since_s = what, now_s
        return now_s - self._since_s


class StuckWatch:
    """Of one run. `stop(why)` ends it; nodes of finished cycles are told so that they end."""

    def __init__(
        self,
        supervisor: NodeSupervisor,
        link: StoreLink,
        run_log: RunLog,
        grace_s: float,
        clock: Callable[[], float],
        stop: Callable[[str], None],
    ) -> None:
        self.draining = False
        self._supervisor = supervisor
        self._link = link
        self._run_log = run_log
        self._grace_s = grace_s
        self._clock = clock
        self._stop = stop
        self._asked = False
        self._over = False
        self._next_s = 0.0
        self._seen: dict[str, Seen] = {}
        self._over_for = _Steady()
        self._idle_for = _Steady()
        self._stuck_for = _Steady()
        self._told_s = 0.0
        self._judged: Dataflow | None = None  # the dataflow that `_has_cycles` is of
        self._has_cycles = False

    @property
    def _dataflow(self) -> Dataflow:
        return self._supervisor.dataflow

    def _cyclic(self) -> bool:
        """Whether the dataflow in force has cycles."""
        if self._judged is not self._dataflow:
            self._judged = self._dataflow
            nodes = {spec.id: Place(Doing.BUSY, senders=senders_of(spec)) for spec in self._dataflow.nodes}
            self._has_cycles = any(on_cycle(id, nodes, nodes) for id in nodes)
        return self._has_cycles

    def look(self, now_s: float) -> None:
        """Some times a second, while the run continues."""
        if self._asked or self._over or now_s < self._next_s:
            return
        self._next_s = now_s + LOOK_S
        if not self._matters():
            return
        self._seen = before = self._look_at_pulses()
        self._asked = True

        def answered(found: Queues) -> None:
            self._asked = False
            after = self._look_at_pulses()
            self._seen = {
                id: seen if seen == before.get(id) else (Doing.BUSY, *seen[1:]) for id, seen in after.items()
            }
            queues = found["nodes"]
            feeds = ((spec.id, fed.name) for spec in self._dataflow.nodes for fed in spec.inputs if fed.node)
            if all(input in queues.get(id, {}) for id, input in feeds):  # it has not been changed meanwhile
                self._judge(queues)

        def refused(error: str, text: str) -> None:
            self._asked = False

        self._link.request("queues", {}, result(Queues), answered, refused)

    def _matters(self) -> bool:
        """Whether any node can be stuck: only behind a failure, or in a cycle whose Sources have ended."""
        if self.draining or self._supervisor.failed:
            return True
        for child in self._supervisor.children.values():
            child.waits = ""
        states = (child.state for child in self._supervisor.children.values())
        return self._cyclic() and any(state is LifecycleState.ENDED for state in states)

    # ---- what the judge is told

    def _look_at_pulses(self) -> dict[str, Seen]:
        return {id: self._look_at(child) for id, child in self._supervisor.children.items()}

    def _look_at(self, child: Child) -> Seen:
        machine = child.machine
        if child.state is LifecycleState.ENDED:
            return Doing.ENDED, 0, 0, 0
        if child.state is LifecycleState.FAILED:
            return Doing.FAILED, 0, 0, 0
        glance = child.glance(self._clock()) if machine.state is LifecycleState.RUNNING else None
        if glance is None:
            return Doing.BUSY, machine.life, 0, 0
        facts = machine.life, child.page.words[HANDLED], glance.commits
        if glance.phase == WAITING:
            return Doing.WAITING, *facts
        full: Seen = (Doing.FULL, *facts)
        tries_again = glance.phase == COMMITTING and self._seen.get(child.id) == full
        if glance.phase == WAITING_FOR_ROOM or tries_again:
            return full
        return Doing.BUSY, *facts

    def _places(self, queues: Waiting) -> dict[str, Place]:
        return {spec.id: self._place(spec, queues) for spec in self._dataflow.nodes}

    def _place(self, spec: NodeSpec, queues: Waiting) -> Place:
        doing = self._seen[spec.id][0]
        full = tuple(
            receiver.id
            for sender in self._dataflow.members(spec.id)  # a process waits for room as a whole
            for output in sender.outputs
            for receiver, fed in self._dataflow.receivers(sender.id, output)
            if self._seen[receiver.id][0] is not Doing.ENDED
            and not (spec.process and receiver.process == spec.process)  # for itself it does not wait
            and is_full(fed, queues[receiver.id][fed.name])
        )
        if doing is Doing.FULL and not full:
            doing = Doing.CRAMPED
            full = tuple(id for id in queues if id != spec.id and any(size for size, _, _ in queues[id].values()))
        if doing in (Doing.FULL, Doing.CRAMPED) and spec.kind == "dynamic" and not self.draining:
            doing = Doing.BUSY
        by_itself = spec.kind != "operator" or not senders_of(spec) or any(fed.is_timer for fed in spec.inputs)
        return Place(
            doing=doing,
            acts=by_itself and not self.draining,
            queued=any(waits for _, _, waits in queues[spec.id].values()),
            senders=senders_of(spec),
            full=full,
        )

    # ---- what follows

    def _judge(self, queues: Waiting) -> None:
        now_s = self._clock()
        places = self._places(queues)
        verdict = judge(places)
        for id, child in self._supervisor.children.items():
            child.waits = waits_text(places[id], verdict.stuck[id], places) if id in verdict.stuck else ""
        if self.draining:
            for id in endless(places):
                child = self._supervisor.children[id]
                if any(spec.is_timer for spec in child.spec.inputs):
                    child.quieten()
            for id in places:  # what a change has removed ends by itself
                child = self._supervisor.children[id]
                if is_drained(child.spec, places) and child.leader.machine.state is LifecycleState.RUNNING:
                    child.end(self._grace_s)
        left = {id for id, place in places.items() if place.doing is not Doing.ENDED}
        idle = reachable([verdict.opens], places, left) if verdict.opens else set()
        if self._idle_for.for_s(self._marks(idle, queues), now_s) >= self._patience_s(idle, places) and idle:
            self._supervisor.children[verdict.opens].end(self._grace_s)
            return
        over = left if verdict.over and not verdict.opens else set()
        if self._over_for.for_s(self._marks(over, queues), now_s) >= self._patience_s(over, places) and over:
            self._over = True
            self._stop(f"nothing can go on any more: {told(verdict, places)}")
            return
        self._tell(verdict, places, now_s)

    def _marks(self, nodes: Collection[str], queues: Waiting) -> object:
        return [(id, self._seen[id], queues[id]) for id in sorted(nodes)]

    def _patience_s(self, nodes: Collection[str], places: dict[str, Place]) -> float:
        """How long nothing may have happened among `nodes` until nothing will: a silent input may yet time out."""
        timeouts = [
            fed.input_timeout_s
            for id in nodes
            for fed in self._dataflow.node(id).inputs
            if fed.input_timeout_s is not None
            and not fed.is_timer
            and places[fed.node].doing not in (Doing.ENDED, Doing.FAILED)
        ]
        return STUCK_S + max(timeouts, default=0.0)

    def _tell(self, verdict: Verdict, places: dict[str, Place], now_s: float) -> None:
        """Once it is so for STUCK_S, and every minute from then on: who waits for whom, behind a failure."""
        stuck = verdict.stuck if self._supervisor.failed and not verdict.over else {}
        if self._stuck_for.for_s(dict(stuck), now_s) < STUCK_S or not stuck:
            return
        if not self._told_s or now_s - self._told_s >= TOLD_S:
            self._told_s = now_s
            self._run_log.tell(told(verdict, places), logging.WARNING)


def is_drained(spec: NodeSpec, places: Mapping[str, Place]) -> bool:
    """Whether a node that its inputs do not end has nothing left of them, when the run is drained."""
    fed_by = [fed.node for fed in spec.inputs if not fed.is_timer and fed.counts]
    ended = all(places[node].doing is Doing.ENDED for node in fed_by)
    return spec.endless and not spec.helper and bool(fed_by) and ended and not places[spec.id].queued


def senders_of(spec: NodeSpec) -> tuple[str, ...]:
    """The nodes that feed a node."""
    return tuple(sender for fed in spec.inputs for sender in fed.senders)


def is_full(fed: InputSpec, queue: list[int]) -> bool:
    """Whether a queue admits nothing: the rule of the commits (noderuntime.space.admission), for one that waits."""
    messages, size, _ = queue
    if fed.drop_oldest or (messages < fed.queue_size and size < fed.queue_bytes):
        return False
    return messages >= fed.queue_size or messages >= fed.queue_messages_min
