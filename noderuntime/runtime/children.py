"""Child processes of the runtime as its loop sees them: pipes, pids, last lines.

A `Proc` is one process, from the order to the fork server until it is reaped and its pipes are read. A `Child` joins a
node's lifecycle with its present `Proc`, its connection, its pulse and its bells. Neither decides anything.
"""

from __future__ import annotations

import codecs
import contextlib
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from noderuntime.dataflow import files
from noderuntime.dataflow.model import Dataflow, NodeSpec
from noderuntime.ipc import doorbell, entrypoints, process
from noderuntime.ipc.pulse import COMMITS, HANDLED, HANDLING, INCARNATION, PHASE, SINCE_NS, PulsePage
from noderuntime.ipc.rundir import ENV_NODE, ENV_RUN_DIR
from noderuntime.ipc.wiring import Wiring
from noderuntime.runtime.forkserver import ForkServer, Order, Spawning
from noderuntime.runtime.lifecycle import Lifecycle, Policy
from noderuntime.runtime.lifecycle_events import ALIVE, Hands
from noderuntime.runtime.loop import Loop

READ_BYTES = 65536
LINE_BYTES_MAX = 1 << 20

# read by the interpreter or by libraries when they are loaded: a fork of a warm interpreter would ignore them
EARLY_ENV = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_", "OMP_", "OPENBLAS_", "MKL_", "NUMEXPR_", "NPY_")


class Lines:
    """Bytes in, whole lines of text out. A line that is too long comes in parts."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes, without their newlines."""
        text = self._rest + self._decoder.decode(data)
        *lines, self._rest = text.split("\n")
        while len(self._rest) > LINE_BYTES_MAX:
            lines.append(self._rest[:LINE_BYTES_MAX])
            self._rest = self._rest[LINE_BYTES_MAX:]
        return [line.removesuffix("\r") for line in lines]

    def end(self) -> list[str]:
        """What came last, without a newline."""
        rest, self._rest = self._rest + self._decoder.decode(b"", True), ""
        return [rest] if rest else []


class Owner(Protocol):
    """Whom a `Proc` tells what happens to it."""

    def said(self, stream: str, line: str) -> None:
        """A line on stdout or stderr."""

    def exited(self, proc: Proc, status: int) -> None:
        """It was reaped: exit code, or minus the signal."""

    def not_spawned(self, proc: Proc, error: OSError) -> None:
        """There is, or was, no process that runs what was ordered. Instead of `exited`."""


class Proc:
    """One process, from its order on. Raises OSError when descriptors run out."""

    def __init__(self, loop: Loop, fork_server: ForkServer, order: Order, owner: Owner) -> None:
        self._loop = loop
        self._owner = owner
        self.pid = 0
        self.pidfd = -1
        self.stopped = False
        self.reaped = False
        self._signals: list[int] = []
        self._pipes: dict[str, tuple[int, Lines]] = {}
        opened: list[int] = []
        try:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            for stream in ("stdout", "stderr"):
                ours, theirs = os.pipe()
                os.set_blocking(ours, False)
                self._pipes[stream] = (ours, Lines())
                opened.append(theirs)
            self.spawning: Spawning = fork_server.spawn(order, (opened[0], opened[1], opened[2]))
        except OSError:
            for fd in (*opened, *(fd for fd, _ in self._pipes.values())):
                os.close(fd)
            raise
        for stream, (fd, _) in self._pipes.items():
            loop.watch(fd, partial(self._read, stream), pausable=True)

    def progressed(self) -> None:
        """The fork server has news of our spawn."""
        spawning = self.spawning
        if spawning.pid and not self.pid:
            self.pid, self.pidfd = spawning.pid, spawning.pidfd
            self._loop.watch(self.pidfd, self.try_reap)
            for number in self._signals:
                process.signal_group(self.pid, number)
        if spawning.done and not spawning.pid and not self.reaped:
            self.reaped = True
            self._drain()
            self._owner.not_spawned(self, spawning.error or OSError(0, "it could not be started"))

    def signal(self, number: int) -> None:
        """Signal its process group, as soon as it has one."""
        if self.reaped:
            return
        if self.pid:
            process.signal_group(self.pid, number)
        else:
            self._signals.append(number)

    def try_reap(self) -> None:
        """Reap it if it has ended, with what is left of its process group."""
        if self.reaped or not self.pid:
            return
        status = process.reap(self.pid)
        if status is None:
            return
        self.reaped = True
        self._loop.close_fd(self.pidfd)
        self.pidfd = -1
        self._drain()
        error = self.spawning.error
        if error is not None:
            self._owner.not_spawned(self, error)
        else:
            self._owner.exited(self, status)

    def _read(self, stream: str, most: int = 1) -> None:
        fd, lines = self._pipes[stream]
        for _ in range(most):
            try:
                data = os.read(fd, READ_BYTES)
            except BlockingIOError:
                return
            for line in lines.feed(data) if data else lines.end():
                self._owner.said(stream, line)
            if not data:
                self._loop.close_fd(fd)
                del self._pipes[stream]
                return

    def _drain(self) -> None:
        """Read what it has left behind; what others hold open (its own children) is read on until they end."""
        for stream in list(self._pipes):
            self._read(stream, 64)

    def close(self) -> None:
        """Let go of everything."""
        for fd, _ in self._pipes.values():
            self._loop.close_fd(fd)
        self._pipes.clear()
        if self.pidfd >= 0:
            self._loop.close_fd(self.pidfd)
            self.pidfd = -1


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
        for node in (self, *self.neighbours):
            doorbell.ring(node.bell)

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


def order_of(dataflow: Dataflow, spec: NodeSpec, env: Mapping[str, str], overrides: Mapping[str, str]) -> Order:
    """How to make a process of this node. Raises DataflowError when its file is missing or cannot be executed.

    `env` is the whole environment of the process, `overrides` what was given for this run.
    """
    if spec.kind == "node":
        return Order(spec.id, env, dataflow.folder, argv=files.command(dataflow, spec))
    early = any(key.startswith(EARLY_ENV) for key in (*spec.env, *overrides))
    if spec.spawn == "fork" and not early:
        return Order(spec.id, env, dataflow.folder, entry=entrypoints.OPERATOR)
    return Order(spec.id, env, dataflow.folder, argv=entrypoints.command(entrypoints.OPERATOR))


def preload_of(dataflow: Dataflow) -> list[str]:
    """Modules that the fork server should have imported for this dataflow's operators."""
    for spec in dataflow.nodes:
        if spec.kind == "operator" and spec.code.path:
            with contextlib.suppress(OSError):
                if b"numpy" in Path(dataflow.folder, spec.code.path).read_bytes():
                    return [*entrypoints.PRELOAD, "numpy"]
    return list(entrypoints.PRELOAD)


def kill_strays(known: Container[int], run_dir: Path, node: str) -> None:
    """Kill what a dead node has left in sessions of its own: orphans that we adopted, started in its environment."""
    for pid in process.children_of(os.getpid()):
        if pid in known:
            continue
        env = process.environment_of(pid)
        if env.get(ENV_RUN_DIR) == str(run_dir) and env.get(ENV_NODE) == node:
            for found in (pid, *process.descendants_of(pid)):
                process.kill_below(found)
