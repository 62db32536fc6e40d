"""Slots of nodes whose number of replicas changes go to other owners, a part at a time: the runtime's side of it.

Of fewer replicas, those that go own nothing any more when the switch comes. Of more, the new ones get their slots when
they are ready; one that never is gets none. The store moves what waits with the slots (space/moves.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from noderuntime.dataflow.identifiers import node_of
from noderuntime.ipc.boundary import all_of
from noderuntime.ipc.change_records import Moved
from noderuntime.ipc.store_records import result
from noderuntime.runtime.children import Child
from noderuntime.runtime.lifecycle_events import LifecycleState
from noderuntime.runtime.nodes import UNFINISHED, NodeSupervisor
from noderuntime.runtime.store_link import StoreLink

_NOT_YET = UNFINISHED | {LifecycleState.BACKOFF, LifecycleState.KILLED, LifecycleState.FAILED}


class Moving:
    """The slots of one run that are to move."""

    def __init__(self, nodes: NodeSupervisor, link: StoreLink) -> None:
        self._nodes = nodes
        self._link = link
        self._counts: dict[str, int] = {}  # by node of the file: how many of its replicas are to own its slots
        self._at_once: set[str] = set()  # those that wait for no replica to be ready
        self._asks = False

    def begin(self, counts: Mapping[str, int], at_once: bool = False) -> None:
        """So many of the replicas of these nodes are to own all slots, as soon as they are ready or `at_once`."""
        self._counts.update(counts)
        self._at_once = self._at_once | counts.keys() if at_once else self._at_once - counts.keys()

    def keep(self, nodes: Collection[str]) -> None:
        """The run has these nodes from now on."""
        self._counts = {node: count for node, count in self._counts.items() if node in nodes}

    def waits(self, nodes: Collection[str]) -> bool:
        """Whether slots of these nodes have yet to move."""
        return not self._counts.keys().isdisjoint(nodes)

    def not_ready(self) -> list[str]:
        """Replicas that the others wait for."""
        return [child.id for node in self._counts for child in self._missing(node)]

    def look(self) -> None:
        """As soon as the replicas of a node are ready, and again until nothing is left."""
        if self._asks:
            return
        ready = {node: count for node, count in self._counts.items() if not self._missing(node)}
        if ready:
            self._asks = True
            moved = partial(self._moved, ready)
            self._link.request("change_move", {"counts": ready}, result(Moved), moved, self._not_moved)

    def _moved(self, asked: Mapping[str, int], found: Moved) -> None:
        self._asks = False
        if not found["left"]:
            self._counts = {node: count for node, count in self._counts.items() if asked.get(node) != count}
        all_of(child.ring for node in asked for child in self._replicas(node))
        self.look()

    def _not_moved(self, error: str, text: str) -> None:
        """The nodes are ending, or gone: slots stay where they are."""
        self._asks = False
        self._counts.clear()

    def _replicas(self, node: str) -> list[Child]:
        return [child for id, child in self._nodes.children.items() if node_of(id) == node and not child.leaving]

    def _missing(self, node: str) -> list[Child]:
        return [] if node in self._at_once else [child for child in self._replicas(node) if child.state in _NOT_YET]
