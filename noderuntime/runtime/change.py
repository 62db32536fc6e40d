"""One change of a run, by `apply` or `scale`: what was asked, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from noderuntime.dataflow.changes import ADDED, RENAMED, Plan, gives_up, would_lose
from noderuntime.dataflow.model import Dataflow
from noderuntime.ipc.change_records import Prepared
from noderuntime.ipc.control_records import ApplyRun


@dataclass(slots=True)
class Work:
    """See the head of this module. `new` has a node for each replica; `scale`: by node, the number of replicas that
    `scale` gives it.
    """

    ticket: int
    asked: ApplyRun
    new: Dataflow
    plan: Plan
    timeout_s: float
    scale: dict[str, int]
    is_checked: bool = False  # the store was asked what would be lost
    losses: dict[str, str] = field(default_factory=dict)
    prepared: Prepared | None = None
    is_over: bool = False
    applied: bool = False
    error: str = ""
    code: int = 0
    discarded: int = 0
    late: list[str] = field(default_factory=list)  # new replicas that were not ready in time

    def fewer(self, before: bool = False) -> dict[str, int]:
        """Nodes that lose replicas, without those that are renamed, and how many they are to have, or had `before`."""
        return {
            item.node: self.new.node(item.node).replicas - (item.replicas if before else 0)
            for item in self.plan.changes
            if item.replicas < 0 and item.change != RENAMED
        }

    @property
    def name(self) -> str:
        """What the run is made, in words."""
        return ", ".join(f"{count} replicas of {node}" for node, count in self.scale.items()) or self.asked.file

    def lost(self, run: str) -> str:
        """Why a change is refused that would lose something, and what gives it up."""
        command = f"noderuntime apply {run} {self.asked.file} {self.gives_up}"
        added = self.plan.of(ADDED)
        first = next(iter(self.losses))
        also = f"; `--rename {first}={added[0]}` carries it over when that is its id now" if added else ""
        return f"{would_lose(self.losses)}\n  `{command}` gives it up{also}. Nothing was changed."

    @property
    def gives_up(self) -> str:
        """The options that give up what would be lost; "" when nothing would be."""
        return gives_up(self.losses)

    def by_kind(self) -> dict[str, list[str]]:
        """The nodes that are changed, by how."""
        found: dict[str, list[str]] = {}
        for item in self.plan.changes:
            found.setdefault(item.change, []).append(item.node)
        return found
