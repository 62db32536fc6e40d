"""`State`: what every kind of shared key-value store promises, and what the author of a kind implements.

Guarantees; the conformance suite (noderuntime.testing.state_contract) has tests of the same number for each:

 1. open      `open(config)` refuses unknown fields with StoreError, naming them; `init()` and `close()` may be called
              twice; after `close()` every call raises StoreError.
 2. values    Keys are str, at most 508 bytes as UTF-8 (KeyTooLong); values bytes-like, at most 1,000,000 bytes
              (ValueTooLarge); anything else is a TypeError. A `get` returns what was set. Buffers are copied.
 3. revision  Each change has a revision, an int above 0 that is greater than every one before it in this store.
 4. expect    `set(expect=r)` writes if and only if the revision in force is r (0: no key); else RevisionConflict, and
              nothing has changed. Of several writers with one expectation one wins.
 5. delete    `delete` says whether there was a key. A deletion stays in force for as long as the history tells of it.
 6. merge     `merge` combines atomically with what is there; merges of one class commute; none is lost. A value that it
              cannot combine with is a TypeError, and stays. A time to live continues.
 7. expiry    A key whose time to live is over is returned by no call. Purging turns it into a deletion.
 8. moment    `snapshot()`: any number of reads that see the store at one moment.
 9. order     Every call takes effect at one moment between its beginning and its end (linearizable). Any
              number of threads may use one State.
10. version   `version()` is equal for two stores, of any kinds, exactly when their contents are: keys, values,
              deletions in force.
11. diff      `diff(since)` has the newest of every key that has changed since the latest moment with that version, or
              that differs in another State: changed ones with their entries, deleted ones by name. HistoryLost when
              the history kept does not reach back so far.
12. apply     `apply(diff)` takes another store's changes over. Of two writers that had not seen each other the later
              wins, ties by origin; merges of both count. Stores that have applied each other's diffs are equal,
              in whatever order, however often.
13. watch     `watch(prefix)` yields the changes of keys with that prefix made after the call, in order of revision.
              None is left out, but several of one key may come as the newest. An expired key comes as deleted.
14. lost      A store that cannot be reached raises StoreError, and is used again by later calls when it is back.
15. kind      `packed` of an entry: merges and `set_packed` mark a value as MessagePack, `set` takes the mark away. The
              mark travels with diffs; `version` does not depend on it.

Revisions, and entries' origins, are of one store: after `apply` the same value may have another revision here.
"""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import msgpack

from noderuntime.errors import ProtocolError
from noderuntime.merges import Merge
from noderuntime.space import kvs_cells
from noderuntime.space.kvs_cells import Cell

HISTORY = 10_000


@dataclass(frozen=True, slots=True)
class Entry:
    """What is stored under a key. `packed`: the value is marked as MessagePack, by a merge or by `set_packed`.

    `timestamp`: when it was written (UTC); `ttl`: seconds left, None for ever; `origin`: the writer, as
    "store/node": 12 hexadecimal digits and the node's number (0 also for a writer that is not a node).
    """

    value: bytes
    revision: int
    timestamp: dt.datetime
    ttl: float | None
    origin: str
    packed: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """A change that a watch has seen. `value` None: the key is gone."""

    key: str
    value: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Diff:
    """What has changed: `changed` keys with their entries, the `deleted` ones, and the `version` that follows.

    `cells` is what `apply` needs. `to_bytes` and `from_bytes` carry a diff to another host.
    """

    changed: Mapping[str, Entry]
    deleted: frozenset[str]
    version: str
    cells: Mapping[str, Cell] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self.changed or self.deleted or self.cells)

    def to_bytes(self) -> bytes:
        """The part of the diff that `apply` needs, as MessagePack: [version, {key: cell}]."""
        packed: bytes = msgpack.packb([self.version, {key: kvs_cells.pack(cell) for key, cell in self.cells.items()}])
        return packed

    @classmethod
    def from_bytes(cls, packed: bytes) -> Diff:
        """A diff to apply. Raises ProtocolError for bytes that are not a diff."""
        try:
            version, found = msgpack.unpackb(packed, raw=False)
            if type(version) is not str or type(found) is not dict or not all(type(key) is str for key in found):
                raise ValueError("of another shape")
            return cls({}, frozenset(), version, {key: kvs_cells.unpack(cell) for key, cell in found.items()})
        except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError) as error:
            raise ProtocolError(f"these bytes are not a diff: {error}") from None


class View(ABC):
    """Reads that see the store at one moment."""

    @abstractmethod
    def get(self, key: str) -> Entry | None:
        """The entry of `key`, or None when there is none in force."""

    def get_or(self, key: str, default: bytes) -> bytes:
        """The value of `key`, or `default`."""
        entry = self.get(key)
        return default if entry is None else entry.value

    @abstractmethod
    def get_root(self) -> dict[str, Entry]:
        """Every key in force with its entry, in order of key."""

    @abstractmethod
    def version(self) -> str:
        """The version of the contents at this moment."""


class Watch(ABC):
    """The changes that a watch sees, from when it was made. Iterate over it, or call `next`. Close it when done."""

    @abstractmethod
    def next(self, timeout: float | None = None) -> Update | None:
        """The next change; None if none comes within `timeout` seconds, or the watch is closed.

        Changes come in order of revision. Raises StoreError when the store cannot be reached.
        """

    @abstractmethod
    def close(self) -> None:
        """End the watch. A waiting `next` returns None. A second call does nothing."""

    def __iter__(self) -> Iterator[Update]:
        while (update := self.next()) is not None:
            yield update

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class State(ABC):
    """A shared key-value store. See the head of this module for what is promised."""

    @classmethod
    @abstractmethod
    def open(cls, config: Mapping[str, Any]) -> Self:
        """A State as the `state:` section describes it; `config` is its fields without `kind`. Raises StoreError."""

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> Any:
        """What `open` reads from the fields, without opening anything: `validate` calls it. Raises StoreError."""
        return None

    @abstractmethod
    def init(self) -> None:
        """Create what the first call needs, once per store. What exists already stays."""

    @abstractmethod
    def close(self) -> None:
        """Release everything. A second call does nothing."""

    @abstractmethod
    def version(self) -> str:
        """A digest of the contents: equal for two stores exactly when their contents are."""

    @abstractmethod
    def set(self, key: str, value: bytes, ttl: float | None = None, expect: int | None = None) -> int:
        """Write `value`; with `ttl`, it expires that many seconds from now. Returns its revision.

        `expect`: the revision that must be in force, 0 for "there must be no such key"; otherwise RevisionConflict.
        """

    def set_packed(self, key: str, value: bytes, ttl: float | None = None, expect: int | None = None) -> int:
        """As `set`, but also marks the value as MessagePack, as merges do: `state get` decodes it. A kind that keeps no
        marks only sets the value.
        """
        return self.set(key, value, ttl, expect)

    @abstractmethod
    def get(self, key: str) -> Entry | None:
        """The entry of `key`, or None when there is none in force."""

    def get_or(self, key: str, default: bytes) -> bytes:
        """The value of `key`, or `default`."""
        entry = self.get(key)
        return default if entry is None else entry.value

    @abstractmethod
    def delete(self, key: str) -> bool:
        """Delete `key`. Returns whether it was there."""

    @abstractmethod
    def merge(self, key: str, merge: Merge) -> int:
        """Combine the value with `merge` (see noderuntime.merges). Returns the new revision."""

    @abstractmethod
    def diff(self, since: str | State) -> Diff:
        """What has changed here since a version of this store, or differs from another store. Raises HistoryLost."""

    @abstractmethod
    def cells(self) -> dict[str, Cell]:
        """All keys, also of deletions in force, in the form in which stores exchange them: see space/kvs_cells.py."""

    @abstractmethod
    def apply(self, diff: Diff) -> list[str]:
        """Apply another store's changes, all of them or none. Returns the keys that this has changed here."""

    @abstractmethod
    def get_root(self) -> dict[str, Entry]:
        """Every key in force with its entry, in order of key, all at one moment."""

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[View]:
        """Several reads at one moment: `with state.snapshot() as view: view.get(a), view.get(b)`."""

    @abstractmethod
    def watch(self, prefix: str = "") -> Watch:
        """The changes, from now on, of keys that start with `prefix`."""

    @abstractmethod
    def purge(self, limit: int = 1000) -> int:
        """Turn at most `limit` expired keys into deletions. Returns how many."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def no_more(where: str) -> str:
    """The text of the StoreError that a closed State raises."""
    return f"{where} is closed; open it again"
