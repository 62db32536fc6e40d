"""The types of an LMDB transaction on the space: a function's signature says whether it reads or may write.

Protocols only. The transaction of an event, which commits input, state and outputs together, is in commit.py.

A function that takes a `ReadTxn` reads the space as it was at one moment and changes nothing. One that takes a
`WriteTxn` runs under the write lock: no other process commits until that transaction ends. `Space.read`, `Space.write`
and `Space.begin` make them. Signatures do not name LMDB's own classes: those allow far more than is used here, and
older versions of the binding have no types.

Keys and values are bytes (see keys.py and records.py). A cursor's method that moves it returns whether it now is on an
entry. If it is not, its key and value are b"".
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self, TypedDict


class ReadCursor(Protocol):
    """A position among the entries, in the order of their keys."""

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """All (key, value) from the cursor's position on; from the first entry if it has not been moved yet."""
        ...

    def iternext(self) -> Iterator[tuple[bytes, bytes]]: ...

    def set_range(self, key: bytes, /) -> bool:
        """Move to the first entry whose key is not below `key`."""
        ...

    def last(self) -> bool: ...

    def next(self) -> bool: ...

    def prev(self) -> bool: ...

    def key(self) -> bytes: ...

    def value(self) -> bytes: ...

    def item(self) -> tuple[bytes, bytes]: ...


class WriteCursor(ReadCursor, Protocol):
    """A cursor of a write transaction."""

    def delete(self) -> bool:
        """Delete the entry at the cursor and move to the next one."""
        ...


class Pages(TypedDict):
    """How many pages are in use, by what they hold."""

    branch_pages: int
    leaf_pages: int
    overflow_pages: int


class ReadTxn(Protocol):
    """The space as it was when the transaction began. Keep it short: no page that it sees can be reused until it ends.

    As a context manager it ends with the block.
    """

    def get(self, key: bytes, /) -> bytes | None: ...

    def cursor(self) -> ReadCursor: ...

    def id(self) -> int:
        """The number of the last commit that it sees; a write transaction returns the number of its own commit."""
        ...

    def stat(self) -> Pages: ...

    def abort(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class WriteTxn(ReadTxn, Protocol):
    """The one transaction that may change the space at this time. It reads its own changes."""

    def put(self, key: bytes, value: bytes, /) -> bool: ...

    def delete(self, key: bytes, /) -> bool:
        """Whether there was such an entry."""
        ...

    def cursor(self) -> WriteCursor: ...

    def commit(self) -> None: ...
