"""How a node ends, inside a transaction: in an operator's last commit, or by the store on behalf of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from noderuntime.space import keys, records
from noderuntime.space.mailbox import queue_of
from noderuntime.space.records import BYTES, CLOSED, DISCARDED, FLAGS, QUEUED, SOURCE_ENDED, SOURCE_FAILED
from noderuntime.space.segments import adjust

Link = tuple[int, bytes, bytes]  # number of the node at the other side (-1: a timer), mailbox prefix, queue key


@dataclass(frozen=True, slots=True)
class Links:
    """A node's id, the mailboxes that its outputs go to (each with its node), and its own (each with its sender)."""

    node: str
    receivers: list[Link]
    inputs: list[Link]


def close(
    txn: Any,
    links: Links,
    queues: dict[bytes, list[int]],
    rings: set[int],
    sequence: int,
    index: int,
    now_ns: int,
    failed: str | None = None,
) -> None:
    """INPUT_CLOSED behind the node's last messages; its own mailbox closed and emptied. Closing twice changes nothing.

    With `failed`, NODE_FAILED goes to each receiver first, and the node's own queue is kept for `--resume`. That, and
    having an input whose sender failed, marks its receivers: `--resume` makes live again whom a failure has cut off.
    A receiver that has failed itself gets the notices too, behind its kept queue: it may be made live again.
    The caller writes `queues` back and rings `rings`.
    """
    cut_off = failed is not None or any(_queue(txn, queues, key)[FLAGS] & SOURCE_FAILED for _, _, key in links.inputs)
    closed = records.encode_notice(records.INPUT_CLOSED, "", None, now_ns)
    told: set[int] = set()
    for receiver, mailbox, queue_key in links.receivers:
        queue = _queue(txn, queues, queue_key)
        if queue[FLAGS] & SOURCE_ENDED:
            continue
        queue[FLAGS] |= SOURCE_ENDED | (SOURCE_FAILED if cut_off else 0)
        if queue[FLAGS] & CLOSED and not _has_failed(txn, receiver):
            continue
        rings.add(receiver)
        if failed is not None and receiver not in told:
            told.add(receiver)
            notice = records.encode_notice(records.NODE_FAILED, links.node, failed, now_ns)
            txn.put(mailbox + keys.place(sequence, index), notice)
            index += 1
        txn.put(mailbox + keys.place(sequence, index), closed)
        index += 1
    for sender, mailbox, queue_key in links.inputs:
        queue = _queue(txn, queues, queue_key)
        queue[FLAGS] |= CLOSED
        if sender >= 0:
            rings.add(sender)
        if failed is None:
            queue[DISCARDED] += _empty(txn, mailbox)
            queue[QUEUED] = queue[BYTES] = 0


def tell(txn: Any, links: Links, kind: int, error: str, sequence: int, now_ns: int) -> None:
    """Put a notice about the node (NODE_RESTARTED, ...) once into each receiver's mailbox, behind what is there."""
    notice = records.encode_notice(kind, links.node, error, now_ns)
    told: set[int] = set()
    for receiver, mailbox, queue_key in links.receivers:
        if receiver not in told and not queue_of(txn, queue_key)[FLAGS] & (CLOSED | SOURCE_ENDED):
            told.add(receiver)
            txn.put(mailbox + keys.place(sequence, len(told)), notice)


def _has_failed(txn: Any, node: int) -> bool:
    record = txn.get(keys.node(node))
    return record is not None and records.NodeRecord.parse(record).status == records.FAILED


def _queue(txn: Any, queues: dict[bytes, list[int]], key: bytes) -> list[int]:
    queue = queues.get(key)
    if queue is None:
        queue = queues[key] = queue_of(txn, key)
    return queue


def _empty(txn: Any, mailbox: bytes) -> int:
    """Delete all messages of one input; returns how many were not notices."""
    discarded = 0
    cursor = txn.cursor()
    alive = cursor.set_range(mailbox)
    while alive and cursor.key().startswith(mailbox):
        record = cursor.value()
        discarded += record[0] < records.NOTICE_MIN
        if record[1]:
            adjust(txn, records.reference_of(record), -1)
        alive = cursor.delete()
    attempts = keys.attempts(mailbox)
    alive = cursor.set_range(attempts)
    while alive and cursor.key().startswith(attempts):
        alive = cursor.delete()
    return discarded
