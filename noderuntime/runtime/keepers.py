"""Keeps the store and the fork server running.

Both may die at any time. The next fork server repeats the spawns that were under way. While the store is away, the
space stays and children continue to commit; requests to the store are repeated. If one of the two dies repeatedly
without having done anything in between, the run ends (`GaveUp`).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial

from noderuntime.errors import NodeRuntimeError
from noderuntime.ipc import process
from noderuntime.ipc.boundary import all_of
from noderuntime.runtime.forkserver import ForkServer, Order, Spawning
from noderuntime.runtime.health import LOCK_S_MAX, STOPPED_S_MAX
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.loop import Loop
from noderuntime.runtime.machine import NEVER
from noderuntime.runtime.processes import Lines, Owner, Proc
from noderuntime.runtime.restart_budget import Budget
from noderuntime.runtime.store_link import StoreLink

SPAWN_S_MAX = 10.0
PAUSE_S = 0.01


class GaveUp(NodeRuntimeError):
    """The store or the fork server cannot be kept running. `noderuntime run FILE --resume` continues from the space."""


def cause_of(status: int) -> str:
    """Why the store died, in words. `status`: its exit code, or minus the signal."""
    if status == -signal.SIGBUS:  # the pages of a sparse file are taken when they are written first
        return "SIGBUS, as when no room is left for the space: see `df` of /dev/shm, or of $NODERUNTIME_HOME"
    return f"exit code {status}" if status >= 0 else signal.Signals(-status).name


class Patience:
    """Decides how long to wait before the process is started again; None to give up.

    A SIGKILL from outside, or a SIGSTOP after which we kill it, is not the fault of the process and is never counted.
    """

    def __init__(self) -> None:
        self.killed_by_us = False  # because of what it did
        self._in_vain = 0  # how often since it has done some work
        self._budget = Budget(max_restarts=6, window_s=3600.0, delay_s=0.05, max_delay_s=2.0)

    @property
    def stretch(self) -> int:
        """How many times as long its limits are now. On a starved machine the next one is as slow; to kill it after the
        same time would be in vain again.
        """
        return 1 << min(self._in_vain, 3)

    def wait_s(self, status: int | None, now_s: float) -> float | None:
        """`status`: its exit code, or minus the signal; None when it could not be started at all."""
        from_outside = status == -signal.SIGKILL and not self.killed_by_us
        self._in_vain += self.killed_by_us
        self.killed_by_us = False
        return PAUSE_S if from_outside else self._budget.spend(now_s)

    def reset(self) -> None:
        """The process has done some work: forget its earlier deaths."""
        self._budget.reset()
        self._in_vain = 0


class ForkServerKeeper:
    """The fork server, respawned when it dies, and the spawns that are under way."""

    def __init__(self, loop: Loop, run_log: RunLog, env: Mapping[str, str], preload: Sequence[str]) -> None:
        self._loop = loop
        self._run_log = run_log
        self._patience = Patience()
        self._status: int | None = None
        self._lines = Lines()
        self._spawns: dict[Spawning, Proc] = {}
        self._procs: set[Proc] = set()  # all that it has made; those that are reaped leave with the next one
        self._stopped_since_s = NEVER
        self._busy_since_s = NEVER
        self._died = False
        self.due_s = NEVER  # when to start it again
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._said, said = os.pipe()
        self._closing = [null, said]
        os.set_blocking(self._said, False)
        loop.watch(self._said, self._read)
        self._fork_server = ForkServer(preload, env, (null, said, said))
        loop.watch(self._fork_server.fd, self.advance)
        loop.watch(self._fork_server.pidfd, self._ended)

    @property
    def pid(self) -> int:
        return self._fork_server.pid

    @property
    def is_well(self) -> bool:
        """Whether it lives, as far as is known."""
        return not self._died

    @property
    def pids(self) -> set[int]:
        """Children of the runtime that this module reaps: the fork server, its spares, and what it has made."""
        return {proc.pid for proc in self._procs if not proc.reaped} | self._fork_server.pids

    @property
    def busy(self) -> bool:
        """Whether a child may exist whose pid is not known yet."""
        return self._fork_server.busy

    def spawn(self, order: Order, owner: Owner) -> Proc:
        """Begin to make a process. Raises OSError when descriptors run out."""
        proc = Proc(self._loop, self._fork_server, order, owner)
        self._spawns[proc.spawning] = proc
        self._procs = {other for other in self._procs if not other.reaped} | {proc}
        proc.progressed()
        return proc

    def advance(self) -> None:
        """Process what the fork server reports about spawns."""
        all_of(partial(self._progressed, spawning) for spawning in self._fork_server.advance())

    def _progressed(self, spawning: Spawning) -> None:
        self._patience.reset()
        proc = self._spawns.pop(spawning) if spawning.done else self._spawns[spawning]
        proc.progressed()

    def _ended(self) -> None:
        self._status = process.reap(self._fork_server.pid)
        if self._status is None:
            return
        self._loop.unwatch(self._fork_server.pidfd)
        self._died = True
        self.due_s = 0.0

    def look(self, now_s: float, stopped_pids: Container[int]) -> None:
        """Restart it, or kill it, when that is due. `stopped_pids`: children of ours that are stopped now."""
        for pid in self._fork_server.untaken:
            if pid in stopped_pids:
                process.signal_group(pid, signal.SIGKILL)  # no caller has its pid yet; another spare takes its order
        if self._died:
            self._restart(now_s)
            return
        stopped = self._fork_server.pid in stopped_pids
        self._stopped_since_s = min(self._stopped_since_s, now_s) if stopped else NEVER
        self._busy_since_s = min(self._busy_since_s, now_s) if self.busy else NEVER
        stopped_s, busy_s = now_s - self._stopped_since_s, now_s - self._busy_since_s
        hangs_s = SPAWN_S_MAX * self._patience.stretch
        if stopped_s >= STOPPED_S_MAX or (busy_s > hangs_s and now_s - self._fork_server.started_s > hangs_s):
            self._run_log.tell(f"the fork server {'was stopped' if stopped else 'hangs'}: killing it")
            self._patience.killed_by_us = not stopped
            os.kill(self._fork_server.pid, signal.SIGKILL)
            self._stopped_since_s = self._busy_since_s = NEVER
        self._fork_server.keep_spares()

    def _restart(self, now_s: float) -> None:
        if not self.due_s:
            wait_s = self._patience.wait_s(self._status, now_s)
            if wait_s is None:
                raise GaveUp("the fork server dies again and again; what it printed is above")
            self.due_s = now_s + wait_s
        if now_s >= self.due_s:
            self._run_log.tell("the fork server died: starting another one")
            self.due_s = NEVER
            self._died = False
            self._fork_server.restart()
            self._loop.watch(self._fork_server.pidfd, self._ended)

    def _read(self) -> None:
        data = os.read(self._said, 65536)
        for line in self._lines.feed(data):
            self._run_log.helper_line("fork server", line)

    def close(self) -> None:
        self._loop.unwatch(self._fork_server.fd)
        if not self._died:
            self._loop.unwatch(self._fork_server.pidfd)
        self._fork_server.close()
        self._loop.close_fd(self._said)
        for fd in self._closing:
            os.close(fd)


class StoreKeeper:
    """The store process, respawned when it dies; the Owner of its Proc."""

    def __init__(
        self, fork_server: ForkServerKeeper, link: StoreLink, run_log: RunLog, order: Order, clock: Callable[[], float]
    ) -> None:
        self._fork_server = fork_server
        self._link = link
        self._run_log = run_log
        self._order = order
        self._clock = clock
        self._patience = Patience()
        self._proc: Proc | None = None
        self._stopped_since_s = NEVER
        self._last_line = ""
        self.due_s = 0.0  # when to start it
        self.may_end = False  # `quit` was sent
        self.has_ended = False  # and carried out

    @property
    def pid(self) -> int:
        return self._proc.pid if self._proc is not None and not self._proc.reaped else 0

    def look(self, now_s: float, stopped: bool, lock_s: float) -> None:
        """Start it, or kill it, when that is due."""
        if now_s >= self.due_s:
            self.due_s = NEVER
            self._proc = self._fork_server.spawn(self._order, self)
            self._link.connect()
        if self._link.answered:
            self._patience.reset()
        self._stopped_since_s = min(self._stopped_since_s, now_s) if stopped else NEVER
        why = ""
        if now_s - self._stopped_since_s >= STOPPED_S_MAX or (stopped and lock_s > 0):
            self.kill("was stopped", from_outside=True)
        elif lock_s > LOCK_S_MAX:
            why = f"held a lock of the space for more than {LOCK_S_MAX:g} s"
        elif self._link.hangs(now_s, self._patience.stretch):
            why = "does not answer"
        if why:
            self.kill(why)

    def kill(self, why: str, from_outside: bool = False) -> None:
        """Kill the store; it is started again. `from_outside`: the store itself did not cause this."""
        if self.pid:
            self._run_log.tell(f"the store {why}: killing it")
            self._patience.killed_by_us = not from_outside
            process.signal_group(self.pid, signal.SIGKILL)
        self._link.forgive()

    def said(self, stream: str, line: str) -> None:
        self._last_line = line
        self._run_log.helper_line("store", line)

    def exited(self, proc: Proc, status: int) -> None:
        self._again(status, cause_of(status))

    def not_spawned(self, proc: Proc, error: OSError) -> None:
        self._again(None, error.strerror or str(error))

    def _again(self, status: int | None, cause: str) -> None:
        self._link.disconnect()
        self._stopped_since_s = NEVER
        if self.may_end:
            self.has_ended = True
            return
        now_s = self._clock()
        wait_s = self._patience.wait_s(status, now_s)
        if wait_s is None:
            raise GaveUp(f"the store process cannot be kept alive ({cause}): {self._last_line or 'it said nothing'}")
        self._run_log.tell(f"the store died ({cause}): starting it again")
        self.due_s = now_s + wait_s

    def close(self) -> None:
        if self._proc is not None:
            self._proc.close()
