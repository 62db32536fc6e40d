"""A dataflow that changes while its nodes run, inside the store's transactions: the switch, and what drains after it.

    prepare    numbers for nodes, inputs and outputs that are new. Numbers are never given twice, so nothing has to be
               taken back if the change is given up
    switch     one transaction: from it on the new dataflow is in force. All that comes before can be given up, all
               that comes after is an ordinary failure of a node. Nodes that are renamed get their ids first
    settle     again and again, as long as anything is leaving: what has drained goes

The switch writes a *wiring record* for each node whose inputs or outputs are others now, and raises the wiring number
in its node record. A commit of that node finds the number and takes the record up (see commit.py); so no commit goes to
mailboxes of before, whether or not its process has heard of the change, and whoever is killed meanwhile.

The mailbox of a new receiver exists before any sender knows of it, since all of this is one transaction. A receiver
that is removed gets INPUT_CLOSED behind its last message, as if its sender had ended: it handles what waits, and ends.
An input that is removed from a node that stays is *leaving* in the same way. With `discard`, both are emptied at once,
and what was in them is counted.

Replicas that are no longer wanted are ended in the switch; what waits for them goes to others (moves.py).

What left keeps its numbers: a node leaves a record (REMOVED) with its incarnation and its counters, so that uids do not
repeat when a node or an output of that name comes back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgpack

from noderuntime.api.keyed.states import TIME_KEY
from noderuntime.api.operator import POSITION_KEY
from noderuntime.dataflow.changes import gives_up, would_lose
from noderuntime.dataflow.identifiers import node_of
from noderuntime.errors import ChangeRefused, StoreError
from noderuntime.space import keys, lives, moves, private, records, renaming, taps
from noderuntime.space.ending import forget_events
from noderuntime.space.environment import Space, scan
from noderuntime.space.lives import NodeEntry, Registry
from noderuntime.space.mailbox import empty, queue_of
from noderuntime.space.records import CLOSED, DISCARDED, DROPPED, FLAGS, QUEUED, SOURCE_ENDED, SOURCE_FAILED, TAKEN
from noderuntime.space.transactions import ReadTxn, WriteTxn

_KEPT_FOR_IT: Final = frozenset({TIME_KEY.encode(), POSITION_KEY.encode()})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a switch makes of the run. `nodes`: the dataflow from now on, as `lives.register` takes it.

    `ports`: by node, the wiring records of those that stay and are touched; `renewed`: groups of nodes that share a
    process, whose present process must not commit any more; `revived`: nodes that failed and begin anew. All of this
    is under the ids of now: those in `rename` get theirs first (old -> new).
    """

    version: int
    nodes: list[dict[str, Any]]
    ports: Mapping[str, Any]
    renewed: Sequence[Sequence[str]]
    revived: Sequence[str]
    discard: bool
    drop: Collection[str]
    rename: Mapping[str, str] = field(default_factory=dict)


def losses(
    txn: ReadTxn, known: Registry, wanted: Collection[str], drop: Collection[str], discard: bool
) -> dict[str, str]:
    """What each of the `known` nodes that is to be removed would lose, in words, and was not given up. Raises
    ChangeRefused for a name in `drop` that is not removed.
    """
    for id in drop:
        if id in wanted:
            raise ChangeRefused(f"--drop {id}: {id!r} is still in the dataflow file", "Leave --drop out.")
        if id not in known or known[id].leaves:
            there = dict.fromkeys(node_of(entry.id) for entry in known.values() if not entry.leaves)
            raise ChangeRefused(f"--drop {id}: the run has no node {id!r}", f"It has: {', '.join(there)}.")
    lost: dict[str, Counter[str]] = {}
    for node_entry in known.values():
        id = node_of(node_entry.id)
        if id in wanted or node_entry.leaves:
            continue
        counts = lost.setdefault(id, Counter())
        if id not in drop:
            counts["keys of private state"] += private.size(txn, node_entry.number)
            counts["dead letters"] += sum(1 for _ in scan(txn, keys.dead_prefix(node_entry.number)))
        if lives.status(txn, node_entry) == records.FAILED and not discard:  # which will never handle them
            counts["queued messages that it cannot handle because it has failed"] += _waiting(txn, node_entry)
    return {id: text for id, counts in lost.items() if (text := in_words(counts))}


def in_words(counts: Mapping[str, int]) -> str:
    """What there is of each of these; "" for nothing."""
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def refuse_replicas(txn: ReadTxn, known: Registry, wanted: Sequence[Mapping[str, Any]]) -> None:
    """Raise ChangeRefused for a node that cannot get other replicas: it keeps state under keys of its own, or still
    handles what waited at an input that was removed, which stays where it is; StoreError for one that is ending.
    """
    counts = Counter(node_of(item["id"]) for item in wanted)
    before = Counter(node_of(id) for id, entry in known.items() if not entry.leaves)
    ended = Counter(
        node_of(id)
        for id, entry in known.items()
        if not entry.leaves and lives.status(txn, entry) == records.ENDED
    )
    for id, entry in known.items():
        node = node_of(id)
        if entry.leaves or counts[node] in (0, before[node]):
            continue
        if ended[node] and ended[node] < before[node]:
            raise StoreError(f"node {node!r} is ending: some of its replicas have handled their last message")
        prefix = keys.private_prefix(entry.number)  # the trial refuses what keeps a time or a position
        own = sum(key[len(prefix) :] not in _KEPT_FOR_IT for key, _ in scan(txn, prefix))
        if own:
            raise ChangeRefused(
                f"node {node!r} cannot have replicas: its state has {own} keys of its own (`save_state`), and none of "
                "the replicas would own them",
                "A KeyedOperator or stateful_map keeps a state for each key of its messages.",
            )
        if entry.leaving:
            what = f"node {node!r} still handles what waited at an input that was removed"
            raise ChangeRefused(what, "Try again later.")


def inputs(node_entry: NodeEntry) -> list[tuple[int, str]]:
    """Number and source of the inputs of a node that other nodes feed, those that are leaving included."""
    return [(number, source) for number, source in node_entry.all_inputs() if source]


def refuse_losses(lost: Mapping[str, str]) -> None:
    """Raise ChangeRefused, if there are any."""
    if lost:
        raise ChangeRefused(would_lose(lost), f"`{gives_up(lost)}` gives it up. Nothing was changed.")


def refuse_used_ids(txn: ReadTxn, names: Mapping[str, str]) -> None:
    """Raise ChangeRefused for a new id under which another node has sent messages."""
    why = renaming.used_before(txn, names)
    if why:
        raise ChangeRefused(why, "Choose another id.")


def refuse_returns(known: Registry, wanted: Sequence[Mapping[str, Any]]) -> None:
    """Raise ChangeRefused for what comes back before it has drained: its number is still in use."""
    for item in wanted:
        node_entry = known.get(item["id"])
        if node_entry is None:
            continue
        again = node_entry.leaves
        what = f"node {item['id']!r}"
        sources = {f"{source}": name for name, source in item["inputs"]}
        for source in node_entry.leaving.values():
            if source in sources:
                again, what = True, f"input {sources[source]!r} of node {item['id']!r}"
        if again:
            raise ChangeRefused(f"{what} is still handling what waited for it when it was removed", "Try again later.")


def switch(txn: WriteTxn, space: Space, wanted: Wanted) -> dict[str, Any]:
    """Make the new dataflow the one in force. Returns {"leaving": nodes, "discarded": messages}."""
    wanted = replace(wanted, version=wanted.version + taps.changes(txn))
    refuse_used_ids(txn, wanted.rename)
    renaming.rename(txn, wanted.rename)
    known = lives.load(txn)
    refuse_returns(known, wanted.nodes)
    refuse_losses(losses(txn, known, {node_of(item["id"]) for item in wanted.nodes}, wanted.drop, wanted.discard))
    refuse_replicas(txn, known, wanted.nodes)
    registry = lives.register(txn, wanted.nodes)
    unwanted = [
        replace(entry, leaves=True) for id, entry in known.items() if id not in registry and node_of(id) in registry
    ]
    leaving = [
        replace(entry, leaves=True) for id, entry in known.items() if id not in registry and node_of(id) not in registry
    ]
    closed = _Closed(txn, space, set(registry))
    discarded = 0
    for id, now in list(registry.items()):
        before = known.get(id)
        if before is None:
            continue
        kept = {number for number, _ in now.inputs.values()}
        left = {} if wanted.discard else dict(before.leaving)
        discarded += sum(drop_input(txn, now.number, number) for number in before.leaving if number not in left)
        for number, source in before.inputs.values():
            if number in kept or not source:
                continue
            if wanted.discard or lives.status(txn, now) == records.ENDED:
                discarded += drop_input(txn, now.number, number)
            else:
                closed.close(now.number, number, source)
                left[number] = source
        registry[id] = replace(now, leaving=left)
    for now in registry.values():
        _adapt(txn, registry, now, known.get(now.id))
    for entry in leaving:
        if not known[entry.id].leaves:
            for number, source in inputs(entry):
                closed.close(entry.number, number, source)
    everything = {**registry, **{entry.id: entry for entry in (*leaving, *unwanted)}}
    for entry in leaving:
        record = lives.node_record(txn, entry.number)
        is_new = not known[entry.id].leaves
        if record.status == records.FAILED and (is_new or wanted.discard):  # nothing waits for it, or nobody wants it
            record.status = records.ENDED
            txn.put(keys.node(entry.number), record.pack())
    if wanted.discard:
        for entry in leaving:
            before_end = _waiting(txn, entry)
            lives.end(txn, space, everything, [entry], failed=None)
            discarded += before_end
    lives.put_registry(txn, everything.values())
    taps.extend(txn, known, registry)
    _renew(txn, everything, wanted)
    partitions = {item["id"]: item.get("partition", "") for item in wanted.nodes}
    moves.rescale_live(txn, space, known, registry, partitions, wanted.version)
    for id, ports in wanted.ports.items():
        number = everything[id].number
        record = lives.node_record(txn, number)
        record.wiring = wanted.version
        txn.put(keys.node(number), record.pack())
        txn.put(keys.wiring(number), msgpack.packb(ports))
    return {"leaving": [entry.id for entry in (*leaving, *unwanted)], "discarded": discarded}


class _Closed:
    """Closes inputs that are leaving, whose senders stay: those of senders that leave are closed when they end."""

    def __init__(self, txn: WriteTxn, space: Space, staying: Collection[str]) -> None:
        self._txn = txn
        self._place = space.base + txn.id()
        self._now_ns = space.now_ns()
        self._staying = staying
        self._index = 0

    def close(self, node: int, input: int, source: str) -> None:
        """INPUT_CLOSED behind the last message, unless the input is closed already."""
        key = keys.queue(node, input)
        queue = queue_of(self._txn, key)
        has_ended = queue[FLAGS] & (SOURCE_ENDED | SOURCE_FAILED) == SOURCE_ENDED
        if source.rpartition("/")[0] not in self._staying or has_ended:
            return  # what a failure has closed counts as ended from now on
        queue[FLAGS] = (queue[FLAGS] & ~SOURCE_FAILED) | SOURCE_ENDED
        self._txn.put(key, records.pack_queue(queue))
        if not queue[FLAGS] & CLOSED:
            notice = records.encode_notice(records.INPUT_CLOSED, "", None, self._now_ns)
            self._txn.put(keys.mailbox(node, input) + keys.place(self._place, self._index), notice)
            self._index += 1


def _adapt(txn: WriteTxn, registry: Registry, now: NodeEntry, before: NodeEntry | None) -> None:
    """New inputs of senders that have ended are closed from the beginning; a node that has ended takes nothing."""
    had = {number for number, _ in before.inputs.values()} if before is not None else set()
    ended = before is not None and lives.status(txn, now) == records.ENDED
    for number, source in now.inputs.values():
        if number in had or not source:
            continue
        flags = CLOSED if ended else 0
        sender = source.rpartition("/")[0]
        statuses = {lives.status(txn, entry) for entry in registry.values() if node_of(entry.id) == sender}
        if statuses == {records.ENDED}:
            flags |= SOURCE_ENDED
        elif records.LIVE not in statuses:
            flags |= SOURCE_ENDED | SOURCE_FAILED
        queue = queue_of(txn, keys.queue(now.number, number))
        queue[FLAGS] = flags
        txn.put(keys.queue(now.number, number), records.pack_queue(queue))


def _renew(txn: WriteTxn, registry: Registry, wanted: Wanted) -> None:
    """Fence the processes of these nodes: the next claim raises the incarnation once more."""
    for id in wanted.revived:
        lives.revive(txn, registry, registry[id])
    for group in wanted.renewed:
        found = [lives.node_record(txn, registry[id].number) for id in group]
        incarnation = max(record.incarnation for record in found) + 1
        for id, record in zip(group, found, strict=True):
            record.incarnation = incarnation
            record.wiring = wanted.version
            txn.put(keys.node(registry[id].number), record.pack())


def _waiting(txn: ReadTxn, entry: NodeEntry) -> int:
    return sum(queue_of(txn, keys.queue(entry.number, number))[QUEUED] for number, _ in inputs(entry))


def drop_input(txn: WriteTxn, node: int, input: int) -> int:
    """An input goes at once; its counts stay with the node. Returns how many messages were in it."""
    key, gone_key = keys.queue(node, input), keys.gone_inputs(node)
    queue, gone = queue_of(txn, key), queue_of(txn, gone_key)
    count = empty(txn, keys.mailbox(node, input), queue)
    queue[DISCARDED] += count
    for at in (TAKEN, DROPPED, DISCARDED):
        gone[at] += queue[at]
    txn.put(gone_key, records.pack_queue(gone))
    txn.delete(key)
    return count


def settle(txn: WriteTxn, nodes: Collection[str], together: Sequence[Sequence[str]], version: int) -> dict[str, Any]:
    """Let go what has drained. Returns {"gone": nodes, "inputs": {node: input numbers}, "left": nodes that drain on}.

    `nodes`: those that may go, if they have ended; `version`: the wiring number of nodes that lose an input, and of
    those in their process (`together`, see ChangeSettle).
    """
    version += taps.changes(txn)
    registry = lives.load(txn)
    gone, lost = [], {}
    working = {node_of(id) for id, entry in registry.items() if lives.status(txn, entry) != records.ENDED}
    for id, entry in list(registry.items()):
        # states of keys are the first replica's: it goes with the last one
        waits = id == node_of(id) and id in working
        if entry.leaves and id in nodes and lives.status(txn, entry) == records.ENDED and not waits:
            remove_node(txn, entry)
            del registry[id]
            gone.append(id)
            continue
        done = [number for number in entry.leaving if _has_drained(txn, entry.number, number)]
        if not done:
            continue
        for number in done:
            drop_input(txn, entry.number, number)
        registry[id] = replace(entry, leaving={n: source for n, source in entry.leaving.items() if n not in done})
        lost[id] = done
        packed = txn.get(keys.wiring(entry.number))
        if packed is not None:
            ports = msgpack.unpackb(packed)
            ports["inputs"] = [item for item in ports["inputs"] if item["number"] not in done]
            txn.put(keys.wiring(entry.number), msgpack.packb(ports))
    touched = {*lost, *(id for group in together if not lost.keys().isdisjoint(group) for id in group)}
    for id in touched & registry.keys():
        record = lives.node_record(txn, registry[id].number)
        record.wiring = version
        txn.put(keys.node(registry[id].number), record.pack())
    if gone or lost:
        lives.put_registry(txn, registry.values())
    left = [id for id, entry in registry.items() if entry.leaves or entry.leaving]
    return {"gone": gone, "inputs": lost, "left": left}


def ports_of(txn: ReadTxn, registry: Registry) -> dict[str, tuple[int, Any]]:
    """The wiring number and record of each node that a change has touched."""
    found = {}
    for id, entry in registry.items():
        version = lives.node_record(txn, entry.number).wiring
        packed = txn.get(keys.wiring(entry.number))
        if version and packed is not None:
            found[id] = version, msgpack.unpackb(packed)
    return found


def _has_drained(txn: ReadTxn, node: int, input: int) -> bool:
    queue = queue_of(txn, keys.queue(node, input))
    if queue[FLAGS] & CLOSED:
        return True
    mailbox = keys.mailbox(node, input)
    return bool(queue[FLAGS] & SOURCE_ENDED) and next(iter(scan(txn, mailbox)), None) is None


def remove_node(txn: WriteTxn, entry: NodeEntry) -> dict[str, int]:
    """Delete what belongs to a node but its record, which goes on counting if the id comes back. Returns the counts."""
    counts = {
        "keys of private state": private.drop(txn, entry.number),
        "queued messages": sum(drop_input(txn, entry.number, number) for number, _ in entry.all_inputs()),
        "dead letters": _delete(txn, keys.dead_prefix(entry.number)),
    }
    forget_events(txn, entry.number)
    _delete(txn, keys.attempts_prefix(entry.number))
    txn.delete(keys.wiring(entry.number))
    txn.delete(keys.gone_inputs(entry.number))
    record = lives.node_record(txn, entry.number)
    record.status = records.REMOVED
    record.wiring = 0
    for number, _ in entry.all_inputs():
        record.forget_input(number)
    txn.put(keys.node(entry.number), record.pack())
    return counts


def _delete(txn: WriteTxn, prefix: bytes) -> int:
    found = [key for key, _ in scan(txn, prefix)]
    for key in found:
        txn.delete(key)
    return len(found)
