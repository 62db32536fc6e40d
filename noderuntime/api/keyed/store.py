"""What keyed operators need of the place where states are kept: `ctx.keyed`. Protocols only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from noderuntime.api.keyed.deadlines import Index


class KeyedStore(Index, Protocol):
    """Where keyed states are: `ctx.keyed`. What is staged in it is seen at once."""

    def place(self, slot: int, tag: str) -> Any:
        """Where the value of a key is: for the three calls that follow."""
        ...

    def load(self, place: Any) -> bytes | None: ...

    def save(self, place: Any, value: bytes) -> None: ...

    def save_all(self, values: dict[Any, bytes]) -> None: ...

    def delete(self, place: Any) -> None: ...

    def mark(self, queue: int, slot: int, due: float, tag: str, wanted: bool) -> None:
        """Put an entry into the index, or (not `wanted`) remove it."""
        ...

    def all(self) -> Iterable[tuple[int, str, bytes]]:
        """(slot, tag, value) of each key."""
        ...


class KeyedContext(Protocol):
    """The part of `ctx` that this module needs."""

    @property
    def keyed(self) -> KeyedStore: ...

    def save_state(self, key: str, value: bytes) -> None: ...

    def load_state(self, key: str, default: None = None) -> bytes | None: ...
