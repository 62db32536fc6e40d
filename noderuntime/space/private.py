"""The private state of a node as the store process sees it: the node's own keys, and the states of a keyed operator.

The states of keys lie by slot, with an index of what is due (see keys.py). To others they are private keys like all
others, under their tags: listed among them, read, set and removed by name.

Spaces of earlier versions have them among the node's own keys, without an index. `convert` brings them up to date when
the run is resumed; until then they are read and set where they are.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import msgpack

from noderuntime.api.keyed.earlier import Converted, converted
from noderuntime.api.keyed.layout import SLOTS
from noderuntime.errors import StoreError
from noderuntime.space import keys, records
from noderuntime.space.environment import FORMAT, format_of, scan
from noderuntime.space.records import PRIVATE_BYTES
from noderuntime.space.transactions import ReadTxn, WriteTxn

_CONVERTED_AT_ONCE = 10_000  # keys that memory holds meanwhile


def find(txn: ReadTxn, node: int, key: bytes) -> tuple[bytes, bytes] | None:
    """Where a private key is in the space, and its record: the sequence of its commit, and its value."""
    for place in (keys.private_prefix(node) + key, *(keys.keyed(node, slot, key) for slot in range(SLOTS))):
        record = txn.get(place)
        if record is not None:
            return place, record
    return None


def listed(txn: ReadTxn, node: int, prefix: bytes = b"", after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """(key, record) of all private keys that begin with `prefix` and follow `after`, in order."""
    parts = [keys.private_prefix(node), *(keys.keyed(node, slot, b"") for slot in range(SLOTS))]
    return heapq.merge(*(_stripped(txn, part, prefix, after) for part in parts))


def _stripped(txn: ReadTxn, part: bytes, prefix: bytes, after: bytes) -> Iterator[tuple[bytes, bytes]]:
    for key, record in scan(txn, part + prefix, part + after if after else b""):
        yield key[len(part) :], record


def size(txn: ReadTxn, node: int) -> int:
    """How many private keys a node has."""
    return sum(1 for prefix in _prefixes(node) for _ in scan(txn, prefix))


def drop(txn: WriteTxn, node: int) -> int:
    """Delete the private state of a node. Returns how many keys it had."""
    found = [key for prefix in _prefixes(node) for key, _ in scan(txn, prefix)]
    for key in [*found, *(key for key, _ in scan(txn, keys.due_prefix(node)))]:
        txn.delete(key)
    return len(found)


def _prefixes(node: int) -> tuple[bytes, bytes]:
    return keys.private_prefix(node), keys.keyed_prefix(node)


def put(txn: WriteTxn, node: int, key: bytes, value: bytes, sequence: int) -> None:
    """Set a private key from outside. Raises StoreError if it is that of a keyed state, and the value is none."""
    stamp = records.PRIVATE.pack(sequence)
    found = find(txn, node, key)
    made = converted(key.decode(), value)
    own = keys.private_prefix(node) + key
    is_own = found[0] == own if found else made is None or format_of(txn) < FORMAT
    if is_own:
        txn.put(own, stamp + value)
        return
    if made is None:
        raise StoreError(
            f"{key.decode()!r} is the state of a key of a keyed operator, and this value is none. "
            "`state get --raw` gives it in its form, a MessagePack of [state, time, timer, key]; "
            "`state rm` makes the operator forget the key."
        )
    if found is not None:
        _unmark(txn, node, key, *found)
    _put(txn, node, key, made, stamp)


def remove(txn: WriteTxn, node: int, key: bytes) -> bool:
    """Remove a private key from outside. Returns whether there was one."""
    found = find(txn, node, key)
    if found is None:
        return False
    _unmark(txn, node, key, *found)
    return txn.delete(found[0])


def _put(txn: WriteTxn, node: int, tag: bytes, made: Converted, stamp: bytes) -> None:
    txn.put(keys.keyed(node, made.slot, tag), stamp + made.value)
    if made.due is not None:
        txn.put(keys.due_queue(node, made.slot, made.queue) + keys.due_entry(made.due, tag), stamp)


def _unmark(txn: WriteTxn, node: int, tag: bytes, place: bytes, record: bytes) -> None:
    """Remove the entry of a keyed state from the index."""
    if place[:1] != keys.KEYED_PREFIX:
        return
    made = converted(tag.decode(), record[PRIVATE_BYTES:])
    if made is not None and made.due is not None:
        txn.delete(keys.due_queue(node, made.slot, made.queue) + keys.due_entry(made.due, tag))


def convert(txn: WriteTxn, nodes: Iterator[int]) -> None:
    """Bring a space of an earlier version up to date, if it is one: the keyed states of `nodes` go into their slots."""
    if format_of(txn) == FORMAT:
        return
    for node in nodes:
        _convert_node(txn, node)
    txn.put(keys.fact("format"), msgpack.packb(FORMAT))


def _convert_node(txn: WriteTxn, node: int) -> None:
    own = keys.private_prefix(node)
    after = b""
    while True:
        part: list[tuple[bytes, bytes]] = []
        for item in scan(txn, own, after):
            part.append(item)
            if len(part) == _CONVERTED_AT_ONCE:
                break
        if not part:
            return
        after = part[-1][0]
        for key, record in part:
            tag = key[len(own) :]
            made = converted(tag.decode(), record[PRIVATE_BYTES:])
            if made is not None:
                txn.delete(key)
                _put(txn, node, tag, made, record[:PRIVATE_BYTES])
