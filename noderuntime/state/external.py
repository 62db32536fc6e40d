"""The external State of a run, as its nodes use it: `ctx.kvs` and `node.kvs` when `state: kind:` is not memory.

Watches of nodes and their cursors are kept in the space, like those of the shared KVS there (see
noderuntime.space.watches). A thread waits for the State to change, and rings the node's bell.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Self

from noderuntime.errors import StoreError, StoreUnreachable
from noderuntime.ipc import doorbell, forks
from noderuntime.merges import Merge
from noderuntime.space import keys, kvs_cells
from noderuntime.space.environment import Space, scan
from noderuntime.space.keys import user_key
from noderuntime.space.kvs_cells import Cell
from noderuntime.space.watches import Cursor, Prefixes, Update
from noderuntime.state import base, kinds
from noderuntime.state.base import Diff, Entry, State
from noderuntime.state.common import TableState

AWAIT_S: Final = 5.0
PAUSE_S: Final = 0.5


def open_external(space: Space) -> State | None:
    """The State that the run's facts name; None if it is the space itself. Raises StoreError.

    An unreachable server does not end a node: calls of the State raise StoreUnreachable until the server is back.
    """
    if space.external is None:
        return None
    state = kinds.open_kind(space.external["kind"], space.external["config"])
    with contextlib.suppress(StoreUnreachable):
        state.init()
    return state


class ExternalSubscription:
    """As watches.Subscription, for an external State. Its revisions have no index."""

    def __init__(self, space: Space, node: int, state: State, bell: int) -> None:
        self._space = space
        self._node = node
        self._state = state
        self._bell = bell
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        with space.read() as txn:
            prefix = keys.watched_prefix(node)
            self._prefixes = Prefixes(key[len(prefix) :] for key, _ in scan(txn, prefix))
            packed = txn.get(keys.watch_cursor(node))
        self.cursor: Cursor = keys.parse_place(packed) if packed else (0, 0)
        if self._prefixes:
            self._listen()

    def __bool__(self) -> bool:
        return bool(self._prefixes)

    def add(self, prefixes: Iterable[bytes]) -> None:
        """Watch more prefixes, from now on."""
        new = [prefix for prefix in prefixes if prefix not in self._prefixes]
        if not new:
            return
        now = self._table().revision()
        with self._lock, self._space.write() as txn:
            if not self._prefixes:
                self.cursor = now, 0
                txn.put(keys.watch_cursor(self._node), keys.place(*self.cursor))
            for prefix in new:
                txn.put(keys.watched_prefix(self._node) + prefix, b"")
                self._prefixes.add(prefix)
        self._listen()

    def start_over(self) -> None:
        """Read again what was read since the last commit."""
        with self._lock, self._space.read() as txn:
            packed = txn.get(keys.watch_cursor(self._node))
            self.cursor = keys.parse_place(packed) if packed else (0, 0)

    def remove(self, prefixes: Iterable[bytes]) -> None:
        with self._lock, self._space.write() as txn:
            for prefix in prefixes:
                txn.delete(keys.watched_prefix(self._node) + prefix)
                self._prefixes.discard(prefix)

    def read(self, limit: int) -> list[Update]:
        """Up to `limit` updates that were not read before; none while the State cannot be reached."""
        if not self._prefixes:
            return []
        with self._lock, contextlib.suppress(Exception):  # a user's kind may raise anything: retried
            rows, now_ns = self._table()._after(self.cursor[0], limit)
            found = []
            for key, row in rows:
                self.cursor = row.revision, 0
                if self._prefixes.match(key.encode()):
                    found.append(Update(key, kvs_cells.visible(row.cell, now_ns), row.revision, 0))
            if rows:
                doorbell.ring(self._bell)  # all rows were of other keys: there may be more after them
            return found
        return []

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._table()._wake()
            self._thread.join()

    def _table(self) -> TableState:
        if not isinstance(self._state, TableState):
            raise StoreError(f"{type(self._state).__name__} cannot wake nodes: it does not derive from TableState")
        return self._state

    def _listen(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._ring, name="noderuntime-watch", daemon=True)
            self._thread.start()

    def _ring(self) -> None:
        state = self._table()
        while not self._closed.is_set():
            seen = self.cursor[0]
            try:
                state._await_change(seen, AWAIT_S, self._closed)
            except Exception:  # a user's kind may raise anything; this thread must continue
                self._closed.wait(PAUSE_S)
                continue
            doorbell.ring(self._bell)
            if self.cursor[0] == seen:
                self._closed.wait(0.001)  # until the node has looked


class ExternalState(State):
    """The external State, with watches whose changes come as KVS_UPDATE events."""

    def __init__(self, state: State, subscription: ExternalSubscription) -> None:
        self._state = state
        self._subscription = subscription
        forks.watch(self)

    def forked(self) -> None:
        """See noderuntime.ipc.forks. Connections to the State belong to the parent."""
        forks.keep(self._state)
        self._state = forks.GONE

    @classmethod
    def open(cls, config: Mapping[str, Any]) -> Self:
        raise StoreError("open the kind itself: noderuntime.state.kinds.open_kind")

    def init(self) -> None:
        self._state.init()

    def close(self) -> None:
        self._subscription.close()
        self._state.close()

    def version(self) -> str:
        return self._state.version()

    def set(self, key: str, value: bytes, ttl: float | None = None, expect: int | None = None) -> int:
        return self._state.set(key, value, ttl, expect)

    def set_packed(self, key: str, value: bytes, ttl: float | None = None, expect: int | None = None) -> int:
        return self._state.set_packed(key, value, ttl, expect)

    def get(self, key: str) -> Entry | None:
        return self._state.get(key)

    def delete(self, key: str) -> bool:
        return self._state.delete(key)

    def merge(self, key: str, merge: Merge) -> int:
        return self._state.merge(key, merge)

    def diff(self, since: str | State) -> Diff:
        return self._state.diff(since)

    def cells(self) -> dict[str, Cell]:
        return self._state.cells()

    def apply(self, diff: Diff) -> list[str]:
        return self._state.apply(diff)

    def get_root(self) -> dict[str, Entry]:
        return self._state.get_root()

    def snapshot(self) -> AbstractContextManager[base.View]:
        return self._state.snapshot()

    def purge(self, limit: int = 1000) -> int:
        return self._state.purge(limit)

    def watch(self, prefix: str = "") -> base.Watch:
        """Get KVS_UPDATE events for all changes, from now on, of keys that start with `prefix`."""
        encoded = user_key(prefix)
        self._subscription.add([encoded])
        return _EventWatch(self._subscription, encoded)


class _EventWatch(base.Watch):
    def __init__(self, subscription: ExternalSubscription, prefix: bytes) -> None:
        self._subscription = subscription
        self._prefix = prefix

    def next(self, timeout: float | None = None) -> base.Update | None:
        raise StoreError("what a node watches comes to it as KVS_UPDATE events: handle them with the others")

    def close(self) -> None:
        self._subscription.remove([self._prefix])


