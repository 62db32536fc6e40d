"""The shared KVS, immediately: each call is a transaction of its own, outside that of the event in hand."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from noderuntime.errors import RevisionConflict, StoreFull
from noderuntime.events import utc
from noderuntime.space import keys, shared
from noderuntime.space.shared import Merge, SharedValue, SharedWrite, check_value, ttl_to_ns
from noderuntime.space.space import MARK_NEW_WORK, Space


@dataclass(frozen=True, slots=True)
class Entry:
    """What is stored under a key. `timestamp`: when it was written (UTC); `ttl`: seconds left, None for ever;
    `origin`: the number of the node that wrote it (0 also for the command line)."""

    value: bytes
    revision: int
    timestamp: dt.datetime
    ttl: float | None
    origin: int


class View:
    """Reads of one moment: what any number of calls see belongs together. See MemoryState.snapshot."""

    def __init__(self, txn: Any, now_ns: int) -> None:
        self._txn = txn
        self._now_ns = now_ns

    def get(self, key: str) -> Entry | None:
        """The entry of `key`, or None when there is none in force."""
        found = shared.read(self._txn, keys.user_key(key), self._now_ns)
        return None if found is None else _entry(found, self._now_ns)

    def get_or(self, key: str, default: bytes) -> bytes:
        """The value of `key`, or `default`."""
        found = shared.read(self._txn, keys.user_key(key), self._now_ns)
        return default if found is None else found.value

    def get_root(self) -> dict[str, Entry]:
        """Every key in force with its entry, in order of key."""
        return {
            key.decode(): _entry(value, self._now_ns) for key, value in shared.entries(self._txn, b"", self._now_ns)
        }


class MemoryState:
    """The shared KVS in the space. Readers block nobody; expired keys are never returned. Safe from several threads.

    Errors: KeyTooLong, ValueTooLarge, StoreFull, TypeError for what is not bytes. `check` is called in each write
    transaction before anything is written, and may refuse by raising: a process whose life is over writes nothing.
    """

    def __init__(self, space: Space, origin: int, check: Callable[[Any], None]) -> None:
        self._space = space
        self._origin = origin
        self._check = check

    def get(self, key: str) -> Entry | None:
        """The entry of `key`, or None when there is none in force."""
        with self.snapshot() as view:
            return view.get(key)

    def get_or(self, key: str, default: bytes) -> bytes:
        """The value of `key`, or `default`."""
        with self.snapshot() as view:
            return view.get_or(key, default)

    def get_root(self) -> dict[str, Entry]:
        """Every key in force with its entry, in order of key, all of one moment."""
        with self.snapshot() as view:
            return view.get_root()

    @contextmanager
    def snapshot(self) -> Iterator[View]:
        """Several reads of one moment: `with kvs.snapshot() as view: view.get(a), view.get(b)`.

        Keep it short: as long as it is open, the memory of everything written meanwhile cannot be reused. A process
        that keeps one open for a second while others write is killed.
        """
        with self._space.read() as txn:
            yield View(txn, self._space.now_ns())

    def set(self, key: str, value: bytes, ttl: float | None = None, expect: int | None = None) -> int:
        """Write `value`; it is gone `ttl` seconds from now, if given. Returns its revision.

        `expect`: the revision that must be in force, 0 for "there must be no such key"; else RevisionConflict.
        """
        write = SharedWrite(keys.user_key(key), check_value(f"the value of {key!r}", value), ttl_ns=ttl_to_ns(ttl))
        return self._write(key, write, expect)

    def delete(self, key: str) -> bool:
        """Delete `key`; whether it was there."""
        encoded = keys.user_key(key)
        with self._space.write() as txn:
            self._check(txn)
            present = shared.read(txn, encoded, self._space.now_ns()) is not None
            txn.delete(keys.shared(encoded))
        return present

    def merge(self, key: str, merge: Merge) -> int:
        """Let `merge` (see noderuntime.merges) combine with what is there. Returns the new revision."""
        return self._write(key, SharedWrite(keys.user_key(key), merge=merge), None)

    def _write(self, key: str, write: SharedWrite, expect: int | None) -> int:
        space = self._space
        with space.write() as txn:
            self._check(txn)
            now_ns = space.now_ns()
            if expect is not None:
                found = shared.read(txn, write.key, now_ns)
                revision = found.revision if found else 0
                if revision != expect:
                    raise RevisionConflict(key, expect, revision)
            if space.used_share(txn) > MARK_NEW_WORK:
                raise StoreFull(space.size_bytes, space.used_bytes())
            sequence: int = space.base + txn.id()
            shared.write(txn, write, sequence, now_ns, self._origin)
        return sequence


def _entry(found: SharedValue, now_ns: int) -> Entry:
    ttl = (found.expires_ns - now_ns) / 1e9 if found.expires_ns else None
    return Entry(found.value, found.revision, utc(found.written_ns), ttl, found.origin)
