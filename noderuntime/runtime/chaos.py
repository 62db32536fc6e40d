"""`--chaos`, the part that kills: sends SIGKILL to random processes of the run and measures how long each is away.

Victims are operators, custom nodes that are restarted, also those that were added while the run goes on, the store, the
fork server and the tap server. A node that has committed nothing since its last death is not killed, which would only
use up its restart budget. A node is back once its new life has handled an event, or waits for one; the store, once it
answers; the fork server, once it creates a process; the tap server, which is there while somebody looks, once there is
another one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from noderuntime.dataflow.identifiers import node_of, shown_id
from noderuntime.dataflow.model import Dataflow, NodeSpec
from noderuntime.ipc import entrypoints, process
from noderuntime.ipc.pulse import HANDLED, PHASE, WAITING
from noderuntime.ipc.store_records import Figures, result
from noderuntime.runtime.chaos_schedule import Edge, Kill, Report, Schedule, balance
from noderuntime.runtime.children import Child
from noderuntime.runtime.forkserver import Order
from noderuntime.runtime.keepers import ForkServerKeeper, StoreKeeper
from noderuntime.runtime.lifecycle_events import DONE, LifecycleState
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.machine import NEVER
from noderuntime.runtime.nodes import NodeSupervisor
from noderuntime.runtime.processes import Proc
from noderuntime.runtime.store_link import StoreLink
from noderuntime.runtime.taps import TapKeeper

LOOK_S = 0.001  # while a killed process is not back yet
RETRY_S = 0.05  # while no process may be killed
STORE, FORK_SERVER, TAPS = "(store)", "(fork server)", "(tap server)"  # no node can have these names
KEPT = (STORE, FORK_SERVER, TAPS)


class Chaos:
    """The kills of one run. The loop calls `turn` at `deadline_s` at the latest, and often in between."""

    def __init__(
        self,
        supervisor: NodeSupervisor,
        store: StoreKeeper,
        fork_server: ForkServerKeeper,
        link: StoreLink,
        run_log: RunLog,
        taps: TapKeeper,
        dataflow: Dataflow,
        every_s: float,
        seed: int | None,
        clock: Callable[[], float],
    ) -> None:
        seed = secrets.randbelow(1_000_000) if seed is None else seed
        self._supervisor = supervisor
        self._store = store
        self._fork_server = fork_server
        self._link = link
        self._run_log = run_log
        self._taps = taps
        self._clock = clock
        victims = [*(spec.id for spec in dataflow.nodes if _may_be_killed(spec)), *KEPT]
        self.report = Report(seed, every_s, victims)
        self._schedule = Schedule(seed, every_s, victims)
        self._edges = _edges(dataflow.nodes)
        self._before: Mapping[str, Any] | None = None
        self._wired: dict[str, int] = {}  # the wiring number of each node at the beginning
        self._began_s = 0.0
        self._has_begun = False
        self._next_s = NEVER
        self._waiting: dict[str, tuple[Kill, int]] = {}  # victim -> its kill, and the life (tap server: pid) that ended

    def start(self) -> None:
        """The nodes are being spawned: from here on processes may be killed."""

        def counted(found: Figures) -> None:
            self._before = found["nodes"]

        self._wired = {id: child.wiring.version for id, child in self._supervisor.children.items()}
        self._began_s, self._has_begun = self._clock(), True
        self._next_s = self._began_s + self._schedule.pause_s()
        self._link.request("figures", {}, result(Figures), counted, lambda error, text: None)
        report = self.report
        self._run_log.tell(f"chaos: a kill -9 every {report.every_s:g} s or so, seed {report.seed}")

    @property
    def has_begun(self) -> bool:
        """Whether the nodes were spawned: else there is nothing to report."""
        return self._has_begun

    def stop(self) -> None:
        """No more kills."""
        self._next_s = NEVER
        if self.has_begun and not self.report.lasted_s:
            self.report.lasted_s = self._clock() - self._began_s

    def deadline_s(self) -> float:
        """When `turn` is due."""
        looking = any(victim not in KEPT for victim in self._waiting)
        return min(self._next_s, self._clock() + LOOK_S) if looking else self._next_s

    def turn(self, now_s: float) -> None:
        """Note which processes are back, and kill one if that is due."""
        for victim, (kill, life) in list(self._waiting.items()):
            if victim == TAPS and self._taps.pid not in (0, life):
                self._back(victim, kill)
            if victim in KEPT:
                continue
            child = self._supervisor.children.get(victim)
            if child is None or child.machine.state in DONE:
                del self._waiting[victim]
            elif child.machine.life > life and _works(child):
                claim = child.claim if child.spec.kind == "node" else None
                self.report.again += 0 if claim is None else len(claim["attempts"])
                self._back(victim, kill)
        if now_s >= self._next_s:
            self._follow()
            victim_or_none = self._schedule.pick(self._possible())
            if victim_or_none is None:
                self._next_s = now_s + RETRY_S
            else:
                self._kill(victim_or_none)
                self._next_s = now_s + self._schedule.pause_s()

    def _follow(self) -> None:
        """Nodes that have been added may be killed, too."""
        nodes = [child.spec for child in self._supervisor.children.values() if _may_be_killed(child.spec)]
        self._schedule.add([spec.id for spec in nodes])

    def _possible(self) -> set[str]:
        found = {
            child.id
            for child in self._supervisor.children.values()
            if child.machine.state is LifecycleState.RUNNING and _pidfd(child) >= 0 and not child.machine.budget.streak
            if _may_be_killed(child.spec)
        }
        if self._store.pid and self._link.idle:
            found.add(STORE)
        if self._fork_server.is_well and not self._fork_server.busy:
            found.add(FORK_SERVER)
        if self._taps.pid and not self._taps.has_ended:
            found.add(TAPS)
        return found - set(self._waiting)

    def _kill(self, victim: str) -> None:
        kill = Kill(victim, self._clock() - self._began_s)
        life = 0
        if victim in KEPT:
            life = pid = {STORE: self._store.pid, FORK_SERVER: self._fork_server.pid, TAPS: self._taps.pid}[victim]
            with contextlib.suppress(ProcessLookupError):  # ours, and not reaped: the number is right
                os.kill(pid, signal.SIGKILL)
        else:
            child = self._supervisor.children[victim]
            life = child.machine.life
            process.signal_process(_pidfd(child), signal.SIGKILL)
        self.report.kills.append(kill)
        self._waiting[victim] = (kill, life)
        if victim == STORE:
            self._link.request(
                "figures", {}, result(Figures), lambda _: self._back(victim, kill), lambda error, text: None
            )
        elif victim == FORK_SERVER:
            with contextlib.suppress(OSError):
                order = Order("nr-probe", dict(os.environ), "/", entry=entrypoints.CHAOS_PROBE)
                self._fork_server.spawn(order, _Probe(lambda: self._back(victim, kill)))

    def _back(self, victim: str, kill: Kill) -> None:
        kill.back_s = self._clock() - self._began_s - kill.at_s
        del self._waiting[victim]
        child = self._supervisor.children.get(victim)
        name = victim if child is None else shown_id(victim, child.spec.replicas)
        self._run_log.tell(f"chaos: {name} is back, {kill.back_s * 1000:.1f} ms after its kill")

    def finish(self, figures: Mapping[str, Any]) -> Report:
        """The report, with the store's last figures (nodes by id; empty when it could not be asked)."""
        self.stop()
        if figures and self._before is not None:
            before = self._before
            kept = [edge for edge in self._edges if self._is_as_before(edge, before, figures)]
            children = [child for child in self._supervisor.children.values() if not child.leaving]
            now = _edges(child.spec for child in children)
            self.report.changed = len({*self._edges, *now} - {*kept})
            self.report.balances = {edge: balance(edge, before, figures) for edge in kept}
        return self.report

    def _is_as_before(self, edge: Edge, before: Mapping[str, Any], figures: Mapping[str, Any]) -> bool:
        """Whether an edge can be counted: no change of the dataflow has touched its receiver or removed a replica."""
        gone = {node_of(id) for id in before.keys() - figures.keys()}
        if edge.node in gone or edge.source.rpartition("/")[0] in gone:
            return False
        receivers = [child for id, child in self._supervisor.children.items() if node_of(id) == edge.node]
        return bool(receivers) and all(child.wiring.version == self._wired.get(child.id) for child in receivers)


def _may_be_killed(spec: NodeSpec) -> bool:
    return spec.kind != "dynamic" and spec.restart_policy != "never"


def _edges(nodes: Iterable[NodeSpec]) -> list[Edge]:
    """The connections of a dataflow; all replicas of a node are one."""
    return [
        Edge(item.source, spec.id, item.name)
        for spec in nodes
        if not spec.replica
        for item in spec.inputs
        if not item.is_timer
    ]


def _pidfd(child: Child) -> int:
    """The pidfd of the node's process; -1 if there is none or it has ended."""
    return child.proc.pidfd if child.proc is not None else -1


def _works(child: Child) -> bool:
    if child.machine.state is not LifecycleState.RUNNING:
        return False
    if not child.has_pulse():
        return not child.machine.policy.has_ports
    words = child.page.words
    return words[HANDLED] > 0 or words[PHASE] == WAITING


class _Probe:
    """The Owner of a process that exits at once."""

    def __init__(self, made: Callable[[], None]) -> None:
        self._made = made

    def said(self, stream: str, line: str) -> None:
        """It says nothing."""

    def exited(self, proc: Proc, status: int) -> None:
        proc.close()
        self._made()

    def not_spawned(self, proc: Proc, error: OSError) -> None:
        proc.close()


def probe() -> int:
    """The entry point of a process that does nothing: it shows whether the fork server can create one."""
    return 0
