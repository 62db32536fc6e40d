"""The store's part in changing the dataflow of a run, and its record of which dataflow is in force.

The steps are in space/changes.py; each of these operations is a transaction, committed with the record of its request.
The record of the dataflow in force (keys.IN_FORCE) has:

    version     the number of the last change, which is the wiring number of the nodes that it touched
    changes     how many dataflows were put in force while the run went on, since it was begun with that of a file
    digest      of the file that the run was started with, as it was then
    dataflow    the dataflow in force, as JSON (dataflow/plain.py), with the numbers of replicas of the file
    scaled      numbers of replicas that `scale` has set since then, by node: these are in force
    leaving     nodes that still drain, in the same way, and replicas that are no longer wanted
    file        the file that it came from
    applied     whether it was put in force by a change; else it is that of the file at the start
    changing    the file of a change that has begun and is not in force; "" when there is none
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from noderuntime.dataflow.identifiers import node_of
from noderuntime.errors import ChangeRefused
from noderuntime.ipc import change_records as wire
from noderuntime.ipc.store_records import Nothing
from noderuntime.space import changes, keys, lives, moves, renaming
from noderuntime.space.environment import Space
from noderuntime.space.in_force import in_force, put_in_force
from noderuntime.space.lives import Registry
from noderuntime.space.transactions import ReadTxn, WriteTxn
from noderuntime.store.dispatch import Given, Result, taking_txn


class ChangeOperations:
    """See the head of this module."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self.moves = moves.Moves(space)
        self.changes: dict[str, Callable[[WriteTxn, Given], Result]] = {
            "change_prepare": taking_txn(wire.ChangePrepare, self.prepare),
            "change_undo": taking_txn(Nothing, self.undo),
            "change_switch": taking_txn(wire.ChangeSwitch, self.switch),
            "change_settle": taking_txn(wire.ChangeSettle, self.settle),
            "change_move": taking_txn(wire.ChangeMove, self.move),
        }
        self.queries: dict[str, Callable[[ReadTxn, Given], Result]] = {
            "change_losses": taking_txn(wire.ChangeLosses, self.losses),
            "in_force": taking_txn(Nothing, self.in_force),
        }
        self.ahead: dict[str, Callable[[ReadTxn, Given], Result]] = {
            "change_move": taking_txn(wire.ChangeMove, self.read_ahead)
        }

    def losses(self, txn: ReadTxn, asked: wire.ChangeLosses) -> wire.Losses:
        """What each node that is not in the new dataflow would lose. Raises ChangeRefused for what is not possible."""
        changes.refuse_used_ids(txn, asked.rename)
        known = renaming.renamed_registry(lives.load(txn), asked.rename)
        wanted = [dict(node) for node in asked.nodes]
        changes.refuse_returns(known, wanted)
        changes.refuse_replicas(txn, known, wanted)
        ids = {node_of(node["id"]) for node in asked.nodes}
        return {"losses": changes.losses(txn, known, ids, asked.drop, asked.discard)}

    def prepare(self, txn: WriteTxn, asked: wire.ChangePrepare) -> wire.Prepared:
        """Give the numbers that a change needs; until it is made or undone, a resume says that it was interrupted."""
        wanted = [dict(node) for node in asked.nodes]
        if asked.rename:  # nothing gets another id before the switch, which comes to the same numbers
            registry = lives.numbered(renaming.renamed_numbers(lives.numbers_given(txn), asked.rename), wanted)
        else:
            registry = lives.give_numbers(txn, wanted)
        record = in_force(txn)
        put_in_force(txn, {**record, "changing": asked.file})
        return {"version": record.get("version", 0) + 1, "numbers": numbers_of(registry)}

    def undo(self, txn: WriteTxn, asked: Nothing) -> Result:
        """The change that was prepared is given up. Its numbers stay unused."""
        put_in_force(txn, {**in_force(txn), "changing": ""})
        return {}

    def switch(self, txn: WriteTxn, asked: wire.ChangeSwitch) -> Result:
        """Put the new dataflow in force. Raises ChangeRefused when it was prepared before another change."""
        record = in_force(txn)
        if asked.version != record.get("version", 0) + 1:
            raise ChangeRefused("the run was changed meanwhile", "Try again.")
        wanted = changes.Wanted(
            asked.version,
            [dict(node) for node in asked.nodes],
            asked.ports,
            asked.renewed,
            asked.revived,
            asked.discard,
            asked.drop,
            asked.rename,
        )
        found = changes.switch(txn, self._space, wanted)
        now: dict[str, Any] = {"version": asked.version, "leaving": asked.leaving, "changing": ""}
        if asked.scale:
            now["scaled"] = {**record.get("scaled", {}), **asked.scale}
        else:
            now |= {"dataflow": asked.dataflow, "file": asked.file, "applied": True, "scaled": {}}
            now["changes"] = record.get("changes", 0) + 1
        put_in_force(txn, {**record, **now})
        txn.put(keys.fact("fingerprint"), msgpack.packb(asked.fingerprint))
        return found

    def settle(self, txn: WriteTxn, asked: wire.ChangeSettle) -> Result:
        """Let go what has drained."""
        record = in_force(txn)
        version = record.get("version", 0) + 1
        found = changes.settle(txn, asked.nodes, asked.together, version)
        if found["inputs"]:
            put_in_force(txn, {**record, "version": version})
        return {**found, "version": version}

    def read_ahead(self, txn: ReadTxn, asked: wire.ChangeMove) -> Result:
        """Before `move`, and without the write lock: read some of what may have to move."""
        self.moves.read(txn, lives.load(txn), asked.counts)
        return {}

    def move(self, txn: WriteTxn, asked: wire.ChangeMove) -> wire.Moved:
        """Move a part of the slots that are to have other owners."""
        registry = lives.load(txn)
        return {"left": sum(self.moves.move(txn, registry, id, count) for id, count in asked.counts.items())}

    def in_force(self, txn: ReadTxn, asked: Nothing) -> Result:
        record = in_force(txn)
        texts = {name: record.get(name, "") for name in ("dataflow", "leaving", "file", "digest", "changing")}
        numbers = {name: record.get(name, 0) for name in ("version", "changes")}
        return {**texts, **numbers, "applied": record.get("applied", False), "scaled": record.get("scaled", {})}


def numbers_of(registry: Registry) -> dict[str, wire.Numbers]:
    """The numbers of nodes, inputs and outputs."""
    return {
        node_entry.id: {
            "number": node_entry.number,
            "inputs": {name: number for name, (number, _) in node_entry.inputs.items()},
            "outputs": node_entry.outputs,
        }
        for node_entry in registry.values()
    }
