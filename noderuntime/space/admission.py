"""Whether there is room for the events of a group in the queues of their receivers. Reads only."""

from __future__ import annotations

from collections.abc import Sequence

from noderuntime.space.batch import Batch
from noderuntime.space.mailbox import queue_of
from noderuntime.space.records import BYTES, CLOSED, FLAGS, QUEUED, message_bytes
from noderuntime.space.staging import Output, Sent, Staged
from noderuntime.space.transactions import ReadTxn

Queues = dict[bytes, list[int]]
"""Queue records by their keys, as far as a transaction has read them."""


def load(txn: ReadTxn, output: Output, queues: Queues) -> None:
    """Read the queue records of an output's receivers, once a transaction. A node that sends to itself shares one."""
    for receiver in output.receivers:
        if receiver.queue_key not in queues:
            queues[receiver.queue_key] = queue_of(txn, receiver.queue_key)


def fits(txn: ReadTxn, batch: Batch, queues: Queues) -> bool:
    """Whether all of it stays within the limits of all queues: then each event of it is admitted."""
    is_room = True
    for output, sending in batch.sends.items():
        load(txn, output, queues)
        for receiver in output.waiting_receivers:
            queue = queues[receiver.queue_key]
            if queue[QUEUED] + sending.count > receiver.size or queue[BYTES] + sending.size > receiver.size_bytes:
                is_room = False
    return is_room


def admitted(txn: ReadTxn, group: Sequence[Staged], queues: Queues) -> int:
    """How many events from the front of a group are admitted, one after the other; no message is to its own sender."""
    ahead = {key: list(queue) for key, queue in queues.items()}  # as they will be after the events before
    for at, staged in enumerate(group):
        if staged.outputs is None:
            continue
        if not admits(txn, staged.outputs, ahead):
            return at
        for output, record, _, _ in staged.outputs:
            if not output.waiting_receivers:
                continue
            size = message_bytes(record)
            for receiver in output.waiting_receivers:
                queue = ahead[receiver.queue_key]
                if not queue[FLAGS] & CLOSED:
                    queue[QUEUED] += 1
                    queue[BYTES] += size
    return len(group)


def admits(txn: ReadTxn, outputs: list[Sent], queues: Queues) -> bool:
    """Whether every backpressure receiver of an event has room. Two messages of a default queue always fit."""
    for output, _, _, _ in outputs:
        load(txn, output, queues)
        for receiver in output.waiting_receivers:
            queue = queues[receiver.queue_key]
            queued = queue[QUEUED]
            if queued < receiver.size and queue[BYTES] < receiver.size_bytes:
                continue
            if (queued >= receiver.size or queued >= receiver.messages_min) and not queue[FLAGS] & CLOSED:
                return False
    return True
