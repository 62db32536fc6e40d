"""The shared KVS as an operator on trial sees it: it reads what is there, and what it writes goes nowhere.

A write raises what it would raise if it were made: for a key or value that cannot be, a revision that is another one, a
merge that does not fit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from noderuntime.errors import RevisionConflict
from noderuntime.ipc import forks
from noderuntime.merges import Merge
from noderuntime.space import kvs
from noderuntime.space.environment import Space
from noderuntime.space.keys import VALUE_BYTES_MAX, user_key
from noderuntime.space.transactions import WriteTxn
from noderuntime.state.base import Diff, State, Update, Watch
from noderuntime.state.diffs import check_diff, check_expect
from noderuntime.state.external import ExternalState
from noderuntime.state.memory import MemoryState


def trial_state(space: Space, node: int, external: State | None) -> State:
    """That of a run: in the `external` State, if it has one, otherwise in the space."""
    return MemoryTrialState(space, node) if external is None else ExternalTrialState(external)


class MemoryTrialState(MemoryState):
    """In the space. Each write is made in a transaction that is given up."""

    def _change(
        self,
        make: Callable[[WriteTxn, kvs.Changes, int], None],
        size_bytes: int = VALUE_BYTES_MAX,
        drains: bool = False,
    ) -> int:
        space = self._space
        txn = space.begin()
        try:
            revision: int = space.base + txn.id()
            now_ns = space.now_ns()
            make(txn, kvs.Changes(txn, revision, now_ns, self._origin), now_ns)
            return revision
        finally:
            txn.abort()

    def watch(self, prefix: str = "") -> Watch:
        return _Silent()


class ExternalTrialState(ExternalState):
    """In an external State. A write only reads what it would replace."""

    def __init__(self, state: State) -> None:
        self._state = state
        forks.watch(self)

    def init(self) -> None:
        """It is there: the run goes on with it."""

    def close(self) -> None:
        self._state.close()

    def set(self, key: str, value: bytes, ttl: float | None = None, expect: int | None = None) -> int:
        user_key(key)
        kvs.check_value(f"the value of {key!r}", value)
        if ttl is not None:
            kvs.ttl_to_ns(ttl)
        revision = self._revision(key)
        if expect is not None:
            check_expect(expect)
            if revision != expect:
                raise RevisionConflict(key, expect, revision)
        return revision + 1

    def set_packed(self, key: str, value: bytes, ttl: float | None = None, expect: int | None = None) -> int:
        return self.set(key, value, ttl, expect)

    def delete(self, key: str) -> bool:
        return self._state.get(key) is not None

    def merge(self, key: str, merge: Merge) -> int:
        entry = self._state.get(key)
        merge.apply(None if entry is None else entry.value)
        return self._revision(key) + 1

    def apply(self, diff: Diff) -> list[str]:
        check_diff(diff)
        return []

    def purge(self, limit: int = 1000) -> int:
        return 0

    def watch(self, prefix: str = "") -> Watch:
        user_key(prefix)
        return _Silent()

    def _revision(self, key: str) -> int:
        entry = self._state.get(key)
        return 0 if entry is None else entry.revision


class _Silent(Watch):
    """A watch of an operator that will get no events."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def next(self, timeout: float | None = None) -> Update | None:
        self._closed.wait(timeout)
        return None

    def close(self) -> None:
        self._closed.set()
