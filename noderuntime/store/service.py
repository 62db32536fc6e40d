"""The store process: owns the space, and does to it all that no event does.

It creates the space, gives numbers to nodes, makes claims and endings at the runtime's request, removes the reader
slots of killed processes, purges what has expired, keeps the last reserve of memory allocated, and answers whoever has
no LMDB at hand. It may be killed at any time: the space stays, and children go on committing.

Operations (Request.operation; arguments -> result). Writing ones commit together with the record of the request, so
one that is repeated after a kill counts once:

    open       nodes, fingerprint, fresh, resume, drop, rename -> numbers, ended, failed, dropped, resumed
    claim      node, cause, counts, hands, max_attempts, trace -> incarnation, state, by_reference, attempts, buried
               | ended
    end        node, failed, error -> {}
    revive     node -> {}                               of a failed or ended node, before its next claim
    touch      -> {}                                    takes the write lock once: see below
    queues     -> nodes                                 {id: {input: [messages, bytes, 1 if anything waits]}}
    figures    -> nodes, used_bytes, size_bytes, readers
    resumed    -> number, created_ns, skipped           the snapshot that the space was made from
    state_*, kvs_*, node_*                              see store_state.py, store_nodes.py and docs/store-api.md
    letters_*                                           see store_letters.py
    outbox     -> first, trouble                        of what waits for a State outside the space; "": nothing does
    quit       -> {}                                    ends the process

Those of store_snapshot.py belong to them when the run keeps snapshots.

Why `touch`: LMDB can be killed between writing its meta page and publishing the transaction's id. Then no reader sees
that commit until somebody takes the write lock; so somebody does, after every death, before neighbours are rung.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from noderuntime.errors import NodeRuntimeError, ProtocolError, StoreError
from noderuntime.ipc import doorbell
from noderuntime.ipc.boundary import Boundary, describe
from noderuntime.ipc.channel import Router
from noderuntime.ipc.process import die_with_parent
from noderuntime.ipc.protocol import VERSION, Edge, Reply, Request, refusal
from noderuntime.ipc.rundir import RunDir
from noderuntime.snapshot.restore import restore_newest
from noderuntime.snapshot.settings import Settings
from noderuntime.space import keys, lives, outbox, records, watches
from noderuntime.space.dead_letters import counts
from noderuntime.space.environment import BROKEN, MARK_NEW_WORK, Space, create, open_space, scan
from noderuntime.space.kvs import PURGE_STEP, ttl_to_ns
from noderuntime.space.lives import NodeEntry, Registry
from noderuntime.space.reconcile import adapt, reconcile, refuse_losses, rename
from noderuntime.space.transactions import ReadTxn, WriteTxn
from noderuntime.state.seeds import Seed
from noderuntime.store.dead_letters import LetterOperations
from noderuntime.store.external import Forward, is_forwarded
from noderuntime.store.kvs import StateOperations, node_entry_of, set_limits
from noderuntime.store.parked import Waits, WatchKeys
from noderuntime.store.remote_nodes import NextEvents, Nodes, SendMessages
from noderuntime.store.snapshots import Snapshots, say
from noderuntime.store.startup import Start

INLINE_BYTES_MAX = 256 * 1024  # of private state in a claim's result; larger states are read in the space
HOUSEKEEPING_S = 1.0
RESERVE_BYTES = 4 << 20
OUTBOX_WITHIN_S = 5.0
CLIENT_KEPT_S = 3600
CLIENTS_FORGOTTEN = 1000  # at once
FORGET_EVERY = 60  # times of housekeeping
SHORT_EVERY = 5  # while the space is short of room
LARGE_RESULT_BYTES = 4096
LARGE_KEPT_S = 60
SHORT_KEPT_S = 10  # some repetitions of a client that waits for its answer
DEATHS = ("claim", "end", "touch")

Arguments = dict[str, Any]
Result = dict[str, Any]


class Store:
    """The operations on an open space. `changes` name those that write: they run in one transaction."""

    def __init__(self, space: Space) -> None:
        self.space = space
        with space.read() as txn:
            self.registry: Registry = lives.load(txn)
        self.actions: dict[str, Callable[[Arguments], Result]] = {}  # that keep their own books
        self._looked = 0
        self.seeds: dict[str, Seed] = {}
        self.state = StateOperations(space, lambda id: node_entry_of(self.registry, id))
        self.letters = LetterOperations(space, lambda: self.registry, self._node_entry)
        self.changes: dict[str, Callable[[WriteTxn, Arguments], Result]] = {
            "open": self.open,
            "claim": self.claim,
            "end": self.end,
            "revive": self.revive,
            **self.state.changes,
            **self.letters.changes,
        }
        self.queries: dict[str, Callable[[ReadTxn, Arguments], Result]] = {
            "figures": self.figures,
            "queues": self.queues,
            "resumed": self.resumed,
            **self.state.queries,
            **self.letters.queries,
        }

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
        except Exception as error:  # arguments can be wrong in more ways than anybody has listed
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
        if request.operation == "open":  # not before it is committed
            with self.space.read() as txn:
                self.registry = lives.load(txn)
        return result

    def _complete(self, txn: ReadTxn, request: Request, result: Result) -> Result:
        """A claim's result with the state, which is read in the claim's own transaction and never kept with it."""
        if request.operation != "claim" or "incarnation" not in result:
            return result
        state = lives.private_state(txn, self._node_entry(request.arguments))
        by_reference = sum(len(key) + len(value) for key, value in state.items()) > INLINE_BYTES_MAX
        return {**result, "state": {} if by_reference else state, "by_reference": by_reference}

    def _node_entry(self, arguments: Arguments) -> NodeEntry:
        return node_entry_of(self.registry, arguments["node"])

    # --- the runtime ------------------------------------------------------------------------------------------------

    def open(self, txn: WriteTxn, arguments: Arguments) -> Result:
        if arguments["resume"]:
            rename(txn, arguments["nodes"], arguments.get("rename", {}))
            refuse_losses(txn, arguments["nodes"], arguments.get("drop", []))
        old = lives.load(txn)
        dropped = reconcile(txn, arguments["nodes"])
        registry = lives.register(txn, arguments["nodes"])
        adapt(txn, old, registry)
        resumed = txn.get(keys.fact("resumed"))
        txn.put(keys.fact("fingerprint"), msgpack.packb(arguments["fingerprint"]))
        txn.delete(keys.STOP_ALL)
        if arguments["resume"]:
            lives.reopen(txn, registry)
            self.space.advance_clock(txn)
        self.state.sow(txn, self.seeds)
        states = {node_entry.id: lives.status(txn, node_entry) for node_entry in registry.values()}
        numbers = {
            node_entry.id: {
                "number": node_entry.number,
                "inputs": {name: number for name, (number, _) in node_entry.inputs.items()},
                "outputs": node_entry.outputs,
            }
            for node_entry in registry.values()
        }
        return {
            "numbers": numbers,
            "ended": [id for id, status in states.items() if status == records.ENDED],
            "failed": [id for id, status in states.items() if status == records.FAILED],
            "dropped": dropped,
            "resumed": msgpack.unpackb(resumed) if resumed else {},
        }

    def claim(self, txn: WriteTxn, arguments: Arguments) -> Result:
        self.space.reader_check()
        return lives.claim(
            txn,
            self.space,
            self.registry,
            self._node_entry(arguments),
            cause=arguments["cause"],
            counts=bool(arguments["counts"]),
            hands=[(int(i), int(s), int(n)) for i, s, n in arguments["hands"]],
            attempts_max=int(arguments["max_attempts"]),
            trace=arguments["trace"],
        )

    def end(self, txn: WriteTxn, arguments: Arguments) -> Result:
        self.space.reader_check()
        error = arguments["error"] if arguments["failed"] else None
        watches.forget(txn, self._node_entry(arguments).number)
        lives.end(txn, self.space, self.registry, self._node_entry(arguments), failed=error)
        return {}

    def revive(self, txn: WriteTxn, arguments: Arguments) -> Result:
        lives.revive(txn, self.registry, self._node_entry(arguments))
        return {}

    def queues(self, txn: ReadTxn, arguments: Arguments) -> Result:
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

    def figures(self, txn: ReadTxn, arguments: Arguments) -> Result:
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
        }

    def resumed(self, txn: ReadTxn, arguments: Arguments) -> Result:
        """Of the snapshot that the space was made from: number, created_ns, and texts about newer ones that are bad."""
        about = txn.get(keys.fact("resumed"))
        if about is None:
            raise StoreError("this space was not made from a snapshot")
        found: Result = msgpack.unpackb(about)
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


def refuse(error: NodeRuntimeError, router: Router) -> int:
    """In the place of a store that cannot be: answer every request with the reason, until `quit` comes."""
    while True:
        found = router.receive(HOUSEKEEPING_S)
        if found is None:
            continue
        identity, request = found
        if not isinstance(request, Request):
            continue
        if request.operation == "quit":
            router.send(identity, Reply(request.number, {}, "", ""))
            return 0
        router.send(identity, refusal(request.number, request.operation, error))


class Service:
    """The loop: answers requests, rings bells, and does what has to be done now and then."""

    def __init__(
        self,
        store: Store,
        router: Router,
        run_dir: RunDir,
        purge_interval_s: float,
        spec: dict[str, Any] | None,
        snapshots: Snapshots | None,
    ) -> None:
        self.store = store
        self._snapshots = snapshots
        self.waits = Waits(self._send)
        self._router = router
        self._purge_interval_s = purge_interval_s
        self._watch = WatchKeys(store.space, store.state.watch)
        self.waits.operations["kvs_watch"] = self._watch
        self._poller = select.poll()
        self._boundary = Boundary(say, passes=BROKEN)  # whatever a client asks, a kind does, or a bell cannot do
        self._nodes = Nodes(run_dir, store.space, lambda: store.registry, self._poll_nodes)
        store.actions["node_open"] = self._nodes.open
        store.actions["node_part"] = self._nodes.part
        self._node_bells: list[int] = []
        self.waits.operations["node_next"] = NextEvents(self._nodes)
        self.waits.operations["node_send"] = SendMessages(self._nodes)
        doorbell.create(run_dir.bell(watches.STORE))
        self._bell = doorbell.open_bell(run_dir.bell(watches.STORE))
        self._bells = doorbell.Bells(run_dir, {watches.STORE: self._bell})
        place = None if snapshots is None else snapshots.settings
        self._start = Start(store.space, spec, purge_interval_s, lambda: doorbell.ring(self._bell), place)
        store.queries["outbox"] = self._outbox
        self._forward: Forward | None = None
        self._early: dict[tuple[str, int], tuple[bytes, Request]] = {}  # what has to wait until the start is over

    def run(self) -> int:
        """Answer until `quit` comes."""
        self._poller.register(self._router.fd, select.POLLIN)
        self._poller.register(self._bell, select.POLLIN)
        next_purge = time.monotonic() + self._purge_interval_s
        next_housekeeping = time.monotonic()
        while True:
            now = time.monotonic()
            call = self._boundary.call
            if now >= next_housekeeping:
                next_housekeeping = now + HOUSEKEEPING_S
                call("housekeeping", self.store.housekeeping, False)
                call("housekeeping", self._watch.tidy)
            if now >= next_purge:
                next_purge = now if self._purge() else now + self._purge_interval_s
            for bell in (self._bell, *self._node_bells):
                doorbell.drain(bell)
            call("requests that wait", self.waits.look)
            if self._start.outside is not None:
                self._start.outside.poke()
            while self._forward is not None and self._forward.replies:
                self._send(*self._forward.replies.popleft())
            if self._early and self._start.ready.is_set():
                early, self._early = self._early, {}
                for identity, request in early.values():
                    self._take(identity, request)
            call("ringing", self._bells.ring, self.store.state.taken_rings())
            if not self._answer():
                return 0
            due = min(next_housekeeping, next_purge, self.waits.next_deadline)
            if self._snapshots is not None:
                call("snapshots", self._snapshots.tick)
                due = min(due, self._snapshots.due_s)
            self._poller.poll(max(0.0, due - time.monotonic()) * 1000)

    def _answer(self) -> bool:
        """Take all requests that are there; False once `quit` has come."""
        while (found := self._router.receive_nowait()) is not None:
            identity, message = found
            if not isinstance(message, Request):
                continue
            if message.operation == "quit":
                self._send(identity, Reply(message.number, {}, "", ""))
                return False
            self._take(identity, message)
        return True

    def _take(self, identity: bytes, request: Request) -> None:
        error = self._boundary.call(f"a request {request.operation[:40]!r}", self._take_any, identity, request)
        if error is not None:
            self._send(identity, refusal(request.number, request.operation, error))

    def _take_any(self, identity: bytes, request: Request) -> None:
        elsewhere = self._start.elsewhere and is_forwarded(request) and request.version == VERSION
        if (elsewhere or request.operation == "open") and not self._start.ready.is_set():
            self._early[request.client, request.number] = identity, request
        elif elsewhere:
            self._pass_on(identity, request)
        elif request.operation in self.waits.operations and request.version == VERSION:
            self.waits.take(identity, request)
        else:
            self._handle(identity, request)

    def _pass_on(self, identity: bytes, request: Request) -> None:
        """To the State outside the space; never to the shared KVS in it, which is another store."""
        forward = self._forwarding()
        error = self._start.error
        if forward is not None:
            forward.take(identity, request)
        elif error is not None:
            self._send(identity, Reply(request.number, {}, type(error).__name__, str(error)))

    def _handle(self, identity: bytes, request: Request) -> None:
        if request.operation == "open":
            error = self._start.error
            if error is not None:
                self._send(identity, Reply(request.number, {}, type(error).__name__, str(error)))
                return
            self.store.seeds = self._start.seeds
        if request.operation in ("claim", "end"):
            self._nodes.forget(str(request.arguments.get("node", "")))
        reply = self.store.handle(request)
        # what was committed is answered, whether its receivers can be rung or not
        self._boundary.call("ringing", self._bells.ring, self.store.state.taken_rings())
        self._send(identity, reply)

    def _send(self, identity: bytes, reply: Reply) -> None:
        self._boundary.call("sending a reply", self._send_or_refuse, identity, reply)

    def _send_or_refuse(self, identity: bytes, reply: Reply) -> None:
        try:
            self._router.send(identity, reply)
        except ProtocolError as error:  # more than a frame holds
            self._router.send(identity, Reply(reply.number, {}, "ProtocolError", f"the result is too large: {error}"))

    def _purge(self) -> bool:
        more = False

        def purge() -> None:
            nonlocal more
            with contextlib.suppress(StoreError):  # no room: there will be a next time
                more = self.store.purge()

        self._boundary.call("purging", purge)
        return more

    def _outbox(self, txn: ReadTxn, arguments: Arguments) -> Result:
        """The first of the writes that wait for the State outside the space, and why they do."""
        outside = self._start.outside
        trouble = str(self._start.error or "") if outside is None else outside.trouble
        return {"first": outbox.first(txn).hex(), "trouble": trouble}

    def _forwarding(self) -> Forward | None:
        """Where requests about shared state go when that is outside the space."""
        if self._forward is None and self._start.state is not None:
            run = self.store.space.outbox_id
            self._forward = Forward(self._start.state, lambda: doorbell.ring(self._bell), run)
        return self._forward

    def _poll_nodes(self) -> None:
        """Nodes have come or gone: poll the bells of those that are there."""
        for bell in self._node_bells:
            with contextlib.suppress(KeyError):
                self._poller.unregister(bell)
        self._node_bells = self._nodes.bells
        for bell in self._node_bells:
            self._poller.register(bell, select.POLLIN)

    def close(self) -> None:
        self._nodes.close()
        if self._forward is not None:
            self._forward.close()
        self._start.close(OUTBOX_WITHIN_S)
        self._bells.close()
        os.close(self._bell)


def main(argv: list[str] | None = None) -> int:
    """`python -m noderuntime.store.service RUN_DIR --size BYTES`: create or open the space, and serve it."""
    parser = argparse.ArgumentParser(prog="noderuntime.store.service")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--size", type=int, default=1_000_000_000)
    parser.add_argument("--purge-interval", type=float, default=60.0)
    parser.add_argument("--history", type=int, help="changes kept; default: as before")
    parser.add_argument("--state", help="the `state:` section as JSON, see store_start.py; default: as before")
    parser.add_argument("--snapshots", type=Path, help="settings of the snapshots, see snapshot/settings.py")
    parser.add_argument("--resume", action="store_true", help="when there is no space, make it from a snapshot")
    parser.add_argument("--from", dest="from_snapshot", type=int, help="from this one")
    parser.add_argument("--parent", type=int, help="end when this process, which is our parent, has ended")
    options = parser.parse_args(argv)
    if options.parent is not None:
        die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run_dir = RunDir(options.run_dir)
    settings = Settings.read(options.snapshots) if options.snapshots else None
    spec = json.loads(options.state) if options.state else None
    with Router(run_dir.store_socket, Edge.CLIENT_TO_STORE) as router:
        try:
            resumed = _make_space(run_dir, options, settings)
            space = open_space(run_dir.space)
        except NodeRuntimeError as error:
            return refuse(error, router)
        with space.write() as txn:
            set_limits(txn, options.history, ttl_to_ns((spec or {}).get("ttl")))
        store = Store(space)
        store.letters.run_has_ended = options.parent is not None
        snapshots = None
        if settings is not None:
            snapshots = Snapshots(space, settings, resumed, say)
            store.actions.update(snapshots.operations)
        service = Service(store, router, run_dir, options.purge_interval, spec, snapshots)
        code = service.run()
        ending = Boundary(say)
        ending.call("the end of the store", service.close)
        if snapshots is not None:
            ending.call("the end of the snapshots", snapshots.close)
    space.close()
    return code


def _make_space(run_dir: RunDir, options: argparse.Namespace, settings: Settings | None) -> bool:
    """Make the space when it is not there: from a snapshot if that was asked for. Whether its history goes on."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    is_there = (run_dir.space / "data.mdb").exists()
    restored = None
    if not is_there and options.resume and settings is not None:
        try:
            backend = settings.open()
            try:
                restored = restore_newest(backend, run_dir.space, options.size, boot_id, options.from_snapshot)
            finally:
                backend.close()
        except (NodeRuntimeError, OSError):
            raise
        except Exception as error:  # of a backend that somebody else has written
            raise StoreError(f"the snapshots in {settings.to} cannot be read: {describe(error)}") from error
    space = create(run_dir.space, options.size, boot_id)
    space.close()
    return is_there or restored is not None


if __name__ == "__main__":
    sys.exit(main())
