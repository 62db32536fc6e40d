"""What a change has taken out of the dataflow, and is still there: nodes and inputs that drain, replicas that end.

A node that was removed handles what waits for it, and ends; so does an input. A replica that is no longer wanted was
ended by the switch, which gave what waited to the others. The store is asked again and again which of them can go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from noderuntime.dataflow.identifiers import node_of
from noderuntime.dataflow.model import Dataflow
from noderuntime.ipc.change_records import Settled
from noderuntime.ipc.store_records import Opened, result
from noderuntime.runtime import lifecycle_events as su
from noderuntime.runtime.children import Child
from noderuntime.runtime.hearing import tell_wiring
from noderuntime.runtime.lifecycle_events import DONE, LifecycleState
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.nodes import NodeSupervisor
from noderuntime.runtime.store_link import StoreLink

SETTLE_S: Final = 0.1


class Draining:
    """What drains in one run. `ids`: nodes that are leaving, or have an input that is."""

    def __init__(self, nodes: NodeSupervisor, link: StoreLink, log: RunLog, grace_s: float) -> None:
        self._nodes = nodes
        self._link = link
        self._log = log
        self._grace_s = grace_s
        self._next_settle_s = 0.0
        self.is_settling = False  # the store is asked
        self.ids: list[str] = []

    def shown(self) -> list[str]:
        """The nodes of the file that still handle what is leaving."""
        ending = {child.id for child in self.unwanted(self._nodes.dataflow)}
        return sorted({node_of(id) for id in self.ids if id not in ending})

    def unwanted(self, dataflow: Dataflow) -> list[Child]:
        """Replicas that are ending, of nodes that are in this dataflow."""
        return [child for child in self._nodes.children.values() if child.leaving and is_replica_in(child, dataflow)]

    def resumed(self, opened: Opened) -> None:
        """The run goes on with a dataflow of which parts were leaving. Call it before nodes are started."""
        self.ids = list(opened.get("drains", ()))
        for id in opened.get("leaving", ()):
            child = self._nodes.children[id]
            if child.has_ended or not all(spec.is_timer for spec in child.spec.inputs):
                continue
            if child.others or child.leader is not child:
                child.end(self._grace_s, "MANUAL")  # as soon as its process, in which others may drain, is ready
            else:
                child.feed(su.StopAsked(0.0, drain=True))

    def note(self, leaving: Iterable[str]) -> None:
        """After a switch: these nodes are leaving, and there are inputs that do."""
        with_inputs = [
            child.id
            for child in self._nodes.children.values()
            if any(item.leaving for item in child.wiring.inputs)
        ]
        self.ids = sorted({*self.ids, *leaving, *with_inputs})

    def let_go(self, child: Child, discard: bool) -> None:
        """It is no longer in the dataflow."""
        if child.leaving and not discard:
            return  # since an earlier change
        for member in (child, *child.others):
            member.leaving = True
        if discard:
            for member in (child, *child.others):
                member.has_ended = True
            child.feed(su.Abort())
            return
        was_parked, child.parked = child.parked, False
        if was_parked and child.machine.state is not LifecycleState.ENDED:
            child.feed(su.RestartAsked("is removed, and handles first what waits for it"))
        for member in (child, *child.others):
            absent = member.spec.kind == "dynamic" and not member.alive
            if absent or all(spec.is_timer for spec in member.spec.inputs):
                member.end(self._grace_s, "MANUAL")

    def look(self, now_s: float) -> None:
        """Now and then, but not during a switch."""
        if not self.ids or now_s < self._next_settle_s or self.is_settling:
            return
        self._next_settle_s = now_s + SETTLE_S
        self.is_settling = True
        gone = [
            child.id for child in self._nodes.children.values() if child.leaving and child.machine.state in DONE
        ]  # not before: the end of a process is still told to the store
        shared = [[child, *child.others] for child in self._nodes.processes if child.others]
        together = [[member.id for member in group] for group in shared]
        arguments = {"nodes": gone, "together": together}
        self._link.request("change_settle", arguments, result(Settled), self._settled, self._not_settled)

    def _not_settled(self, error: str, text: str) -> None:
        self.is_settling = False

    def _settled(self, found: Settled) -> None:
        self.is_settling = False
        for id in found["gone"]:
            child = self._nodes.children.get(id)
            if child is not None and child.leaving:
                self._nodes.remove(child)
                self._log.tell(f"{id} has left the dataflow")
        for id, numbers in found["inputs"].items():
            child = self._nodes.children.get(id)
            if child is not None:
                kept = tuple(item for item in child.wiring.inputs if item.number not in numbers)
                child.wiring = replace(child.wiring, inputs=kept)
        for child in self._nodes.processes:
            group = [child, *child.others]
            if any(member.id in found["inputs"] for member in group):
                for member in group:
                    member.wiring = replace(member.wiring, version=found["version"])
                child.wiring = replace(child.wiring, others=tuple(other.wiring for other in child.others))
                tell_wiring(child)
        self.ids = found["left"]


def dismiss(child: Child) -> None:
    """A replica that is no longer wanted: the switch has ended it."""
    child.leaving = child.has_ended = True
    child.parked = False
    child.feed(su.Abort())


def is_replica_in(child: Child, dataflow: Dataflow) -> bool:
    """Whether its node is in this dataflow."""
    return any(node_of(child.id) == spec.id for spec in dataflow.nodes)
