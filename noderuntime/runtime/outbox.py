"""The end of a run with an external State: it waits until the writes of its events have been applied there.

The store is asked ten times a second whether anything waits in the outbox, never waited for. When nothing has moved for
a while, or the user does not want to wait, the space is kept: `--resume` delivers the rest.
"""

from __future__ import annotations

from typing import Final

from noderuntime.dataflow.model import Dataflow
from noderuntime.ipc.store_records import Waiting, result
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.store_link import StoreLink

PATIENCE_S: Final = 30.0  # without anything arriving
HURRIED_S: Final = 5.0  # of a run that was stopped
SHOWN_S: Final = 0.5


class RunOutbox:
    """`over`: nothing waits any more, or it is no use to wait. `problem`: then why not, else ""."""

    def __init__(self, dataflow: Dataflow, notes: RunLog) -> None:
        self.over = dataflow.state.kind == "memory"
        self.problem = ""
        self._notes = notes
        self._began_s = 0.0
        self._moved_s = 0.0
        self._patience_s = PATIENCE_S
        self._first = ""  # of those that wait
        self._trouble = ""
        self._asked = False
        self._shown = False

    def begin(self, now_s: float, hurried: bool) -> None:
        """Every node is done."""
        self._began_s = self._moved_s = now_s
        self._patience_s = HURRIED_S if hurried else PATIENCE_S

    def look(self, link: StoreLink, now_s: float) -> None:
        """Some times a second, from then on, until it is over."""
        if self.over:
            return
        if self._first and not self._shown and now_s - self._began_s > SHOWN_S:
            self._shown = True
            self._notes.tell(
                f"shared writes wait for {self._trouble or 'their store'} (Ctrl-C twice: leave them in memory instead)"
            )
        if now_s - self._moved_s > self._patience_s:
            self.problem = self._trouble or f"nothing has arrived for {self._patience_s:g} s"
            self.over = True
        elif not self._asked:
            self._asked = True
            link.request("outbox", {}, result(Waiting), lambda found: self._answered(found, now_s), self._failed)

    def _answered(self, found: Waiting, now_s: float) -> None:
        self._asked = False
        if found["first"] != self._first:
            self._first = found["first"]
            self._moved_s = now_s
        self._trouble = found["trouble"]
        if not self._first:
            self.over = True

    def _failed(self, error: str, text: str) -> None:
        self.problem = text
        self.over = True

    def give_up(self) -> None:
        """The user does not want to wait."""
        if self._began_s and not self.over:
            self.problem = "the run was to stop at once"
            self.over = True
