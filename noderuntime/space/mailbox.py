"""Reading a mailbox: the next messages of a node, all its inputs merged by sequence.

This module deals in keys and records inside a transaction; node/inbox.py turns its messages into events.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from heapq import merge
from itertools import islice

from noderuntime.space import keys, records
from noderuntime.space.environment import Space, scan
from noderuntime.space.segments import adjust
from noderuntime.space.transactions import ReadTxn, WriteTxn

Message = tuple[bytes, bytes]  # key, record

BATCH_BYTES_MAX = 1 << 20


def _by_place(message: Message) -> bytes:
    return message[0][keys.MAILBOX_PREFIX_BYTES :]


def next_messages(
    space: Space, mailboxes: Sequence[bytes], limit: int, taken: Container[bytes] = ()
) -> list[Message]:
    """Up to `limit` messages, oldest first, in order of sequence and index; copies, at most about BATCH_BYTES_MAX.

    `mailboxes` are the prefixes of the inputs (keys.mailbox). Messages stay in the space until they are acknowledged;
    messages whose keys are in `taken` are skipped.
    """
    with space.read() as txn:
        if len(mailboxes) == 1 and not taken:  # most nodes have one input; without the generator a wake-up is faster
            return _oldest(txn, mailboxes[0], limit)
        found: list[Message] = []
        size = 0
        for message in merge(*(scan(txn, prefix) for prefix in mailboxes), key=_by_place):
            if message[0] in taken:
                continue
            found.append(message)
            size += len(message[1])
            if len(found) >= limit or size > BATCH_BYTES_MAX:
                break
        return found


def _oldest(txn: ReadTxn, mailbox: bytes, limit: int) -> list[Message]:
    """The oldest messages of one input.

    After the second message it asks how many there are and reads the rest in one call: where two wait, many do.
    """
    cursor = txn.cursor()
    if not cursor.set_range(mailbox):
        return []
    stream = cursor.iternext()
    found: list[Message] = []
    size = 0
    for message in stream:
        if not message[0].startswith(mailbox):
            return found
        found.append(message)
        size += len(message[1])
        if len(found) >= limit or size > BATCH_BYTES_MAX:
            return found
        if len(found) == 2:
            break
    queue = queue_of(txn, keys.queue_of(mailbox))
    queued = queue[records.QUEUED]
    rest = min(limit, queued, BATCH_BYTES_MAX * queued // max(1, queue[records.BYTES])) - len(found)
    if rest > 0:
        found += islice(stream, rest)
    if len(found) < limit:  # there may be notices too, which the queue record does not count
        for message in stream:
            if not message[0].startswith(mailbox):
                break
            found.append(message)
            if len(found) >= limit:
                break
    return found


def queue_of(txn: ReadTxn, key: bytes) -> list[int]:
    """The queue record under `key` (keys.queue), as a list to change."""
    record = txn.get(key)
    return list(records.QUEUE.unpack(record)) if record else list(records.EMPTY_QUEUE)


def is_low(queue: Sequence[int], size: int, size_bytes: int) -> bool:
    """Whether a queue has drained to half its limits: only then is a sender that waits for room rung.

    Ringing at every message below the limit would wake the sender for each single place that becomes free.
    """
    return queue[records.QUEUED] <= size // 2 and queue[records.BYTES] <= size_bytes // 2


def drop_oldest(txn: WriteTxn, mailbox: bytes, queue: list[int], size: int, size_bytes: int, keep: int) -> None:
    """Drop from the front of one input until it is within its limits again, but always keep `keep` messages.

    Notices are not dropped.
    """
    if queue[records.QUEUED] <= size and queue[records.BYTES] <= size_bytes:
        return
    cursor = txn.cursor()
    alive = cursor.set_range(mailbox)
    while alive and (
        queue[records.QUEUED] > size or (queue[records.BYTES] > size_bytes and queue[records.QUEUED] > keep)
    ):
        key = cursor.key()
        if not key.startswith(mailbox):
            return
        record = cursor.value()
        if record[0] >= records.NOTICE_MIN:
            alive = cursor.next()
            continue
        queue[records.QUEUED] -= 1
        queue[records.BYTES] -= records.message_bytes(record)
        if record[1]:
            adjust(txn, records.reference_of(record), -1)
        queue[records.DROPPED] += 1
        alive = cursor.delete()


def empty(txn: WriteTxn, mailbox: bytes) -> int:
    """Delete all messages of one input, with their attempts. Returns how many were not notices."""
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
