"""Nodes that start together: the welcome of each waits until all of them have said hello. Pure.

A node that is over before it said hello is waited for no longer. Once open, the barrier stays open: a later life of a
node waits for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class StartBarrier:
    """`missing`: the nodes that have not said hello yet."""

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self._held: dict[str, Callable[[], None]] = {}
        self._opened_ns = 0

    def opened_ns(self, now_ns: int) -> int:
        """When the first node was welcomed: now, if this is the first. By any clock."""
        self._opened_ns = self._opened_ns or now_ns
        return self._opened_ns

    def expect(self, nodes: Iterable[str]) -> None:
        """These start together."""
        self.missing.update(nodes)

    def hold(self, node: str, welcome: Callable[[], None]) -> None:
        """Welcome a node, as soon as no node is missing. A later call for the same node takes the place of this one."""
        if self.missing:
            self._held[node] = welcome
        else:
            welcome()

    def arrived(self, node: str) -> list[Callable[[], None]]:
        """A node has said hello, or is over. Returns the welcomes that are due now."""
        if node not in self.missing:
            return []
        self.missing.discard(node)
        if self.missing:
            return []
        due, self._held = [*self._held.values()], {}
        return due
