"""The runtime's end of the store: one request after the other, none of them waited for.

Requests go out one at a time, in order. The store keeps only the last number of a client, and so a request that is
repeated, because the store was killed or is slow, counts once. The caller gives a callback for the reply.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from noderuntime.errors import ProtocolError
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import VERSION, Edge, Reply, Request
from noderuntime.ipc.rundir import RunDir
from noderuntime.ipc.store_records import Read
from noderuntime.runtime.loop import Loop

REPEAT_S = 1.0
ANSWER_S_MAX = 10.0
NO_ROOM_PAUSE_S = 0.2

R = TypeVar("R")
Otherwise = Callable[[str, str], None]
Arguments = Mapping[str, object] | Callable[[], Mapping[str, object]]


@dataclass(slots=True)
class _Pending:
    operation: str
    arguments: Arguments
    read: Read[Any]
    then: Callable[[Any], None]
    otherwise: Otherwise
    timeout_s: float
    number: int = 0
    asked_s: float = 0.0  # first, of this store process
    sent_s: float = 0.0


class StoreLink:
    """`otherwise` of a request gets (name of the error class, text). An operation that found no room is asked again,
    with a new number, for as long as it takes."""

    def __init__(self, loop: Loop, run_dir: RunDir, client: str) -> None:
        self._loop = loop
        self._run_dir = run_dir
        self._client = client
        self._dealer: Dealer | None = None
        self._pending: deque[_Pending] = deque()
        self._number = 0
        self._pause_until_s = 0.0
        self.answered = 0  # replies of the present store process
        self.rejected = 0  # replies that no store of ours gives

    def request(
        self,
        operation: str,
        arguments: Arguments,
        read: Read[R],
        then: Callable[[R], None],
        otherwise: Otherwise,
        timeout_s: float = ANSWER_S_MAX,
    ) -> None:
        """Ask, after what was asked before. `read` makes the record that `then` gets: a reply that it refuses is
        none, and the store is asked again. `arguments` that name nodes are made when they are sent: a change that was
        asked before may give them other ids."""
        self._pending.append(_Pending(operation, arguments, read, then, otherwise, timeout_s))

    @property
    def idle(self) -> bool:
        return not self._pending

    def connect(self) -> None:
        """A store process was started: a new connection, on which nothing of the old one is under way."""
        self.disconnect()
        self._dealer = Dealer(self._run_dir.store_socket, Edge.STORE_TO_CLIENT)
        self._loop.watch(self._dealer.fd, self.receive)
        self.answered = 0

    def disconnect(self) -> None:
        """The store process has ended. What was not answered stays pending."""
        if self._dealer is not None:
            self._loop.unwatch(self._dealer.fd)
            self._dealer.close(0)
            self._dealer = None
        self.forgive()

    def forgive(self) -> None:
        """Wait for the present request anew: the store was killed for its sake."""
        for pending in self._pending:
            pending.asked_s = pending.sent_s = 0.0

    def receive(self) -> bool:
        """Take what the store has answered; whether there was anything."""
        taken = False
        while self._dealer is not None and (message := self._dealer.receive_nowait()) is not None:
            taken = True
            if isinstance(message, Reply):
                self._answered(message)
        return taken

    def _answered(self, reply: Reply) -> None:
        if not self._pending or self._pending[0].number != reply.number:
            return  # a second answer to a request that was repeated
        pending = self._pending[0]
        try:
            result = None if reply.error else pending.read(reply.result)
        except ProtocolError:
            self.rejected += 1
            return
        self.answered += 1
        if reply.error == "StoreFull":
            pending.number = 0
            pending.asked_s = pending.sent_s = 0.0
            self._pause_until_s = -1.0  # until `advance` knows what time it is
            return
        self._pending.popleft()
        if reply.error:
            pending.otherwise(reply.error, reply.text)
        else:
            pending.then(result)

    def advance(self, now_s: float) -> bool:
        """Send what is due, and take what has come; whether there was anything. Call it some times a second."""
        if self._pause_until_s < 0:
            self._pause_until_s = now_s + NO_ROOM_PAUSE_S
        if self._dealer is None or not self._pending or now_s < self._pause_until_s:
            return self.receive()
        pending = self._pending[0]
        pending.asked_s = pending.asked_s or now_s
        if now_s - pending.sent_s >= REPEAT_S:
            if not pending.number:
                self._number += 1
                pending.number = self._number
            pending.sent_s = now_s
            arguments = pending.arguments() if callable(pending.arguments) else pending.arguments
            request = Request(VERSION, self._client, pending.number, pending.operation, dict(arguments))
            try:
                self._dealer.send(request, 0)
            except ProtocolError as error:  # more than a frame holds
                self._pending.popleft()
                pending.otherwise("ProtocolError", str(error))
        return self.receive()

    def hangs(self, now_s: float, stretch: int) -> bool:
        """Whether the store has not answered for too long: for `stretch` times the limit of what it was asked."""
        if self._dealer is None or not self._pending:
            return False
        pending = self._pending[0]
        return pending.asked_s > 0 and now_s - pending.asked_s > pending.timeout_s * stretch

    def close(self) -> None:
        self.disconnect()
        self._pending.clear()
