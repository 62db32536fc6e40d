"""Requests that wait for changes of an external State: parked, and one thread looks for all of them.

Each carries its own cursor, so a store process that is killed loses nothing: the next one is asked the same. A client
has at most one reply under way for each request, and each waits for at most WAIT_S_MAX seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from noderuntime.ipc.protocol import Reply, Request
from noderuntime.ipc.state_records import Cursor, PlainUpdate, Updates, Watching
from noderuntime.ipc.typed import decode
from noderuntime.space import kvs_cells
from noderuntime.state.common import Row, TableState
from noderuntime.store.dispatch import ARGUMENTS
from noderuntime.store.kvs_watch import UPDATES_MAX, Watcher
from noderuntime.store.parked import Answer, Parked, Parking

LOOK_S: Final = 0.2  # deadlines are kept to within that
PAUSE_S: Final = 0.5  # while the State cannot be reached
REVISIONS: Final = 1 << 53  # a server may keep a revision as a double


@dataclass(slots=True)
class _Watching(Parked):
    """A request, and the revision up to which it has been looked at."""

    revision: int
    match: Callable[[bytes], bool]

    def look(self, rows: list[tuple[str, Row]], now_ns: int, over: bool) -> Updates | None:
        """The result with what is new for it in rows that are in order; None: nothing, and its time is not `over`.

        It has been looked at up to the last row then.
        """
        updates: list[PlainUpdate] = []
        packed: list[bool] = []
        for key, row in rows:
            if row.revision > self.revision:
                self.revision = row.revision
                if self.match(key.encode()):
                    value, is_packed = kvs_cells.shown(row.cell, now_ns)
                    updates.append(PlainUpdate(key, value, row.revision))
                    packed.append(is_packed)
        if not updates and not over:
            return None
        return {"updates": updates, "packed": packed, "cursor": Cursor(self.revision, 0)}


class Watches:
    """All of them. `answer` is called by several threads."""

    def __init__(self, state: TableState, answer: Answer) -> None:
        self._state = state
        self._answer = answer
        self._changed = threading.Condition()  # held by every thread that touches what is parked
        self._parking: Parking[_Watching] = Parking(answer, self._look)
        self._rows: list[tuple[str, Row]] = []  # what `_look` is to find something in
        self._now_ns = 0
        self._closed = threading.Event()
        self._seen = 0  # the revision up to which all that is parked has been looked at
        self._thread: threading.Thread | None = None

    def take(self, identity: bytes, request: Request) -> None:
        """Answer a request, or park it. Raises what is wrong with it."""
        watcher = Watcher.of(decode(Watching, request.arguments, ARGUMENTS), REVISIONS)
        if watcher.cursor is None:
            begin: Updates = {"updates": [], "cursor": Cursor(self._state.revision(), 0)}
            self._answer(identity, Reply(request.number, begin, "", ""))
            return
        deadline = time.monotonic() + watcher.wait
        watching = _Watching(identity, request, deadline, watcher.cursor.revision, watcher.match)
        while True:
            rows, now_ns = self._state._after(watching.revision, watcher.limit)
            result = watching.look(rows, now_ns, over=not watcher.wait and len(rows) < watcher.limit)
            if result is not None:
                self._answer(identity, Reply(request.number, result, "", ""))
                return
            if not rows and self._park(watching):
                return

    def _park(self, watching: _Watching) -> bool:
        """False when others have seen more meanwhile: it has to look again."""
        with self._changed:
            self._parking.check_room()
            if self._parking and watching.revision < self._seen:
                return False
            if not self._parking:
                self._seen = watching.revision
            self._parking.park(watching)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="noderuntime-watches", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return True

    def _run(self) -> None:
        while not self._closed.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._parking or self._closed.is_set())
                seen = self._seen
            try:
                self._state._await_change(seen, LOOK_S, self._closed)
                rows, now_ns = self._state._after(seen, UPDATES_MAX)
                self._settle(rows, now_ns)
            except BaseException as error:  # whatever the kind raises: this thread has to go on
                with self._changed:
                    self._parking.refuse(error)
                self._closed.wait(PAUSE_S)

    def _settle(self, rows: list[tuple[str, Row]], now_ns: int) -> None:
        with self._changed:
            if rows:
                self._seen = max(self._seen, rows[-1][1].revision)
            self._rows, self._now_ns = rows, now_ns
            self._parking.look()
            self._rows = []

    def _look(self, watching: _Watching, over: bool) -> Updates | None:
        return watching.look(self._rows, self._now_ns, over)

    def close(self) -> None:
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        self._state._wake()
