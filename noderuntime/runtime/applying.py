"""Makes a running dataflow what its file says now, or gives a node other replicas: the runtime's part of `apply` and
`scale`.

    IDLE       nothing is being changed. What an earlier change has removed may still drain
    CHECKING   the plan is made (dataflow/changes.py), replicas that an earlier change has ended leave, and the store
               looks what would be lost
    TRYING     operators that are new or changed are tried beside the run (trials.py); the store gives numbers
    GIVING     replicas that are no longer wanted give their slots to the others
    SWITCHING  the store makes the new dataflow the one in force, in one transaction
    TAKING     new replicas take over their slots when they are ready; the change is made

Up to GIVING the run is as before, and whatever goes wrong, the runtime's own death included, leaves it so: nothing of
the change is in the space but numbers that are never used. In SWITCHING it can no longer be taken back, only waited
for: the request is repeated until the store has answered, and one that is repeated takes effect once. If the runtime
dies there, the space has the old or the new dataflow in force, and `--resume` goes on with that one.

After the switch the runtime carries out what follows from it, which is the same that a resume would do: it starts what
is new, replaces processes of what has changed, tells the rewired ones, and lets what is removed drain. What fails then
is an ordinary failure of a node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final

from noderuntime.dataflow import files
from noderuntime.dataflow.changes import ADDED, SCALED, compare
from noderuntime.dataflow.identifiers import node_of, shown_id
from noderuntime.dataflow.model import Dataflow, NodeSpec
from noderuntime.dataflow.renaming import problem
from noderuntime.dataflow.replicas import expanded, scaled, written
from noderuntime.errors import ChangeRefused, DataflowError
from noderuntime.ipc import doorbell
from noderuntime.ipc.boundary import all_of
from noderuntime.ipc.change_records import Losses, Prepared, Switched
from noderuntime.ipc.control_records import Applied, ApplyRun, PlannedChange, ScaleRun
from noderuntime.ipc.store_records import Done, Opened, result
from noderuntime.ipc.wiring import Wiring
from noderuntime.runtime import lifecycle_events as su
from noderuntime.runtime.change import Work
from noderuntime.runtime.children import Child
from noderuntime.runtime.draining import Draining, dismiss, is_replica_in
from noderuntime.runtime.flight_recorder import FlightRecorder
from noderuntime.runtime.hearing import tell_wiring
from noderuntime.runtime.lifecycle_events import LifecycleState
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.machine import NEVER
from noderuntime.runtime.moving import Moving
from noderuntime.runtime.nodes import NodeSupervisor
from noderuntime.runtime.observer import RunOptions
from noderuntime.runtime.phases import RunPhase
from noderuntime.runtime.plan import NEW_NODE, store_nodes
from noderuntime.runtime.policy import policy_of
from noderuntime.runtime.resuming import Resumption
from noderuntime.runtime.store_link import StoreLink
from noderuntime.runtime.switching import expect_fences, switching

TIMEOUT_S: Final = 30.0
KNOWN_MAX: Final = 20  # changes of which can still be asked: who asks has looked away for a moment
FAILED, REFUSED = 1, 2  # exit codes of the command


class Step(Enum):
    """See the head of this module."""

    IDLE = "idle"
    CHECKING = "checking"
    TRYING = "trying"
    GIVING = "giving"
    SWITCHING = "switching"
    TAKING = "taking"


class Applying:
    """The changes of one run, one at a time. `phase`: of the run; `recorder`: follows the nodes that are new."""

    def __init__(
        self,
        nodes: NodeSupervisor,
        link: StoreLink,
        log: RunLog,
        options: RunOptions,
        clock: Callable[[], float],
        phase: RunPhase,
        recorder: FlightRecorder,
    ) -> None:
        self._nodes = nodes
        self._link = link
        self._log = log
        self._options = options
        self._clock = clock
        self._phase = phase
        self._recorder = recorder
        self._trials = nodes.trials
        self._step = Step.IDLE
        self._work: Work | None = None  # the last change that was begun
        self._known: deque[Work] = deque(maxlen=KNOWN_MAX)
        self._tickets = 0
        self._deadline_s = NEVER
        self._moving = Moving(nodes, link)
        self.draining = Draining(nodes, link, log, options.grace_s)
        self._by_scale: set[str] = set()  # nodes whose number of replicas is not that of the file
        self._applied: tuple[str, Dataflow] | None = None  # see Resumption

    @property
    def is_idle(self) -> bool:
        """Whether a change can be begun. What an earlier one has removed may still drain."""
        return self._step is Step.IDLE

    # ---- what is asked

    def begin(self, asked: ApplyRun) -> Applied:
        """Begin to make the run what a file says; what is known of it at once."""
        if (refused := self._not_now()) is not None:
            return refused
        try:
            new = files.load(asked.file, self._options.environ, dict(self._options.extra_env))
            warnings = files.check_files(new)
            if wrong := self._options.problems(new, self._options.extra_env):
                raise files.joined(wrong)
        except DataflowError as error:
            return self._refused(str(error), REFUSED)
        here = [spec.id for spec in written(self._nodes.dataflow).nodes]
        why = problem(asked.rename, here, [spec.id for spec in new.nodes])
        if why:
            return self._refused(why, REFUSED)
        return self._begin(asked, new, {}, warnings)

    def scale(self, asked: ScaleRun) -> Applied:
        """Begin to give a node another number of replicas; what is known of it at once."""
        if (refused := self._not_now()) is not None:
            return refused
        try:
            new = scaled(written(self._nodes.dataflow), asked.node, asked.replicas)
        except DataflowError as error:
            return self._refused(str(error), REFUSED)
        if self._nodes.children[asked.node].state is LifecycleState.ENDED:
            return self._refused(f"node {asked.node!r} has finished, and does not begin again in this run", FAILED)
        return self._begin(ApplyRun("", timeout=asked.timeout), new, {asked.node: asked.replicas})

    def _not_now(self) -> Applied | None:
        if not self.is_idle:
            return self._refused("another change of this run is under way; try again when it is done", FAILED)
        if not self._phase.is_up:
            return self._refused("the run is stopping, or has not begun yet", FAILED)
        if self._options.dora is not None:
            return self._refused(
                "a dataflow of dora cannot be changed while it runs. Stop the run, and start it again with "
                "`run --dora FILE`",
                REFUSED,
            )
        return None

    def _begin(
        self, asked: ApplyRun, new: Dataflow, scale: dict[str, int], warnings: Iterable[str] = ()
    ) -> Applied:
        """`new`: as the file has it."""
        made = compare(written(self._nodes.dataflow), new, asked.rename, () if scale else self._by_scale)
        self._tickets += 1
        touched = {*made.of(ADDED), *made.restarting, *made.growing}
        concerned = [spec.start_timeout_s for spec in new.nodes if spec.id in touched]
        timeout_s = asked.timeout or max([TIMEOUT_S, *concerned])
        work = self._work = Work(self._tickets, asked, expanded(new), made, timeout_s, scale)
        self._known.append(work)
        if made.refusal:
            return self._over(made.refusal, REFUSED)
        for warning in warnings:
            self._log.warn(warning)
        self._step = Step.CHECKING
        self._deadline_s = self._clock() + timeout_s
        self._check(work)
        return self.told(work.ticket)

    def _check(self, work: Work) -> None:
        """Ask the store what would be lost, once replicas that an earlier change has ended have left."""
        if work.is_checked or self.draining.unwanted(work.new):
            return
        work.is_checked = True
        asked = work.asked
        arguments = {"nodes": store_nodes(work.new), "drop": list(asked.drop), "discard": asked.discard,
                     "rename": asked.rename}  # fmt: skip
        self._link.request("change_losses", arguments, result(Losses), self._checked, self._not_possible)

    def follow(self, file: Path) -> bool:
        """The dataflow file has changed, and `--watch` makes the run what it says. False while another change is under
        way. Nothing is dropped for its sake: then it says what to type.
        """
        if not self.is_idle:
            return False
        self._log.tell(f"{file.name} has changed")
        found = self.begin(ApplyRun(str(file)))
        if found["over"] and found["error"] and not found["ticket"]:
            self._log.tell(f"the dataflow stays as it is: {found['error']}")
        return True

    def give_up(self, ticket: int) -> Applied:
        """Who asked for the change does not want it any more: leave everything as it is, unless that is too late."""
        work = self._work
        if work is not None and work.ticket == ticket and self._step in (Step.CHECKING, Step.TRYING):
            return self._over("it was given up", FAILED)
        return self.told(ticket)

    def told(self, ticket: int) -> Applied:
        """How far the change with that ticket has come, or what has become of it: others may have followed."""
        work = next((work for work in self._known if work.ticket == ticket), None)
        if work is None:
            return {**self._refused("many other changes have followed", FAILED), "ticket": ticket}
        changes: list[PlannedChange] = [
            {
                "node": item.node,
                "change": item.change,
                "details": list(item.details),
                "drops": work.losses.get(item.node, ""),
                "restarts": item.restarts,
            }
            for item in work.plan.changes
        ]
        return {"ticket": ticket, "over": work.is_over, "applied": work.applied, "plan": changes, "error": work.error,
                "code": work.code, "drains": [] if work.asked.discard else self.draining.shown(), "late": work.late,
                "discarded": work.discarded, "gives_up": work.gives_up}  # fmt: skip

    def _refused(self, why: str, code: int) -> Applied:
        return {"ticket": 0, "over": True, "applied": False, "plan": [], "error": why, "code": code,
                "drains": self.draining.shown(), "late": [], "discarded": 0, "gives_up": ""}  # fmt: skip

    def _over(self, error: str = "", code: int = 0) -> Applied:
        """The change has come to its end."""
        work = self._work
        assert work is not None
        self._replace_none()
        if self._step in (Step.GIVING, Step.SWITCHING) and not work.applied:
            self._moving.begin(work.fewer(before=True), at_once=True)
        if self._step in (Step.TRYING, Step.GIVING):
            self._link.request("change_undo", {}, result(Done), lambda _: None, lambda error, text: None)
        self._step = Step.IDLE
        self._deadline_s = NEVER
        self._trials.close()
        work.is_over, work.error, work.code = True, error, code
        if error and not work.asked.dry_run:
            self._log.tell(f"the dataflow stays as it is: {error}")
        return self.told(work.ticket)

    def _not_possible(self, error: str, text: str) -> None:
        if self._step in (Step.CHECKING, Step.TRYING, Step.GIVING, Step.SWITCHING):
            self._over(text, REFUSED if error == ChangeRefused.__name__ else FAILED)

    # ---- before the switch

    def _checked(self, found: Losses) -> None:
        work = self._work
        if work is None or self._step is not Step.CHECKING:
            return  # given up meanwhile
        work.losses = found["losses"]
        discards = work.asked.discard and bool(self.draining.ids)
        if work.asked.dry_run or not (work.plan.changes or discards):
            self._over()
            return
        if work.losses:
            self._over(work.lost(self._options.name), REFUSED)
            return
        if not self._phase.is_up:
            self._over("the run was asked to stop meanwhile", FAILED)
            return
        self._step = Step.TRYING
        self._try(work)
        arguments = {"nodes": store_nodes(work.new), "file": work.name, "rename": work.asked.rename}
        self._link.request("change_prepare", arguments, result(Prepared), self._got_numbers, self._not_possible)

    def _try(self, work: Work) -> None:
        """Try what is new or changed, or gets messages by another `partition_by`, which its keys may not allow; of
        replicas one, because all are made of the same.
        """
        tried = {*work.plan.of(ADDED), *work.plan.restarting}
        children = self._nodes.under(work.asked.rename)
        for spec in work.new.nodes:
            child = children.get(spec.id)
            if child is not None and spec.replicas > 1 and spec.partition_by != child.spec.partition_by:
                tried.add(node_of(spec.id))
        growing = set(work.plan.growing) - tried
        for spec in work.new.nodes:
            child = children.get(spec.id)
            node = node_of(spec.id)
            if child is not None and child.state is LifecycleState.ENDED:
                tried.discard(node)
                growing.discard(node)
            if node not in tried and not (node in growing and child is None):
                continue
            tried.discard(node)
            growing.discard(node)
            if spec.kind == "operator":
                self._trials.begin(work.new, spec, NEW_NODE if child is None else child.wiring.number)
            elif spec.kind == "node" and (spec.inputs or spec.outputs) and not (child is not None and child.parked):
                self._trials.begin_program(work.new, spec)  # one without ports need not say hello

    def _got_numbers(self, found: Prepared) -> None:
        if self._work is not None and self._step is Step.TRYING:
            self._work.prepared = found

    def look(self, now_s: float) -> None:
        """Some times a second, and when a trial is over."""
        work = self._work
        if work is not None and self._step in (Step.CHECKING, Step.TRYING, Step.GIVING):
            failed = self._trials.failure
            if not self._phase.is_up:
                self._over("the run was asked to stop meanwhile", FAILED)
            elif failed:
                self._over(failed, REFUSED if self._trials.is_refused else FAILED)
            elif now_s >= self._deadline_s:
                waits = ", ".join([*self._trials.waiting(now_s), *self._moving.not_ready()]) or "the store"
                self._over(f"not ready within {work.timeout_s:g} s: {waits}. Everything is as before", FAILED)
            elif self._step is Step.CHECKING:
                self._check(work)
            elif self.draining.is_settling:
                pass  # the switch names what is leaving: not what the store may have let go already
            elif self._step is Step.TRYING and work.prepared is not None and not self._trials.waiting(now_s):
                self._step = Step.GIVING
                self._moving.begin(work.fewer(), at_once=True)
                self._moving.look()
            if self._step is Step.GIVING and work.prepared is not None and not self._moving.waits(work.fewer()):
                self._switch(work, work.prepared)
        elif work is not None and self._step is Step.TAKING:
            self._take(now_s)
        if self._applied is not None and self.is_idle and self._phase.is_up:
            (file, dataflow), self._applied = self._applied, None
            self._begin(ApplyRun(file), dataflow, {})
        if self._step is not Step.SWITCHING:
            self._moving.look()
        if self._step not in (Step.TRYING, Step.GIVING, Step.SWITCHING):  # it may raise the number that it has got
            self.draining.look(now_s)

    # ---- the switch

    def _switch(self, work: Work, prepared: Prepared) -> None:
        self._step = Step.SWITCHING
        made = switching(self._nodes, work.new, work.plan, work.asked, prepared, self._options.name, work.scale)
        expect_fences(self._nodes, work.new, work.asked, made)

        def done(found: Switched) -> None:
            self._switched(work, made.wirings, prepared["version"], found)

        self._link.request("change_switch", made.arguments, result(Switched), done, self._not_possible)

    def _switched(self, work: Work, wirings: dict[str, Wiring], version: int, found: Switched) -> None:
        """The new dataflow is in force: the processes follow."""
        self._replace_none()
        work.discarded = found["discarded"]
        new = work.new
        self._nodes.rename(work.asked.rename)
        self._nodes.dataflow = new
        leaving = [child for id, child in self._nodes.children.items() if id not in wirings]
        steps: list[Callable[[], None]] = []
        others = {item.node: item.replicas for item in work.plan.changes if item.replicas}
        scaled = work.plan.of(SCALED)
        for child in leaving:
            if child.wiring.version != version:
                child.wiring = replace(child.wiring, version=version)
        fresh = set()
        for spec in new.nodes:
            there = self._nodes.children.get(spec.id)
            if there is None:
                self._nodes.add_as(spec, wirings[spec.id], self._nodes.children.get(node_of(spec.id)))
                fresh.add(spec.id)
            else:
                _become(there, spec, wirings[spec.id])
            waiting = self._trials.take(spec.id)
            if waiting is not None:
                self._nodes.adopt(self._nodes.children[spec.id], waiting)
        self._nodes.meet()
        self._nodes.in_order()
        for child in self._nodes.processes:
            members = {node_of(child.id), *(other.id for other in child.others)}
            state = child.machine.state
            if child in leaving and is_replica_in(child, new):
                steps.append(partial(dismiss, child))
            elif child in leaving:
                steps.append(partial(self.draining.let_go, child, work.asked.discard))
            elif child.id in fresh:
                steps += [partial(child.feed, su.Start())] if state is LifecycleState.WAITING else []
            elif members & {*work.plan.restarting, *(scaled if state is LifecycleState.FAILED else ())}:
                steps.append(partial(self._renew, child))
            else:
                steps.append(partial(tell_wiring, child))
            steps.append(partial(doorbell.ring, child.bell))
        self.draining.note(found["leaving"])
        work.applied = True
        self._by_scale = {*self._by_scale, *work.scale} if work.scale else set()
        self._moving.keep({node_of(spec.id) for spec in new.nodes})
        self._moving.begin({node: new.node(node).replicas for node in work.plan.growing})
        self._step = Step.TAKING
        self._trials.close()
        self._recorder.follow_new(self._nodes.machines)
        self._log.follow(child.spec for child in self._nodes.children.values())
        if not work.scale:
            counts = [f"{len(ids)} {kind}" for kind, ids in work.by_kind().items()]
            self._log.tell(f"the dataflow is that of {work.asked.file} now: {', '.join(counts) or 'nothing drains'}")
        for node, more in others.items():
            count = new.node(node).replicas
            self._log.tell(f"{node} has {count} replica{'s' if count > 1 else ''} now; before it had {count - more}")
        if not self._phase.is_up:  # it was asked to stop meanwhile: what is new never begins
            idle = [child for child in self._nodes.processes if child.machine.state is LifecycleState.WAITING]
            steps = [partial(child.feed, su.StopAsked(0.0)) for child in idle]
        all_of((*steps, partial(self._take, self._clock())))

    def _replace_none(self) -> None:
        """No switch is under way."""
        for child in self._nodes.processes:
            child.is_replaced = False

    def _take(self, now_s: float) -> None:
        """The change is over when new replicas have their slots, or have had the time to be ready."""
        self._moving.look()
        work = self._work
        assert work is not None
        if not self._moving.waits(work.plan.growing):
            self._over()
        elif now_s >= self._deadline_s or not self._phase.is_up:
            work.late = self._moving.not_ready()
            names = ", ".join(work.late) or "the store"
            self._log.tell(f"not ready yet: {names}. Keys stay with the replicas of before until all are ready")
            self._over()

    def resumed(self, opened: Opened, resumption: Resumption) -> None:
        """The run goes on, perhaps with a dataflow of which parts were leaving. Call it before nodes are started."""
        self._by_scale = set(resumption.scaled)
        self._applied = resumption.applied
        self.draining.resumed(opened)

    def _renew(self, child: Child) -> None:
        """It has changed: its process makes room for one that is made of what the file says now."""
        state = child.machine.state
        if child.parked or state in (LifecycleState.ENDED, LifecycleState.WAITING, LifecycleState.STOPPING):
            return
        if state is not LifecycleState.KILLED:
            at_once = child.spec.kind == "operator"  # the switch has fenced it
            child.feed(su.RestartAsked("has changed: a new life begins", self._options.grace_s, at_once))


def _become(child: Child, spec: NodeSpec, wiring: Wiring) -> None:
    """What the dataflow says about a node from now on. Its next life is made of that."""
    child.spec, child.wiring = spec, wiring
    if child.leader is child:
        child.machine.follow(policy_of(spec))
        if not child.others:
            child.machine.node = shown_id(spec.id, spec.replicas)
