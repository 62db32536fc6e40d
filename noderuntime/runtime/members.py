"""Operators that share the process of another one, as the runtime sees them.

The first operator of a process, in the order of the file, is its Child: it has the lifecycle, the process and the
connection. The others are here: they have a pulse, a bell and an end of their own, and send everything else on to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from noderuntime.ipc.lock_watch import Holding, Pinning
from noderuntime.ipc.pulse import Glance
from noderuntime.runtime import lifecycle_events as su
from noderuntime.runtime.children import Child
from noderuntime.runtime.lifecycle_events import LifecycleState
from noderuntime.runtime.machine import NEVER


@dataclass(slots=True, eq=False)
class Member(Child):
    """An operator in the process of `first`; its machine is the one of `first`."""

    first: Child = field(kw_only=True)
    _quiet_life: int = 0

    @property
    def leader(self) -> Child:
        return self.first

    @property
    def alive(self) -> bool:
        return self.first.alive and not self.has_ended

    @property
    def pid(self) -> int:
        return self.first.pid

    @property
    def incarnation(self) -> int:
        return self.first.incarnation

    def glance(self, now_s: float) -> Glance | None:
        return self.first.glance(now_s)

    def feed(self, event: su.LifecycleEvent, trusted: bool = True) -> None:
        self.first.feed(event, trusted)

    def tick(self, now_s: float) -> None:
        """The process is looked after once."""

    def deadline_s(self) -> float:
        return NEVER

    def look(self, now_s: float, holdings: list[tuple[int, Holding]], pinnings: list[Pinning]) -> None:
        """As `tick`."""

    def end(self, grace_s: float, id: str = "ALL_INPUTS_CLOSED") -> None:
        self.first.end_member(self.id, id)

    def quieten(self) -> None:
        life = self.machine.life
        if self.machine.state is LifecycleState.RUNNING and self._quiet_life != life:
            self._quiet_life = life
            self.first.quieten_member(self.id)
