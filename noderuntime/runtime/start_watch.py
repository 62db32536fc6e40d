"""The start of a run as its user sees it: which nodes are not ready yet, and whether `run -d` may return."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from shlex import quote
from typing import Final

from noderuntime.runtime import guard
from noderuntime.runtime.children import Child
from noderuntime.runtime.lifecycle_events import DONE, LifecycleState
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.machine import NEVER
from noderuntime.runtime.nodes import NodeSupervisor

WAITING_SHOWN_S: Final = 0.3


class StartWatch:
    """See the head of this module. `began_s`: when the run began, of the loop's clock."""

    def __init__(self, nodes: NodeSupervisor, log: RunLog, run: str, began_s: float) -> None:
        self._nodes = nodes
        self._log = log
        self._run = run
        self._began_s = began_s
        self._spawned_s = NEVER
        self._shown: list[str] = []

    def spawned(self, now_s: float) -> None:
        """All nodes have been spawned."""
        self._spawned_s = now_s

    def show_waiting(self, is_up: bool, now_s: float) -> None:
        """Show which nodes are not ready, when that has changed and the start takes longer than a moment."""
        waiting = self._nodes.not_ready() if is_up else []
        if waiting != self._shown and (now_s - self._began_s > WAITING_SHOWN_S or not waiting):
            self._shown = waiting
            self._log.waiting(waiting)

    def answer_launcher(self, now_s: float) -> None:
        """Detached: let the launched process go when every node is ready, or when it is clear that one will not be.

        A run that is about to end answers it by its end.
        """
        if not guard.is_waited_for():
            return
        wait, missing = standing(self._nodes.children.values(), now_s - self._spawned_s)
        if wait or (missing and self._nodes.done):
            return
        for line in missing:
            self._log.tell(line, logging.ERROR)
        if missing:
            self._log.tell(f"the run continues; `noderuntime stop {quote(self._run)}` stops it")
        guard.started(not missing)


def standing(children: Iterable[Child], waited_s: float) -> tuple[bool, list[str]]:
    """How the nodes are, `waited_s` seconds after they were spawned: whether to wait longer, and if not, one line for
    each node that is not ready. Pure."""
    missing = []
    for child in children:
        machine, patience_s = child.machine, child.spec.start_timeout_s
        if machine.state is LifecycleState.FAILED:
            missing.append(f"{child.id} has failed for good: {machine.reason}")
        elif not (machine.was_ready or child.state in DONE or child.spec.kind == "dynamic"):
            if waited_s < patience_s:
                return True, []
            why = f", {machine.reason}" if machine.reason else ""
            missing.append(f"{child.id} is not ready after {patience_s:g} s ({machine.state.value}{why})")
    return False, missing
