"""The part of an index of deadlines that memory holds: what is due soon. The rest stays where the index is kept.

The index has a queue for each slot. Memory holds the entries at the front of each queue, up to the place to which it
has been read. A queue is read on when time reaches that place, so a new life reads a few entries of each slot, however
many there are. All that memory holds can be read again; `forget` may be called at any time.

An entry may be earlier than the deadline that it stands for: postponing a deadline, the usual case, changes no entry.
Whoever takes one from the front compares it with the deadline, and makes a new one when it came too early.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final, Protocol

from noderuntime.api.keyed.layout import SLOTS

Place = tuple[float, str]  # of an entry in its queue: when it is due, the tag of its key

START: Final[Place] = (float("-inf"), "")
FIRST_READ: Final = 4  # entries of each queue that a new life reads
READ: Final = 64
SPARE: Final = 1000  # entries that the heap may hold beyond twice what is needed
HELD_MAX: Final = 50_000


class Index(Protocol):
    """Where the entries are kept."""

    def due(self, queue: int, after: Sequence[tuple[int, Place]], limit: int) -> list[list[Place]]:
        """For each (slot, place): the `limit` entries of that slot that follow the place, in order."""
        ...


class Deadlines:
    """The entries of the queues with one number, of all slots."""

    def __init__(self, queue: int) -> None:
        self._queue = queue
        self.forget()

    def forget(self) -> None:
        """Hold nothing: all entries are read again."""
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str, int]] = []
        self._read_to: dict[int, Place] = dict.fromkeys(range(SLOTS), START)  # without those read to their end
        self._unread: list[tuple[float, int]] = [(START[0], slot) for slot in range(SLOTS)]

    def set(self, tag: str, due: float, slot: int) -> None:
        """The index has this entry for a key, and no other one."""
        read_to = self._read_to.get(slot)
        if read_to is not None and (due, tag) > read_to:
            self._at.pop(tag, None)
            return
        self._at[tag] = due
        heapq.heappush(self._heap, (due, tag, slot))
        if len(self._heap) > 2 * len(self._at) + SPARE:
            self._heap = [entry for entry in {*self._heap} if self._at.get(entry[1]) == entry[0]]
            heapq.heapify(self._heap)
        if len(self._at) > HELD_MAX:
            self.forget()

    def discard(self, tag: str) -> None:
        """The index has no entry for a key."""
        self._at.pop(tag, None)

    def first(self, until: float, index: Index) -> tuple[float, str, int] | None:
        """The earliest entry and its slot; None if it is later than `until`."""
        while True:
            heap = self._heap
            while heap and self._at.get(heap[0][1]) != heap[0][0]:
                heapq.heappop(heap)
            bound = min(until, heap[0][0]) if heap else until
            if self._unread and self._unread[0][0] <= bound:
                self._read(bound, index)
            elif heap and heap[0][0] <= until:
                return heap[0]
            else:
                return None

    def _read(self, bound: float, index: Index) -> None:
        """Read on in the queues that may have entries until `bound`."""
        after: list[tuple[int, Place]] = []
        while self._unread and self._unread[0][0] <= bound:
            slot = heapq.heappop(self._unread)[1]
            after.append((slot, self._read_to[slot]))
        limit = FIRST_READ if after[0][1] == START else READ
        for (slot, _), entries in zip(after, index.due(self._queue, after, limit), strict=True):
            for due, tag in entries:
                self._at[tag] = due
                heapq.heappush(self._heap, (due, tag, slot))
            if len(entries) < limit:
                del self._read_to[slot]
            else:
                self._read_to[slot] = entries[-1]
                heapq.heappush(self._unread, (entries[-1][0], slot))
