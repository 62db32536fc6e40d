"""Times that are to come, one for each text; the earliest comes first."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

SPARE: Final = 1000  # entries that the heap may hold beyond twice what is needed


class Deadlines:
    """A heap that is corrected late: for each text it holds an entry that is not later than its time.

    So a time that moves further away, the usual case, costs one write into a dict; the entry follows when it comes up.
    """

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._at)

    def load(self, items: Iterable[tuple[str, float]]) -> None:
        """Hold these, and nothing else."""
        self._at = dict(items)
        self._heap = [(at, text) for text, at in self._at.items()]
        heapq.heapify(self._heap)

    def set(self, text: str, at: float) -> None:
        before = self._at.get(text)
        self._at[text] = at
        if before is None or at < before:
            heapq.heappush(self._heap, (at, text))
            if len(self._heap) > 2 * len(self._at) + SPARE:
                self.load(self._at.items())

    def discard(self, text: str) -> None:
        self._at.pop(text, None)

    def first(self) -> tuple[float, str] | None:
        """The earliest time and its text, which stay."""
        heap = self._heap
        while heap:
            at, text = heap[0]
            now_at = self._at.get(text)
            if now_at == at:
                return at, text
            if now_at is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (now_at, text))
        return None

    def take(self, until: float) -> tuple[float, str] | None:
        """The earliest, which is held no longer; None when it is later than `until`."""
        first = self.first()
        if first is None or first[0] > until:
            return None
        heapq.heappop(self._heap)
        del self._at[first[1]]
        return first
