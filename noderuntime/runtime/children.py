"""A node as the runtime sees it: its lifecycle with its present process, its connection, its pulse and its bells."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from noderuntime.dataflow.model import NodeSpec
from noderuntime.ipc import doorbell
from noderuntime.ipc.boundary import all_of
from noderuntime.ipc.pulse import COMMITS, HANDLED, HANDLING, INCARNATION, PHASE, SINCE_NS, PulsePage
from noderuntime.ipc.wiring import Wiring
from noderuntime.runtime.lifecycle import Lifecycle, Policy
from noderuntime.runtime.lifecycle_events import ALIVE, Hands
from noderuntime.runtime.processes import Proc


@dataclass(frozen=True, slots=True)
class Glance:
    """The part of a pulse that is looked at many times a second."""

    phase: int
    commits: int
    handling_s: float  # for how long the present handler call has been running


@dataclass(slots=True, eq=False)
class Child:
    """A node as the runtime knows it. What stands below `proc` belongs to its present life."""

    spec: NodeSpec
    machine: Lifecycle
    wiring: Wiring
    page: PulsePage
    bell: int
    neighbours: list[Child] = field(default_factory=list)
    handled_before: int = 0  # events of earlier lives
    reloads_failed: int = 0  # changed code that did not import
    reload_error: str = ""  # of the last one, with its traceback
    waits: str = ""  # whom it waits for, in words, when it is stuck (noderuntime.runtime.stuck)
    quiet_life: int = 0  # the life that was told to make no more ticks
    proc: Proc | None = None
    identity: bytes | None = None  # of its connection
    peer: int = 0  # the pid that said hello; a shell script's Python is not the process that was spawned
    peer_fd: int = -1  # dynamic nodes: their pidfd
    claim: Mapping[str, Any] = field(default_factory=dict)  # the store's answer
    exit_status: int | None = None  # it has ended, and its last words may still be under way:
    last_words_s: float = 0.0  # until then
    _handled_seen: int = -1
    _handled_seen_s: float = 0.0

    @property
    def id(self) -> str:
        return self.spec.id

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
        return int(self.claim.get("incarnation", 0))

    def begin_life(self) -> None:
        """Forget what belonged to the last one."""
        self.identity = None
        self.peer = 0
        self.claim = {}
        self.exit_status = None
        self._handled_seen = -1

    def has_pulse(self) -> bool:
        return self.incarnation > 0 and self.page.words[INCARNATION] == self.incarnation

    def remains(self) -> tuple[Hands, int]:
        """What the life that has just ended had in hand, and how often it had committed."""
        if not self.has_pulse():
            return (), 0
        pulse = self.page.read()
        self.handled_before += pulse.handled
        return pulse.hands, pulse.commits

    def handled(self) -> int:
        """Events handled in all lives."""
        now = self.page.words[HANDLED] if self.alive and self.has_pulse() else 0
        return self.handled_before + now

    def glance(self, now_s: float) -> Glance | None:
        """None before this life has begun to write its pulse."""
        if not self.has_pulse():
            return None
        words = self.page.words
        handled = words[HANDLED]
        if handled != self._handled_seen:
            self._handled_seen, self._handled_seen_s = handled, now_s
        phase = words[PHASE]
        # a group of events has one SINCE_NS: what was seen to be handled meanwhile began later
        since_s = max(words[SINCE_NS] / 1e9, self._handled_seen_s)
        return Glance(phase, words[COMMITS], max(1e-9, now_s - since_s) if phase == HANDLING else 0.0)

    def ring(self) -> None:
        """Wake this node and all around it: some ring may have died with its process."""
        all_of(partial(doorbell.ring, node.bell) for node in (self, *self.neighbours))

    def close(self) -> None:
        if self.peer_fd >= 0:
            os.close(self.peer_fd)
            self.peer_fd = -1
        os.close(self.bell)
        self.page.close()


def policy_of(spec: NodeSpec) -> Policy:
    """What supervision needs to know of a node."""
    return Policy(
        kind=spec.kind,
        restart_policy=spec.restart_policy,
        max_restarts=spec.max_restarts,
        restart_window_s=spec.restart_window_s,
        restart_delay_s=spec.restart_delay_s,
        max_restart_delay_s=spec.max_restart_delay_s,
        start_timeout_s=spec.start_timeout_s,
        health_check_timeout_s=spec.health_check_timeout_s,
        has_inputs=bool(spec.inputs),
        has_ports=bool(spec.inputs or spec.outputs),
    )
