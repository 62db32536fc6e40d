"""Requests that wait for changes of a State outside the space: parked, and one thread looks for all of them.

Each carries its own cursor, so a store process that is killed loses nothing: the next one is asked the same. A client
has at most one reply under way for each request, and each waits for at most WAIT_S_MAX seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from noderuntime.errors import ProtocolError, StoreError
from noderuntime.ipc.protocol import Reply, Request, refusal
from noderuntime.space import kvs_cells, watches
from noderuntime.space.keys import user_key
from noderuntime.state.common import Row, TableState
from noderuntime.store.kvs import PREFIXES_MAX, UPDATES_MAX, limit_of
from noderuntime.store.parked import PARKED_MAX, WAIT_S_MAX

LOOK_S: Final = 0.2  # deadlines are kept to within that
PAUSE_S: Final = 0.5  # while the State cannot be reached

Result = dict[str, Any]
Answer = Callable[[bytes, Reply], None]


class _Parked:
    """A request, the revision up to which it has been looked at, and when its time is over."""

    __slots__ = ("deadline", "identity", "match", "number", "revision")

    def __init__(self, identity: bytes, number: int, revision: int, match: Any, deadline: float) -> None:
        self.identity = identity
        self.number = number
        self.revision = revision
        self.match = match
        self.deadline = deadline

    def updates(self, rows: list[tuple[str, Row]], now_ns: int) -> list[tuple[list[Any], bool]]:
        """What is new for it in rows that are in order, each with whether it is marked as MessagePack; it has been
        looked at up to the last one then."""
        found = []
        for key, row in rows:
            if row.revision > self.revision:
                self.revision = row.revision
                if self.match(key.encode()):
                    value, packed = kvs_cells.shown(row.cell, now_ns)
                    found.append(([key, value, row.revision], packed))
        return found

    def reply(self, updates: list[tuple[list[Any], bool]]) -> Reply:
        told = {"updates": [update for update, _ in updates], "packed": [packed for _, packed in updates]}
        return Reply(self.number, {**told, "cursor": [self.revision, 0]}, "", "")


class Watches:
    """All of them. `answer` is called by several threads."""

    def __init__(self, state: TableState, answer: Answer) -> None:
        self._state = state
        self._answer = answer
        self._parked: dict[tuple[str, int], _Parked] = {}
        self._changed = threading.Condition()  # held by whoever touches what is parked
        self._closed = threading.Event()
        self._seen = 0  # the revision up to which all that is parked has been looked at
        self._thread: threading.Thread | None = None

    def take(self, identity: bytes, request: Request) -> None:
        """Answer a request, or park it. Raises what is wrong with it."""
        arguments = request.arguments
        cursor, seconds = arguments.get("cursor"), arguments.get("wait", 0)
        if cursor is None:
            cursor = [self._state.revision(), 0]
            self._answer(identity, Reply(request.number, {"updates": [], "cursor": cursor}, "", ""))
            return
        if type(seconds) not in (int, float) or not 0 <= seconds <= WAIT_S_MAX:
            raise ValueError(f"wait is a number of seconds from 0 to {WAIT_S_MAX:.0f}")
        revision, nth = cursor
        if type(revision) is not int or type(nth) is not int or not 0 <= revision < 1 << 53:
            raise ProtocolError("cursor is what an earlier kvs_watch has returned, or nil")
        prefixes = arguments["prefixes"]
        if type(prefixes) is not list or len(prefixes) > PREFIXES_MAX:
            raise ProtocolError(f"prefixes is an array of at most {PREFIXES_MAX} texts")
        match = watches.Prefixes(user_key(prefix) for prefix in prefixes).match
        parked = _Parked(identity, request.number, revision, match, time.monotonic() + seconds)
        limit = limit_of(arguments, UPDATES_MAX, UPDATES_MAX)
        while True:
            rows, now_ns = self._state._after(parked.revision, limit)
            found = parked.updates(rows, now_ns)
            if found or (not seconds and len(rows) < limit):
                self._answer(identity, parked.reply(found))
                return
            if not rows and self._park((request.client, request.number), parked):
                return

    def _park(self, key: tuple[str, int], parked: _Parked) -> bool:
        """False when others have seen more meanwhile: it has to look again."""
        with self._changed:
            if len(self._parked) >= PARKED_MAX:
                raise StoreError(f"{PARKED_MAX} requests wait here already; ask again later")
            if self._parked and parked.revision < self._seen:
                return False
            if not self._parked:
                self._seen = parked.revision
            self._parked[key] = parked
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="noderuntime-watches", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return True

    def _run(self) -> None:
        while not self._closed.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._parked or self._closed.is_set())
                seen = self._seen
            try:
                self._state._await_change(seen, LOOK_S, self._closed)
                rows, now_ns = self._state._after(seen, UPDATES_MAX)
                self._look(rows, now_ns)
            except BaseException as error:  # whatever the kind raises: this thread has to go on
                self._refuse(error)
                self._closed.wait(PAUSE_S)

    def _look(self, rows: list[tuple[str, Row]], now_ns: int) -> None:
        now = time.monotonic()
        with self._changed:
            if rows:
                self._seen = max(self._seen, rows[-1][1].revision)
            for key, parked in list(self._parked.items()):
                found = parked.updates(rows, now_ns)
                if found or now >= parked.deadline:
                    del self._parked[key]
                    self._answer(parked.identity, parked.reply(found))

    def _refuse(self, error: BaseException) -> None:
        with self._changed:
            for parked in self._parked.values():
                self._answer(parked.identity, refusal(parked.number, "kvs_watch", error))
            self._parked.clear()

    def close(self) -> None:
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        self._state._wake()
