"""The store's operations on state: those of the command line, and the State contract for those without LMDB.

`changes` run in the write transaction that keeps the request, `queries` in a read transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from noderuntime.errors import HistoryLost, NotRunning, ProtocolError, RevisionConflict, StoreFull
from noderuntime.ipc import state_records as wire
from noderuntime.ipc.store_records import Nothing
from noderuntime.merges import Add, Max, Merge, Min, Union
from noderuntime.space import keys, kvs, kvs_cells, private, records, watches
from noderuntime.space.environment import MARK_NEW_WORK, Space
from noderuntime.space.kvs import SharedValue, SharedWrite, check_value, ttl_to_ns
from noderuntime.space.lives import NodeEntry
from noderuntime.space.transactions import ReadTxn, WriteTxn
from noderuntime.state.base import Diff
from noderuntime.state.common import ENTRY_BYTES
from noderuntime.state.diffs import check_diff, diff_of, origin_text
from noderuntime.state.seeds import Seed
from noderuntime.store.dispatch import Given, Result, taking_txn
from noderuntime.store.kvs_watch import Watcher
from noderuntime.store.startup import sow_here

LISTING_BYTES_MAX: Final = 8 << 20  # of values in one reply; the next page has the rest


def _union(elements: Any) -> Merge:
    return Union(set(elements))


MERGES: Final[dict[str, Callable[[Any], Merge]]] = {"add": Add, "max": Max, "min": Min, "union": _union}


class StateOperations:
    """The operations, on an open space. `rings` holds whom to ring after the transaction."""

    def __init__(self, space: Space, node_entry: Callable[[str], NodeEntry]) -> None:
        self.space = space
        self.rings: set[int] = set()
        self._node_entry = node_entry
        self._watchers = watches.Watchers()
        self.changes: dict[str, Callable[[WriteTxn, Given], Result]] = {
            "state_set": taking_txn(wire.StateSet, self.state_set),
            "state_rm": taking_txn(wire.StateKey, self.state_rm),
            "kvs_set": taking_txn(wire.Set, self.set),
            "kvs_delete": taking_txn(wire.Key, self.delete),
            "kvs_merge": taking_txn(wire.Merging, self.merge),
            "kvs_apply": taking_txn(wire.Applying, self.apply),
        }
        self.queries: dict[str, Callable[[ReadTxn, Given], Result]] = {
            "state_ls": taking_txn(wire.Listing, self.state_ls),
            "state_get": taking_txn(wire.StateKey, self.state_get),
            "kvs_get": taking_txn(wire.Key, self.get),
            "kvs_read": taking_txn(wire.Keys, self.read),
            "kvs_root": taking_txn(wire.Part, self.root),
            "kvs_cells": taking_txn(Nothing, self.cells),
            "kvs_version": taking_txn(Nothing, self.version),
            "kvs_diff": taking_txn(wire.Since, self.diff),
        }

    def taken_rings(self) -> set[int]:
        """Whom to ring for what was done since the last call."""
        rings, self.rings = self.rings, set()
        return rings

    # --- the command line: shared and private -----------------------------------------------------------------------

    def state_ls(self, txn: ReadTxn, asked: wire.Listing) -> wire.Listed:
        prefix, after = asked.prefix.encode(), asked.after.encode()
        listed: Iterator[tuple[bytes, int, int]]
        if asked.scope == "shared":
            entries = kvs.entries(txn, prefix, self.space.now_ns(), after)
            listed = ((key, len(entry.value), entry.revision) for key, entry in entries)
        else:
            listed = (
                (key, len(record) - records.PRIVATE_BYTES, *records.PRIVATE.unpack_from(record))
                for key, record in private.listed(txn, self._node_entry(asked.scope).number, prefix, after)
            )
        found: list[wire.ListedKey] = []
        room = LISTING_BYTES_MAX
        for key, size, revision in listed:
            room -= len(key) + 24
            if room < 0:
                return {"keys": found, "more": True}
            found.append(wire.ListedKey(key.decode(), size, revision))
        return {"keys": found, "more": False}

    def state_get(self, txn: ReadTxn, asked: wire.StateKey) -> wire.Value:
        key = keys.user_key(asked.key)
        if asked.scope == "shared":
            entry = kvs.read(txn, key, self.space.now_ns())
            return _shown(entry)
        found = private.find(txn, self._node_entry(asked.scope).number, key)
        if found is None:
            return _shown(None)
        _, record = found
        (sequence,) = records.PRIVATE.unpack_from(record)
        return {"value": record[records.PRIVATE_BYTES :], "revision": sequence, "packed": False}

    def state_set(self, txn: WriteTxn, asked: wire.StateSet) -> wire.Revision:
        if asked.scope == "shared":
            return self.set(txn, asked)
        key = keys.user_key(asked.key)
        value = check_value(f"the value of {asked.key!r}", asked.value)
        self._refuse_when_full(txn)
        sequence = self.space.base + txn.id()
        private.put(txn, self._node_entry(asked.scope).number, key, value, sequence)
        return {"revision": sequence}

    def state_rm(self, txn: WriteTxn, asked: wire.StateKey) -> wire.Removed:
        if asked.scope == "shared":
            return {"removed": self.delete(txn, wire.Key(asked.key))["deleted"]}
        key = keys.user_key(asked.key)
        return {"removed": private.remove(txn, self._node_entry(asked.scope).number, key)}

    # --- the contract: writing --------------------------------------------------------------------------------------

    def set(self, txn: WriteTxn, asked: wire.Set) -> wire.Revision:
        value = check_value(f"the value of {asked.key!r}", asked.value)
        write = SharedWrite(keys.user_key(asked.key), value, ttl_ns=ttl_to_ns(asked.ttl), packed=asked.packed)
        if asked.expect is not None:
            found = kvs.read(txn, write.key, self.space.now_ns())
            revision = found.revision if found else 0
            if revision != asked.expect:
                raise RevisionConflict(asked.key, asked.expect, revision)
        return {"revision": self._write(txn, write)}

    def delete(self, txn: WriteTxn, asked: wire.Key) -> wire.Deleted:
        write = SharedWrite(keys.user_key(asked.key))
        deleted = kvs.read(txn, write.key, self.space.now_ns()) is not None
        return {"revision": self._write(txn, write, drains=True), "deleted": deleted}

    def merge(self, txn: WriteTxn, asked: wire.Merging) -> wire.Revision:
        write = SharedWrite(keys.user_key(asked.key), merge=merge_of(asked))
        return {"revision": self._write(txn, write)}

    def apply(self, txn: WriteTxn, asked: wire.Applying) -> wire.Applied:
        found = check_diff(Diff.from_bytes(asked.diff))
        self._refuse_when_full(txn)
        changes = self._begin(txn)
        changed = sorted(key.decode() for key, cell in found if changes.join(key, cell))
        self._finish(txn, changes)
        return {"changed": changed}

    def sow(self, txn: WriteTxn, seeds: dict[str, Seed]) -> None:
        """The first values of an empty store."""
        changes = self._begin(txn)
        sow_here(txn, changes, seeds)
        self._finish(txn, changes)

    def purge(self, txn: WriteTxn) -> int:
        """Turn some of what has expired into deletions; returns how many keys."""
        changes = self._begin(txn)
        purged = changes.expire(kvs.PURGE_STEP)
        if purged:
            self._finish(txn, changes)
        return purged

    def _write(self, txn: WriteTxn, write: SharedWrite, drains: bool = False) -> int:
        if not drains:
            self._refuse_when_full(txn)
        changes = self._begin(txn)
        changes.write(write)
        self._finish(txn, changes)
        revision: int = self.space.base + txn.id()
        return revision

    def _begin(self, txn: WriteTxn) -> kvs.Changes:
        return kvs.Changes(txn, self.space.base + txn.id(), self.space.now_ns(), self.space.origin)

    def _finish(self, txn: ReadTxn, changes: kvs.Changes) -> None:
        changes.finish()
        if changes.keys and changes.generation:
            self.rings |= self._watchers.of(txn, changes)

    def _refuse_when_full(self, txn: ReadTxn) -> None:
        if self.space.used_share(txn) > MARK_NEW_WORK:
            raise StoreFull(self.space.size_bytes, self.space.used_bytes())

    # --- the contract: reading --------------------------------------------------------------------------------------

    def get(self, txn: ReadTxn, asked: wire.Key) -> wire.Found:
        found = kvs.read(txn, keys.user_key(asked.key), self.space.now_ns())
        return {"entry": found and _plain(found)}

    def read(self, txn: ReadTxn, asked: wire.Keys) -> wire.FoundAll:
        """Several keys of one moment."""
        now_ns = self.space.now_ns()
        found = {key: kvs.read(txn, keys.user_key(key), now_ns) for key in asked.keys}
        version = kvs_cells.version_text(kvs.digest_now(txn, now_ns))
        return {"entries": {key: entry and _plain(entry) for key, entry in found.items()}, "version": version}

    def root(self, txn: ReadTxn, asked: wire.Part) -> wire.Root:
        now_ns = self.space.now_ns()
        prefix, after = asked.prefix.encode(), asked.after.encode()
        found: list[wire.RootEntry] = []
        size = 0
        more = False
        for key, entry in kvs.entries(txn, prefix, now_ns, after):
            if size > LISTING_BYTES_MAX:
                more = True
                break
            found.append(wire.RootEntry(key.decode(), *_plain(entry)))
            size += len(key) + len(entry.value) + ENTRY_BYTES
        return {"entries": found, "more": more, "version": kvs_cells.version_text(kvs.digest_now(txn, now_ns))}

    def cells(self, txn: ReadTxn, asked: Nothing) -> wire.Everything:
        now_ns = self.space.now_ns()
        found = {key.decode(): kvs_cells.expired(kept.cell, now_ns) for key, kept in kvs.all_stored(txn)}
        version = kvs_cells.version_text(kvs.digest_now(txn, now_ns))
        return {"diff": Diff({}, frozenset(), version, found).to_bytes(), "version": version}

    def version(self, txn: ReadTxn, asked: Nothing) -> wire.Version:
        return {"version": kvs_cells.version_text(kvs.digest_now(txn, self.space.now_ns()))}

    def diff(self, txn: ReadTxn, asked: wire.Since) -> wire.Changes:
        since = asked.since
        now_ns = self.space.now_ns()
        version = kvs_cells.version_text(kvs.digest_now(txn, now_ns))
        if since == version:
            return {"changed": {}, "deleted": [], "version": version, "diff": Diff({}, frozenset(), version).to_bytes()}
        place = kvs.find_digest(txn, kvs_cells.digest_of(since))
        if place is None:
            raise HistoryLost(since)
        found: dict[str, kvs.Stored] = {}
        for change in kvs.changes_after(txn, *place):
            kept = kvs.stored(txn, change.key)
            if kept is not None:
                found[change.key.decode()] = kept
        made = diff_of(found.items(), version, now_ns)
        changed = {
            key: wire.DiffEntry(
                entry.value, entry.revision, found[key].written_ns, entry.ttl, entry.origin, entry.packed
            )
            for key, entry in made.changed.items()
        }
        return {"changed": changed, "deleted": sorted(made.deleted), "version": version, "diff": made.to_bytes()}

    def watch(self, txn: ReadTxn, watcher: Watcher) -> wire.Updates | None:
        """What is new behind a cursor; None: nothing yet. Without a cursor, the one to begin with."""
        if watcher.cursor is None:
            head = kvs.head(txn)
            return {"updates": [], "cursor": wire.Cursor(head.revision, head.nth)}
        watcher.looked = True
        found, place = watches.look(txn, watcher.match, watcher.cursor, self.space.now_ns(), watcher.limit)
        if not found:
            watcher.cursor = wire.Cursor(*place)  # looked through already
            return None
        return {
            "updates": [wire.PlainUpdate(item.key, item.value, item.revision) for item in found],
            "packed": [item.packed for item in found],
            "cursor": wire.Cursor(*place),
        }


def merge_of(asked: wire.Merging) -> Merge:
    """The merge that a client names. Raises ProtocolError."""
    name, amount = asked.merge
    if name not in MERGES:
        raise ProtocolError(f"there is no merge {name!r}; there are {', '.join(MERGES)}")
    return MERGES[name](amount)


def node_entry_of(registry: dict[str, NodeEntry], id: str) -> NodeEntry:
    """The node of that id. Raises NotRunning."""
    node_entry = registry.get(id)
    if node_entry is None:
        known = ", ".join(registry)
        raise NotRunning(f"this run has no node {id!r}", f"Its nodes: {known}")
    return node_entry


def _plain(entry: SharedValue) -> wire.PlainEntry:
    return wire.PlainEntry(
        entry.value, entry.revision, entry.written_ns, entry.expires_ns, origin_text(entry.origin), entry.packed
    )


def _shown(entry: SharedValue | None) -> wire.Value:
    """What `state get` is answered: a value of None when there is none."""
    if entry is None:
        return {"value": None, "revision": 0, "packed": False}
    return {"value": entry.value, "revision": entry.revision, "packed": entry.packed}


def set_limits(txn: WriteTxn, history: int | None, ttl_ns: int) -> None:
    """Set the limits of the shared KVS; without a `history` those of before stay."""
    if history is not None:
        kvs.prepare(txn, history, ttl_ns)

