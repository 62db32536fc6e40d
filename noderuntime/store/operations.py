"""What can be asked of the store process: every operation on the space that is not part of an event.

noderuntime.ipc.store_records has a page of them all: what each takes and returns. Those on state are in kvs.py, on dead
letters in dead_letters.py, of nodes without LMDB in remote_nodes.py, of snapshots in snapshots.py. A writing operation
commits together with the record of its request, so that one that is repeated after a kill counts once.

Why `touch`: LMDB can be killed between writing its meta page and publishing the transaction's id. Then no reader sees
that commit until a process takes the write lock; so the store does, after every death, before neighbours are rung.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import msgpack

from noderuntime.errors import ProtocolError, StoreError
from noderuntime.ipc import store_records as wire
from noderuntime.ipc.protocol import VERSION, Reply, Request, refusal
from noderuntime.ipc.typed import decode
from noderuntime.space import changes, keys, lives, private, records, taps, watches
from noderuntime.space.dead_letters import counts
from noderuntime.space.environment import BROKEN, MARK_NEW_WORK, Space, scan
from noderuntime.space.in_force import in_force, put_in_force
from noderuntime.space.kvs import PURGE_STEP
from noderuntime.space.lives import Hand, NodeEntry, Registry
from noderuntime.space.reconcile import adapt, reconcile, refuse_losses, rename
from noderuntime.space.rescale import even_out, rescale
from noderuntime.space.transactions import ReadTxn, WriteTxn
from noderuntime.state.seeds import Seed
from noderuntime.store.changes import ChangeOperations, numbers_of
from noderuntime.store.dead_letters import LetterOperations
from noderuntime.store.dispatch import ARGUMENTS, Given, Result, taking_txn
from noderuntime.store.kvs import StateOperations, node_entry_of

INLINE_BYTES_MAX = 256 * 1024  # of private state in a claim's result; larger states are read in the space
RESERVE_BYTES = 4 << 20
CLIENT_KEPT_S = 3600
CLIENTS_FORGOTTEN = 1000  # at once
FORGET_EVERY = 60  # times of housekeeping
SHORT_EVERY = 5  # while the space is short of room
LARGE_RESULT_BYTES = 4096
LARGE_KEPT_S = 60
SHORT_KEPT_S = 10  # some repetitions of a client that waits for its answer
DEATHS = ("claim", "end", "touch", "taps_clear")
REGISTERING = ("open", "change_switch", "change_settle")  # what changes the registry


class Store:
    """The operations on an open space. `changes` name those that write: they run in one transaction. `ahead` has what
    some of them read before it, so that they do not hold the write lock for so long.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        with space.read() as txn:
            self.registry: Registry = lives.load(txn)
        self.actions: dict[str, Callable[[Given], Result]] = {}  # that keep their own books
        self._looked = 0
        self.seeds: dict[str, Seed] = {}
        self.state = StateOperations(space, lambda id: node_entry_of(self.registry, id))
        changing = ChangeOperations(space)
        self.letters = LetterOperations(space, lambda: self.registry, self._node_entry)
        self.changes: dict[str, Callable[[WriteTxn, Given], Result]] = {
            "open": taking_txn(wire.Open, self.open),
            "claim": taking_txn(wire.Claim, self.claim),
            "end": taking_txn(wire.End, self.end),
            "revive": taking_txn(wire.NodeOf, self.revive),
            "taps_clear": taking_txn(wire.Nothing, self.taps_clear),
            **self.state.changes,
            **self.letters.changes,
            **changing.changes,
        }
        self.queries: dict[str, Callable[[ReadTxn, Given], Result]] = {
            "figures": taking_txn(wire.Nothing, self.figures),
            "queues": taking_txn(wire.Nothing, self.queues),
            "resumed": taking_txn(wire.Nothing, self.resumed),
            **self.state.queries,
            **self.letters.queries,
            **changing.queries,
        }
        self.ahead = changing.ahead
        self._moves = changing.moves

    def handle(self, request: Request) -> Reply:
        """Carry out one request. Errors of ours become replies that name their class."""
        try:
            if request.version != VERSION:
                raise ProtocolError(f"protocol version {request.version}; this store speaks {VERSION}")
            action = self.actions.get(request.operation)
            result = self._carry_out(request) if action is None else action(request.arguments)
            self.state.rings |= self.letters.rings
            self.letters.rings.clear()
            return Reply(request.number, result, "", "")
        except BROKEN:
            raise
        except Exception as error:  # arguments can be wrong in more ways than can be listed
            self.state.rings.clear()
            self.letters.rings.clear()
            return refusal(request.number, request.operation, error)

    def _carry_out(self, request: Request) -> Result:
        query = self.queries.get(request.operation)
        if query is not None:
            with self.space.read() as txn:
                return query(txn, request.arguments)
        if request.operation == "touch":
            return self.touch()
        change = self.changes.get(request.operation)
        if change is None:
            known = ", ".join(sorted([*self.queries, *self.changes, "touch", "quit"]))
            raise ProtocolError(f"unknown operation {request.operation!r}; the store knows {known}")
        key = keys.request(request.client)
        ahead = self.ahead.get(request.operation)
        if ahead is not None:
            with self.space.read() as txn:
                ahead(txn, request.arguments)
        with self.space.write() as txn:
            last = txn.get(key)
            number, result, _ = msgpack.unpackb(last, strict_map_key=False) if last is not None else (0, {}, 0)
            if last is not None and number > request.number:
                raise ProtocolError(f"request {request.number} of {request.client}: its last is {number}")
            if number == request.number and result is None:
                raise ProtocolError(f"request {number} of {request.client} was carried out; its result was let go")
            if last is None or number < request.number:
                result = change(txn, request.arguments)
                if request.operation in DEATHS:
                    self._wake_watchers(txn)
                txn.put(key, msgpack.packb([request.number, result, self.space.now_ns()]))
            result = self._complete(txn, request, result)
        if request.operation in REGISTERING:  # not before it is committed
            with self.space.read() as txn:
                self.registry = lives.load(txn)
        return result

    def _complete(self, txn: ReadTxn, request: Request, result: Result) -> Result:
        """A claim's result with the state, which is read in the claim's own transaction and never kept with it."""
        if request.operation != "claim" or "incarnation" not in result:
            return result
        asked = decode(wire.Claim, request.arguments, ARGUMENTS)
        if asked.others:  # their process reads all states in one transaction
            return {**result, "state": {}, "by_reference": True}
        state = lives.private_state(txn, self._node_entry(asked.node), INLINE_BYTES_MAX)
        return {**result, "state": state or {}, "by_reference": state is None}

    def _node_entry(self, id: str) -> NodeEntry:
        return node_entry_of(self.registry, id)

    # --- the runtime ------------------------------------------------------------------------------------------------

    def open(self, txn: WriteTxn, asked: wire.Open) -> wire.Opened:
        nodes = [dict(node) for node in asked.nodes]
        dropped: list[str] = []
        taps.clear(txn)  # of a run that was interrupted
        self._moves.forget()  # what waits is distributed anew, and keeps its places
        if asked.as_applied:
            registry = lives.load(txn)
            even_out(txn, self.space, registry)
            put_in_force(txn, {**in_force(txn), "digest": asked.digest, "changing": ""})
        else:
            if asked.resume:
                rename(txn, nodes, asked.rename)
                refuse_losses(txn, nodes, asked.drop)
            old = lives.load(txn)
            dropped = reconcile(txn, nodes)
            registry = lives.register(txn, nodes)
            adapt(txn, old, registry)
            partitions = {node["id"]: node.get("partition", "") for node in asked.nodes}
            dropped += rescale(txn, self.space, old, registry, partitions)
            private.convert(txn, (node_entry.number for node_entry in registry.values()))
            record = {"dataflow": asked.dataflow, "leaving": "", "file": asked.file, "digest": asked.digest,
                      "changing": "", "changes": 0, "scaled": {}}  # fmt: skip
            put_in_force(txn, {"version": 0, **in_force(txn), **record, "applied": False})
        resumed = txn.get(keys.fact("resumed"))
        txn.put(keys.fact("fingerprint"), msgpack.packb(asked.fingerprint))
        txn.delete(keys.STOP_ALL)
        if asked.resume:
            lives.reopen(txn, registry)
            self.space.advance_clock(txn)
        self.state.sow(txn, self.seeds)
        states = {node_entry.id: lives.status(txn, node_entry) for node_entry in registry.values()}
        return {
            "numbers": numbers_of(registry),
            "leaving": [id for id, node_entry in registry.items() if node_entry.leaves],
            "drains": [id for id, node_entry in registry.items() if node_entry.leaves or node_entry.leaving],
            "ports": changes.ports_of(txn, registry),
            "ended": [id for id, status in states.items() if status == records.ENDED],
            "failed": [id for id, status in states.items() if status == records.FAILED],
            "dropped": dropped,
            "resumed": msgpack.unpackb(resumed) if resumed else {},
        }

    def claim(self, txn: WriteTxn, asked: wire.Claim) -> Result:
        self.space.reader_check()
        first = self._node_entry(asked.node)
        others = [(self._node_entry(member.node), member) for member in asked.others]
        hands = [Hand(first.number, *hand) for hand in asked.hands]
        hands += [Hand(node_entry.number, *hand) for node_entry, member in others for hand in member.hands]
        return lives.claim(
            txn,
            self.space,
            self.registry,
            {first.id: asked.max_attempts, **{member.node: member.max_attempts for member in asked.others}},
            cause=asked.cause,
            counts=asked.counts,
            hands=hands,
            trace=asked.trace,
        )

    def end(self, txn: WriteTxn, asked: wire.End) -> Result:
        self.space.reader_check()
        error = asked.error if asked.failed else None
        entries = [self._node_entry(id) for id in (asked.node, *asked.others)]
        for node_entry in entries:
            watches.forget(txn, node_entry.number)
        lives.end(txn, self.space, self.registry, entries, failed=error)
        return {}

    def revive(self, txn: WriteTxn, asked: wire.NodeOf) -> Result:
        for node_entry in [self._node_entry(id) for id in (asked.node, *asked.others)]:
            if not asked.others or lives.status(txn, node_entry) == records.FAILED:  # one that has ended stays so
                lives.revive(txn, self.registry, node_entry)
        return {}

    def taps_clear(self, txn: WriteTxn, asked: wire.Nothing) -> Result:
        """The tap server has ended, perhaps in the middle of something."""
        self.space.reader_check()
        taps.clear(txn)
        return {}

    def queues(self, txn: ReadTxn, asked: wire.Nothing) -> wire.Queues:
        return {"nodes": lives.queues(txn, self.registry)}

    def touch(self) -> Result:
        """Nothing is written, so that it works in a full space."""
        with self.space.write() as txn:
            self.space.reader_check()
            self._wake_watchers(txn)
        return {}

    def _wake_watchers(self, txn: ReadTxn) -> None:
        """Who was killed between commit and ring has not rung those who watch what it wrote."""
        self.state.rings |= watches.watching(txn)

    def figures(self, txn: ReadTxn, asked: wire.Nothing) -> wire.Figures:
        nodes = lives.figures(txn, self.registry)
        for id, figures in nodes.items():
            dead = counts(txn, self.registry[id].number)
            for name, item in figures["inputs"].items():
                item["dead"] = dead.get(name, 0)
            figures["dead_letters"] = sum(dead.values())
        return {
            "nodes": nodes,
            "used_bytes": self.space.used_bytes(),
            "size_bytes": self.space.size_bytes,
            "readers": self.space.readers(),
            "run_id": self.space.outbox_id,
        }

    def resumed(self, txn: ReadTxn, asked: wire.Nothing) -> wire.Resumed:
        """The snapshot that the space was made from. Raises StoreError when there is none."""
        about = txn.get(keys.fact("resumed"))
        if about is None:
            raise StoreError("this space was not made from a snapshot")
        found: wire.Resumed = msgpack.unpackb(about)
        return found

    # --- housekeeping -----------------------------------------------------------------------------------------------

    def housekeeping(self, purge: bool) -> None:
        """What has to be done now and then. Never raises for want of room: there will be a next time."""
        self.space.reader_check()
        self._reserve()
        self._looked += 1
        with contextlib.suppress(StoreError):
            with self.space.read() as txn:
                short = self.space.used_share(txn) > MARK_NEW_WORK
            if self._looked % FORGET_EVERY == 0 or (short and self._looked % SHORT_EVERY == 0):
                self._forget_clients(short)
        if purge:
            with contextlib.suppress(StoreError):
                self.purge()

    def _forget_clients(self, short: bool) -> None:
        """Results of requests are kept for an hour: a client that is answered in none has long given up.

        A large one takes room that messages need: it is let go after a minute, when the space is `short` of room after
        some seconds. That the request was carried out stays known.
        """
        now_ns = self.space.now_ns()
        old: list[bytes] = []
        large: list[tuple[bytes, int]] = []
        with self.space.read() as txn:
            for key, last in scan(txn, keys.REQUEST_PREFIX):
                at_ns = int.from_bytes(last[-8:], "big")  # a time in nanoseconds is packed into the last 8 bytes
                age_s = (now_ns - at_ns) / 1e9
                if age_s > CLIENT_KEPT_S:
                    old.append(key)
                elif len(last) > LARGE_RESULT_BYTES and age_s > (SHORT_KEPT_S if short else LARGE_KEPT_S):
                    large.append((key, at_ns))
        if old or large:
            with self.space.write() as txn:
                for key in old[:CLIENTS_FORGOTTEN]:
                    txn.delete(key)
                for key, at_ns in large[:CLIENTS_FORGOTTEN]:
                    found = txn.get(key)
                    if found is not None and int.from_bytes(found[-8:], "big") == at_ns:
                        number = msgpack.unpackb(found, strict_map_key=False)[0]
                        txn.put(key, msgpack.packb([number, None, at_ns]))

    def purge(self) -> bool:
        """A bounded step of turning what has expired into deletions; whether there is more."""
        with self.space.write() as txn:
            return self.state.purge(txn) == PURGE_STEP

    def _reserve(self) -> None:
        """Keep some memory behind the last page allocated: in a tmpfs that others fill up, deleting needs pages too."""
        last_page = self.space.last_page()
        end = min((last_page + 1) * self.space.page_bytes + RESERVE_BYTES, self.space.size_bytes)
        path = self.space.folder / "data.mdb"
        start = path.stat().st_blocks * 512
        if start >= end:
            return
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            while end > start:
                try:
                    os.posix_fallocate(fd, 0, end)
                    return
                except OSError:  # as much as there is
                    end = (start + end) // 2 // self.space.page_bytes * self.space.page_bytes
        finally:
            os.close(fd)
