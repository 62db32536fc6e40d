"""`ctx.keyed`: the keyed states of one operator in the space, read one by one, and the index of what is due.

What is staged belongs to the transaction of the event in hand, as all that an operator does. Reads first see what is
staged by this event and by the earlier events of the same group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from noderuntime.api.keyed.deadlines import Place
from noderuntime.ipc.fault_points import point
from noderuntime.ipc.wiring import Wiring
from noderuntime.space import keys
from noderuntime.space.environment import Space, scan
from noderuntime.space.keys import VALUE_BYTES_MAX
from noderuntime.space.kvs import check_value
from noderuntime.space.records import PRIVATE_BYTES
from noderuntime.space.routing import owners_of
from noderuntime.space.staging import Staged

if TYPE_CHECKING:
    from noderuntime.node.context import OperatorContext

_MISSING: Final = object()
_STATE_BYTES_MAX: Final = VALUE_BYTES_MAX  # compiled, a Final of this module is read without a lookup


class KeyedState:
    """See KeyedStore in api/keyed/store.py. A place is a key of the space.

    Of replicas, each sees what is in the slots that it owns, and nothing else.
    """

    def __init__(self, ctx: OperatorContext, space: Space, wiring: Wiring) -> None:
        self._ctx = ctx
        self._space = space
        self._node = wiring.state_number
        self.follow(wiring)
        self._point: Callable[[str], None] | None = point
        # staged by the events of this group that are not committed yet
        self._values: dict[bytes, bytes | None] = {}
        self._marks: dict[bytes, dict[bytes, bool]] = {}  # by queue: entry -> whether it is there

    def follow(self, wiring: Wiring) -> None:
        """Find the slots that it owns. Those that read of others' slots before must forget what they have read."""
        self._partition = wiring.partition
        owned: frozenset[int] | None = None  # None: all
        if wiring.replicas:
            with self._space.read() as txn:
                owners = owners_of(txn, self._node, len(wiring.replicas))
            owned = frozenset(slot for slot, owner in enumerate(owners) if owner == wiring.replica)
        self._owned = owned

    def committed(self) -> None:
        """The whole group is committed, so reads find it in the space."""
        if self._values:
            self._values.clear()
        if self._marks:
            self._marks.clear()

    def place(self, slot: int, tag: str) -> bytes:
        """Raises ValueError for a key that another replica owns: its message should not have come here."""
        if self._owned is not None and slot not in self._owned:
            raise ValueError(
                f"this message came to a replica that does not own its key ({tag:.60}): `partition_by: "
                f"{self._partition}` of node {self._ctx.node_id!r} and the key of its operator disagree. Let both be "
                "the same part of the message."
            )
        return keys.keyed(self._node, slot, keys.user_key(tag))

    def load(self, place: Any) -> bytes | None:
        found: Any = self._values.get(place, _MISSING)
        if found is not _MISSING:
            staged: bytes | None = found
            return staged
        with self._space.read() as txn:
            stored = txn.get(place)
        return None if stored is None else stored[PRIVATE_BYTES:]

    def save(self, place: Any, value: Any) -> None:
        """Stage the value of a key. Raises ValueTooLarge."""
        hook = self._point
        if hook is not None:
            hook("stage")
        staged = self._ctx.staged
        if staged is None:
            raise self._ctx.too_early("saving the state of a key")
        if len(value) > _STATE_BYTES_MAX:
            self._refuse(place, value)
        if staged.private is None:
            staged.private = {place: value}
        else:
            staged.private[place] = value
        self._values[place] = value
        if hook is not None:
            hook("staged")

    def _refuse(self, place: bytes, value: bytes) -> None:
        tag = place[keys.KEYED_PREFIX_BYTES :].decode()
        check_value(f"the state {tag!r}", value)

    def save_all(self, values: Any) -> None:
        """Stage the values of several keys, by place."""
        hook = self._point
        if hook is not None:
            hook("stage")
        staged = self._ctx.staged
        if staged is None:
            raise self._ctx.too_early("saving the state of a key")
        for place, value in values.items():
            if len(value) > _STATE_BYTES_MAX:
                self._refuse(place, value)
        if staged.private is None:
            staged.private = dict(values)
        else:
            staged.private.update(values)
        self._values.update(values)
        if hook is not None:
            hook("staged")

    def delete(self, place: Any) -> None:
        self._staging("dropping the state of a key")[place] = self._values[place] = None

    def mark(self, queue: int, slot: int, due: float, tag: str, wanted: bool) -> None:
        prefix = keys.due_queue(self._node, slot, queue)
        entry = keys.due_entry(due, keys.user_key(tag))
        self._staging("setting a timer")[prefix + entry] = b"" if wanted else None
        marks = self._marks.get(prefix)
        if marks is None:
            marks = self._marks[prefix] = {}
        marks[entry] = wanted

    def _staging(self, call: str) -> dict[bytes, bytes | None]:
        staged: Staged | None = self._ctx.staged
        if staged is None:
            raise self._ctx.too_early(call)
        if staged.private is None:
            staged.private = {}
        return staged.private

    def due(self, queue: int, after: Sequence[tuple[int, Place]], limit: int) -> list[list[Place]]:
        found: list[list[Place]] = []
        with self._space.read() as txn:
            cursor = txn.cursor()
            for slot, (due, tag) in after:
                if self._owned is not None and slot not in self._owned:
                    found.append([])
                    continue
                prefix = keys.due_queue(self._node, slot, queue)
                start = keys.due_entry(due, tag.encode())
                marks = self._marks.get(prefix, {})
                entries: list[bytes] = []
                if cursor.set_range(prefix + start + b"\0"):
                    for key, _ in cursor:
                        if not key.startswith(prefix):
                            break
                        entry = key[len(prefix) :]
                        if marks.get(entry, True):
                            entries.append(entry)
                            if len(entries) == limit:
                                break
                if marks:
                    entries += [entry for entry, wanted in marks.items() if wanted and entry > start]
                    entries = sorted(set(entries))[:limit]
                places: list[Place] = []
                for entry in entries:
                    at, name = keys.parse_due(entry)
                    places.append((at, name.decode()))
                found.append(places)
        return found

    def all(self) -> Iterator[tuple[int, str, bytes]]:
        """(slot, tag, value) of each key, as a copy."""
        with self._space.read() as txn:
            stored = {key: value[PRIVATE_BYTES:] for key, value in scan(txn, keys.keyed_prefix(self._node))}
        for place, value in self._values.items():
            if value is None:
                stored.pop(place, None)
            else:
                stored[place] = value
        for place, value in stored.items():
            slot = place[keys.KEYED_PREFIX_BYTES - 1]
            if self._owned is not None and slot not in self._owned:
                continue
            yield slot, place[keys.KEYED_PREFIX_BYTES :].decode(), value
