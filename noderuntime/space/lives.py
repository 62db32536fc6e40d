"""The lives of nodes in the space: registering nodes, claiming an incarnation, ending, reviving.

Only the store process calls it, each function in a transaction of its caller, so that the effect and the record of the
request commit together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

from noderuntime.dataflow.identifiers import node_of
from noderuntime.errors import StoreError
from noderuntime.space import keys, records
from noderuntime.space.ending import Links, close, forget_events, tell
from noderuntime.space.environment import Space, scan
from noderuntime.space.mailbox import Removal, find, queue_of, remove, remove_notices
from noderuntime.space.records import (
    BYTES,
    CLOSED,
    CUT_OFF,
    DISCARDED,
    DROPPED,
    FLAGS,
    QUEUED,
    SOURCE_ENDED,
    SOURCE_FAILED,
    TAKEN,
)
from noderuntime.space.transactions import ReadTxn, WriteTxn


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """One registered node. `inputs`: name -> (number, source "node/output", "" for a timer)."""

    id: str
    number: int
    inputs: dict[str, tuple[int, str]]
    outputs: dict[str, int]
    # of a dataflow that was changed while it ran, see store/changes.py
    leaving: dict[int, str] = field(default_factory=dict)  # inputs that are no longer in it: number -> source
    leaves: bool = False  # the node itself

    def all_inputs(self) -> list[tuple[int, str]]:
        """Number and source of each input, those that are leaving included."""
        return [*self.inputs.values(), *self.leaving.items()]


Registry = dict[str, NodeEntry]
# By node, its number and those of its inputs ("NAME SOURCE": an input that is fed by another output is another one) and
# of its outputs. Every number ever given: an unused one must not be given to another node or input, which would then
# find the state or messages of the former one.
Given = dict[str, tuple[int, dict[str, int], dict[str, int]]]


def numbers_given(txn: ReadTxn) -> Given:
    packed = txn.get(keys.fact("numbers"))
    return msgpack.unpackb(packed) if packed else {}


def give_numbers(txn: WriteTxn, wanted: list[dict[str, Any]]) -> Registry:
    """Give numbers to nodes, inputs and outputs, which is all that is stored. Those that have one keep it."""
    given = numbers_given(txn)
    registry = numbered(given, wanted)
    txn.put(keys.fact("numbers"), msgpack.packb(given))
    return registry


def numbered(given: Given, wanted: list[dict[str, Any]]) -> Registry:
    """These nodes with their numbers; those that have none yet get theirs, which are added to `given`."""
    registry: Registry = {}
    for item in wanted:
        number, inputs, outputs = given.setdefault(item["id"], (len(given), {}, {}))
        if number >= keys.TAPS:
            raise StoreError(f"a space holds at most {keys.TAPS} nodes")
        registry[item["id"]] = NodeEntry(
            item["id"],
            number,
            {name: (inputs.setdefault(f"{name} {source}", len(inputs)), source) for name, source in item["inputs"]},
            {name: outputs.setdefault(name, len(outputs)) for name in item["outputs"]},
        )
    return registry


def register(txn: WriteTxn, wanted: list[dict[str, Any]]) -> Registry:
    """Give numbers to nodes, inputs and outputs, store them, and create the node records.

    Nodes, inputs and outputs that have a number keep it, so that a changed dataflow finds what still matches.
    """
    registry = give_numbers(txn, wanted)
    for node_entry in registry.values():
        kept = txn.get(keys.node(node_entry.number))
        record = records.NodeRecord(0, records.REMOVED, 0, []) if kept is None else records.NodeRecord.parse(kept)
        if record.status == records.REMOVED:  # new, or it comes back, and goes on counting
            record.status = records.LIVE
            txn.put(keys.node(node_entry.number), record.pack())
    put_registry(txn, registry.values())
    return registry


def put_registry(txn: WriteTxn, entries: Iterable[NodeEntry]) -> None:
    """Store these nodes as the registry. Only what leaves needs the last two fields, which earlier versions lack."""
    plain = [
        [
            e.id, e.number, {name: list(item) for name, item in e.inputs.items()}, e.outputs,
            *([e.leaving, e.leaves] if e.leaving or e.leaves else []),
        ]
        for e in entries
    ]  # fmt: skip
    txn.put(keys.fact("registry"), msgpack.packb(plain))


def load(txn: ReadTxn) -> Registry:
    """The registry that was stored last; empty in a new space."""
    packed = txn.get(keys.fact("registry"))
    return {
        id: NodeEntry(id, number, {name: (item[0], item[1]) for name, item in inputs.items()}, outputs, *more)
        for id, number, inputs, outputs, *more in (msgpack.unpackb(packed, strict_map_key=False) if packed else [])
    }


def node_record(txn: ReadTxn, number: int) -> records.NodeRecord:
    """The record of a registered node. Raises StoreError when the space has none."""
    record = txn.get(keys.node(number))
    if record is None:
        raise StoreError(f"the space holds no record of node number {number}")
    return records.NodeRecord.parse(record)


def status(txn: ReadTxn, node_entry: NodeEntry) -> int:
    """records.LIVE, ENDED or FAILED."""
    return node_record(txn, node_entry.number).status


def links(registry: Registry, node_entry: NodeEntry) -> Links:
    """The mailboxes around a node. Receivers that are leaving are not among them, unless the node is leaving itself:
    they have got their INPUT_CLOSED, and nothing comes after it.
    """
    of_file = node_of(node_entry.id)
    numbers = {item.id: item.number for item in registry.values()}
    replicas: dict[str, list[int]] = {}
    for item in registry.values():
        replicas.setdefault(node_of(item.id), []).append(item.number)
    senders = {node_of(source.rpartition("/")[0]) for _, source in node_entry.all_inputs()}
    receivers = [
        (other.number, keys.mailbox(other.number, number), keys.queue(other.number, number))
        for other in registry.values()
        for number, source in other.all_inputs()
        if source.rpartition("/")[0] == of_file
        and (node_entry.leaves or not (other.leaves or number in other.leaving))
    ]
    inputs = [
        (
            numbers.get(source.rpartition("/")[0], -1),
            keys.mailbox(node_entry.number, number),
            keys.queue(node_entry.number, number),
        )
        for number, source in node_entry.all_inputs()
    ]
    others = [number for number in replicas[of_file] if number != node_entry.number]
    of_senders = [number for sender in sorted(senders & replicas.keys()) for number in replicas[sender][1:]]
    return Links(node_entry.id, receivers, inputs, others, of_senders)


@dataclass(frozen=True, slots=True)
class Hand:
    """A message that a life had in hand, by its place in the mailboxes of node number `node`.

    Sequence 0 means an event that is no message: a tick, or what `input` keys.NO_INPUT and `index`
    say (node/chain_member.py).
    """

    node: int
    input: int
    sequence: int
    index: int


def claim(
    txn: WriteTxn,
    space: Space,
    registry: Registry,
    members: Mapping[str, int],
    *,
    cause: str,
    counts: bool,
    hands: list[Hand],
    trace: str,
) -> dict[str, Any]:
    """Begin a new life of a node, or of the operators that share a process (`members`: id -> its max_attempts).
    Returns {"incarnation", "attempts", "buried", "entry", "ended_members", "stop_all"}, or, if all have ended,
    {"ended": True, "stop_all": bool}.

    Increments the incarnation, which fences the old process. Counts an attempt on each message that the old life had in
    hand (with `counts`, also as a failure), and moves a message that has failed as often as its node's max_attempts
    (0: never) to the dead letters. An event in hand that is no message is noted in the same way where operators share a
    process: the next life commits it alone. Notifies the receivers when there is a `cause`.
    """
    entries = [registry[id] for id in members]
    found = [node_record(txn, node_entry.number) for node_entry in entries]
    live = [node_entry for node_entry, record in zip(entries, found, strict=True) if record.status == records.LIVE]
    asked = txn.get(keys.STOP_ALL)
    stop_all = asked is not None and asked.decode() in members
    if not live:
        return {"ended": True, "stop_all": stop_all}
    incarnation = max(record.incarnation for record in found) + 1
    for node_entry, record in zip(entries, found, strict=True):
        record.incarnation = incarnation
        txn.put(keys.node(node_entry.number), record.pack())
    sequence = space.base + txn.id()
    now_ns = space.now_ns()
    by_number = {node_entry.number: node_entry for node_entry in entries}
    buried: list[str] = []
    entry = ""
    for hand in hands:
        key = keys.message(hand.node, hand.input, hand.sequence, hand.index)
        message = find(txn, key) if hand.sequence else None
        is_message = message is not None and message[0] < records.NOTICE_MIN
        is_event = counts and len(members) > 1 and (message is not None or not hand.sequence)
        if hand.node not in by_number or not (is_message or is_event):
            continue
        kept = txn.get(keys.attempts(key))
        lives, failures = records.ATTEMPTS.unpack(kept) if kept else (0, 0)
        lives, failures = lives + 1, failures + counts
        node_entry = by_number[hand.node]
        if message is not None and is_message and counts and 0 < members[node_entry.id] <= failures:
            buried.append(_bury(txn, node_entry, key, message, lives, cause, trace, now_ns))
            entry = node_entry.id
        else:
            txn.put(keys.attempts(key), records.ATTEMPTS.pack(lives, failures))
    if cause:
        together = set(by_number) if len(members) > 1 else set()
        for node_entry in live:
            around = links(registry, node_entry)
            tell(txn, around, records.NODE_RESTARTED, cause, sequence, now_ns, together)
    attempts = []
    for number in by_number:
        for key, value in list(scan(txn, keys.attempts_prefix(number))):
            place = keys.parse_message(key)
            is_event = not place[2] and len(members) > 1
            if not is_event and find(txn, keys.message(*place)) is None:  # dropped in the meantime
                txn.delete(key)
            else:
                of_which = [number] if len(members) > 1 else []
                attempts.append([*place[1:], records.ATTEMPTS.unpack(value)[0], *of_which])
    return {
        "incarnation": incarnation,
        "attempts": attempts,
        "buried": ", ".join(buried),
        "entry": entry,
        "ended_members": [node_entry.id for node_entry in entries if node_entry not in live],
        "stop_all": stop_all,
    }


def _bury(
    txn: WriteTxn, node_entry: NodeEntry, key: bytes, message: bytes, lives: int, error: str, trace: str, now_ns: int
) -> str:
    _, input, sequence, index = keys.parse_message(key)
    name = next((name for name, (number, _) in node_entry.inputs.items() if number == input), str(input))
    number = records.MESSAGE.unpack_from(message)[4]
    uid = f"{node_entry.inputs[name][1] if name in node_entry.inputs else name}#{number}"
    letter = {
        "input": name, "uid": uid, "message": message, "error": error, "trace": trace, "attempts": lives,
        "buried_ns": now_ns,
    }  # fmt: skip
    txn.put(keys.dead(node_entry.number, sequence, index, input), msgpack.packb(letter))
    txn.delete(keys.attempts(key))
    queue_key = keys.queue(node_entry.number, input)
    queue = queue_of(txn, queue_key)
    # the letter keeps the reference to a segment
    _, size = remove(txn, keys.mailbox(node_entry.number, input), queue, Removal([(key, message)]), releases=False)
    queue[QUEUED] -= 1
    queue[BYTES] -= size
    txn.put(queue_key, records.pack_queue(queue))
    return uid


def end(
    txn: WriteTxn, space: Space, registry: Registry, entries: Sequence[NodeEntry], *, failed: str | None
) -> None:
    """End a node, or the operators that share a process, that did not end by themselves: fence them, close their
    outputs and, unless they failed, their mailboxes.
    """
    together = {node_entry.number for node_entry in entries} if len(entries) > 1 else set()
    queues: dict[bytes, list[int]] = {}
    found = [node_record(txn, node_entry.number) for node_entry in entries]
    if all(record.status != records.LIVE for record in found):
        return
    incarnation = max(record.incarnation for record in found) + 1
    for node_entry, record in zip(entries, found, strict=True):
        was_live = record.status == records.LIVE
        if was_live:
            record.status = records.ENDED if failed is None else records.FAILED
        record.incarnation = incarnation
        txn.put(keys.node(node_entry.number), record.pack())
        if was_live:
            around = links(registry, node_entry)
            close(txn, around, queues, set(), space.base + txn.id(), 0, space.now_ns(), failed, together)
            if failed is None:
                forget_events(txn, node_entry.number)
    for queue_key, queue in queues.items():
        txn.put(queue_key, records.pack_queue(queue))


def revive(txn: WriteTxn, registry: Registry, node_entry: NodeEntry) -> None:
    """Make a node that had failed, or a dynamic node that had ended, live again while the run continues; its next claim
    notifies its receivers. Calling it twice has the effect of one call.

    Receivers keep the notices of its end: these come before the NODE_RESTARTED of that claim, in order. Receivers that
    have ended in the meantime stay ended.
    """
    record = node_record(txn, node_entry.number)
    if record.status == records.LIVE:
        return
    ended = record.status == records.ENDED
    record.status = records.LIVE
    txn.put(keys.node(node_entry.number), record.pack())
    around = links(registry, node_entry)
    for _, _, queue_key in around.receivers:
        # a receiver that ended because it was cut off stays marked: `--resume` makes it live again
        closed = queue_of(txn, queue_key)[FLAGS] & CLOSED
        _clear_flags(txn, queue_key, SOURCE_ENDED | SOURCE_FAILED | (0 if closed else CUT_OFF))
    if ended:
        for _, _, queue_key in around.inputs:
            _clear_flags(txn, queue_key, CLOSED)
        return
    if not any(status(txn, other) == records.FAILED for other in registry.values()):
        for other in registry.values():  # nodes that ended in the meantime stay ended
            for number, _ in other.inputs.values():
                _clear_flags(txn, keys.queue(other.number, number), CUT_OFF)


def reopen(txn: WriteTxn, registry: Registry) -> None:
    """Make the nodes that had failed, or were cut off by a failed one, live again: the first step of `--resume`.

    Notices of the failure (NODE_FAILED, INPUT_CLOSED) that their receivers have not yet taken are removed.
    """
    cut_off = []
    for node_entry in registry.values():
        around = links(registry, node_entry)
        record = node_record(txn, node_entry.number)
        flags = [queue_of(txn, queue_key)[FLAGS] for _, _, queue_key in around.inputs]
        ended = record.status == records.ENDED
        if record.status == records.FAILED or (ended and any(item & (SOURCE_FAILED | CUT_OFF) for item in flags)):
            record.status = records.LIVE
            txn.put(keys.node(node_entry.number), record.pack())
            cut_off.append(around)
    for around in cut_off:
        for _, _, queue_key in around.inputs:
            _clear_flags(txn, queue_key, CLOSED)
        for _, mailbox, queue_key in around.receivers:
            _clear_flags(txn, queue_key, SOURCE_ENDED | SOURCE_FAILED | CUT_OFF)
            remove_notices(txn, mailbox, (records.NODE_FAILED, records.INPUT_CLOSED))


def reopen_ended(txn: WriteTxn, registry: Registry, first: NodeEntry) -> None:
    """Make a node that has ended, and the ended nodes downstream of it, live again, so that it can take messages.

    For a run that has ended. Inputs whose senders stay ended are closed as before, so each of these nodes ends again
    when it has handled its new messages.
    """
    by_number = {node_entry.number: node_entry for node_entry in registry.values()}
    open_numbers, seen = [first.number], {first.number}
    while open_numbers:
        node_entry = by_number[open_numbers.pop()]
        record = node_record(txn, node_entry.number)
        if record.status != records.ENDED:
            continue
        record.status = records.LIVE
        txn.put(keys.node(node_entry.number), record.pack())
        around = links(registry, node_entry)
        for _, _, queue_key in around.inputs:
            _clear_flags(txn, queue_key, CLOSED)
        for number, mailbox, queue_key in around.receivers:
            _clear_flags(txn, queue_key, SOURCE_ENDED)
            remove_notices(txn, mailbox, (records.INPUT_CLOSED,))
            if number not in seen:
                seen.add(number)
                open_numbers.append(number)


def _clear_flags(txn: WriteTxn, queue_key: bytes, flags: int) -> None:
    queue = queue_of(txn, queue_key)
    if queue[FLAGS] & flags:
        queue[FLAGS] &= ~flags
        txn.put(queue_key, records.pack_queue(queue))


def private_state(txn: ReadTxn, node_entry: NodeEntry, bytes_max: int) -> dict[str, bytes] | None:
    """The committed private state of a node, without the states of keys; None if it is larger than `bytes_max`.

    No more than that is read, because a claim holds the write lock meanwhile.
    """
    prefix = keys.private_prefix(node_entry.number)
    found: dict[str, bytes] = {}
    for key, record in scan(txn, prefix):
        bytes_max -= len(key) - len(prefix) + len(record) - records.PRIVATE_BYTES
        if bytes_max < 0:
            return None
        found[key[len(prefix) :].decode()] = record[records.PRIVATE_BYTES :]
    return found


def queues(txn: ReadTxn, registry: Registry) -> dict[str, dict[str, list[int]]]:
    """What waits in each queue: {id: {input: [messages, their bytes, 1 if anything waits, notices included]}}."""
    found: dict[str, dict[str, list[int]]] = {}
    cursor = txn.cursor()
    for node_entry in registry.values():
        inputs = found[node_entry.id] = {}
        for name, (number, source) in node_entry.inputs.items():
            if source:
                queue = queue_of(txn, keys.queue(node_entry.number, number))
                mailbox = keys.mailbox(node_entry.number, number)
                waits = cursor.set_range(mailbox) and cursor.key().startswith(mailbox)
                inputs[name] = [queue[QUEUED], queue[BYTES], int(waits)]
    return found


_COUNTED = {"queued": QUEUED, "bytes": BYTES, "taken": TAKEN, "dropped": DROPPED, "discarded": DISCARDED}


def figures(txn: ReadTxn, registry: Registry) -> dict[str, Any]:
    """What each node has queued, dropped, taken and sent, by id: NodeFigures, without dead letters."""
    found: dict[str, Any] = {}
    for node_entry in registry.values():
        record = node_record(txn, node_entry.number)
        inputs = {}
        for name, (number, _) in node_entry.inputs.items():
            queue = queue_of(txn, keys.queue(node_entry.number, number))
            inputs[name] = {what: queue[at] for what, at in _COUNTED.items()}
        gone = [queue_of(txn, keys.queue(node_entry.number, number)) for number in node_entry.leaving]
        gone.append(queue_of(txn, keys.gone_inputs(node_entry.number)))
        counters = record.counters
        outputs = {}
        for name, number in node_entry.outputs.items():
            counter = records.output_counter(number)
            outputs[name] = counters[counter] & records.COUNT_MASK if counter < len(counters) else 0
        found[node_entry.id] = {
            "status": records.STATUSES[record.status],
            "incarnation": record.incarnation,
            "inputs": inputs,
            "outputs": outputs,
            "gone": {"taken": sum(queue[TAKEN] for queue in gone), "dropped": sum(queue[DROPPED] for queue in gone)},
        }
    return found
