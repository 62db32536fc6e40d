"""The `ctx` of an operator in a Harness, and the shared KVS behind it."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from noderuntime.errors import NodeRuntimeError, RevisionConflict, UnknownOutput
from noderuntime.space import kvs_cells
from noderuntime.space.keys import user_key
from noderuntime.space.kvs import check_value, ttl_to_ns
from noderuntime.space.records import encode_message
from noderuntime.state import Entry
from noderuntime.testing.harness_keyed import KeyedDict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from noderuntime.merges import Merge
    from noderuntime.testing.lives import Lives

START: Final = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class _Kept:
    value: bytes
    revision: int
    written: dt.datetime
    expires: dt.datetime | None
    packed: bool = False


class SharedKVS(MutableMapping[str, bytes]):
    """The shared KVS of one or several Harnesses: `h.kvs["limit"] = b"5"`; `Harness(Other, kvs=h.kvs)`."""

    def __init__(self, given: Mapping[str, bytes] | None = None) -> None:
        self.now = START
        self.revision = 0
        self._kept: dict[str, _Kept] = {}
        self.changed: dict[str, int] = {}  # key -> revision of its last change
        self.update(given or {})

    def __getitem__(self, key: str) -> bytes:
        kept = self._kept[key]
        if self._expired(kept):
            raise KeyError(key)
        return kept.value

    def __setitem__(self, key: str, value: bytes) -> None:
        self.write(key, value)

    def __delitem__(self, key: str) -> None:
        del self._kept[key]
        self.revision += 1
        self._note(key)

    def _note(self, key: str) -> None:
        self.changed.pop(key, None)  # so that they stand in order
        self.changed[key] = self.revision

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(key for key, kept in self._kept.items() if not self._expired(kept)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"SharedKVS({dict(self)!r})"

    def _expired(self, kept: _Kept) -> bool:
        return kept.expires is not None and kept.expires <= self.now

    def write(self, key: str, value: bytes, ttl: float | None = None) -> int:
        """Set `key`, for `ttl` seconds of the Harness's time if given. Returns its revision."""
        user_key(key)
        ttl_ns = ttl_to_ns(ttl)
        expires = self.now + dt.timedelta(microseconds=ttl_ns / 1000) if ttl_ns else None
        copied = check_value(f"the value of {key!r}", value)
        self.revision += 1
        self._kept[key] = _Kept(copied, self.revision, self.now, expires)
        self._note(key)
        return self.revision

    def delete(self, key: str) -> bool:
        """Delete `key`. Returns whether it was there."""
        present = key in self
        if self._kept.pop(key, None) is not None:
            self.revision += 1
            self._note(key)
        return present

    def merge(self, key: str, merge: Merge) -> int:
        """Combine `key` with `merge`. Returns its revision."""
        expires = self._kept[key].expires if key in self else None
        revision = self.write(key, merge.apply(self.get(key)))
        ours = kvs_cells.kind_of(merge) is not None
        self._kept[key] = replace(self._kept[key], expires=expires, packed=ours)  # a time to live continues
        return revision

    def entry(self, key: str) -> Entry | None:
        """Value, revision and times of `key`; None if it is not there."""
        user_key(key)
        if key not in self:
            return None
        kept = self._kept[key]
        ttl = None if kept.expires is None else (kept.expires - self.now).total_seconds()
        return Entry(kept.value, kept.revision, kept.written, ttl, f"{0:012x}/0", kept.packed)


class HarnessState:
    """`ctx.kvs` of a Harness: each call takes effect at once. See noderuntime.state.MemoryState."""

    def __init__(self, kvs: SharedKVS, watched: set[str]) -> None:
        self._kvs = kvs
        self._watched = watched
        self.get = kvs.entry
        self.delete = kvs.delete
        self.merge = kvs.merge

    def get_or(self, key: str, default: bytes) -> bytes:
        found = self._kvs.entry(key)
        return default if found is None else found.value

    def get_root(self) -> dict[str, Entry]:
        entries = {key: self._kvs.entry(key) for key in self._kvs}
        return {key: entry for key, entry in entries.items() if entry is not None}

    def watch(self, prefix: str = "") -> None:
        """Get KVS_UPDATE events for keys that start with `prefix`; `Harness.update` hands them out."""
        user_key(prefix)
        self._watched.add(prefix)

    @contextmanager
    def snapshot(self) -> Iterator[HarnessState]:
        yield self  # there are no other writers

    def set(self, key: str, value: bytes, ttl: float | None = None, expect: int | None = None) -> int:
        found = self._kvs.entry(key)
        revision = found.revision if found else 0
        if expect is not None and revision != expect:
            raise RevisionConflict(key, expect, revision)
        return self._kvs.write(key, value, ttl)


@dataclass(slots=True)
class Staged:
    """The changes of one event. Messages are records, as they would be in a mailbox."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)
    private: dict[str, bytes | None] = field(default_factory=dict)
    shared: dict[str, list[Callable[[SharedKVS], object]]] = field(default_factory=dict)


class HarnessContext:
    """The `ctx` of a Harness: see noderuntime.api.operator.Context."""

    def __init__(self, harness: Lives, incarnation: int) -> None:
        self.node_id = harness.node_id
        self.run_id = harness.run_id
        self.config = MappingProxyType(dict(harness.config))
        self.replica, self.replicas = 0, 1
        self.incarnation = incarnation
        self.is_restart = incarnation > 1
        self.log = logging.getLogger(harness.node_id)
        self.kvs = HarnessState(harness.kvs, harness.watched)
        self._harness = harness
        self._staged: Staged | None = None  # None: no event in hand, nothing may be staged
        self.keyed = KeyedDict(harness.state, lambda call: self._staging(call).private, self._staged_private)

    def begin(self) -> Staged:
        """Begin an event: calls from now on belong to it."""
        self._staged = Staged()
        return self._staged

    def end(self) -> None:
        self._staged = None

    def _staging(self, call: str) -> Staged:
        if self._staged is None:
            raise NodeRuntimeError(
                f"{call}: there is no event in hand. Sending and writing belong to on_event or produce; "
                "__init__ and restore_state can only read."
            )
        return self._staged

    def __call__(self, output: str, value: Any, metadata: Mapping[str, Any] | None = None) -> None:
        self.send_output(output, value, metadata)

    def send_output(self, output: str, value: Any, metadata: Mapping[str, Any] | None = None) -> None:
        staged = self._staging("send_output")
        known = self._harness.declared
        if known is not None and output not in known:
            raise UnknownOutput(self.node_id, output, known)
        record, _ = encode_message(value, metadata, 0, 0)
        staged.messages.append((output, record))

    def allocate(self, shape: int | tuple[int, ...], dtype: Any = "uint8") -> NDArray[Any]:
        import numpy

        return numpy.empty(shape, dtype)

    def save_state(self, key: str, value: bytes) -> None:
        user_key(key)
        self._staging("save_state").private[key] = check_value(f"the state {key!r}", value)

    def delete_state(self, key: str) -> None:
        user_key(key)
        self._staging("delete_state").private[key] = None

    def load_state(self, key: str, default: bytes | None = None) -> bytes | None:
        user_key(key)
        staged = self._staged_private()
        value = staged[key] if key in staged else self._harness.state.get(key)
        return default if value is None else value

    def state(self) -> dict[str, bytes]:
        merged = {**self._harness.state, **self._staged_private()}
        return {key: value for key, value in sorted(merged.items()) if value is not None}

    def _staged_private(self) -> dict[str, bytes | None]:
        return self._staged.private if self._staged else {}

    def kvs_write(self, key: str, value: bytes, ttl: float | None = None) -> None:
        copied = check_value(f"the value of {key!r}", value)
        ttl_to_ns(ttl)
        self._stage_shared("kvs_write", key, lambda kvs: kvs.write(key, copied, ttl))

    def kvs_read(self, key: str, default: bytes | None = None) -> bytes | None:
        user_key(key)
        return self._preview(key).get(key, default)

    def kvs_delete(self, key: str) -> None:
        self._stage_shared("kvs_delete", key, lambda kvs: kvs.delete(key))

    def kvs_merge(self, key: str, merge: Merge) -> None:
        if not hasattr(merge, "apply"):
            raise TypeError(f"kvs_merge takes one of noderuntime.merges, not {type(merge).__name__}")
        user_key(key)
        self._preview(key).merge(key, merge)  # raises now what the commit would raise
        self._stage_shared("kvs_merge", key, lambda kvs: kvs.merge(key, merge))

    def _stage_shared(self, call: str, key: str, step: Callable[[SharedKVS], object]) -> None:
        user_key(key)
        self._staging(call).shared.setdefault(key, []).append(step)

    def _preview(self, key: str) -> SharedKVS:
        """A KVS of this one key as it would be after the commit."""
        shared = self._harness.kvs
        preview = SharedKVS({key: shared[key]} if key in shared else None)
        for step in self._staged.shared.get(key, []) if self._staged else []:
            step(preview)
        return preview
