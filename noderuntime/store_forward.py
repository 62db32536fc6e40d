"""The store's operations on shared state when that is outside the space: passed on to the State there. Floor 4.

Threads do it, so that a server that does not answer holds up nothing else; the replies are sent by the loop. A
changing request carries its number to the State, which keeps it with the change: one that is repeated, to this store
process or to the next one, counts once. A kind that does not derive from TableState keeps no numbers: there a request
that was under way when the store process was killed may count twice.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from noderuntime import cells
from noderuntime.errors import NodeRuntimeError, ProtocolError, StoreError
from noderuntime.protocol import Reply, Request
from noderuntime.space import watching
from noderuntime.state.base import Diff, Entry, State
from noderuntime.state.common import Once, TableState
from noderuntime.store_state import MERGES, UPDATES_MAX
from noderuntime.store_waits import WAIT_S_MAX

Arguments = dict[str, Any]
Result = dict[str, Any]

WORKERS: Final = 4
WATCHERS: Final = 64
CLIENTS_KEPT: Final = 1000


def is_forwarded(request: Request) -> bool:
    """Whether this is a request about shared state."""
    if request.operation.startswith("state_"):
        return request.arguments.get("scope") == "shared"
    return request.operation.startswith("kvs_")


class Writer:
    """The changing calls of a State, for one request."""

    def __init__(self, state: State) -> None:
        self.set, self.delete, self.merge, self.apply = state.set, state.delete, state.merge, state.apply


class OnceWriter(Writer):
    """Those of a State that keeps the request's number with what it changes."""

    def __init__(self, state: TableState, once: Once) -> None:
        self.set = partial(state.set_once, once)
        self.delete = partial(state.delete_once, once)
        self.merge = partial(state.merge_once, once)
        self.apply = partial(state.apply_once, once)


class Forward:
    """Answers what concerns shared state. `wake` is called when there is a reply to send.

    `run` tells the clients of this run from those of others that share the State.
    """

    def __init__(self, state: State, wake: Callable[[], None], run: str = "") -> None:
        self._state = state
        self._run = run
        self._wake = wake
        self._workers = ThreadPoolExecutor(WORKERS, "noderuntime-forward")
        self._watchers = ThreadPoolExecutor(WATCHERS, "noderuntime-watch")
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._last: OrderedDict[str, tuple[int, Reply | None]] = OrderedDict()  # None: under way
        self.replies: deque[tuple[bytes, Reply]] = deque()
        self._changes: dict[str, Callable[[Writer, Arguments], Result]] = {
            "kvs_set": self._set, "kvs_delete": self._delete, "kvs_merge": self._merge, "kvs_apply": self._apply,
            "state_set": self._set, "state_rm": self._remove,
        }  # fmt: skip
        self._queries: dict[str, Callable[[Arguments], Result]] = {
            "kvs_get": self._get, "kvs_read": self._read, "kvs_root": self._root, "kvs_cells": self._cells,
            "kvs_version": self._version, "kvs_diff": self._diff, "kvs_watch": self._watch,
            "state_get": self._value, "state_ls": self._list,
        }  # fmt: skip

    def take(self, identity: bytes, request: Request) -> None:
        change = self._changes.get(request.operation)
        if change is None:
            pool = self._watchers if request.operation == "kvs_watch" else self._workers
            pool.submit(self._answer, identity, request, self._queries.get(request.operation, self._unknown))
            return
        with self._lock:
            number, reply = self._last.get(request.client, (0, None))
            if number == request.number:
                if reply is not None:
                    self._done(identity, reply)
                return
            self._last[request.client] = request.number, None
            self._last.move_to_end(request.client)
            while len(self._last) > CLIENTS_KEPT:
                self._last.popitem(last=False)
        writer = self._writer(request)
        self._workers.submit(self._answer, identity, request, partial(change, writer))

    def _answer(self, identity: bytes, request: Request, operation: Callable[[Arguments], Result]) -> None:
        try:
            reply = Reply(request.number, operation(request.arguments), "", "")
        except NodeRuntimeError as error:
            reply = Reply(request.number, {}, type(error).__name__, str(error))
        except Exception as error:  # arguments of another shape, or a kind that somebody else has written
            text = f"{request.operation}: wrong arguments ({type(error).__name__}: {error})"
            reply = Reply(request.number, {}, "ProtocolError", text)
        if request.operation in self._changes:
            with self._lock:
                self._last[request.client] = request.number, reply
        self._done(identity, reply)

    def _writer(self, request: Request) -> Writer:
        if not isinstance(self._state, TableState):
            return Writer(self._state)
        return OnceWriter(self._state, Once(f"{self._run}/{request.client}", f"{request.number:020d}"))

    def _done(self, identity: bytes, reply: Reply) -> None:
        self.replies.append((identity, reply))
        self._wake()

    def close(self) -> None:
        self._closed.set()
        if isinstance(self._state, TableState):
            self._state._wake()
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._watchers.shutdown(wait=False, cancel_futures=True)

    # --- the operations ---------------------------------------------------------------------------------------------

    def _unknown(self, arguments: Arguments) -> Result:
        known = ", ".join([*self._changes, *self._queries])
        raise ProtocolError(f"unknown operation; of shared state the store knows {known}")

    def _set(self, to: Writer, arguments: Arguments) -> Result:
        ttl, expect = arguments.get("ttl"), arguments.get("expect")
        return {"revision": to.set(arguments["key"], arguments["value"], ttl, expect)}

    def _delete(self, to: Writer, arguments: Arguments) -> Result:
        return {"deleted": to.delete(arguments["key"]), "revision": 0}

    def _remove(self, to: Writer, arguments: Arguments) -> Result:
        return {"removed": to.delete(arguments["key"])}

    def _merge(self, to: Writer, arguments: Arguments) -> Result:
        name, amount = arguments["merge"]
        if name not in MERGES:
            raise ProtocolError(f"there is no merge {name!r}; there are {', '.join(MERGES)}")
        return {"revision": to.merge(arguments["key"], MERGES[name](amount))}

    def _apply(self, to: Writer, arguments: Arguments) -> Result:
        return {"changed": to.apply(Diff.from_bytes(arguments["diff"]))}

    def _get(self, arguments: Arguments) -> Result:
        entry = self._state.get(arguments["key"])
        return {"entry": entry and _plain(entry)}

    def _value(self, arguments: Arguments) -> Result:
        entry = self._state.get(arguments["key"])
        return {"value": entry and entry.value, "revision": entry.revision if entry else 0}

    def _read(self, arguments: Arguments) -> Result:
        with self._state.snapshot() as view:
            entries = {key: view.get(key) for key in arguments["keys"]}
            version = view.version()
        return {"entries": {key: entry and _plain(entry) for key, entry in entries.items()}, "version": version}

    def _root(self, arguments: Arguments) -> Result:
        prefix, after = arguments.get("prefix", ""), arguments.get("after", "")
        with self._state.snapshot() as view:
            found = view.get_root()
            version = view.version()
        entries = [
            [key, *_plain(entry)]
            for key, entry in found.items()
            if key.startswith(prefix) and (not after or key.encode() > after.encode())
        ]
        return {"entries": entries, "more": False, "version": version}

    def _list(self, arguments: Arguments) -> Result:
        prefix = arguments.get("prefix", "")
        root = self._state.get_root()
        found = [[key, len(item.value), item.revision] for key, item in root.items() if key.startswith(prefix)]
        return {"keys": found, "more": False}

    def _cells(self, arguments: Arguments) -> Result:
        version = self._state.version()
        return {"diff": Diff({}, frozenset(), version, self._state.cells()).to_bytes(), "version": version}

    def _version(self, arguments: Arguments) -> Result:
        return {"version": self._state.version()}

    def _diff(self, arguments: Arguments) -> Result:
        made = self._state.diff(arguments["since"])
        changed = {key: [*_plain(entry)[:3], entry.ttl, entry.origin] for key, entry in made.changed.items()}
        return {"changed": changed, "deleted": sorted(made.deleted), "version": made.version, "diff": made.to_bytes()}

    def _watch(self, arguments: Arguments) -> Result:
        state = self._state
        if not isinstance(state, TableState):
            raise StoreError(f"{type(state).__name__} cannot be watched from here: it does not derive from TableState")
        cursor, seconds = arguments.get("cursor"), arguments.get("wait", 0)
        if cursor is None:
            return {"updates": [], "cursor": [state.revision(), 0]}
        if type(seconds) not in (int, float) or not 0 <= seconds <= WAIT_S_MAX:
            raise ValueError(f"wait is a number of seconds from 0 to {WAIT_S_MAX:.0f}")
        match = watching.Prefixes(prefix.encode() for prefix in arguments["prefixes"]).match
        revision = int(cursor[0])
        found: list[list[Any]] = []
        for turn in range(2):
            rows, now_ns = state._after(revision, UPDATES_MAX)
            for key, row in rows:
                revision = row.revision
                if match(key.encode()):
                    found.append([key, cells.visible(row.cell, now_ns), row.revision])
            if found or turn or not seconds or self._closed.is_set():
                break
            state._await_change(revision, float(seconds), self._closed)
        return {"updates": found, "cursor": [revision, 0]}


def _plain(entry: Entry) -> list[Any]:
    written_ns = int(entry.timestamp.timestamp() * 1e9)
    expires_ns = 0 if entry.ttl is None else time.time_ns() + int(entry.ttl * 1e9)
    return [entry.value, entry.revision, written_ns, expires_ns, entry.origin]
