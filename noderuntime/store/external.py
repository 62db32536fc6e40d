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
from typing import Any, Final

from noderuntime.errors import ProtocolError, StoreError
from noderuntime.ipc.protocol import Reply, Request, refusal
from noderuntime.merges import Merge
from noderuntime.state.base import Diff, Entry, State
from noderuntime.state.common import ENTRY_BYTES, Once, Page, TableState
from noderuntime.store.external_watches import Watches
from noderuntime.store.kvs import LISTING_BYTES_MAX, MERGES

Arguments = dict[str, Any]
Result = dict[str, Any]

WORKERS: Final = 4
CLIENTS_KEPT: Final = 1000


def is_about_shared_state(request: Request) -> bool:
    """Whether an external State, if the run has one, answers this request."""
    if request.operation.startswith("state_"):
        return request.arguments.get("scope") == "shared"
    return request.operation.startswith("kvs_")


def changes(state: State, once: Once | None) -> dict[str, Callable[[Arguments], Result]]:
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

    def set_value(arguments: Arguments) -> Result:
        chosen = write_packed if arguments.get("packed") else write
        ttl, expect = arguments.get("ttl"), arguments.get("expect")
        return {"revision": chosen(arguments["key"], arguments["value"], ttl, expect)}

    def merge_value(arguments: Arguments) -> Result:
        name, amount = arguments["merge"]
        if name not in MERGES:
            raise ProtocolError(f"there is no merge {name!r}; there are {', '.join(MERGES)}")
        return {"revision": merge(arguments["key"], MERGES[name](amount))}

    return {
        "kvs_set": set_value,
        "kvs_delete": lambda arguments: {"deleted": delete(arguments["key"]), "revision": 0},
        "kvs_merge": merge_value,
        "kvs_apply": lambda arguments: {"changed": apply(Diff.from_bytes(arguments["diff"]))},
        "state_set": set_value,
        "state_rm": lambda arguments: {"removed": delete(arguments["key"])},
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
        self._queries: dict[str, Callable[[Arguments], Result]] = {
            "kvs_get": self._get, "kvs_read": self._read, "kvs_root": self._root, "kvs_cells": self._cells,
            "kvs_version": self._version, "kvs_diff": self._diff,
            "state_get": self._value, "state_ls": self._list,
        }  # fmt: skip

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

    def _answer(self, identity: bytes, request: Request, operation: Callable[[Arguments], Result]) -> None:
        try:
            reply = Reply(request.number, operation(request.arguments), "", "")
        except BaseException as error:  # of a kind that somebody else has written; in this thread nobody would see it
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

    def _unknown(self, arguments: Arguments) -> Result:
        known = ", ".join([*self._changing, *self._queries, "kvs_watch"])
        raise ProtocolError(f"unknown operation; of shared state the store knows {known}")

    def _get(self, arguments: Arguments) -> Result:
        entry = self._state.get(arguments["key"])
        return {"entry": entry and _plain(entry)}

    def _value(self, arguments: Arguments) -> Result:
        entry = self._state.get(arguments["key"])
        if entry is None:
            return {"value": None, "revision": 0, "packed": False}
        return {"value": entry.value, "revision": entry.revision, "packed": entry.packed}

    def _read(self, arguments: Arguments) -> Result:
        with self._state.snapshot() as view:
            entries = {key: view.get(key) for key in arguments["keys"]}
            version = view.version()
        return {"entries": {key: entry and _plain(entry) for key, entry in entries.items()}, "version": version}

    def _root(self, arguments: Arguments) -> Result:
        page = self._page(arguments)
        entries = [[key, *_plain(entry)] for key, entry in page.entries]
        return {"entries": entries, "more": page.more, "version": page.version}

    def _list(self, arguments: Arguments) -> Result:
        page = self._page(arguments)
        found = [[key, len(entry.value), entry.revision] for key, entry in page.entries]
        return {"keys": found, "more": page.more}

    def _page(self, arguments: Arguments) -> Page:
        prefix, after = arguments.get("prefix", ""), arguments.get("after", "")
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

    def _cells(self, arguments: Arguments) -> Result:
        version = self._state.version()
        return {"diff": Diff({}, frozenset(), version, self._state.cells()).to_bytes(), "version": version}

    def _version(self, arguments: Arguments) -> Result:
        return {"version": self._state.version()}

    def _diff(self, arguments: Arguments) -> Result:
        made = self._state.diff(str(arguments["since"]))
        changed = {
            key: [*_plain(entry)[:3], entry.ttl, entry.origin, entry.packed] for key, entry in made.changed.items()
        }
        return {"changed": changed, "deleted": sorted(made.deleted), "version": made.version, "diff": made.to_bytes()}


def _stale(request: Request, last: int) -> ProtocolError:
    return ProtocolError(f"request {request.number} of {request.client}: its last is {last}")


def _plain(entry: Entry) -> list[Any]:
    written_ns = int(entry.timestamp.timestamp() * 1e9)
    expires_ns = 0 if entry.ttl is None else time.time_ns() + int(entry.ttl * 1e9)
    return [entry.value, entry.revision, written_ns, expires_ns, entry.origin, entry.packed]
