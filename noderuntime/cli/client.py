"""Requests to a live run: to its runtime (status, stop, reload) and to its store (everything in the space)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from noderuntime.cli.output import CommandError
from noderuntime.errors import NotRunning
from noderuntime.ipc.asking import ask
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.control_records import RUNTIME_ANSWER
from noderuntime.ipc.protocol import VERSION, Edge, Reply, Request
from noderuntime.ipc.runs import Run
from noderuntime.ipc.store_records import ANSWER, Progress, Read, SnapshotFacts, Ticket, result
from noderuntime.ipc.typed import decode

RUNTIME_ANSWERS_WITHIN_S = 10.0
STORE_ANSWERS_WITHIN_S = 15.0
REPEATED_AFTER_S = 0.5
STATUS_POLL_S = 0.05

R = TypeVar("R")


def ask_runtime(
    run: Run, what: str, arguments: Mapping[str, object], kind: type[R], within_s: float = RUNTIME_ANSWERS_WITHIN_S
) -> R:
    """The answer of the runtime of `run`, as a `kind`. CommandError with the runtime's words when it refuses, or when
    it does not answer in time; NotRunning when it is gone; ProtocolError when the answer is no such record."""
    answer = ask(run, what, arguments, within_s)
    if answer is not None:
        if answer.error:
            raise CommandError(answer.error)
        return decode(kind, answer.result, RUNTIME_ANSWER)
    raise CommandError(
        f"the runtime of {run.name!r} has not answered for {within_s:g} seconds; `noderuntime ps` shows its pid"
    )


class StoreClient:
    """Requests to the store process of a run, each repeated until it is answered.

    The store may be killed and restarted at any time. It keeps the number of each client's last request, so that a
    repeated request counts once. `lost()` is called between repetitions; a text that it returns says why no answer can
    come any more, and ends the request.
    """

    def __init__(
        self,
        run: str,
        socket: Path,
        within_s: float = STORE_ANSWERS_WITHIN_S,
        lost: Callable[[], str] = lambda: "",
    ) -> None:
        self._run = run
        self._within_s = within_s
        self._lost = lost
        self._client = f"command-{secrets.token_hex(8)}"
        self._number = 0
        try:
            self._dealer = Dealer(socket, Edge.STORE_TO_CLIENT)
        except OSError:
            raise NotRunning(f"the run {run!r} is gone") from None

    def request(self, operation: str, arguments: Mapping[str, object], read: Read[R]) -> R:
        """The result of one operation, of which `read` makes its record. CommandError when it is refused, or not
        answered in time; ProtocolError when the answer is no such record."""
        self._number += 1
        request = Request(VERSION, self._client, self._number, operation, arguments)
        until_s = time.monotonic() + self._within_s
        while (now_s := time.monotonic()) < until_s:
            self._dealer.send(request, timeout_s=0)
            reply = self._reply(min(now_s + REPEATED_AFTER_S, until_s))
            if reply is not None:
                if reply.error:
                    raise CommandError(reply.text or f"{reply.error}: {reply.result}")
                return read(reply.result)
            if lost := self._lost():
                raise CommandError(lost)
        raise CommandError(f"the store of {self._run!r} has not answered for {self._within_s:g} seconds; try again")

    def _reply(self, until_s: float) -> Reply | None:
        while (left_s := until_s - time.monotonic()) > 0:
            message = self._dealer.receive(left_s)
            if isinstance(message, Reply) and message.number == self._number:
                return message
        return None

    def close(self) -> None:
        self._dealer.close(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def take_snapshot(store: StoreClient, why: str) -> SnapshotFacts:
    """Take a snapshot, wait until it is published, and return the facts about it. CommandError when it failed."""
    ticket = None
    while True:
        if ticket is None:
            ticket = store.request("snapshot_take", {"why": why}, result(Ticket))["ticket"]
        found = store.request("snapshot_status", {"ticket": ticket}, result(Progress))
        if found["state"] == "done":
            return decode(SnapshotFacts, found["snapshot"], ANSWER)
        if found["state"] == "failed":
            raise CommandError(f"no snapshot was taken: {found['error']}")
        if found["state"] == "unknown":  # the store was killed meanwhile
            ticket = None
        time.sleep(STATUS_POLL_S)
