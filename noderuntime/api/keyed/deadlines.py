"""A priority queue of deadlines, one per key."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

SPARE: Final = 1000  # entries that the heap may hold beyond twice what is needed


class Deadlines:
    """A heap that is corrected lazily: each key has an entry in the heap that is not later than its deadline.

    So postponing a deadline, the usual case, costs one write into a dict. The heap's entry is corrected when it reaches
    the top.
    """

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._at)

    def load(self, items: Iterable[tuple[str, float]]) -> None:
        """Replace all deadlines with these."""
        self._at = dict(items)
        self._heap = [(at, key) for key, at in self._at.items()]
        heapq.heapify(self._heap)

    def set(self, key: str, at: float) -> None:
        before = self._at.get(key)
        self._at[key] = at
        if before is None or at < before:
            heapq.heappush(self._heap, (at, key))
            if len(self._heap) > 2 * len(self._at) + SPARE:
                self.load(self._at.items())

    def discard(self, key: str) -> None:
        self._at.pop(key, None)

    def first(self) -> tuple[float, str] | None:
        """The earliest deadline and its key, which remain in the queue."""
        heap = self._heap
        while heap:
            at, key = heap[0]
            now_at = self._at.get(key)
            if now_at == at:
                return at, key
            if now_at is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (now_at, key))
        return None

    def take(self, until: float) -> tuple[float, str] | None:
        """Remove the earliest deadline and return it with its key; None if it is later than `until`."""
        first = self.first()
        if first is None or first[0] > until:
            return None
        heapq.heappop(self._heap)
        del self._at[first[1]]
        return first
