"""Spaces with something in them, for the tests of snapshots: no runtime, no processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack

from noderuntime.snapshot.keeper import Keeper
from noderuntime.space import keys, kvs, lives, records
from noderuntime.space.environment import Space, create, scan

BOOT = "this-boot"
NODES: list[dict[str, Any]] = [
    {"id": "numbers", "kind": "operator", "inputs": [], "outputs": ["n"]},
    {"id": "sums", "kind": "operator", "inputs": [["n", "numbers/n"]], "outputs": ["sum"]},
]


def make_space(folder: Path, size_bytes: int = 64 << 20) -> Space:
    """A space with the dataflow of NODES in it."""
    space = create(folder, size_bytes, BOOT)
    with space.write() as txn:
        lives.register(txn, NODES)
        txn.put(keys.fact("fingerprint"), msgpack.packb("f"))  # a run has begun in it
    return space


def save(space: Space, node: int, state: dict[str, bytes | None]) -> None:
    """What the commit of an event does to private state."""
    with space.write() as txn:
        stamp = records.PRIVATE.pack(space.base + txn.id())
        for key, value in state.items():
            if value is None:
                txn.delete(keys.private_prefix(node) + key.encode())
            else:
                txn.put(keys.private_prefix(node) + key.encode(), stamp + value)


def put_shared(space: Space, key: str, value: bytes) -> None:
    with space.write() as txn:
        changes = kvs.Changes(txn, space.base + txn.id(), space.now_ns(), space.origin)
        changes.write(kvs.SharedWrite(keys.user_key(key), value))
        changes.finish()


def put_message(space: Space, node: int, input: int, value: Any, index: int = 0) -> bytes:
    with space.write() as txn:
        key = keys.message(node, input, space.base + txn.id(), index)
        txn.put(key, records.encode_message(value, None, 1, space.now_ns())[0])
    return key


def put_dead_letter(space: Space, node: int) -> bytes:
    """A message that failed for good."""
    letter = {
        "input": "n", "uid": "numbers/n#1", "message": records.encode_message(1, None, 1, space.now_ns())[0],
        "error": "no", "trace": "", "attempts": 3, "buried_ns": 1,
    }  # fmt: skip
    with space.write() as txn:
        key = keys.dead(node, space.base + txn.id(), 0, 0)
        txn.put(key, msgpack.packb(letter))
    return key


def delete(space: Space, *gone: bytes) -> None:
    with space.write() as txn:
        for key in gone:
            txn.delete(key)


def content(space: Space) -> dict[bytes, bytes]:
    """All records that are the same after a restore."""
    own = {keys.fact(name) for name in ("base", "boot", "boot_ns", "resumed", "store")}
    with space.read() as txn:
        return {key: value for key, value in scan(txn, b"") if key not in own and key[:1] != b"r"}


def read_all(backend: Any, number: int) -> dict[bytes, bytes]:
    """The records of a snapshot, by the backend alone."""
    found: dict[bytes, bytes] = {}
    for items in backend.read(number):
        for key, value in items:
            if value is None:
                found.pop(key)
            else:
                found[key] = value
    return found


def keeper(space: Space, backend: Any, keep: int = 3) -> Keeper:
    return Keeper(space, backend, "test", keep)
