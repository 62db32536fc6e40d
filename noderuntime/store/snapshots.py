"""The store's snapshots: when they are taken, and what others may ask about them.

All that takes time happens in one thread: the answers of the store never wait for it. The thread is Python too, so the
interpreter is told to switch between threads more often than it usually does (SWITCH_S).

Its operations are snapshot_take and snapshot_status (see noderuntime.ipc.store_records). Neither writes to the space.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from shlex import quote
from typing import Any

from noderuntime.errors import StoreError
from noderuntime.ipc.boundary import describe
from noderuntime.ipc.store_records import Progress, Take, Ticket, TicketOf
from noderuntime.snapshot.backend import SnapshotConflict
from noderuntime.snapshot.cut import SegmentBusy, SpaceTooFull
from noderuntime.snapshot.format import Manifest
from noderuntime.snapshot.keeper import Keeper, Taken
from noderuntime.snapshot.older import Looked
from noderuntime.snapshot.retention import letters_at, letters_by_node, newest, unsettled
from noderuntime.snapshot.settings import Settings
from noderuntime.space import keys
from noderuntime.space.environment import Space
from noderuntime.store.dispatch import Given, Result, taking

SWITCH_S = 0.0005
AGAIN_S = 5.0  # after one that was put off or has failed; never sooner than asked for
CLOSE_S = 10.0
BUSY_LOOK_S = 0.1

END, PERIODIC, START = "end", "periodic", "start"


def age(manifest: Manifest, now_ns: int) -> str:
    """How long ago, for a person."""
    seconds = max(0, now_ns - manifest.created_ns) // 1_000_000_000
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} seconds ago"


class Snapshots:
    """Periodic snapshots of an open space, and those that are asked for. `say` writes a line for the run's log."""

    def __init__(self, space: Space, settings: Settings, resumed: bool, say: Callable[[str], None]) -> None:
        self.settings = settings
        self._space = space
        self._say = say
        self._keeper: Keeper | None = None
        self._thread: threading.Thread | None = None
        self._last: Taken | None = None
        self._last_txn_id = 0
        self._error = ""
        self._told = ""
        self._failed_ticket = -1
        self._wanted: tuple[int, str] | None = None  # ticket and reason of what was asked for meanwhile
        self._conflict = False
        self._ending = False
        self._begun = False  # whether the run has begun: before that there is nothing that is worth a snapshot
        self._look_first = settings.enabled and not resumed
        self._due_s = time.monotonic() + (0.0 if self._look_first else settings.every_s)
        self.operations: dict[str, Callable[[Given], Result]] = {
            "snapshot_take": taking(Take, self.take),
            "snapshot_status": taking(TicketOf, self.status),
        }
        sys.setswitchinterval(SWITCH_S)

    @property
    def due_s(self) -> float:
        """When `tick` has something to do, in monotonic seconds."""
        if self._thread is not None:
            return time.monotonic() + BUSY_LOOK_S
        if not self.settings.enabled:
            return float("inf")
        return self._due_s if self._has_begun() else max(self._due_s, time.monotonic() + BUSY_LOOK_S)

    def tick(self) -> None:
        """Begin what is due. Called at each turn of the store's loop."""
        if self._thread is not None:
            if self._thread.is_alive():
                return
            self._thread.join()
            self._thread = None
        if self._wanted is not None:
            ticket, why = self._wanted
            self._wanted = None
            if why == END or not self._holds(ticket):
                self._start(why, ticket)
        elif time.monotonic() >= self._due_s and self.settings.enabled and not self._conflict and self._has_begun():
            self._due_s = time.monotonic() + self.settings.every_s
            if self._look_first or self._changed():
                self._start(START if self._look_first else PERIODIC, self._now())

    def _has_begun(self) -> bool:
        """Whether the space was opened for a run, now or before. A start that fails, at its State or its seed, leaves
        no snapshot: `--resume` would take it for the newest state."""
        if not self._begun:
            with self._space.read() as txn:
                self._begun = txn.get(keys.fact("fingerprint")) is not None
        return self._begun

    def _holds(self, ticket: int) -> bool:
        """Whether what was committed then is safe; and, once the run ends, that the last snapshot says so."""
        last = self._last.manifest if self._last is not None else None
        return last is not None and last.cut >= ticket and (last.why == END or not self._ending)

    def _changed(self) -> bool:
        return self._now() != self._space.base + self._last_txn_id

    def _now(self) -> int:
        """The sequence of the last commit."""
        return self._space.last_sequence()

    def _start(self, why: str, ticket: int) -> None:
        self._thread = threading.Thread(target=self._work, args=(why, ticket), name="snapshot", daemon=True)
        self._thread.start()

    def _work(self, why: str, ticket: int) -> None:
        try:
            if self._keeper is None:
                backend = self.settings.open()
                backend.warn = self._say
                self._keeper = Keeper(
                    self._space, backend, self.settings.run, self.settings.keep, True, self.settings.owner()
                )
            if why == START:
                self._look_first = False
                if not self._others():
                    self._due_s = time.monotonic() + self.settings.every_s
                    return
            taken = self._keeper.take(why)
            self._last, self._last_txn_id, self._error, self._told = taken, taken.txn_id, "", ""
            if taken.problem:
                self._say(taken.problem)
        except SnapshotConflict as error:
            self._conflict = True
            self._failed(error, ticket)
        except BaseException as error:  # users may write backends; nothing would report the end of this thread
            self._due_s = time.monotonic() + max(min(AGAIN_S, self.settings.every_s), 0.1)
            self._failed(error, ticket)

    def _failed(self, error: BaseException, ticket: int) -> None:
        self._error = str(error) if isinstance(error, StoreError | OSError) else describe(error)
        self._failed_ticket = ticket
        kind = type(error).__name__
        if kind != self._told:  # once for as long as it lasts
            self._told = kind
            putting_off = isinstance(error, SpaceTooFull | SegmentBusy)
            self._say(self._error if putting_off else f"no snapshot could be taken: {self._error}")

    def _others(self) -> bool:
        """Whether there are snapshots of earlier runs: then this one's history begins with one of its own."""
        assert self._keeper is not None
        listed = self._keeper.backend.snapshots()
        readable = [item.manifest for item in listed if item.manifest]
        last = next(iter(newest(readable)), None)
        if last is not None and last.why != END:
            self._say(
                f"there is a snapshot of an earlier run of this name that was cut off (number {last.number}, "
                f"{age(last, time.time_ns())}); this run starts anew. `--resume` would have continued it, and "
                f"`--resume --from {last.number}` still can, until it is one of the oldest"
            )
        facts = Looked(self._keeper.backend)
        left = [item for item in unsettled(readable, facts) if letters_at(item) or not item.aside]
        for manifest in left[:1]:
            whose = "the last run" if manifest is last else "an earlier run"
            more = f"; {len(left) - 1} earlier ones left some, too" if len(left) > 1 else ""
            self._say(
                f"{whose} of this name left dead letters ({letters_by_node(manifest)}); this run starts anew without "
                f"them. They are kept until they are replayed or dropped: `noderuntime dead-letters ls --run "
                f"{quote(self.settings.run)} --from {manifest.number}`{more}"
            )
        return bool(listed)

    # --- operations -------------------------------------------------------------------------------------------------

    def take(self, asked: Take) -> Ticket:
        if not self.settings.enabled:
            raise StoreError("this run keeps no snapshots: its dataflow says `snapshots: {to: none}`")
        if not self._has_begun():
            raise StoreError("the run has not begun yet; take the snapshot once it runs")
        ticket = self._now()
        self._ending = self._ending or asked.why == END
        self._wanted = (ticket, asked.why)
        self.tick()
        return {"ticket": ticket}

    def status(self, asked: TicketOf) -> Progress:
        ticket = asked.ticket
        self.tick()
        if self._last is not None and self._holds(ticket):
            return {"state": "done", "error": "", "snapshot": described(self._last)}
        if self._thread is not None or self._wanted is not None:
            return {"state": "running", "error": "", "snapshot": {}}
        if self._failed_ticket >= ticket:
            return {"state": "failed", "error": self._error, "snapshot": {}}
        return {"state": "unknown", "error": "", "snapshot": {}}

    def close(self) -> None:
        """Before the space is closed. A thread that does not come to an end takes the process with it."""
        if self._thread is not None:
            self._thread.join(CLOSE_S)
            if self._thread.is_alive():
                os._exit(0)
        if self._keeper is not None:
            self._keeper.backend.close()


def described(taken: Taken) -> dict[str, Any]:
    """What a person or a program wants to know of a snapshot that was taken."""
    manifest = taken.manifest
    return {
        "number": manifest.number,
        "kind": "full" if manifest.full else "incremental",
        "bytes": manifest.size_bytes,
        "keys": manifest.keys,
        "growth_bytes": manifest.growth_bytes,
        "pinned_s": round(taken.pinned_s, 6),
        "took_s": round(taken.took_s, 6),
    }


def say(text: str) -> None:
    """A line for the run's log: the runtime reads what the store prints."""
    for line in text.splitlines():
        print(line, file=sys.stderr, flush=True)


