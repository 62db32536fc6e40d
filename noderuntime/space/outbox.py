"""The outbox: records in the space, of shared writes on their way from events to an external State.

An event's transaction puts its writes here as one entry. The store process applies the entries to the State in order,
each as one change, and then deletes them. The State records, in that same change, which entry it has applied, so an
entry that was applied but not yet deleted is not applied again.

Three modules have this name. This one holds the records; store/outbox.py is the thread that applies them;
runtime/outbox.py reports how far it has come.
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
    """The writes of one event, and the node that made them."""

    key: bytes
    node: int
    writes: list[SharedWrite]

    @property
    def mark(self) -> str:
        """Its place in the order of all entries; marks compare as texts."""
        return self.key[1:].hex()


def check_merge(merge: Merge) -> None:
    """Raise TypeError for a merge that cannot be sent to an external State."""
    if type(merge) not in _NAMES:
        raise TypeError(f"here merges are Add, Max, Min and Union, not {type(merge).__name__}: it has to travel")


def put(txn: WriteTxn, sequence: int, index: int, node: int, writes: Sequence[SharedWrite]) -> bytes:
    """Append the writes of one event. Returns the entry's key."""
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
    """The key of the oldest waiting entry; b"" if there is none."""
    return next((key for key, _ in scan(txn, keys.OUTBOX_PREFIX)), b"")


def last_of(txn: ReadTxn, node: int) -> bytes | None:
    """The key of a node's newest waiting entry."""
    found = None
    for key, packed in scan(txn, keys.OUTBOX_PREFIX):
        if msgpack.unpackb(packed)[0] == node:
            found = key
    return found


def refuse_unless_empty(txn: ReadTxn) -> None:
    """Raise StoreError while entries wait here: a State of another kind would never get them."""
    if first(txn):
        raise StoreError(
            "writes of the last run still wait for the State that it used; resume it with the same `state:` section"
        )
