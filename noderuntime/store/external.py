"""The store's operations on shared state when the State is external: they are calls of that State.

Threads make the calls, so that a server that does not answer delays nothing else; the loop sends the replies. A
changing request carries its number to the State, which keeps the number with the change: a request that is repeated,
to this store process or to the next one, counts once. A kind that does not derive from TableState keeps no numbers:
there a request that was under way when the store process was killed may count twice.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from noderuntime.errors import ProtocolError, StoreError
from noderuntime.ipc import state_records as wire
from noderuntime.ipc.protocol import Reply, Request, refusal
from noderuntime.ipc.store_records import Nothing
from noderuntime.merges import Merge
from noderuntime.state.base import Diff, Entry, State
from noderuntime.state.common import ENTRY_BYTES, Once, Page, TableState
from noderuntime.store.dispatch import Given, Result, taking
from noderuntime.store.external_watches import Watches
from noderuntime.store.kvs import LISTING_BYTES_MAX, merge_of

WORKERS: Final = 4
CLIENTS_KEPT: Final = 1000


def is_about_shared_state(request: Request) -> bool:
    """Whether an external State, if the run has one, answers this request."""
    if request.operation.startswith("state_"):
        return request.arguments.get("scope") == "shared"
    return request.operation.startswith("kvs_")


def changes(state: State, once: Once | None) -> dict[str, Callable[[Given], Result]]:
    """The operations that change a State. One that derives from TableState keeps `once` with what it changes."""
    write: Callable[..., int]
    write_packed: Callable[..., int]
    delete: Callable[[str], bool]
    merge: Callable[[str, Merge], int]
    apply: Callable[[Diff], list[str]]
    if isinstance(state, TableState):
        write, write_packed = partial(state.set_once, once), partial(state.set_once, once, packed=True)
        delete, merge = partial(state.delete_once, once), partial(state.merge_once, once)
        apply = partial(state.apply_once, once)
    else:
        write, write_packed, delete, merge, apply = state.set, state.set_packed, state.delete, state.merge, state.apply

    def set_value(asked: wire.Set) -> wire.Revision:
        chosen = write_packed if asked.packed else write
        return {"revision": chosen(asked.key, asked.value, asked.ttl, asked.expect)}

    def merge_value(asked: wire.Merging) -> wire.Revision:
        return {"revision": merge(asked.key, merge_of(asked))}

    def delete_key(asked: wire.Key) -> wire.Deleted:
        return {"deleted": delete(asked.key), "revision": 0}

    def remove_key(asked: wire.StateKey) -> wire.Removed:
        return {"removed": delete(asked.key)}

    def apply_diff(asked: wire.Applying) -> wire.Applied:
        return {"changed": apply(Diff.from_bytes(asked.diff))}

    return {
        "kvs_set": taking(wire.Set, set_value),
        "kvs_delete": taking(wire.Key, delete_key),
        "kvs_merge": taking(wire.Merging, merge_value),
        "kvs_apply": taking(wire.Applying, apply_diff),
        "state_set": taking(wire.StateSet, set_value),
        "state_rm": taking(wire.StateKey, remove_key),
    }


class ExternalRequests:
    """Answers requests about shared state from an external State. `wake` is called when there is a reply to send.

    `run` distinguishes the clients of this run from those of other runs that share the State.
    """

    def __init__(self, state: State, wake: Callable[[], None], run: str = "") -> None:
        self._state = state
        self._run = run
        self._wake = wake
        # one thread serves all requests of a client, so they are carried out in the order in which they came
        self._workers = [ThreadPoolExecutor(1, "noderuntime-external") for _ in range(WORKERS)]
        self._watches = Watches(state, self._done) if isinstance(state, TableState) else None
        self._lock = threading.Lock()
        self._last: OrderedDict[str, tuple[int, Reply | None]] = OrderedDict()  # None: under way
        self.replies: deque[tuple[bytes, Reply]] = deque()
        self._changing = tuple(changes(state, None))
        self._queries: dict[str, Callable[[Given], Result]] = {
            "kvs_get": taking(wire.Key, self._get),
            "kvs_read": taking(wire.Keys, self._read),
            "kvs_root": taking(wire.Part, self._root),
            "kvs_cells": taking(Nothing, self._cells),
            "kvs_version": taking(Nothing, self._version),
            "kvs_diff": taking(wire.Since, self._diff),
            "state_get": taking(wire.StateKey, self._value),
            "state_ls": taking(wire.Listing, self._list),
        }

    def take(self, identity: bytes, request: Request) -> None:
        worker = self._workers[hash(request.client) % WORKERS]
        if request.operation not in self._changing:
            worker.submit(self._query, identity, request)
            return
        once = Once(f"{self._run}/{request.client}", f"{request.number:020d}")
        change = changes(self._state, once)[request.operation]
        with self._lock:
            number, reply = self._last.get(request.client, (0, None))
            if request.number <= number:
                if request.number < number:  # a kind without marks would carry it out a second time
                    reply = refusal(request.number, request.operation, _stale(request, number))
                if reply is not None:
                    self._done(identity, reply)
                return
            self._last[request.client] = request.number, None
            self._last.move_to_end(request.client)
            while len(self._last) > CLIENTS_KEPT:
                self._last.popitem(last=False)
        worker.submit(self._answer, identity, request, change)

    def _query(self, identity: bytes, request: Request) -> None:
        if request.operation != "kvs_watch":
            self._answer(identity, request, self._queries.get(request.operation, self._unknown))
            return
        try:
            if self._watches is None:
                kind = type(self._state).__name__
                raise StoreError(f"{kind} cannot be watched from here: it does not derive from TableState")
            self._watches.take(identity, request)
        except BaseException as error:
            self._done(identity, refusal(request.number, request.operation, error))

    def _answer(self, identity: bytes, request: Request, operation: Callable[[Given], Result]) -> None:
        try:
            reply = Reply(request.number, operation(request.arguments), "", "")
        except BaseException as error:  # of a kind that users have written; in this thread it would go unseen
            reply = refusal(request.number, request.operation, error)
        if request.operation in self._changing:
            with self._lock:
                self._last[request.client] = request.number, reply
        self._done(identity, reply)

    def _done(self, identity: bytes, reply: Reply) -> None:
        self.replies.append((identity, reply))
        self._wake()

    def close(self) -> None:
        if self._watches is not None:
            self._watches.close()
        for worker in self._workers:
            worker.shutdown(wait=False, cancel_futures=True)

    # --- the operations ---------------------------------------------------------------------------------------------

    def _unknown(self, given: Given) -> Result:
        known = ", ".join([*self._changing, *self._queries, "kvs_watch"])
        raise ProtocolError(f"unknown operation; of shared state the store knows {known}")

    def _get(self, asked: wire.Key) -> wire.Found:
        entry = self._state.get(asked.key)
        return {"entry": None if entry is None else _plain(entry)}

    def _value(self, asked: wire.StateKey) -> wire.Value:
        entry = self._state.get(asked.key)
        if entry is None:
            return {"value": None, "revision": 0, "packed": False}
        return {"value": entry.value, "revision": entry.revision, "packed": entry.packed}

    def _read(self, asked: wire.Keys) -> wire.FoundAll:
        with self._state.snapshot() as view:
            entries = {key: view.get(key) for key in asked.keys}
            version = view.version()
        found = {key: None if entry is None else _plain(entry) for key, entry in entries.items()}
        return {"entries": found, "version": version}

    def _root(self, asked: wire.Part) -> wire.Root:
        page = self._page(asked.prefix, asked.after)
        entries = [wire.RootEntry(key, *_plain(entry)) for key, entry in page.entries]
        return {"entries": entries, "more": page.more, "version": page.version}

    def _list(self, asked: wire.Listing) -> wire.Listed:
        page = self._page(asked.prefix, asked.after)
        found = [wire.ListedKey(key, len(entry.value), entry.revision) for key, entry in page.entries]
        return {"keys": found, "more": page.more}

    def _page(self, prefix: str, after: str) -> Page:
        if isinstance(self._state, TableState):
            return self._state.page(prefix, after, LISTING_BYTES_MAX)
        with self._state.snapshot() as view:  # such a kind has no other way
            root, version = view.get_root(), view.version()
        room = LISTING_BYTES_MAX
        found: list[tuple[str, Entry]] = []
        for key, entry in root.items():
            if key.startswith(prefix) and (not after or key.encode() > after.encode()):
                if room < 0:
                    return Page(found, True, version)
                found.append((key, entry))
                room -= len(key.encode()) + len(entry.value) + ENTRY_BYTES
        return Page(found, False, version)

    def _cells(self, asked: Nothing) -> wire.Everything:
        version = self._state.version()
        return {"diff": Diff({}, frozenset(), version, self._state.cells()).to_bytes(), "version": version}

    def _version(self, asked: Nothing) -> wire.Version:
        return {"version": self._state.version()}

    def _diff(self, asked: wire.Since) -> wire.Changes:
        made = self._state.diff(asked.since)
        changed = {
            key: wire.DiffEntry(
                entry.value, entry.revision, _plain(entry).written_ns, entry.ttl, entry.origin, entry.packed
            )
            for key, entry in made.changed.items()
        }
        return {"changed": changed, "deleted": sorted(made.deleted), "version": made.version, "diff": made.to_bytes()}


def _stale(request: Request, last: int) -> ProtocolError:
    return ProtocolError(f"request {request.number} of {request.client}: its last is {last}")


def _plain(entry: Entry) -> wire.PlainEntry:
    written_ns = int(entry.timestamp.timestamp() * 1e9)
    expires_ns = 0 if entry.ttl is None else time.time_ns() + int(entry.ttl * 1e9)
    return wire.PlainEntry(entry.value, entry.revision, written_ns, expires_ns, entry.origin, entry.packed)
