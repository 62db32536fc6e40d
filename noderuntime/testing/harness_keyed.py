"""`ctx.keyed` without a space: the states of keys in a dict, by tag, and the index of what is due, made from them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence

from noderuntime.api.keyed.deadlines import Place
from noderuntime.api.keyed.earlier import converted
from noderuntime.space.keys import user_key
from noderuntime.space.kvs import check_value

Private = dict[str, bytes | None]


class KeyedDict:
    """See KeyedStore in api/keyed/store.py. A place is a tag.

    `committed`: the private state. `staging(call)` returns what the event in hand stages, or raises; `staged()` returns
    the same, or nothing outside of an event. One is made for each life: the index is made when it is first asked for,
    which also converts what an earlier version has left.
    """

    def __init__(
        self,
        committed: MutableMapping[str, bytes],
        staging: Callable[[str], Private],
        staged: Callable[[], Private],
    ) -> None:
        self._committed = committed
        self._staging = staging
        self._staged = staged
        self._index: dict[tuple[int, int], set[Place]] | None = None

    def place(self, slot: int, tag: str) -> str:
        user_key(tag)
        return tag

    def load(self, place: str) -> bytes | None:
        staged = self._staged()
        return staged[place] if place in staged else self._committed.get(place)

    def save(self, place: str, value: bytes) -> None:
        self._staging("saving the state of a key")[place] = check_value(f"the state {place!r}", value)

    def save_all(self, values: Mapping[str, bytes]) -> None:
        for place, value in values.items():
            self.save(place, value)

    def delete(self, place: str) -> None:
        self._staging("dropping the state of a key")[place] = None

    def mark(self, queue: int, slot: int, due: float, tag: str, wanted: bool) -> None:
        self._staging("setting a timer")
        if self._index is not None:  # what an event stages in vain, the next life forgets
            entries = self._index.setdefault((queue, slot), set())
            (entries.add if wanted else entries.discard)((due, tag))

    def due(self, queue: int, after: Sequence[tuple[int, Place]], limit: int) -> list[list[Place]]:
        if self._index is None:
            self._index = self._made()
        index = self._index
        return [
            heapq.nsmallest(limit, (entry for entry in index.get((queue, slot), ()) if entry > place))
            for slot, place in after
        ]

    def all(self) -> Iterator[tuple[int, str, bytes]]:
        for tag, value in sorted({**self._committed, **self._staged()}.items()):
            found = None if value is None else converted(tag, value)
            if value is not None and found is not None:
                yield found.slot, tag, value

    def _made(self) -> dict[tuple[int, int], set[Place]]:
        index: dict[tuple[int, int], set[Place]] = {}
        staged = self._staged()
        for _, tag, value in list(self.all()):
            found = converted(tag, value)
            if found is None or found.due is None:
                continue
            index.setdefault((found.queue, found.slot), set()).add((found.due, tag))
            if tag not in staged:
                self._committed[tag] = found.value
        return index
