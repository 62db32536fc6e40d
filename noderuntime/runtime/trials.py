"""Tries nodes before the run becomes that of a changed file: one process each, beside the running ones.

What is tried of an operator, and what it cannot do, is in noderuntime/node/trial.py: that process is thrown away.
A custom node is started as it will be, and tried up to its hello: `Node()` returns only after the switch, when the
process becomes the one of the node (`Waiting`). A program that has not said hello counts as ready when it has lived for
ALIVE_S. If the change is given up, trials are killed, and with the runtime they end like all its processes.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgpack

from noderuntime.dataflow.identifiers import node_of
from noderuntime.dataflow.model import Dataflow, NodeSpec
from noderuntime.errors import DataflowError
from noderuntime.ipc.protocol import TEXT_ERRORS
from noderuntime.runtime import lifecycle_events as su
from noderuntime.runtime.orders import order_of
from noderuntime.runtime.plan import trial_wiring
from noderuntime.runtime.processes import Proc
from noderuntime.runtime.services import Services

if TYPE_CHECKING:
    from noderuntime.runtime.children import Child

ALIVE_S: Final = 1.0
SAYS: Final = "noderuntime trial: "  # how a trial begins the line that says why it has failed
REFUSED: Final = 2  # its exit status when the operator can have no replicas


class Trials:
    """The trials of one change. `failure`: why the first one has failed; `is_refused`: it can have no replicas."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._running: dict[str, _Trial] = {}
        self._programs: dict[str, Waiting] = {}
        self._tokens = 0
        self.failure = ""
        self.is_refused = False

    def waiting(self, now_s: float) -> list[str]:
        """Nodes that are not ready yet."""
        return [*self._running, *(node for node, program in self._programs.items() if not program.is_ready(now_s))]

    def begin_program(self, dataflow: Dataflow, spec: NodeSpec) -> None:
        """Start a custom node, which gets its welcome after the switch."""
        services = self._services
        self._tokens -= 1
        program = Waiting(services, spec.id, self._tokens, lambda why: self._fail(spec.id, why))
        try:
            order = order_of(dataflow, spec, services.options, services.run_dir.root, self._tokens)
            program.proc = services.fork_server.spawn(order, program)
        except (DataflowError, OSError) as error:
            self._fail(spec.id, str(error))
        else:
            self._programs[spec.id] = program

    def said_hello(self, node: str, token: int, identity: bytes, pid: int) -> bool:
        """A process with that number of its life has said hello. Whether it is one of these."""
        program = self._programs.get(node)
        if program is None or program.token != token:
            return False
        program.identity, program.peer = identity, pid
        return True

    def take(self, node: str) -> Waiting | None:
        """The process that waits to become that of a node, if there is one; it is no longer killed by `close`."""
        program = self._programs.pop(node, None)
        if program is not None:
            program.is_taken = True
        return program

    def _fail(self, node: str, why: str, is_refused: bool = False) -> None:
        if not self.failure:
            what = f"{node_of(node)}: {why}" if is_refused else f"{node} is not ready: {why}"
            self.failure = f"{what}. Everything is as before"
            self.is_refused = is_refused

    def begin(self, dataflow: Dataflow, spec: NodeSpec, number: int) -> None:
        """Try an operator. `number`: of the node whose state it gets, or NEW_NODE."""
        services = self._services
        folder = services.run_dir.trials
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            path = folder / spec.id
            plain = trial_wiring(dataflow, services.options.name, spec, number).to_plain()
            path.write_bytes(msgpack.packb(plain, unicode_errors=TEXT_ERRORS))
            order = order_of(dataflow, spec, services.options, services.run_dir.root, 0, trial=str(path))
            trial = _Trial(services, spec.id, path, partial(self._ended, spec.id))
            self._running[spec.id] = trial
            trial.proc = services.fork_server.spawn(order, trial)
        except (DataflowError, OSError) as error:
            self._ended(spec.id, str(error))

    def _ended(self, node: str, why: str, is_refused: bool = False) -> None:
        self._running.pop(node, None)
        if why:
            self._fail(node, why, is_refused)

    def close(self) -> None:
        """End those that run, and forget what there was."""
        for trial in self._running.values():
            trial.kill()
        for program in self._programs.values():
            program.kill()
        self._running.clear()
        self._programs.clear()
        self.failure = ""
        self.is_refused = False


class Waiting:
    """The Owner of the process of a custom node on trial. `token` is the number of its life until it has one: negative.
    """

    def __init__(self, services: Services, node: str, token: int, failed: Callable[[str], None]) -> None:
        self._services = services
        self._node = node
        self._failed = failed
        self._alive_s = 0.0  # since when its pid is known
        self._wanted = True
        self.is_taken = False  # the change is made: its end is no failure of it
        self.token = token
        self.proc: Proc | None = None
        self.identity: bytes | None = None  # of its connection, once it has said hello
        self.peer = 0

    def is_ready(self, now_s: float) -> bool:
        """It has said hello, or has lived for a while."""
        if self.proc is not None and self.proc.pid and not self._alive_s:
            self._alive_s = now_s
        return self.identity is not None or bool(self._alive_s and now_s - self._alive_s >= ALIVE_S)

    def become(self, child: Child, life: int) -> bool:
        """The process is that of a life of the node from now on. False when there is none any more."""
        if self.proc is None or self.proc.reaped:
            return False
        child.proc = self.proc
        child.token = self.token, life
        self._services.procs.add(self.proc)
        self.proc.give_to(child)
        if self.identity is not None:
            child.identity, child.peer = self.identity, self.peer
            child.feed(su.SaidHello(), trusted=False)
        return True

    def kill(self) -> None:
        self._wanted = False
        if self.proc is not None:
            self.proc.signal(signal.SIGKILL)

    def said(self, stream: str, line: str) -> None:
        self._services.run_log.line(self._node, stream, line)

    def exited(self, proc: Proc, status: int) -> None:
        cause = f"exit code {status}" if status >= 0 else signal.Signals(-status).name
        self._done(proc, f"it ended with {cause} before it said hello")

    def not_spawned(self, proc: Proc, error: OSError) -> None:
        self._done(proc, f"it could not be started: {error.strerror or error}")

    def _done(self, proc: Proc, why: str) -> None:
        proc.close()
        if self._wanted and not self.is_taken:
            self._failed(why)
        self._wanted = False


class _Trial:
    """The Owner of the process of one trial. `ended(why, is_refused)`: it is over, "" when the operator was ready."""

    def __init__(self, services: Services, node: str, path: Path, ended: Callable[[str, bool], None]) -> None:
        self._services = services
        self._node = node
        self._path = path
        self._ended = ended
        self._why = ""
        self._wanted = True
        self.proc: Proc | None = None

    def kill(self) -> None:
        self._wanted = False
        if self.proc is not None:
            self.proc.signal(signal.SIGKILL)

    def said(self, stream: str, line: str) -> None:
        if line.startswith(SAYS):
            self._why = line.removeprefix(SAYS)
        elif self._wanted:
            self._services.run_log.line(self._node, stream, line)

    def exited(self, proc: Proc, status: int) -> None:
        cause = f"exit code {status}" if status >= 0 else signal.Signals(-status).name
        why = "" if status == 0 else self._why or f"its trial ended with {cause}"
        self._done(proc, why, status == REFUSED and bool(self._why))

    def not_spawned(self, proc: Proc, error: OSError) -> None:
        self._done(proc, f"it could not be started: {error.strerror or error}")

    def _done(self, proc: Proc, why: str, is_refused: bool = False) -> None:
        proc.close()
        with contextlib.suppress(OSError):
            self._path.unlink()
        if self._wanted:
            self._wanted = False
            self._ended(why, is_refused)
