"""Keeps the tap server of a run that is looked at (noderuntime/watching/server.py).

    ABSENT     there is none, and nothing of it is in the space
    THERE      its process has been ordered, or lives; it ends by itself when nobody looks any more
    CLEARING   it has ended, in whatever way: the store removes what is left of the taps, before another one starts

The runtime starts it when a tap asks for it, and no sooner; the taps of one that was killed ask again. It is killed for
what any process is killed for (health.py). When it dies again and again, nobody can look, and the run goes on.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final

from noderuntime.ipc import entrypoints
from noderuntime.ipc.boundary import all_of
from noderuntime.ipc.control_records import TapsState
from noderuntime.ipc.lock_watch import Holding, Pinning
from noderuntime.ipc.store_records import Done, result
from noderuntime.runtime.forkserver import Order
from noderuntime.runtime.health import reason_to_kill
from noderuntime.runtime.keepers import ForkServerKeeper, Patience, cause_of
from noderuntime.runtime.lifecycle_events import Vitals
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.machine import NEVER
from noderuntime.runtime.processes import Proc
from noderuntime.runtime.store_link import StoreLink

END_S: Final = 2.0  # the tap server itself waits for less


class Step(Enum):
    """See the head of this module."""

    ABSENT = "absent"
    THERE = "there"
    CLEARING = "clearing"


class TapKeeper:
    """The tap server of one run; the Owner of its Proc."""

    def __init__(
        self,
        fork_server: ForkServerKeeper,
        link: StoreLink,
        run_log: RunLog,
        env: Mapping[str, str],
        run_dir: Path,
        clock: Callable[[], float],
    ) -> None:
        self._fork_server = fork_server
        self._link = link
        self._run_log = run_log
        self._order = Order("nr-taps", env, "/", entry=entrypoints.TAPS, arguments=[str(run_dir)])
        self._clock = clock
        self._patience = Patience()
        self._proc: Proc | None = None
        self._step = Step.ABSENT
        self._last_line = ""
        self._stopped_since_s = NEVER
        self._not_before_s = 0.0
        self._kill_s = NEVER
        self._broken = ""  # why no other one is started
        self._ending = False  # the run has no nodes any more

    @property
    def pid(self) -> int:
        return self._proc.pid if self._proc is not None and not self._proc.reaped else 0

    def wanted(self, may_start: bool) -> TapsState:
        """A tap wants to connect: see that there is a tap server, if it may be started. What takes time the tap asks
        for again.
        """
        why = self._broken
        may_start = may_start and not (why or self._ending)
        if may_start and self._step is Step.ABSENT and self._clock() >= self._not_before_s:
            try:
                proc = self._fork_server.spawn(self._order, self)
            except OSError as error:
                why = f"no process could be started: {error.strerror or error}"
            else:
                self._close_proc()
                self._proc, self._step = proc, Step.THERE
        return {"why": why, "ending": self._ending, "pid": self.pid}

    def look(
        self, now_s: float, is_stopped: bool, holdings: list[tuple[int, Holding]], pinnings: list[Pinning]
    ) -> None:
        """Kill it when that is due."""
        pid = self.pid
        if not pid or self._proc is None:
            return
        if now_s >= self._kill_s:
            self._proc.signal(signal.SIGKILL)
            return
        self._stopped_since_s = min(self._stopped_since_s, now_s) if is_stopped else NEVER
        lock_s = max((held.held_s for holder, held in holdings if holder == pid), default=0.0)
        pinned_s = max((pinning.pinned_s for pinning in pinnings if pinning.process == pid), default=0.0)
        why = reason_to_kill(Vitals(0, 0.0, is_stopped, lock_s, pinned_s), now_s - self._stopped_since_s, None)
        if why is not None:
            self._run_log.tell(f"the tap server {why.cause}: killing it")
            self._patience.killed_by_us = not is_stopped
            self._proc.signal(signal.SIGKILL)
            self._stopped_since_s = NEVER

    def end(self, now_s: float) -> None:
        """Every node is done: it passes on the last messages, and ends."""
        self._ending = True
        self._kill_s = now_s + END_S
        if self._proc is not None:
            self._proc.signal(signal.SIGTERM)

    @property
    def has_ended(self) -> bool:
        return self._proc is None or self._proc.reaped

    # ---- the Owner of its process

    def said(self, stream: str, line: str) -> None:
        self._last_line = line
        self._run_log.helper_line("taps", line)

    def exited(self, proc: Proc, status: int) -> None:
        self._gone(status)

    def not_spawned(self, proc: Proc, error: OSError) -> None:
        self._last_line = error.strerror or str(error)
        self._gone(None)

    def _gone(self, status: int | None) -> None:
        self._stopped_since_s = NEVER
        if self._ending:  # a run that is resumed begins without taps
            return
        self._step = Step.CLEARING
        if status == 0:
            self._patience.reset()
        all_of((self._clear, (lambda: None) if status == 0 else partial(self._note, status)))

    def _note(self, status: int | None) -> None:
        now_s = self._clock()
        cause = "it could not be started" if status is None else cause_of(status)
        wait_s = self._patience.wait_s(status, now_s)
        if wait_s is None:
            self._broken = f"its tap server dies again and again ({cause}): {self._last_line or 'it said nothing'}"
            self._run_log.warn(f"nobody can look at this run any more: {self._broken}")
            return
        self._run_log.tell(f"the tap server died ({cause})")
        self._not_before_s = now_s + wait_s

    def _clear(self) -> None:
        self._link.request("taps_clear", {}, result(Done), self._cleared, lambda error, text: self._cleared())

    def _cleared(self, done: Done | None = None) -> None:
        self._step = Step.ABSENT

    def _close_proc(self) -> None:
        if self._proc is not None:
            self._proc.close()
            self._proc = None

    def close(self) -> None:
        self._close_proc()
