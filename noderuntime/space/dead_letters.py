"""Dead letters inside a transaction: list them, put them back into the mailbox, drop them. lives.py writes them.

A letter keeps the record of its message unchanged, and with it the reference to a payload segment. `replay` hands the
reference back to the message, `drop` releases it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import msgpack

from noderuntime.errors import StoreError
from noderuntime.space import keys, lives, records
from noderuntime.space.environment import Space, scan
from noderuntime.space.lives import NodeEntry, Registry
from noderuntime.space.mailbox import queue_of, remove_notices
from noderuntime.space.records import (
    BYTES,
    CUT_OFF,
    DISCARDED,
    FLAGS,
    QUEUED,
    SOURCE_ENDED,
    SOURCE_FAILED,
)
from noderuntime.space.segments import adjust
from noderuntime.space.transactions import ReadTxn, WriteTxn


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. `message` is the record; `attempts` lives ended with it; `buried_ns` since the epoch."""

    key: bytes
    input: str
    uid: str
    message: bytes
    error: str
    trace: str
    attempts: int
    buried_ns: int


def letters(txn: ReadTxn, node: int) -> Iterator[Letter]:
    """The dead letters of a node, in the order in which their messages came."""
    for key, packed in scan(txn, keys.dead_prefix(node)):
        yield Letter(key, **msgpack.unpackb(packed))


def counts(txn: ReadTxn, node: int) -> dict[str, int]:
    """How many dead letters there are, by the name of the input that they came in by."""
    found: dict[str, int] = {}
    for letter in letters(txn, node):
        found[letter.input] = found.get(letter.input, 0) + 1
    return found


def chosen(txn: ReadTxn, node_entry: NodeEntry, uids: Collection[str]) -> list[Letter]:
    """The letters with these uids; all letters if `uids` is empty. Raises StoreError for a uid that no letter has."""
    found = list(letters(txn, node_entry.number))
    if not uids:
        return found
    known = {letter.uid for letter in found}
    for uid in uids:
        if uid not in known:
            raise StoreError(
                f"{node_entry.id} has no dead letter {uid!r}; `noderuntime dead-letters ls {node_entry.id}` lists them"
            )
    return [letter for letter in found if letter.uid in uids]


def replay(
    txn: WriteTxn, space: Space, node_entry: NodeEntry, uids: Collection[str], ended_run: Registry | None = None
) -> int:
    """Put letters back at the end of their inputs, as if they had never failed. Returns how many.

    `ended_run`: the registry, if the run has ended; then a node that has ended is made live again to take them.
    Raises StoreError when the node has ended, or no longer has such an input.
    """
    found = chosen(txn, node_entry, uids)
    status = lives.status(txn, node_entry)
    if found and status == records.ENDED and ended_run is not None:
        lives.reopen_ended(txn, ended_run, node_entry)
    elif found and status == records.ENDED:
        raise StoreError(f"{node_entry.id} has ended and takes no more messages; its dead letters stay where they are")
    sequence = space.base + txn.id()
    for index, letter in enumerate(found):
        input, source = node_entry.inputs.get(letter.input, (0, ""))
        if source != letter.uid.rpartition("#")[0]:
            raise StoreError(
                f"{letter.uid} came in by {letter.input!r}, and {node_entry.id} has no such input any more; "
                f"`noderuntime dead-letters drop {node_entry.id} {letter.uid}` removes it"
            )
        txn.put(keys.message(node_entry.number, input, sequence, index), letter.message)
        queue_key = keys.queue(node_entry.number, input)
        queue = queue_of(txn, queue_key)
        queue[QUEUED] += 1
        queue[BYTES] += records.message_bytes(letter.message)
        txn.put(queue_key, records.pack_queue(queue))
        txn.delete(letter.key)
    for name in dict.fromkeys(letter.input for letter in found):
        _close_again(txn, space, node_entry, node_entry.inputs[name][0], sequence, len(found))
    return len(found)


def _close_again(txn: WriteTxn, space: Space, node_entry: NodeEntry, input: int, sequence: int, index: int) -> None:
    """If the sender has ended, put INPUT_CLOSED after the letters: a life that begins with messages waits for it."""
    flags = queue_of(txn, keys.queue(node_entry.number, input))[FLAGS]
    if not flags & SOURCE_ENDED or flags & (SOURCE_FAILED | CUT_OFF):
        return
    mailbox = keys.mailbox(node_entry.number, input)
    remove_notices(txn, mailbox, (records.INPUT_CLOSED,))
    notice = records.encode_notice(records.INPUT_CLOSED, "", None, space.now_ns())
    txn.put(mailbox + keys.place(sequence, index), notice)


def drop(txn: WriteTxn, node_entry: NodeEntry, uids: Collection[str]) -> int:
    """Remove letters for good. Returns how many. They count as discarded messages of their inputs."""
    found = chosen(txn, node_entry, uids)
    for letter in found:
        if letter.message[1]:
            adjust(txn, records.reference_of(letter.message), -1)
        if letter.input in node_entry.inputs:
            queue_key = keys.queue(node_entry.number, node_entry.inputs[letter.input][0])
            queue = queue_of(txn, queue_key)
            queue[DISCARDED] += 1
            txn.put(queue_key, records.pack_queue(queue))
        txn.delete(letter.key)
    return len(found)
