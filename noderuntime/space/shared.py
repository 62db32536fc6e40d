"""The shared KVS inside a transaction: reading an entry, and applying one write. Used by commits and by MemoryState."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from noderuntime.errors import ValueTooLarge
from noderuntime.space import keys, records
from noderuntime.space.space import VALUE_BYTES_MAX, scan


class Merge(Protocol):
    """One of noderuntime.merges: how a value follows from the one that is there."""

    def apply(self, current: bytes | None) -> bytes: ...


@dataclass(frozen=True, slots=True)
class SharedWrite:
    """One staged write. `key` is UTF-8; neither `value` nor `merge`: a deletion. `ttl_ns` 0: for ever."""

    key: bytes
    value: bytes | None = None
    merge: Merge | None = None
    ttl_ns: int = 0


@dataclass(frozen=True, slots=True)
class SharedValue:
    """What the space holds under a key. Times in nanoseconds since the epoch; `expires_ns` 0: never."""

    value: bytes
    revision: int
    written_ns: int
    expires_ns: int
    origin: int


def check_value(what: str, value: object) -> bytes:
    """`value` as bytes of its own. Raises TypeError for what is not bytes-like, ValueTooLarge above the limit."""
    if type(value) is not bytes:
        if not isinstance(value, bytes | bytearray | memoryview):
            kind = type(value).__name__
            raise TypeError(f"{what} must be bytes, not {kind}; encode it first, for instance with msgpack")
        value = bytes(value)
    if len(value) > VALUE_BYTES_MAX:
        raise ValueTooLarge(what, len(value), VALUE_BYTES_MAX)
    return value


def ttl_to_ns(ttl: float | None) -> int:
    """Seconds to nanoseconds; None is 0, for ever."""
    if ttl is None:
        return 0
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise TypeError(f"ttl is a number of seconds or None, not {type(ttl).__name__}")
    if not 0 < ttl < 1e10:
        raise ValueError(f"ttl must be above 0 seconds (and below 1e10), not {ttl!r}")
    return max(1, int(ttl * 1_000_000_000))


def read(txn: Any, key: bytes, now_ns: int) -> SharedValue | None:
    """The entry under `key` (UTF-8), or None when there is none or it has expired."""
    record = txn.get(b"s" + key)
    return None if record is None else _parse(record, now_ns)


def read_value(txn: Any, key: bytes, clock: Callable[[], int]) -> bytes | None:
    """Only the value of the entry under `key` (UTF-8): a third of the time. `clock` is read when the entry expires."""
    record: bytes | None = txn.get(b"s" + key)
    if record is None:
        return None
    expires_ns = records.SHARED.unpack_from(record)[2]
    return None if 0 < expires_ns <= clock() else record[records.SHARED_BYTES :]


def entries(txn: Any, prefix: bytes, now_ns: int) -> Iterator[tuple[bytes, SharedValue]]:
    """All (key, entry) in force whose key starts with `prefix`, in order of key."""
    for key, record in scan(txn, keys.SHARED_PREFIX + prefix):
        entry = _parse(record, now_ns)
        if entry is not None:
            yield key[1:], entry


def write(txn: Any, item: SharedWrite, revision: int, now_ns: int, origin: int) -> None:
    """Apply one write. A merge takes the value in force; the ttl counts from now."""
    key = b"s" + item.key
    value = item.value if item.merge is None else _merged(txn, item, now_ns)
    if value is None:
        txn.delete(key)
        return
    expires_ns = now_ns + item.ttl_ns if item.ttl_ns else 0
    txn.put(key, records.SHARED.pack(revision, now_ns, expires_ns, origin) + value)


def growth(txn: Any, item: SharedWrite, now_ns: int) -> int:
    """By how many bytes a write would make the shared KVS larger."""
    old = txn.get(b"s" + item.key)
    value = item.value if item.merge is None else _merged(txn, item, now_ns)
    before = 0 if old is None else len(item.key) + len(old) - records.SHARED_BYTES
    return (0 if value is None else len(item.key) + len(value)) - before


def _merged(txn: Any, item: SharedWrite, now_ns: int) -> bytes:
    assert item.merge is not None
    current = read(txn, item.key, now_ns)
    value = item.merge.apply(None if current is None else current.value)
    return check_value(f"the value of {item.key.decode()!r}", value)


def purge(txn: Any, now_ns: int) -> int:
    """Delete what has expired; returns how many keys."""
    gone = [
        key
        for key, record in scan(txn, keys.SHARED_PREFIX)
        if 0 < records.SHARED.unpack_from(record)[2] <= now_ns
    ]
    for key in gone:
        txn.delete(key)
    return len(gone)


def _parse(record: bytes, now_ns: int) -> SharedValue | None:
    revision, written_ns, expires_ns, origin = records.SHARED.unpack_from(record)
    if 0 < expires_ns <= now_ns:
        return None
    return SharedValue(record[records.SHARED_BYTES :], revision, written_ns, expires_ns, origin)
