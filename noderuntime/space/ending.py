"""How a node ends, inside a transaction: in an operator's last commit, or by the store on behalf of other nodes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from noderuntime.dataflow.identifiers import node_of
from noderuntime.space import keys, records
from noderuntime.space.environment import scan
from noderuntime.space.mailbox import empty, queue_of
from noderuntime.space.records import CLOSED, CUT_OFF, DISCARDED, FLAGS, SOURCE_ENDED, SOURCE_FAILED
from noderuntime.space.transactions import ReadTxn, WriteTxn

Link = tuple[int, bytes, bytes]  # number of the node at the other side (-1: a timer), mailbox prefix, queue key


@dataclass(frozen=True, slots=True)
class Links:
    """A node's id, the mailboxes that its outputs go to (each with its node), and its own (each with its sender).

    `replicas`: the numbers of the other replicas of the node; `senders`: those of all replicas of its senders.
    """

    node: str
    receivers: list[Link]
    inputs: list[Link]
    replicas: list[int] = field(default_factory=list)
    senders: list[int] = field(default_factory=list)


def close(
    txn: WriteTxn,
    links: Links,
    queues: dict[bytes, list[int]],
    rings: set[int],
    sequence: int,
    index: int,
    now_ns: int,
    failed: str | None = None,
    together: Collection[int] = (),
) -> None:
    """Put INPUT_CLOSED after the node's last messages; close and empty its mailbox. Closing twice changes nothing.

    With `failed`, each receiver first gets NODE_FAILED, INPUT_CLOSED carries the error (so the receiver does not treat
    the input as ended), and the node's own mailbox stays open: it keeps its messages and accepts new ones. A node that
    ends while a failure has closed one of its inputs marks its receivers: `--resume` makes both live again.
    `together`: nodes that fail with it, since they share its process; they are not told of each other. Of replicas, the
    last one closes the outputs; they count as failed if any of the replicas has.
    The caller writes `queues` back and rings `rings`.
    """
    mark = SOURCE_FAILED
    if failed is None:
        cut_off = any(_queue(txn, queues, key)[FLAGS] & (SOURCE_FAILED | CUT_OFF) for _, _, key in links.inputs)
        mark = CUT_OFF if cut_off else 0
    others = [records.status_of(txn.get(keys.node(number))) for number in links.replicas]
    is_last = records.LIVE not in others
    error = failed
    if failed is None and records.FAILED in others:
        error = f"a replica of {node_of(links.node)} has failed"
        mark = SOURCE_FAILED
    closed = records.encode_notice(records.INPUT_CLOSED, "", error, now_ns)
    told: set[int] = set()
    for receiver, mailbox, queue_key in links.receivers if is_last or failed is not None else ():
        if failed is not None and receiver in together:
            continue
        queue = _queue(txn, queues, queue_key)
        if queue[FLAGS] & SOURCE_ENDED:
            continue
        if is_last:
            # a mark that is still there is of an earlier end, which a revival took back
            queue[FLAGS] = (queue[FLAGS] & ~CUT_OFF) | SOURCE_ENDED | mark
        if queue[FLAGS] & CLOSED:
            continue
        rings.add(receiver)
        if failed is not None and receiver not in told:
            told.add(receiver)
            notice = records.encode_notice(records.NODE_FAILED, node_of(links.node), failed, now_ns)
            txn.put(mailbox + keys.place(sequence, index), notice)
            index += 1
        if not is_last:
            continue
        txn.put(mailbox + keys.place(sequence, index), closed)
        index += 1
    if failed is not None:
        return
    rings.update(links.senders)
    for sender, mailbox, queue_key in links.inputs:
        queue = _queue(txn, queues, queue_key)
        queue[FLAGS] |= CLOSED
        if sender >= 0:
            rings.add(sender)
        queue[DISCARDED] += empty(txn, mailbox, queue)


def end_replicas(txn: WriteTxn, links: Links, queues: dict[bytes, list[int]], rings: set[int]) -> None:
    """One of the replicas of a node ends the node: fence and end the others, close and empty their mailboxes.

    They find out when they are rung, or commit. The caller closes the outputs, as the last one.
    """
    for number in links.replicas:
        found = txn.get(keys.node(number))
        if records.status_of(found) != records.LIVE or found is None:
            continue
        record = records.NodeRecord.parse(found)
        record.status = records.ENDED
        record.incarnation += 1
        txn.put(keys.node(number), record.pack())
        rings.add(number)
        for queue_key in [key for key, _ in scan(txn, keys.queues_prefix(number))]:
            queue = _queue(txn, queues, queue_key)
            queue[FLAGS] |= CLOSED
            queue[DISCARDED] += empty(txn, b"m" + queue_key[1:], queue)


def forget_events(txn: WriteTxn, node: int) -> None:
    """A node has ended that shared a process: forget that events failed which were no messages of an input."""
    prefix = keys.attempts(keys.mailbox(node, keys.NO_INPUT))
    for key in [key for key, _ in scan(txn, prefix)]:
        txn.delete(key)


def tell(
    txn: WriteTxn, links: Links, kind: int, error: str, sequence: int, now_ns: int, together: Collection[int] = ()
) -> None:
    """Append a notice about the node (NODE_RESTARTED, ...) once to each receiver's mailbox, but not to those of
    `together`: nodes that share its process know what happened to it.
    """
    notice = records.encode_notice(kind, node_of(links.node), error, now_ns)
    told: set[int] = set(together)
    for receiver, mailbox, queue_key in links.receivers:
        if receiver not in told and not queue_of(txn, queue_key)[FLAGS] & (CLOSED | SOURCE_ENDED):
            told.add(receiver)
            txn.put(mailbox + keys.place(sequence, len(told)), notice)


def _queue(txn: ReadTxn, queues: dict[bytes, list[int]], key: bytes) -> list[int]:
    queue = queues.get(key)
    if queue is None:
        queue = queues[key] = queue_of(txn, key)
    return queue
