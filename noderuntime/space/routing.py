"""Which replica of a receiver gets a message. The map of owners of slots is in the space; the store writes it."""

from __future__ import annotations

from typing import NamedTuple

import msgpack

from noderuntime.api.keyed.layout import SLOTS
from noderuntime.dataflow.partition import parse_partition
from noderuntime.dataflow.replicas import owners
from noderuntime.ipc.wiring import ReceiverWiring
from noderuntime.space import keys
from noderuntime.space.environment import Space
from noderuntime.space.mailbox import queue_of
from noderuntime.space.records import CLOSED, FLAGS, QUEUED
from noderuntime.space.staging import Group
from noderuntime.space.transactions import ReadTxn, WriteTxn


class Owners(NamedTuple):
    """The owner of each slot, and the `partition_by` that it was made for."""

    owners: tuple[int, ...]
    partition: str


def kept_owners(txn: ReadTxn, node: int) -> Owners | None:
    """Those of the node whose first replica has this number; None if it never had replicas."""
    packed = txn.get(keys.owners(node))
    if packed is None:
        return None
    owned, partition = msgpack.unpackb(packed)
    return Owners(tuple(owned), partition)


def owners_of(txn: ReadTxn, node: int, replicas: int) -> tuple[int, ...]:
    """The owner of each slot; equal parts where nothing is written."""
    kept = kept_owners(txn, node)
    return owners(replicas) if kept is None else kept.owners


def put_owners(txn: WriteTxn, node: int, owned: tuple[int, ...], partition: str) -> None:
    assert len(owned) == SLOTS
    txn.put(keys.owners(node), msgpack.packb([bytes(owned), partition]))


def groups_of(space: Space, wirings: tuple[ReceiverWiring, ...]) -> dict[str, Group]:
    """The replicated receivers among those of an output."""
    members: dict[str, list[ReceiverWiring]] = {}
    for wiring in wirings:
        if wiring.group:
            members.setdefault(wiring.group, []).append(wiring)
    found = {}
    for name, of_group in members.items():
        queue_keys = [keys.queue(wiring.node, wiring.input) for wiring in of_group]
        if of_group[0].partition:
            with space.read() as txn:
                owned = owners_of(txn, int(name.partition("/")[0]), len(of_group))
            found[name] = Group(parse_partition(of_group[0].partition), owned)
        else:
            found[name] = Group(None, (), Loads(space, queue_keys))
    return found


class Loads:
    """How many messages wait in each of some queues."""

    def __init__(self, space: Space, queue_keys: list[bytes]) -> None:
        self._space = space
        self._queue_keys = queue_keys

    def __call__(self) -> list[int]:
        with self._space.read() as txn:
            queues = [queue_of(txn, key) for key in self._queue_keys]
        return [CLOSED_LOAD if queue[FLAGS] & CLOSED else queue[QUEUED] for queue in queues]


CLOSED_LOAD = 1 << 60  # of a replica that has ended: only if all have
