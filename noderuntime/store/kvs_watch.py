"""The operation `kvs_watch` on the shared KVS of the space: the store watches for its clients, and each waits parked.

A client carries its own cursor, so nothing of it has to be kept here when the store process is killed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from noderuntime.errors import ProtocolError
from noderuntime.ipc.protocol import Request
from noderuntime.ipc.state_records import Cursor, Updates, Watching
from noderuntime.ipc.typed import decode
from noderuntime.space import kvs, watches
from noderuntime.space.environment import Space
from noderuntime.space.keys import user_key
from noderuntime.space.transactions import ReadTxn
from noderuntime.store.dispatch import ARGUMENTS
from noderuntime.store.parked import Operation, limit_of, wait_of

PREFIXES_MAX: Final = 20_000
FRESH_MAX: Final = 1000
UPDATES_MAX: Final = 1000
REVISIONS: Final = 1 << 63
KEEP_S: Final = 30.0  # a prefix stays watched that long after the last request for it


@dataclass(slots=True)
class Watcher:
    """A request of `kvs_watch`. Its `cursor` rises with what was looked through, whether there was anything for it."""

    prefixes: list[bytes]
    match: Callable[[bytes], bool]
    cursor: Cursor | None
    limit: int
    wait: float
    looked: bool = False

    @classmethod
    def of(cls, asked: Watching, revisions: int) -> Watcher:
        """`revisions`: the revision of a cursor is less. Raises ProtocolError, KeyTooLong."""
        cursor = asked.cursor
        if cursor is not None and not (0 <= cursor.revision < revisions and 0 <= cursor.nth < 1 << 31):
            raise ProtocolError("cursor is what an earlier kvs_watch has returned, or nil")
        if len(asked.prefixes) > PREFIXES_MAX:
            raise ProtocolError(f"prefixes is an array of at most {PREFIXES_MAX} texts")
        prefixes = [user_key(prefix) for prefix in asked.prefixes]
        match = watches.Prefixes(prefixes).match
        return cls(prefixes, match, cursor, limit_of(asked.limit, UPDATES_MAX, UPDATES_MAX), wait_of(asked))


class WatchKeys:
    """The operation `kvs_watch`: the store watches for its clients, under a number of its own."""

    def __init__(self, space: Space, watch: Callable[[ReadTxn, Watcher], Updates | None]) -> None:
        self._space = space
        self._watch = watch
        self._asked: dict[bytes, float] = {}  # prefix -> when it was asked for last
        with space.write() as txn:
            watches.forget(txn, watches.STORE)
        self._subscription = watches.Subscription(space, watches.STORE)
        self._before = self._seen = self._head()
        self._fresh: list[bytes] = []  # the keys that have changed between the two
        self.operation = Operation(self._read, self.look, self.begin, self.turn, self.may_have)

    @staticmethod
    def _read(request: Request) -> Watcher:
        return Watcher.of(decode(Watching, request.arguments, ARGUMENTS), REVISIONS)

    def _head(self) -> Cursor:
        with self._space.read() as txn:
            head = kvs.head(txn)
        return Cursor(head.revision, head.nth)

    def turn(self) -> None:
        self._before = self._seen
        with self._space.read() as txn:
            changes = list(itertools.islice(kvs.changes_after(txn, *self._before), FRESH_MAX))
            whole = len(changes) < FRESH_MAX and watches.reaches(txn, self._before)
        self._fresh = [change.key for change in changes]
        if not whole:
            self._before = self._seen = self._head()  # too many: each has to look for itself
        elif changes:
            self._seen = Cursor(changes[-1].revision, changes[-1].nth)

    def may_have(self, watcher: Watcher) -> bool:
        """A watcher that has seen everything up to the last turn needs only the keys that have changed since."""
        if watcher.cursor is None or not watcher.looked or watcher.cursor < self._before:
            return True
        if any(watcher.match(key) for key in self._fresh):
            return True
        watcher.cursor = max(watcher.cursor, self._seen)
        return False

    def begin(self, watcher: Watcher) -> None:
        if watcher.cursor is None:
            return
        now = time.monotonic()
        self._subscription.add(watcher.prefixes)
        for prefix in watcher.prefixes:
            self._asked[prefix] = max(self._asked.get(prefix, 0.0), now + watcher.wait)

    def look(self, watcher: Watcher, over: bool) -> Updates | None:
        with self._space.read() as txn:
            found = self._watch(txn, watcher)
        if found is None and over:
            assert watcher.cursor is not None  # without one there is always a result
            return {"updates": [], "cursor": watcher.cursor}
        return found

    def tidy(self) -> None:
        """Stop watching what no client has asked for lately."""
        end = time.monotonic() - KEEP_S
        old = [prefix for prefix, asked in self._asked.items() if asked < end]
        if old:
            self._subscription.remove(old)
            for prefix in old:
                del self._asked[prefix]
