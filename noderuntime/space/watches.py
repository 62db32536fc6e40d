"""Watches of the shared KVS: who watches which prefixes, how far each watcher has come, and what is new for it.

A watch is kept in the space: the prefixes under the watcher's number, and one cursor into the change log. The cursor is
committed with the event that it led to, so that a watcher that is killed misses nothing. The process that commits a
change rings the bells of the nodes that watch the key. The head counts how often watches have changed, so that a
committing process knows with one comparison whether its table of watches is current.

Several changes of a key between two looks arrive as one, the newest. A watcher that has fallen behind the change log
gets the newest change of every watched key since; it misses only deletions whose tombstones are gone by then.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from noderuntime.space import keys, kvs, kvs_cells
from noderuntime.space.environment import Space, scan
from noderuntime.space.transactions import ReadTxn, WriteTxn

STORE: Final = keys.NODES_MAX  # the number under which the store process watches for its clients

Cursor = tuple[int, int]  # revision, index of the last change that was seen

_LOOK_MAX: Final = 10_000  # entries of the log that one look goes through


class Prefixes:
    """A set of prefixes that answers which of them a key starts with, however many there are."""

    def __init__(self, prefixes: Iterable[bytes] = ()) -> None:
        self._by_length: dict[int, set[bytes]] = {}
        for prefix in prefixes:
            self.add(prefix)

    def add(self, prefix: bytes) -> None:
        self._by_length.setdefault(len(prefix), set()).add(prefix)

    def discard(self, prefix: bytes) -> None:
        same = self._by_length.get(len(prefix), set())
        same.discard(prefix)
        if not same:
            self._by_length.pop(len(prefix), None)

    def match(self, key: bytes) -> bool:
        return any(key[:length] in same for length, same in self._by_length.items())

    def __contains__(self, prefix: bytes) -> bool:
        return prefix in self._by_length.get(len(prefix), ())

    def __bool__(self) -> bool:
        return bool(self._by_length)

    def __iter__(self) -> Any:
        return (prefix for same in self._by_length.values() for prefix in same)


class Watchers:
    """The table of all watches that a committing process keeps."""

    def __init__(self) -> None:
        self._generation = 0
        self._by_length: dict[int, dict[bytes, set[int]]] = {}

    def of(self, txn: ReadTxn, changes: kvs.Changes) -> set[int]:
        """The numbers of the watchers of what `changes` has changed."""
        if changes.generation != self._generation:
            self._load(txn)
            self._generation = changes.generation
        found: set[int] = set()
        for length, watched in self._by_length.items():
            for key in changes.keys:
                found |= watched.get(key[:length], found)
        return found

    def all(self) -> set[int]:
        """The numbers of all watchers, as last looked up."""
        return {node for watched in self._by_length.values() for nodes in watched.values() for node in nodes}

    def _load(self, txn: ReadTxn) -> None:
        self._by_length = {}
        for key, _ in scan(txn, keys.WATCHED_PREFIX):
            node, prefix = keys.parse_watched(key)
            self._by_length.setdefault(len(prefix), {}).setdefault(prefix, set()).add(node)


class Update(NamedTuple):
    """The newest change of a watched key. `value` None: it is gone; `packed`: it is marked as MessagePack."""

    key: str
    value: bytes | None
    revision: int
    nth: int
    packed: bool = False


def look(
    txn: ReadTxn, match: Callable[[bytes], bool], cursor: Cursor, now_ns: int, limit: int
) -> tuple[list[Update], Cursor]:
    """Up to `limit` updates after `cursor`, in order of revision, and the new cursor."""
    if not reaches(txn, cursor):
        return _catch_up(txn, match, cursor, now_ns, limit)
    found: list[Update] = []
    for change in itertools.islice(kvs.changes_after(txn, *cursor), _LOOK_MAX):
        if len(found) >= limit:
            break
        cursor = change.revision, change.nth
        if match(change.key):
            entry = kvs.stored(txn, change.key)
            if entry is not None and (entry.revision, entry.nth) == cursor:
                found.append(_update(change.key, entry, now_ns))
    return found, cursor


def reaches(txn: ReadTxn, cursor: Cursor) -> bool:
    """Whether the change log still holds everything after `cursor`."""
    if txn.get(keys.change(*cursor)) is not None:
        return True
    head = kvs.head(txn)
    return (head.revision, head.nth) <= cursor


def _catch_up(
    txn: ReadTxn, match: Callable[[bytes], bool], cursor: Cursor, now_ns: int, limit: int
) -> tuple[list[Update], Cursor]:
    newer = [
        (entry.revision, entry.nth, key)
        for key, entry in kvs.all_stored(txn)
        if (entry.revision, entry.nth) > cursor and match(key)
    ]
    newer.sort()
    found = []
    for revision, index, key in newer[:limit]:
        entry = kvs.stored(txn, key)
        assert entry is not None
        found.append(_update(key, entry, now_ns))
        cursor = revision, index
    if len(newer) <= limit:
        head = kvs.head(txn)
        cursor = head.revision, head.nth
    return found, cursor


def _update(key: bytes, entry: kvs.Stored, now_ns: int) -> Update:
    value, packed = kvs_cells.shown(entry.cell, now_ns)
    return Update(key.decode(), value, entry.revision, entry.nth, packed)


class Subscription:
    """The watches of one node, in one life: registering them, and reading what is new. Safe from several threads.

    Updates come in order of revision. The caller commits the cursor (Staged.cursor) with the effects of the update.
    """

    def __init__(self, space: Space, node: int) -> None:
        self._space = space
        self._node = node
        self._lock = threading.Lock()
        with space.read() as txn:
            prefix = keys.watched_prefix(node)
            self._prefixes = Prefixes(key[len(prefix) :] for key, _ in scan(txn, prefix))
            self.cursor = _cursor_of(txn, node)

    def __bool__(self) -> bool:
        return bool(self._prefixes)

    def add(self, prefixes: Iterable[bytes]) -> None:
        """Watch more prefixes, from now on. Prefixes that are watched already continue from their cursor."""
        new = [prefix for prefix in prefixes if prefix not in self._prefixes]
        if not new:
            return
        with self._lock, self._space.write() as txn:
            if not self._prefixes:
                head = kvs.head(txn)
                self.cursor = head.revision, head.nth
                txn.put(keys.watch_cursor(self._node), keys.place(*self.cursor))
            for prefix in new:
                txn.put(keys.watched_prefix(self._node) + prefix, b"")
                self._prefixes.add(prefix)
            kvs.count_watches(txn)

    def start_over(self) -> None:
        """Read again what was read since the last commit."""
        with self._lock, self._space.read() as txn:
            self.cursor = _cursor_of(txn, self._node)

    def remove(self, prefixes: Iterable[bytes]) -> None:
        """Stop watching these prefixes."""
        with self._lock, self._space.write() as txn:
            for prefix in prefixes:
                txn.delete(keys.watched_prefix(self._node) + prefix)
                self._prefixes.discard(prefix)
            kvs.count_watches(txn)

    def read(self, limit: int) -> list[Update]:
        """Up to `limit` updates that were not read before."""
        if not self._prefixes:
            return []
        with self._lock, self._space.read() as txn:
            head = kvs.head(txn)
            if (head.revision, head.nth) <= self.cursor:
                return []
            found, self.cursor = look(txn, self._prefixes.match, self.cursor, self._space.now_ns(), limit)
            return found


def _cursor_of(txn: ReadTxn, node: int) -> Cursor:
    packed = txn.get(keys.watch_cursor(node))
    return keys.parse_place(packed) if packed else (0, 0)


def forget(txn: WriteTxn, node: int) -> None:
    """Remove all watches of a node."""
    for key, _ in list(scan(txn, keys.watched_prefix(node))):
        txn.delete(key)
    txn.delete(keys.watch_cursor(node))
    kvs.count_watches(txn)


def watching(txn: ReadTxn) -> set[int]:
    """The numbers of all watchers."""
    return {keys.parse_watched(key)[0] for key, _ in scan(txn, keys.WATCHED_PREFIX)}
