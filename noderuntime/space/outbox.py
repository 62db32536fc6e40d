"""The outbox: shared writes on their way from events to a State outside the space.

An event's writes are put here in its transaction, as one entry; the store process applies the entries there in order,
each as one change, and deletes what it has applied. The State keeps, in that same change, how far it has come, so an
entry that was applied and not deleted is not applied again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgpack

from noderuntime.errors import StoreError
from noderuntime.merges import Add, Max, Merge, Min, Union
from noderuntime.space import keys
from noderuntime.space.environment import scan
from noderuntime.space.kvs import SharedWrite
from noderuntime.space.transactions import ReadTxn, WriteTxn

_NAMES: Final[dict[type, str]] = {Add: "add", Max: "max", Min: "min", Union: "union"}
_MAKERS: Final[dict[str, Any]] = {"add": Add, "max": Max, "min": Min, "union": lambda items: Union(set(items))}


class Entry(NamedTuple):
    """The writes of one event, and who made them."""

    key: bytes
    node: int
    writes: list[SharedWrite]

    @property
    def mark(self) -> str:
        """Its place in the order of all entries; marks compare as texts."""
        return self.key[1:].hex()


def check_merge(merge: Merge) -> None:
    """Raise TypeError for a merge that cannot be sent anywhere."""
    if type(merge) not in _NAMES:
        raise TypeError(f"here merges are Add, Max, Min and Union, not {type(merge).__name__}: it has to travel")


def put(txn: WriteTxn, sequence: int, index: int, node: int, writes: Sequence[SharedWrite]) -> bytes:
    """Append the writes of one event; returns the entry's key."""
    plain = [[item.key, item.value, _plain(item.merge), item.ttl_ns] for item in writes]
    key = keys.outbox(sequence, index)
    txn.put(key, msgpack.packb([node, plain]))
    return key


def _plain(merge: Merge | None) -> list[Any] | None:
    if merge is None:
        return None
    amount: Any = merge.elements if isinstance(merge, Union) else getattr(merge, "amount", None)
    return [_NAMES[type(merge)], list(amount) if isinstance(merge, Union) else amount]


def entries(txn: ReadTxn, limit: int) -> list[Entry]:
    """The oldest entries."""
    found = []
    for key, packed in scan(txn, keys.OUTBOX_PREFIX):
        node, plain = msgpack.unpackb(packed)
        writes = [
            SharedWrite(name, value, None if merge is None else _MAKERS[merge[0]](merge[1]), ttl_ns)
            for name, value, merge, ttl_ns in plain
        ]
        found.append(Entry(key, node, writes))
        if len(found) >= limit:
            break
    return found


def first(txn: ReadTxn) -> bytes:
    """The key of the oldest entry that waits; b"" when none does."""
    return next((key for key, _ in scan(txn, keys.OUTBOX_PREFIX)), b"")


def last_of(txn: ReadTxn, node: int) -> bytes | None:
    """The key of a node's newest entry that waits."""
    found = None
    for key, packed in scan(txn, keys.OUTBOX_PREFIX):
        if msgpack.unpackb(packed)[0] == node:
            found = key
    return found


def refuse_unless_empty(txn: ReadTxn) -> None:
    """Raise StoreError while something waits here that another kind would never get."""
    if first(txn):
        raise StoreError(
            "writes of the last run still wait for the State that it used; resume it with the same `state:` section"
        )
