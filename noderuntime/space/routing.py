"""Which replica of a receiver gets a message. The map of owners of slots is in the space; the store writes it.

A sender chooses when it stages a message, and so before its commit. Where slots have got other owners meanwhile, or the
receiver other replicas, the commit finds another wiring number, reads the map in its own transaction, and routes what
is staged once more (`reroute`). So the owner of the moment of the commit gets each message. Of replicas without a
`partition_by`, the one with the shortest queue is chosen by lengths that are LOADS_NS old at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgpack

from noderuntime.api.keyed.layout import SLOTS
from noderuntime.dataflow.partition import parse_partition
from noderuntime.dataflow.replicas import owners
from noderuntime.ipc.wiring import ReceiverWiring
from noderuntime.space import keys, records
from noderuntime.space.environment import Space
from noderuntime.space.mailbox import queue_of
from noderuntime.space.records import CLOSED, FLAGS, QUEUED
from noderuntime.space.segments import read_segment
from noderuntime.space.staging import Output, ReplicaGroup, Staged
from noderuntime.space.transactions import ReadTxn, WriteTxn


class Rescaled(Exception):
    """Slots of this replica have got another owner, or an event that ends it has been overtaken by messages that came
    with slots. Nothing was committed, and what is staged must be given up: its messages are in the mailboxes of the
    owners of now.
    """


# not (0,) * SLOTS, whose type has 256 items: compiled, it was a struct that took the C compiler over ten minutes
FROM_THE_BEGINNING: Final[tuple[int, ...]] = tuple([0] * SLOTS)


class Owners(NamedTuple):
    """The owner of each slot, the `partition_by` that it was made for, and the wiring number with which it got it."""

    owners: tuple[int, ...]
    partition: str
    since: tuple[int, ...] = FROM_THE_BEGINNING


def kept_owners(txn: ReadTxn, node: int) -> Owners | None:
    """Those of the node whose first replica has this number; None if it never had replicas."""
    packed = txn.get(keys.owners(node))
    if packed is None:
        return None
    owned, partition, *more = msgpack.unpackb(packed)
    return Owners(tuple(owned), partition, *(tuple(item) for item in more))


def owners_of(txn: ReadTxn, node: int, replicas: int) -> tuple[int, ...]:
    """The owner of each slot; equal parts where nothing is written."""
    kept = kept_owners(txn, node)
    return owners(replicas) if kept is None else kept.owners


def loses_slots(before: Owners | None, now: Owners | None, version: int, replica: int) -> bool:
    """Whether a replica no longer owns a slot that it owned under the wiring number `version`, or has not owned it all
    the time since. None: the node has never had replicas, and one of it owns all.
    """
    if now is None:
        return False
    return any(
        (before is None or before.owners[slot] == replica) and (owner != replica or now.since[slot] > version)
        for slot, owner in enumerate(now.owners)
    )


def put_owners(txn: WriteTxn, node: int, owned: Sequence[int], partition: str, since: Sequence[int] = ()) -> None:
    """Write down who owns which slot of a node, by the number of its first replica."""
    assert len(owned) == SLOTS
    txn.put(keys.owners(node), msgpack.packb([bytes(owned), partition, *([list(since)] if since else [])]))


def groups_of(txn: ReadTxn, space: Space, wirings: Sequence[ReceiverWiring]) -> dict[str, ReplicaGroup]:
    """The replicated receivers among those of an output."""
    members: dict[str, list[ReceiverWiring]] = {}
    for wiring in wirings:
        if wiring.group:
            members.setdefault(wiring.group, []).append(wiring)
    found = {}
    for name, of_group in members.items():
        queue_keys = [keys.queue(wiring.node, wiring.input) for wiring in of_group]
        if of_group[0].partition:
            owned = owners_of(txn, int(name.partition("/")[0]), len(of_group))
            found[name] = ReplicaGroup(parse_partition(of_group[0].partition), owned)
        else:
            found[name] = ReplicaGroup(None, (), Loads(space, queue_keys))
    return found


def reroute(space: Space, group: Sequence[Staged]) -> None:
    """Have the messages of these events go to those of the replicas that own their slots now, if they were staged
    before that was so.
    """
    for staged in group:
        outputs = staged.outputs
        if outputs is None:
            continue
        for at, (to, record, number, segment) in enumerate(outputs):
            if not to.is_current():
                outputs[at] = route(space, to.whole, record), record, number, segment


def route(space: Space, whole: Output, record: bytes) -> Output:
    """The output, or the part of it, that a message goes to now, by its record."""
    routes = whole.routes
    if routes is None:
        return whole
    if not any(group.partition is not None for group in routes.groups.values()):
        return routes.choose(None, None)
    _, value, metadata, _, _ = records.decode_message(record, body_of(space, record))
    return routes.choose(value, metadata)


def body_of(space: Space, record: bytes) -> bytes | None:
    """The body of a message, as a copy, if it lies in a segment."""
    if not record[1]:
        return None
    return read_segment(Path(space.folder.parent, "segments"), records.reference_of(record))


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
