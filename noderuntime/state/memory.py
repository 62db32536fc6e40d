"""The kind `memory`: the shared KVS in the space. Each call is a separate transaction, not part of an event's.

Readers block no other process, not even writers. A read costs one to three microseconds, a write about ten.
"""

from __future__ import annotations

import fcntl
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from noderuntime.errors import HistoryLost, RevisionConflict, StoreError, StoreFull
from noderuntime.ipc import doorbell
from noderuntime.ipc.rundir import RunDir
from noderuntime.merges import Merge
from noderuntime.space import keys, kvs, kvs_cells, watches
from noderuntime.space.environment import MARK_NEW_WORK, Fullness, Space, create, open_space
from noderuntime.space.keys import VALUE_BYTES_MAX
from noderuntime.space.kvs import SharedValue, SharedWrite, check_value, ttl_to_ns
from noderuntime.space.kvs_cells import Cell
from noderuntime.space.transactions import ReadTxn, WriteTxn
from noderuntime.space.watches import Subscription, Watchers
from noderuntime.state import base
from noderuntime.state.base import Diff, Entry, State, Update
from noderuntime.state.diffs import check_diff, check_expect, diff_of, different, entry
from noderuntime.state.fields import Fields

SLOW_CHECK_S = 5.0
SIZE_BYTES = 64 << 20  # default size of a space that is opened outside a run

_WATCHERS = range(watches.STORE - 1, watches.STORE - 513, -1)  # numbers of watchers that are not nodes


class MemoryView(base.View):
    """Reads of one moment in the space."""

    def __init__(self, txn: ReadTxn, now_ns: int) -> None:
        self._txn = txn
        self._now_ns = now_ns

    def get(self, key: str) -> Entry | None:
        found = kvs.read(self._txn, keys.user_key(key), self._now_ns)
        return None if found is None else _entry(found, self._now_ns)

    def get_or(self, key: str, default: bytes) -> bytes:
        found = kvs.read(self._txn, keys.user_key(key), self._now_ns)
        return default if found is None else found.value

    def get_root(self) -> dict[str, Entry]:
        now_ns = self._now_ns
        return {key.decode(): _entry(value, now_ns) for key, value in kvs.entries(self._txn, b"", now_ns)}

    def version(self) -> str:
        return kvs_cells.version_text(kvs.digest_now(self._txn, self._now_ns))


class MemoryState(State):
    """The shared KVS of an open space. `origin`: the number of the node that writes.

    `ring` rings the bells of the given watchers after a change. `check` is called in each write transaction before
    anything is written, and may refuse by raising: a process whose life is over writes nothing.
    Errors: KeyTooLong, ValueTooLarge, StoreFull, RevisionConflict, HistoryLost; TypeError for what is not bytes.
    """

    def __init__(
        self,
        space: Space,
        origin: int,
        ring: Callable[[Iterable[int]], None] | None = None,
        check: Callable[[WriteTxn], None] | None = None,
    ) -> None:
        self._space = space
        self._fullness = Fullness(space)
        self._check = check
        self._origin = space.origin | origin
        self._ring = ring
        self._watchers = Watchers()
        self._table = threading.Lock()  # of the watchers
        self._own: OwnSpace | None = None
        self._closed = False

    @classmethod
    def open(cls, config: Mapping[str, Any]) -> Self:
        """A separate space in the folder `path`, outside any run: for tests, and for programs that need only a KVS.

        Fields: `path`, `size` (bytes), `history`, `ttl` (seconds). The folder belongs on tmpfs.
        """
        fields = Fields("memory", config)
        path = fields.text("path")
        size = fields.whole("size", SIZE_BYTES)
        history = fields.whole("history", base.HISTORY)
        ttl_ns = ttl_to_ns(fields.number("ttl"))
        fields.end()
        own = OwnSpace(RunDir(Path(path)), size, history, ttl_ns)
        state = cls(own.space, 0, own.bells.ring)
        state._own = own
        return state

    def init(self) -> None:
        """Set the limits; the space itself exists already."""
        self._check_open()
        if self._own is not None:
            with self._space.write() as txn:
                kvs.prepare(txn, self._own.history, self._own.ttl_ns)

    def close(self) -> None:
        """Close a space that `open` has opened; the space of a run belongs to its process."""
        if not self._closed and self._own is not None:
            self._closed = True
            self._own.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(base.no_more("this store"))

    # --- reading ----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        if self._closed:
            self._check_open()
        space = self._space
        now_ns = space.now_ns()
        with space.read() as txn:
            found = kvs.read(txn, keys.user_key(key), now_ns)
        return None if found is None else _entry(found, now_ns)

    def get_or(self, key: str, default: bytes) -> bytes:
        if self._closed:
            self._check_open()
        space = self._space
        with space.read() as txn:
            found = kvs.read_value(txn, keys.user_key(key), space.now_ns)
        return default if found is None else found

    def get_root(self) -> dict[str, Entry]:
        with self.snapshot() as view:
            return view.get_root()

    @contextmanager
    def snapshot(self) -> Iterator[MemoryView]:
        """Several reads at one moment: `with kvs.snapshot() as view: view.get(a), view.get(b)`.

        Keep it short: as long as it is open, memory that is written cannot be reused. A process that keeps a snapshot
        open for a second while others write is killed.
        """
        self._check_open()
        with self._space.read() as txn:
            yield MemoryView(txn, self._space.now_ns())

    def version(self) -> str:
        """Purges expired keys first, so that `diff` finds the version that is returned here."""
        self._check_open()
        self._purge_all()
        with self.snapshot() as view:
            return view.version()

    def cells(self) -> dict[str, Cell]:
        self._check_open()
        with self._space.read() as txn:
            now_ns = self._space.now_ns()
            return {key.decode(): kvs_cells.expired(kept.cell, now_ns) for key, kept in kvs.all_stored(txn)}

    def diff(self, since: str | State) -> Diff:
        self._check_open()
        if not isinstance(since, str | State):
            raise TypeError(f"diff takes a version or another State, not {type(since).__name__}")
        theirs = since.cells() if isinstance(since, State) else None
        self._purge_all()
        with self._space.read() as txn:
            now_ns = self._space.now_ns()
            version = kvs_cells.version_text(kvs.digest_now(txn, now_ns))
            if theirs is not None:
                mine = {key.decode(): kept for key, kept in kvs.all_stored(txn)}
                return diff_of(different(mine, theirs, now_ns), version, now_ns)
            if since == version:
                return Diff({}, frozenset(), version)
            place = kvs.find_digest(txn, kvs_cells.digest_of(since))
            if place is None:
                raise HistoryLost(str(since))
            found = {}
            for change in kvs.changes_after(txn, *place):
                kept = kvs.stored(txn, change.key)
                if kept is not None:  # otherwise its tombstone has been removed
                    found[change.key.decode()] = kept
            return diff_of(found.items(), version, now_ns)

    # --- writing ----------------------------------------------------------------------------------------------------

    def set(self, key: str, value: bytes, ttl: float | None = None, expect: int | None = None) -> int:
        return self._set(key, value, ttl, expect, packed=False)

    def set_packed(self, key: str, value: bytes, ttl: float | None = None, expect: int | None = None) -> int:
        return self._set(key, value, ttl, expect, packed=True)

    def _set(self, key: str, value: bytes, ttl: float | None, expect: int | None, packed: bool) -> int:
        encoded = keys.user_key(key)
        if type(value) is not bytes or len(value) > VALUE_BYTES_MAX:
            value = check_value(f"the value of {key!r}", value)
        write = SharedWrite(encoded, value, None, 0 if ttl is None else ttl_to_ns(ttl), packed)
        if expect is None:
            return self._change(lambda txn, changes, now_ns: changes.write(write), len(value))
        check_expect(expect)

        def change(txn: WriteTxn, changes: kvs.Changes, now_ns: int) -> None:
            found = kvs.read(txn, encoded, now_ns)
            revision = 0 if found is None else found.revision
            if revision != expect:
                raise RevisionConflict(key, expect, revision)
            changes.write(write)

        return self._change(change, len(value))

    def delete(self, key: str) -> bool:
        write = SharedWrite(keys.user_key(key))
        present = False

        def change(txn: WriteTxn, changes: kvs.Changes, now_ns: int) -> None:
            nonlocal present
            present = kvs.read(txn, write.key, now_ns) is not None
            changes.write(write)

        self._change(change, drains=True)
        return present

    def merge(self, key: str, merge: Merge) -> int:
        write = SharedWrite(keys.user_key(key), merge=merge)
        return self._change(lambda txn, changes, now_ns: changes.write(write))

    def apply(self, diff: Diff) -> list[str]:
        found = check_diff(diff)
        changed: list[str] = []

        def change(txn: WriteTxn, changes: kvs.Changes, now_ns: int) -> None:
            for key, cell in found:
                if changes.join(key, cell):
                    changed.append(key.decode())

        if found:
            self._change(change)
        return sorted(changed)

    def purge(self, limit: int = 1000) -> int:
        purged = 0

        def change(txn: WriteTxn, changes: kvs.Changes, now_ns: int) -> None:
            nonlocal purged
            purged = changes.expire(limit)

        self._change(change, drains=True)
        return purged

    def _purge_all(self) -> None:
        with self._space.read() as txn:
            due = kvs.is_due(txn, self._space.now_ns())
        while due and self.purge(kvs.PURGE_STEP) == kvs.PURGE_STEP:
            pass

    def _change(
        self,
        make: Callable[[WriteTxn, kvs.Changes, int], None],
        size_bytes: int = VALUE_BYTES_MAX,
        drains: bool = False,
    ) -> int:
        """One write transaction of about `size_bytes`; `drains`: it only makes room. Returns its revision."""
        if self._closed:
            self._check_open()
        space = self._space
        rings: set[int] | None = None
        txn = space.begin()
        try:
            if self._check is not None:
                self._check(txn)
            now_ns = space.now_ns()
            if not drains and self._fullness.look(txn) > MARK_NEW_WORK:
                raise StoreFull(space.size_bytes, space.used_bytes())
            revision: int = space.base + txn.id()
            changes = kvs.Changes(txn, revision, now_ns, self._origin)
            make(txn, changes, now_ns)
            if changes.keys or not drains:
                changes.finish()
            if changes.keys and changes.generation:
                with self._table:
                    rings = self._watchers.of(txn, changes)
            space.commit(txn)
        except BaseException as error:
            self._fullness.ran_out()
            space.abort(txn, error)
            raise
        self._fullness.wrote(size_bytes)
        if rings and self._ring is not None:
            self._ring(rings)
        return revision

    # --- watching ---------------------------------------------------------------------------------------------------

    def watch(self, prefix: str = "") -> base.Watch:
        self._check_open()
        encoded = keys.user_key(prefix)
        if self._own is None:
            raise StoreError("only a node, or who has opened the store itself, can watch it")
        return OwnWatch(self._own, encoded)


class NodeState(MemoryState):
    """The shared KVS as `ctx.kvs` and `node.kvs`: changes of watched keys come as KVS_UPDATE events."""

    def __init__(
        self,
        space: Space,
        number: int,
        ring: Callable[[Iterable[int]], None],
        subscription: Subscription,
        check: Callable[[WriteTxn], None],
    ) -> None:
        super().__init__(space, number, ring, check)
        self._subscription = subscription

    def watch(self, prefix: str = "") -> base.Watch:
        """Get KVS_UPDATE events for all changes, from now on, of keys that start with `prefix`.

        The space keeps the watch: a new life of the node continues after the last committed event, whether it calls
        this again or not. The watch ends with `close()` of the returned object, or with the node.
        """
        encoded = keys.user_key(prefix)
        self._subscription.add([encoded])
        return EventWatch(self._subscription, encoded)


class EventWatch(base.Watch):
    """A watch whose changes come as events."""

    def __init__(self, subscription: Subscription, prefix: bytes) -> None:
        self._subscription = subscription
        self._prefix = prefix

    def next(self, timeout: float | None = None) -> Update | None:
        raise StoreError("what a node watches comes to it as KVS_UPDATE events: handle them with the others")

    def close(self) -> None:
        self._subscription.remove([self._prefix])


class OwnSpace:
    """A space that was opened outside a run, with bells for its own watches."""

    def __init__(self, run_dir: RunDir, size: int, history: int, ttl_ns: int) -> None:
        self.run_dir = run_dir
        self.history = history
        self.ttl_ns = ttl_ns
        self.space = _spaces.open(run_dir, size)
        self.bells = doorbell.Bells(run_dir)
        self.watches: set[OwnWatch] = set()

    def close(self) -> None:
        for watch in list(self.watches):
            watch.close()
        self.bells.close()
        _spaces.close(self.run_dir)


class OwnWatch(base.Watch):
    """A watch of a process that is not a node. The process owns its number as long as it holds the lock on its bell."""

    def __init__(self, own: OwnSpace, prefix: bytes) -> None:
        self._own = own
        self._closed = False
        self._in_use = threading.Lock()  # held by the thread that waits for the next change
        self._waiting: list[Update] = []
        self._number, self._bell = _take_number(own.run_dir)
        with own.space.write() as txn:
            watches.forget(txn, self._number)
        self._subscription = Subscription(own.space, self._number)
        self._subscription.add([prefix])
        own.watches.add(self)

    def next(self, timeout: float | None = None) -> Update | None:
        with self._in_use:
            return self._next(None if timeout is None else time.monotonic() + timeout)

    def _next(self, deadline: float | None) -> Update | None:
        while not self._closed:
            doorbell.drain(self._bell)
            if self._closed:  # the ring of `close` may be among those that were just drained
                break
            if not self._waiting:
                found = self._subscription.read(kvs.PURGE_STEP)
                self._waiting = [Update(item.key, item.value, item.revision) for item in reversed(found)]
            if self._waiting:
                return self._waiting.pop()
            pause_s = SLOW_CHECK_S if deadline is None else min(SLOW_CHECK_S, deadline - time.monotonic())
            if pause_s < 0:
                return None
            poller = select.poll()
            poller.register(self._bell, select.POLLIN)
            poller.poll(pause_s * 1000)
        return None

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        doorbell.ring(self._bell)
        with self._in_use:
            with self._own.space.write() as txn:
                watches.forget(txn, self._number)
            self._own.run_dir.bell(self._number).unlink(missing_ok=True)
            self._own.watches.discard(self)
            os.close(self._bell)


def _take_number(run_dir: RunDir) -> tuple[int, int]:
    """A watcher's number that no living process uses, and its bell, locked."""
    for number in _WATCHERS:
        path = run_dir.bell(number)
        doorbell.create(path)
        bell = doorbell.open_bell(path)
        try:
            fcntl.flock(bell, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(bell)
            continue
        if path.exists() and os.path.samestat(path.stat(), os.fstat(bell)):
            return number, bell
        os.close(bell)
    raise StoreError(f"{len(_WATCHERS)} processes watch this store already; close one of these watches")


class _Spaces:
    """The spaces that this process has opened outside a run: a process must not open an LMDB environment twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Path, tuple[Space, int]] = {}

    def open(self, run_dir: RunDir, size: int) -> Space:
        with self._lock:
            root = run_dir.root.absolute()
            space, count = self._open.get(root, (None, 0))
            if space is None:
                if (run_dir.space / "data.mdb").exists():
                    space = open_space(run_dir.space)
                else:
                    space = create(run_dir.space, size, "")
            self._open[root] = space, count + 1
            return space

    def close(self, run_dir: RunDir) -> None:
        with self._lock:
            root = run_dir.root.absolute()
            space, count = self._open.pop(root)
            if count > 1:
                self._open[root] = space, count - 1
            else:
                space.close()


_spaces = _Spaces()


def _entry(found: SharedValue, now_ns: int) -> Entry:
    return entry(
        found.value, found.revision, found.written_ns, found.expires_ns, found.origin, now_ns, found.packed
    )
