"""The shared KVS inside a transaction: reading an entry, and changing some. Used by commits, MemoryState and the store.

Each key holds a cell (see kvs_cells.py). Most cells are one value that was set, and are stored as just that; cells that
were merged into, or are marked as MessagePack, are stored whole after the value that readers get.

`Changes` is the write side: one per transaction. Each change gets the transaction's sequence as its revision, and an
index; it is written to the change log together with the digest of all contents after it. The log keeps as many changes
as `history` says; a deletion's tombstone is removed together with its entry in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from noderuntime.errors import ValueTooLarge
from noderuntime.merges import Merge as Merge
from noderuntime.space import keys, kvs_cells, records
from noderuntime.space.environment import scan
from noderuntime.space.keys import VALUE_BYTES_MAX
from noderuntime.space.kvs_cells import DIGEST_BYTES, DIGEST_MASK, Cell, contribution
from noderuntime.space.records import (
    CHANGE_HEAD_BYTES,
    GONE,
    HEAD,
    MERGED,
    SHARED,
    SHARED_BYTES,
    UNMARKED,
    VISIBLE,
)
from noderuntime.space.transactions import ReadTxn, WriteTxn

PURGE_STEP: Final = 500  # keys that expire in one transaction
_SLACK_SHIFT: Final = 6  # the log is cut when it is a 64th too long, several changes at once


class SharedWrite:
    """One staged write. `key` is UTF-8; neither `value` nor `merge`: a deletion. `ttl_ns` 0: the default. `packed`
    marks the value as MessagePack.

    The costly parts are computed here, before the write lock is taken.
    """

    __slots__ = ("contribution", "key", "merge", "packed", "ttl_ns", "value")

    def __init__(
        self,
        key: bytes,
        value: bytes | None = None,
        merge: Merge | None = None,
        ttl_ns: int = 0,
        packed: bool = False,
    ) -> None:
        self.key = key
        self.value = value
        self.merge = merge
        self.ttl_ns = ttl_ns
        self.packed = packed
        self.contribution = 0 if merge is not None else contribution(key, value)


class SharedValue(NamedTuple):
    """What readers get. Times in nanoseconds since the epoch; `expires_ns` 0: never."""

    value: bytes
    revision: int
    written_ns: int
    expires_ns: int
    origin: int
    packed: bool = False


class Stored(NamedTuple):
    """Everything kept under a key, also of a deletion in force."""

    cell: Cell
    revision: int
    nth: int
    written_ns: int
    origin: int
    contribution: int
    changes_ns: int
    gone: bool


class Head(NamedTuple):
    """Facts about the shared KVS as a whole."""

    digest: int
    floor: int
    stamp: int
    revision: int
    nth: int
    kept: int
    history: int
    ttl_ns: int
    generation: int


class Change(NamedTuple):
    """One entry of the change log."""

    revision: int
    nth: int
    digest: int
    gone: bool
    key: bytes


def check_value(what: str, value: object) -> bytes:
    """A copy of `value` as bytes. Raises TypeError if it is not bytes-like, ValueTooLarge above the limit."""
    if type(value) is not bytes:
        if not isinstance(value, bytes | bytearray | memoryview):
            kind = type(value).__name__
            raise TypeError(f"{what} must be bytes, not {kind}; encode it first, for instance with msgpack")
        value = bytes(value)
    if len(value) > VALUE_BYTES_MAX:
        raise ValueTooLarge(what, len(value), VALUE_BYTES_MAX)
    return value


def ttl_to_ns(ttl: object) -> int:
    """Seconds to nanoseconds. None, which means for ever, is 0."""
    if ttl is None:
        return 0
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise TypeError(f"ttl is a number of seconds or None, not {type(ttl).__name__}")
    if not 0 < ttl < 1e9:
        raise ValueError(f"ttl must be above 0 seconds (and below 1e9), not {ttl!r}")
    return max(1, int(ttl * 1_000_000_000))


# --- reading --------------------------------------------------------------------------------------------------------


def read(txn: ReadTxn, key: bytes, now_ns: int) -> SharedValue | None:
    """The entry under `key` (UTF-8), or None when there is none or it has expired."""
    record = txn.get(b"s" + key)
    return None if record is None else _parse(record, now_ns)


def read_value(txn: ReadTxn, key: bytes, clock: Callable[[], int]) -> bytes | None:
    """Only the value of the entry under `key` (UTF-8), in a third of the time of `read`. `clock` is read only if the
    entry has an expiry."""
    record: bytes | None = txn.get(b"s" + key)
    if record is None:
        return None
    _, _, changes_ns, _, _, _, flags = SHARED.unpack_from(record)
    if flags:
        found = _parse(record, clock())
        return None if found is None else found.value
    return None if 0 < changes_ns <= clock() else record[SHARED_BYTES:]


def entries(txn: ReadTxn, prefix: bytes, now_ns: int, after: bytes = b"") -> Iterator[tuple[bytes, SharedValue]]:
    """All (key, entry) in force whose key starts with `prefix` and is greater than `after`, in order of key."""
    for key, record in scan(txn, keys.SHARED_PREFIX + prefix, keys.SHARED_PREFIX + after if after else b""):
        entry = _parse(record, now_ns)
        if entry is not None:
            yield key[1:], entry


def growth(txn: ReadTxn, item: SharedWrite, now_ns: int) -> int:
    """By how many bytes a write would make the values of the shared KVS larger."""
    old = txn.get(b"s" + item.key)
    current = None if old is None else _parse(old, now_ns)
    value = item.value if item.merge is None else item.merge.apply(None if current is None else current.value)
    before = 0 if current is None else len(item.key) + len(current.value)
    return (0 if value is None else len(item.key) + len(value)) - before


def _parse(record: bytes, now_ns: int) -> SharedValue | None:
    revision, stamp, changes_ns, origin, _, _, flags = SHARED.unpack_from(record)
    if not flags:
        if 0 < changes_ns <= now_ns:
            return None
        return SharedValue(record[SHARED_BYTES:], revision, stamp, changes_ns, origin)
    if flags & GONE:
        return None
    if 0 < changes_ns <= now_ns:
        cell = _cell_of(record)
        value, packed = kvs_cells.shown(cell, now_ns)
        return None if value is None else SharedValue(
            value, revision, stamp, kvs_cells.ends_ns(kvs_cells.alive(cell, now_ns)), origin, packed
        )
    size, ends_ns = VISIBLE.unpack_from(record, SHARED_BYTES)
    start = SHARED_BYTES + VISIBLE.size
    return SharedValue(record[start : start + size], revision, stamp, ends_ns, origin, not flags & UNMARKED)


def stored(txn: ReadTxn, key: bytes) -> Stored | None:
    """Everything under `key`."""
    record = txn.get(b"s" + key)
    return None if record is None else _stored(record)


def all_stored(txn: ReadTxn, prefix: bytes = b"") -> Iterator[tuple[bytes, Stored]]:
    """Everything under every key that starts with `prefix`, in order of key."""
    for key, record in scan(txn, keys.SHARED_PREFIX + prefix):
        yield key[1:], _stored(record)


def _stored(record: bytes) -> Stored:
    revision, stamp, changes_ns, origin, contributed, index, flags = SHARED.unpack_from(record)
    cell = _kept(record)
    number = int.from_bytes(contributed, "little")
    return Stored(cell, revision, index, stamp, origin, number, changes_ns, bool(flags & GONE))


def _kept(record: bytes | None) -> Cell:
    """The cell in a record."""
    if record is None:
        return kvs_cells.EMPTY
    _, stamp, changes_ns, origin, _, _, flags = SHARED.unpack_from(record)
    if flags & MERGED:
        return _cell_of(record)
    if flags & GONE:
        return Cell(stamp, origin, 0, None)
    return Cell(stamp, origin, changes_ns, record[SHARED_BYTES:])


def _cell_of(record: bytes) -> Cell:
    size, _ = VISIBLE.unpack_from(record, SHARED_BYTES)
    return kvs_cells.load(record[SHARED_BYTES + VISIBLE.size + size :])


def head(txn: ReadTxn) -> Head:
    """The head of the shared KVS."""
    record = txn.get(keys.HEAD)
    digest, floor, *numbers = HEAD.unpack(record) if record else records.EMPTY_HEAD
    return Head(int.from_bytes(digest, "little"), int.from_bytes(floor, "little"), *numbers)


def digest_now(txn: ReadTxn, now_ns: int) -> int:
    """The digest of what readers see at `now_ns`: values that have expired but are not purged yet count as deleted."""
    digest = head(txn).digest
    for key in _due(txn, now_ns):
        found = stored(txn, key)
        if found is not None:
            visible = kvs_cells.visible(found.cell, now_ns)
            digest += contribution(key, visible) - found.contribution
    return digest & DIGEST_MASK


def _due(txn: ReadTxn, now_ns: int) -> Iterator[bytes]:
    """The keys of values that have expired and are not purged, in order of expiry."""
    end = keys.expiry(now_ns + 1, 0, 0)
    for place, key in scan(txn, keys.EXPIRY_PREFIX):
        if place >= end:
            return
        yield key


def is_due(txn: ReadTxn, now_ns: int) -> bool:
    """Whether anything has expired and is not purged."""
    return next(_due(txn, now_ns), None) is not None


def changes_after(txn: ReadTxn, revision: int, index: int) -> Iterator[Change]:
    """The entries of the change log after the given place, oldest first."""
    cursor = txn.cursor()
    if not cursor.set_range(keys.change(revision, index + 1)):
        return
    for key, value in cursor:
        if not key.startswith(keys.CHANGE_PREFIX):
            return
        yield _change(key, value)


def find_digest(txn: ReadTxn, digest: int) -> tuple[int, int] | None:
    """The latest place in the change log at which the contents had that digest; None if the log has no such place."""
    if digest < 0:
        return None
    wanted = digest.to_bytes(DIGEST_BYTES, "little")
    cursor = txn.cursor()
    found = (cursor.set_range(bytes([keys.CHANGE_PREFIX[0] + 1])) and cursor.prev()) or cursor.last()
    while found and cursor.key().startswith(keys.CHANGE_PREFIX):
        if cursor.value()[:DIGEST_BYTES] == wanted:
            return keys.parse_change(cursor.key())
        found = cursor.prev()
    return (0, 0) if head(txn).floor == digest else None


def _change(key: bytes, value: bytes) -> Change:
    revision, index = keys.parse_change(key)
    digest = int.from_bytes(value[:DIGEST_BYTES], "little")
    return Change(revision, index, digest, bool(value[DIGEST_BYTES]), value[CHANGE_HEAD_BYTES:])


# --- changing -------------------------------------------------------------------------------------------------------


def prepare(txn: WriteTxn, history: int, ttl_ns: int) -> None:
    """Set the limits of the shared KVS: changes kept in the log, and the default time to live (0: none)."""
    found = head(txn)._replace(history=history, ttl_ns=ttl_ns)
    _put_head(txn, found)


def count_watches(txn: WriteTxn) -> None:
    """Note that watches have changed, so that every committing process looks them up again."""
    found = head(txn)
    _put_head(txn, found._replace(generation=found.generation + 1))


def _put_head(txn: WriteTxn, new: Head) -> None:
    digest, floor, *numbers = new
    packed = HEAD.pack(digest.to_bytes(DIGEST_BYTES, "little"), floor.to_bytes(DIGEST_BYTES, "little"), *numbers)
    txn.put(keys.HEAD, packed)


class Changes:
    """The changes of one write transaction: any number of calls of `write`, `join` and `expire`, then one of `finish`.

    `keys`: which keys have changed. `generation`: see Head.
    """

    __slots__ = ("_count", "_digest", "_floor", "_history", "_index", "_last", "_last_index", "_now_ns", "_origin",
                 "_revision", "_stamp", "_ttl_ns", "_txn", "generation", "keys")  # fmt: skip

    def __init__(self, txn: WriteTxn, revision: int, now_ns: int, origin: int) -> None:
        record = txn.get(b"h")
        (
            digest, floor, self._stamp, self._last, self._last_index, self._count, self._history, self._ttl_ns,
            self.generation,
        ) = HEAD.unpack(record) if record else records.EMPTY_HEAD  # fmt: skip
        self._digest = int.from_bytes(digest, "little")
        self._floor: bytes = floor
        self._txn = txn
        self._revision = revision
        self._now_ns = now_ns
        self._origin = origin
        self._index = 0
        self.keys: list[bytes] = []

    def write(self, item: SharedWrite) -> None:
        """Apply one write. A merge takes the value in force; a time to live counts from now."""
        txn = self._txn
        key = item.key
        record = txn.get(b"s" + key)
        stamp = self._stamp = max(self._now_ns, self._stamp + 1)
        if item.merge is not None:
            cell = _kept(record)
            default_ns = self._now_ns + self._ttl_ns if self._ttl_ns else 0
            self._stamp += 1
            cell = kvs_cells.merged(cell, item.merge, stamp, self._origin, self._now_ns, default_ns)
            self._put_cell(key, record, cell)
            return
        value = item.value
        if record is not None:
            was, _, changes_ns, _, contributed, index, flags = SHARED.unpack_from(record)
            if value is None and flags & GONE:
                return
            if changes_ns:
                txn.delete(keys.expiry(changes_ns, was, index))
            self._digest -= int.from_bytes(contributed, "little")
        elif value is None:
            return
        added = item.contribution
        self._digest += added
        if value is None:
            packed = SHARED.pack(
                self._revision, stamp, 0, self._origin, added.to_bytes(DIGEST_BYTES, "little"), self._index, GONE
            )
            txn.put(b"s" + key, packed)
            self._log(key, b"\1")
            return
        ttl_ns = item.ttl_ns or self._ttl_ns
        expires_ns = self._now_ns + ttl_ns if ttl_ns else 0
        if item.packed:
            body = VISIBLE.pack(len(value), expires_ns) + value
            value = body + kvs_cells.pack(kvs_cells.written(stamp, self._origin, value, expires_ns, packed=True))
        packed = SHARED.pack(
            self._revision, stamp, expires_ns, self._origin, added.to_bytes(DIGEST_BYTES, "little"), self._index,
            MERGED if item.packed else 0,
        )
        txn.put(b"s" + key, packed + value)
        if expires_ns:
            txn.put(keys.expiry(expires_ns, self._revision, self._index), key)
        self._log(key, b"\0")

    def join(self, key: bytes, cell: Cell) -> bool:
        """Merge in the cell that another store has under `key`. Returns whether that changed anything here."""
        record = self._txn.get(b"s" + key)
        mine = _kept(record)
        self._stamp = max(self._stamp, kvs_cells.latest(cell))
        joined = kvs_cells.expired(kvs_cells.join(mine, cell), self._now_ns)
        if joined == mine:
            return False
        self._put_cell(key, record, joined)
        return True

    def expire(self, limit: int) -> int:
        """Turn expired values into deletions, oldest first, at most `limit` keys. Returns how many."""
        due = []
        for key in _due(self._txn, self._now_ns):
            due.append(key)
            if len(due) >= limit:
                break
        for key in due:
            record = self._txn.get(b"s" + key)
            if record is not None:
                self._put_cell(key, record, kvs_cells.expired(_kept(record), self._now_ns))
        return len(due)

    def finish(self) -> None:
        """Write the head, and cut the log."""
        if self._count > self._history + (self._history >> _SLACK_SHIFT):
            self._trim(self._count - self._history)
        self._txn.put(
            b"h",
            HEAD.pack(
                (self._digest & DIGEST_MASK).to_bytes(DIGEST_BYTES, "little"), self._floor, self._stamp, self._last,
                self._last_index, self._count, self._history, self._ttl_ns, self.generation,
            ),
        )  # fmt: skip

    def _put_cell(self, key: bytes, record: bytes | None, cell: Cell) -> None:
        txn = self._txn
        if record is not None:
            was, _, changes_ns, _, contributed, index, _ = SHARED.unpack_from(record)
            if changes_ns:
                txn.delete(keys.expiry(changes_ns, was, index))
            self._digest -= int.from_bytes(contributed, "little")
        now_ns = self._now_ns
        value, marked = kvs_cells.shown(cell, now_ns)
        if value is not None and len(value) > VALUE_BYTES_MAX:
            raise ValueTooLarge(f"the merged value of {key.decode()!r}", len(value), VALUE_BYTES_MAX)
        expiries = kvs_cells.alive(cell, now_ns)
        changes_ns = kvs_cells.changes_ns(expiries)
        added = contribution(key, value)
        self._digest += added
        stamp, origin, flags, body = cell.stamp, cell.origin, 0, value or b""
        if cell.parts:
            stamp, origin = max(self._stamp, cell.stamp), self._origin
        if cell.parts or marked:
            flags = MERGED if marked or value is None else MERGED | UNMARKED
            body = VISIBLE.pack(len(body), kvs_cells.ends_ns(expiries)) + body + kvs_cells.pack(cell)
        if value is None:
            flags |= GONE
        packed = SHARED.pack(
            self._revision, stamp, changes_ns, origin, added.to_bytes(DIGEST_BYTES, "little"), self._index, flags
        )
        txn.put(b"s" + key, packed + body)
        if changes_ns:
            txn.put(keys.expiry(changes_ns, self._revision, self._index), key)
        self._log(key, b"\1" if value is None else b"\0")

    def _log(self, key: bytes, gone: bytes) -> None:
        digest = (self._digest & DIGEST_MASK).to_bytes(DIGEST_BYTES, "little")
        self._txn.put(keys.change(self._revision, self._index), digest + gone + key)
        self._last = self._revision
        self._last_index = self._index
        self._index += 1
        self._count += 1
        self.keys.append(key)

    def _trim(self, surplus: int) -> None:
        """Remove the oldest changes from the log, with the tombstones of their deletions."""
        txn = self._txn
        before = self._digest
        cursor = txn.cursor()
        alive = cursor.set_range(keys.CHANGE_PREFIX)
        while alive and surplus and cursor.key().startswith(keys.CHANGE_PREFIX):
            place, value = cursor.item()
            if value[DIGEST_BYTES]:
                key = b"s" + value[CHANGE_HEAD_BYTES:]
                record = txn.get(key)
                if record is not None:
                    revision, _, _, _, contributed, index, flags = SHARED.unpack_from(record)
                    if flags & GONE and (revision, index) == keys.parse_change(place):
                        txn.delete(key)
                        self._digest -= int.from_bytes(contributed, "little")
            self._floor = value[:DIGEST_BYTES]
            surplus -= 1
            self._count -= 1
            alive = cursor.delete()
        if self._digest != before:  # the last entry carries the digest that readers find
            place = keys.change(self._last, self._last_index)
            last = txn.get(place)
            digest = (self._digest & DIGEST_MASK).to_bytes(DIGEST_BYTES, "little")
            if last is None:
                self._floor = digest
            else:
                txn.put(place, digest + last[DIGEST_BYTES:])
