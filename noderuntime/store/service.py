"""The store process: its sockets and its loop. What can be asked of it: see operations.py.

It owns the space: it gives numbers to nodes, makes claims and endings at the runtime's request, removes the reader
slots of killed processes, purges what has expired, keeps a reserve of memory allocated, and serves every client that
does not open the space. It may be killed at any time: the space stays, and the nodes continue to commit.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from functools import partial
from typing import Any

from noderuntime.errors import NodeRuntimeError, ProtocolError, StoreError
from noderuntime.ipc import doorbell
from noderuntime.ipc import store_records as wire
from noderuntime.ipc.boundary import Boundary
from noderuntime.ipc.channel import Router
from noderuntime.ipc.protocol import VERSION, Reply, Request, refusal
from noderuntime.ipc.rundir import RunDir
from noderuntime.ipc.typed import decode
from noderuntime.space import outbox, watches
from noderuntime.space.environment import BROKEN
from noderuntime.space.transactions import ReadTxn
from noderuntime.store.dispatch import ARGUMENTS, taking, taking_txn
from noderuntime.store.external import ExternalRequests, is_about_shared_state
from noderuntime.store.kvs_watch import WatchKeys
from noderuntime.store.operations import Store
from noderuntime.store.parked import Operation, WaitingRequests
from noderuntime.store.remote_nodes import NextEvents, Nodes, next_events, send_messages
from noderuntime.store.snapshots import Snapshots, say
from noderuntime.store.startup import Start

HOUSEKEEPING_S = 1.0
OUTBOX_WITHIN_S = 5.0


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


def _node_send(request: Request) -> wire.NodeSend:
    return decode(wire.NodeSend, request.arguments, ARGUMENTS)


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
        self.waits = WaitingRequests(self._send)
        self._router = router
        self._purge_interval_s = purge_interval_s
        self._watch = WatchKeys(store.space, store.state.watch)
        self.waits.operations["kvs_watch"] = self._watch.operation
        self._poller = select.poll()
        self._boundary = Boundary(say, passes=BROKEN)  # whatever a client asks, a kind does, or a bell cannot do
        self._nodes = Nodes(run_dir, store.space, lambda: store.registry, self._poll_nodes)
        store.actions["node_open"] = taking(wire.NodeOpen, self._nodes.open)
        store.actions["node_part"] = taking(wire.NodePart, self._nodes.part)
        self._node_bells: list[int] = []
        self.waits.operations["node_next"] = Operation(NextEvents.of, partial(next_events, self._nodes))
        self.waits.operations["node_send"] = Operation(_node_send, partial(send_messages, self._nodes))
        doorbell.create(run_dir.bell(watches.STORE))
        self._bell = doorbell.open_bell(run_dir.bell(watches.STORE))
        self._bells = doorbell.Bells(run_dir, {watches.STORE: self._bell})
        place = None if snapshots is None else snapshots.settings
        self._start = Start(store.space, spec, purge_interval_s, lambda: doorbell.ring(self._bell), place)
        store.queries["outbox"] = taking_txn(wire.Nothing, self._outbox)
        self._external: ExternalRequests | None = None
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
            if self._start.outbox is not None:
                self._start.outbox.poke()
            while self._external is not None and self._external.replies:
                self._send(*self._external.replies.popleft())
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
        external = self._start.is_external and is_about_shared_state(request) and request.version == VERSION
        if (external or request.operation == "open") and not self._start.ready.is_set():
            self._early[request.client, request.number] = identity, request
        elif external:
            self._take_external(identity, request)
        elif request.operation in self.waits.operations and request.version == VERSION:
            self.waits.take(identity, request)
        else:
            self._handle(identity, request)

    def _take_external(self, identity: bytes, request: Request) -> None:
        """Ask the external State; never the shared KVS of the space, which is another store."""
        external = self._external_requests()
        error = self._start.error
        if external is not None:
            external.take(identity, request)
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
        if request.operation in ("change_switch", "change_move", "change_settle") and not reply.error:
            self._boundary.call("following a change", self._nodes.follow)
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

    def _outbox(self, txn: ReadTxn, asked: wire.Nothing) -> wire.Waiting:
        """The first of the writes that wait for the external State, and why they wait."""
        thread = self._start.outbox
        trouble = str(self._start.error or "") if thread is None else thread.trouble
        return {"first": outbox.first(txn).hex(), "trouble": trouble}

    def _external_requests(self) -> ExternalRequests | None:
        """What answers requests about an external State; None until that is open."""
        if self._external is None and self._start.state is not None:
            run = self.store.space.outbox_id
            self._external = ExternalRequests(self._start.state, lambda: doorbell.ring(self._bell), run)
        return self._external

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
        if self._external is not None:
            self._external.close()
        self._start.close(OUTBOX_WITHIN_S)
        self._bells.close()
        os.close(self._bell)
