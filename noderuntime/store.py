"""The store process: owns the space, and does to it all that no event does.

It creates the space, gives numbers to nodes, makes claims and endings at the runtime's request, removes the reader
slots of killed processes, purges what has expired, keeps the last reserve of memory allocated, and answers whoever has
no LMDB at hand. It may be killed at any time: the space stays, and children go on committing.

Operations (Request.operation; arguments -> result). Writing ones commit together with the record of the request, so
one that is repeated after a kill counts once:

    open       nodes, fingerprint, fresh, resume -> numbers, ended, failed, dropped, resumed
    claim      node, cause, counts, hands, max_attempts, trace -> incarnation, state, by_reference, attempts, buried
               | ended
    end        node, failed, error -> {}
    touch      -> {}                                    takes the write lock once: see below
    figures    -> nodes, used_bytes, size_bytes, readers
    state_ls   scope, prefix -> keys, more              scope: "shared" or a node id; more: there are too many for one
    state_get  scope, key -> value, revision
    state_set  scope, key, value -> revision
    state_rm   scope, key -> removed
    letters_*                                           see store_letters.py
    quit       -> {}                                    ends the process

Those of store_snapshot.py belong to them when the run keeps snapshots.

Why `touch`: LMDB can be killed between writing its meta page and publishing the transaction's id. Then no reader sees
that commit until somebody takes the write lock; so somebody does, after every death, before neighbours are rung.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack

from noderuntime import doorbell
from noderuntime.channel import Router
from noderuntime.errors import NodeRuntimeError, NotRunning, ProtocolError, StoreError, StoreFull
from noderuntime.protocol import VERSION, Reply, Request
from noderuntime.rundir import RunDir
from noderuntime.snapshot.restore import restore_newest
from noderuntime.snapshot.settings import Settings
from noderuntime.space import claims, keys, records, shared
from noderuntime.space.claims import Graph, Vertex
from noderuntime.space.letters import counts
from noderuntime.space.reconcile import adapt, reconcile
from noderuntime.space.space import MARK_NEW_WORK, Space, create, open_space, scan
from noderuntime.store_letters import LetterOperations
from noderuntime.store_snapshot import Snapshots, say

INLINE_BYTES_MAX = 256 * 1024  # of private state in a claim's result; larger states are read in the space
HOUSEKEEPING_S = 1.0
RESERVE_BYTES = 4 << 20
LISTING_BYTES_MAX = 8 << 20

Arguments = dict[str, Any]
Result = dict[str, Any]


class Store:
    """The operations on an open space. `changes` name those that write: they run in one transaction."""

    def __init__(self, space: Space) -> None:
        self.space = space
        with space.read() as txn:
            self.graph: Graph = claims.load(txn)
        self.outside: dict[str, Callable[[Arguments], Result]] = {}  # neither: they need no transaction of the space
        self.letters = LetterOperations(space, lambda: self.graph, self._vertex)
        self.changes: dict[str, Callable[[Any, Arguments], Result]] = {
            "open": self.open,
            "claim": self.claim,
            "end": self.end,
            "state_set": self.state_set,
            "state_rm": self.state_rm,
            **self.letters.changes,
        }
        self.queries: dict[str, Callable[[Any, Arguments], Result]] = {
            "figures": self.figures,
            "state_ls": self.state_ls,
            "state_get": self.state_get,
            **self.letters.queries,
        }

    def handle(self, request: Request) -> Reply:
        """Carry out one request. Errors of ours become replies that name their class."""
        try:
            if request.version != VERSION:
                raise ProtocolError(f"protocol version {request.version}; this store speaks {VERSION}")
            result = self._carry_out(request)
            self._ring()
            return Reply(request.number, result, "", "")
        except NodeRuntimeError as error:
            return Reply(request.number, {}, type(error).__name__, str(error))
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, struct.error) as error:
            text = f"{request.operation}: wrong arguments ({type(error).__name__}: {error})"
            return Reply(request.number, {}, "ProtocolError", text)

    def _carry_out(self, request: Request) -> Result:
        outside = self.outside.get(request.operation)
        if outside is not None:
            return outside(request.arguments)
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
            number, result = msgpack.unpackb(last, strict_map_key=False) if last is not None else (0, {})
            if last is not None and number > request.number:
                raise ProtocolError(f"request {request.number} of {request.client}: its last is {number}")
            if last is None or number < request.number:
                result = change(txn, request.arguments)
                txn.put(key, msgpack.packb([request.number, result]))
            result = self._complete(txn, request, result)
        if request.operation == "open":  # not before it is committed
            with self.space.read() as txn:
                self.graph = claims.load(txn)
        return result

    def _ring(self) -> None:
        """Wake the nodes that were given something; one whose bell is not there yet will look when it begins."""
        while self.letters.rings:
            path = RunDir(self.space.folder.parent).bell(self.letters.rings.pop())
            with contextlib.suppress(OSError):
                bell = doorbell.open_bell(path)
                doorbell.ring(bell)
                os.close(bell)

    def _complete(self, txn: Any, request: Request, result: Result) -> Result:
        """A claim's result with the state, which is read in the claim's own transaction and never kept with it."""
        if request.operation != "claim" or "incarnation" not in result:
            return result
        state = claims.private_state(txn, self._vertex(request.arguments))
        by_reference = sum(len(key) + len(value) for key, value in state.items()) > INLINE_BYTES_MAX
        return {**result, "state": {} if by_reference else state, "by_reference": by_reference}

    def _vertex(self, arguments: Arguments, field: str = "node") -> Vertex:
        vertex = self.graph.get(arguments[field])
        if vertex is None:
            known = ", ".join(self.graph)
            raise NotRunning(f"this run has no node {arguments[field]!r}", f"Its nodes: {known}")
        return vertex

    # --- the runtime ------------------------------------------------------------------------------------------------

    def open(self, txn: Any, arguments: Arguments) -> Result:
        old = claims.load(txn)
        dropped = reconcile(txn, arguments["nodes"])
        graph = claims.register(txn, arguments["nodes"])
        adapt(txn, old, graph)
        resumed = txn.get(keys.fact("resumed"))
        txn.put(keys.fact("fingerprint"), msgpack.packb(arguments["fingerprint"]))
        txn.delete(keys.STOP_ALL)
        if arguments["resume"]:
            claims.reopen(txn, graph)
        states = {vertex.id: claims.status(txn, vertex) for vertex in graph.values()}
        numbers = {
            vertex.id: {
                "number": vertex.number,
                "inputs": {name: number for name, (number, _) in vertex.inputs.items()},
                "outputs": vertex.outputs,
            }
            for vertex in graph.values()
        }
        return {
            "numbers": numbers,
            "ended": [id for id, status in states.items() if status == records.ENDED],
            "failed": [id for id, status in states.items() if status == records.FAILED],
            "dropped": dropped,
            "resumed": msgpack.unpackb(resumed) if resumed else {},
        }

    def claim(self, txn: Any, arguments: Arguments) -> Result:
        self.space.env.reader_check()
        return claims.claim(
            txn,
            self.space,
            self.graph,
            self._vertex(arguments),
            cause=arguments["cause"],
            counts=bool(arguments["counts"]),
            hands=[(int(i), int(s), int(n)) for i, s, n in arguments["hands"]],
            attempts_max=int(arguments["max_attempts"]),
            trace=arguments["trace"],
        )

    def end(self, txn: Any, arguments: Arguments) -> Result:
        self.space.env.reader_check()
        error = arguments["error"] if arguments["failed"] else None
        claims.end(txn, self.space, self.graph, self._vertex(arguments), failed=error)
        return {}

    def touch(self) -> Result:
        """Nothing is written, so that it works in a full space."""
        with self.space.write():
            self.space.env.reader_check()
        return {}

    def figures(self, txn: Any, arguments: Arguments) -> Result:
        nodes = claims.figures(txn, self.graph)
        for id, figures in nodes.items():
            dead = counts(txn, self.graph[id].number)
            for name, item in figures["inputs"].items():
                item["dead"] = dead.get(name, 0)
            figures["dead_letters"] = sum(dead.values())
        return {
            "nodes": nodes,
            "used_bytes": self.space.used_bytes(),
            "size_bytes": self.space.size_bytes,
            "readers": self.space.env.info()["num_readers"],
        }

    # --- state, for the command line --------------------------------------------------------------------------------

    def state_ls(self, txn: Any, arguments: Arguments) -> Result:
        prefix = arguments.get("prefix", "").encode()
        listed: Iterator[tuple[bytes, int, int]]
        if arguments["scope"] == "shared":
            entries = shared.entries(txn, prefix, self.space.now_ns())
            listed = ((key, len(entry.value), entry.revision) for key, entry in entries)
        else:
            own = keys.private_prefix(self._vertex(arguments, "scope").number)
            listed = (
                (key[len(own) :], len(value) - records.PRIVATE_BYTES, *records.PRIVATE.unpack_from(value))
                for key, value in scan(txn, own + prefix)
            )
        found: list[list[Any]] = []
        room = LISTING_BYTES_MAX
        for key, size, revision in listed:
            room -= len(key) + 24
            if room < 0:
                return {"keys": found, "more": True}
            found.append([key.decode(), size, revision])
        return {"keys": found, "more": False}

    def state_get(self, txn: Any, arguments: Arguments) -> Result:
        key = keys.user_key(arguments["key"])
        if arguments["scope"] == "shared":
            entry = shared.read(txn, key, self.space.now_ns())
            return {"value": entry and entry.value, "revision": entry.revision if entry else 0}
        value = txn.get(keys.private_prefix(self._vertex(arguments, "scope").number) + key)
        if value is None:
            return {"value": None, "revision": 0}
        (sequence,) = records.PRIVATE.unpack_from(value)
        return {"value": value[records.PRIVATE_BYTES :], "revision": sequence}

    def state_set(self, txn: Any, arguments: Arguments) -> Result:
        key = keys.user_key(arguments["key"])
        value = shared.check_value(f"the value of {arguments['key']!r}", arguments["value"])
        sequence = self.space.base + txn.id()
        self._refuse_when_full(txn)
        if arguments["scope"] == "shared":
            shared.write(txn, shared.SharedWrite(key, value), sequence, self.space.now_ns(), 0)
        else:
            own = keys.private_prefix(self._vertex(arguments, "scope").number)
            txn.put(own + key, records.PRIVATE.pack(sequence) + value)
        return {"revision": sequence}

    def state_rm(self, txn: Any, arguments: Arguments) -> Result:
        key = keys.user_key(arguments["key"])
        if arguments["scope"] == "shared":
            return {"removed": txn.delete(keys.shared(key))}
        return {"removed": txn.delete(keys.private_prefix(self._vertex(arguments, "scope").number) + key)}

    def _refuse_when_full(self, txn: Any) -> None:
        if self.space.used_share(txn) > MARK_NEW_WORK:
            raise StoreFull(self.space.size_bytes, self.space.used_bytes())

    # --- housekeeping -----------------------------------------------------------------------------------------------

    def housekeeping(self, purge: bool) -> None:
        """What has to be done now and then. Never raises for want of room: there will be a next time."""
        self.space.env.reader_check()
        self._reserve()
        if purge:
            with contextlib.suppress(StoreError), self.space.write() as txn:
                shared.purge(txn, self.space.now_ns())

    def _reserve(self) -> None:
        """Keep some memory behind the last page allocated: in a tmpfs that others fill up, deleting needs pages too."""
        last_page = self.space.env.info()["last_pgno"]
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


class Refusing:
    """In the place of a Store that cannot be: answers every request with the reason."""

    def __init__(self, error: NodeRuntimeError) -> None:
        self._error = error

    def handle(self, request: Request) -> Reply:
        return Reply(request.number, {}, type(self._error).__name__, str(self._error))

    def housekeeping(self, purge: bool) -> None:
        pass


def serve(store: Store | Refusing, router: Router, purge_interval_s: float, snapshots: Snapshots | None = None) -> int:
    """Answer until `quit` comes."""
    next_purge = time.monotonic() + purge_interval_s
    next_housekeeping = time.monotonic()
    while True:
        now = time.monotonic()
        if now >= next_housekeeping:
            store.housekeeping(purge=now >= next_purge)
            if now >= next_purge:
                next_purge = now + purge_interval_s
            next_housekeeping = now + HOUSEKEEPING_S
        due = next_housekeeping
        if snapshots is not None:
            snapshots.tick()
            due = min(due, snapshots.due_s)
        found = router.receive(max(0.0, due - time.monotonic()))
        while found is not None:
            identity, message = found
            if isinstance(message, Request):
                if message.operation == "quit":
                    router.send(identity, Reply(message.number, {}, "", ""))
                    return 0
                router.send(identity, store.handle(message))
            found = router.receive_nowait()


def main(argv: list[str] | None = None) -> int:
    """`python -m noderuntime.store RUN_DIR --size BYTES`: create or open the space, and serve it."""
    parser = argparse.ArgumentParser(prog="noderuntime.store")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--size", type=int, default=1_000_000_000)
    parser.add_argument("--purge-interval", type=float, default=60.0)
    parser.add_argument("--history", type=int, default=10_000)
    parser.add_argument("--snapshots", type=Path, help="settings of the snapshots, see snapshot/settings.py")
    parser.add_argument("--resume", action="store_true", help="when there is no space, make it from a snapshot")
    parser.add_argument("--from", dest="from_snapshot", type=int, help="from this one")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run_dir = RunDir(options.run_dir)
    settings = Settings.read(options.snapshots) if options.snapshots else None
    snapshots = None
    space = None
    store: Store | Refusing
    try:
        resumed = _make_space(run_dir, options, settings)
        space = open_space(run_dir.space)
        store = Store(space)
        if settings is not None:
            snapshots = Snapshots(space, settings, resumed, say)
            store.outside.update(snapshots.operations)
    except NodeRuntimeError as error:
        store = Refusing(error)
    with Router(run_dir.store_socket) as router:
        code = serve(store, router, options.purge_interval, snapshots)
    if snapshots is not None:
        snapshots.close()
    if space is not None:
        space.close()
    return code


def _make_space(run_dir: RunDir, options: argparse.Namespace, settings: Settings | None) -> bool:
    """Make the space when it is not there: from a snapshot if that was asked for. Whether its history goes on."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    is_there = (run_dir.space / "data.mdb").exists()
    restored = None
    if not is_there and options.resume and settings is not None:
        backend = settings.open()
        try:
            restored = restore_newest(backend, run_dir.space, options.size, boot_id, options.from_snapshot)
        finally:
            backend.close()
    space = create(run_dir.space, options.size, boot_id)
    space.close()
    return is_there or restored is not None


if __name__ == "__main__":
    sys.exit(main())
