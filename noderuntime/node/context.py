"""`ctx`: the context that an operator's methods get. What it stages belongs to the transaction of the event in hand.

Staging copies or encodes at the call; the commit only compares and puts. Reads first see what is staged by this event
and by the earlier events of the same group.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from noderuntime.dataflow.identifiers import node_of
from noderuntime.errors import NodeRuntimeError, StoreFull, StoreUnreachable, UnknownOutput
from noderuntime.ipc import forks
from noderuntime.ipc.fault_points import point
from noderuntime.node.keyed_state import KeyedState
from noderuntime.node.session import NodeSession
from noderuntime.space import keys, kvs, records
from noderuntime.space.environment import scan
from noderuntime.space.keys import VALUE_BYTES_MAX
from noderuntime.space.kvs import Merge, SharedWrite, check_value, ttl_to_ns
from noderuntime.space.outbox import check_merge
from noderuntime.space.staging import Output, Staged
from noderuntime.state import State

if TYPE_CHECKING:
    from numpy.typing import NDArray

APPLIED_WITHIN_S: Final = 30.0
ENCODED_KEYS_MAX: Final = 1000

MISSING: Final = object()
_STATE_BYTES_MAX: Final = VALUE_BYTES_MAX  # compiled, a Final of this module is read without a lookup


def _no_room(full: StoreFull) -> None:
    raise full


class OperatorContext:
    """See noderuntime.api.operator.Context for what users rely on, and for the types of arguments.

    Here those are Any: compiled, the call itself would refuse others, before the checks here, and in other words.
    """

    def __init__(self, session: NodeSession, config: Mapping[str, Any], log: logging.Logger) -> None:
        self.node_id = node_of(session.wiring.node)
        self.replica = session.wiring.replica
        self.replicas = len(session.wiring.replicas) or 1
        self.run_id = session.space.outbox_id
        self.config = MappingProxyType(dict(config))
        self.incarnation = session.incarnation
        self.is_restart = session.incarnation > 1
        self.log = log
        self.kvs: State = session.kvs
        self.staged: Staged | None = None  # None: no event in hand
        self.wait_for_room: Callable[[StoreFull], None] = _no_room
        self._point: Callable[[str], None] | None = point
        self._session = session
        self._space = session.space
        self._outputs: dict[str, Output] = session.outputs
        self.keyed = KeyedState(self, session.space, session.wiring)
        self._encoded: dict[str, bytes] = {}
        self._private_prefix = keys.private_prefix(session.wiring.number)
        # staged by the events of this group that are not committed yet
        self._private: dict[bytes, bytes | None] = {}
        self._shared: dict[bytes, bytes | None] = {}
        self._merges: dict[bytes, list[Merge]] = {}  # into values of an external State
        self._applied: bytes | None = None  # the last entry of the outbox known to be applied
        self._is_fork = False
        self._watch = forks.Watch(self.forked)

    # --- for the host -----------------------------------------------------------------------------------------------

    def committed(self) -> None:
        """Forget what was staged: the whole group is committed, so reads find it in the space."""
        if self._private:
            self._private.clear()
        if self._shared:
            self._shared.clear()
        if self._merges:
            self._merges.clear()
        self.keyed.committed()

    def follow(self) -> None:
        """The session has taken up another wiring, and nothing is staged."""
        wiring = self._session.wiring
        self.replica = wiring.replica
        self.replicas = len(wiring.replicas) or 1
        self._encoded.clear()
        self.keyed.follow(wiring)

    def forked(self) -> None:
        """See noderuntime.ipc.forks: in the child there is no event in hand."""
        self._is_fork = True
        self.staged = None
        self.kvs = forks.GONE
        self._session.forked()

    # --- for operators ----------------------------------------------------------------------------------------------

    def send_output(self, output: Any, value: Any, metadata: Any = None) -> None:
        """Send `value` to the receivers of `output`. Raises UnknownOutput, TypeError, ValueTooLarge."""
        hook = self._point
        if hook is not None:
            hook("stage")
        staged = self.staged
        if staged is None:
            raise self.too_early("send_output")
        known = self._outputs.get(output)
        if known is None:
            raise UnknownOutput(self.node_id, output, sorted(self._outputs))
        self._stage_output(known, staged, value, metadata)
        if hook is not None:
            hook("staged")

    def drop_earlier(self, output: str) -> None:
        """What waits of `output` from before its last message is dropped with the commit of this event, and counted."""
        staged, known = self.staged, self._outputs.get(output)
        if staged is not None and staged.outputs is not None and known is not None:
            rare = staged.also()
            rare.flush = [*rare.flush, (known, len(staged.outputs) - 1)]
            self._session.commits.flushes = True

    def _stage_output(
        self, output: Output, staged: Staged, value: Any, metadata: Mapping[str, Any] | None
    ) -> None:
        while True:
            try:
                output.stage(staged, value, metadata, self._session)
                return
            except StoreFull as full:
                self.wait_for_room(full)

    def allocate(self, shape: Any, dtype: Any = "uint8") -> NDArray[Any]:
        """A writable array in a payload segment: fill it and hand it to `send_output`, which then copies nothing."""
        while True:
            try:
                return self._session.pool.allocate(shape, dtype)
            except StoreFull as full:
                self.wait_for_room(full)

    def __call__(self, output: Any, value: Any, metadata: Any = None) -> None:
        """The same as `send_output`."""
        self.send_output(output, value, metadata)

    def save_state(self, key: Any, value: Any) -> None:
        """Store `value` under `key` in the private state."""
        hook = self._point
        if hook is not None:
            hook("stage")
        staged = self.staged
        if staged is None:
            raise self.too_early("save_state")
        encoded = self._encoded.get(key) or self._encode(key)
        if type(value) is not bytes or len(value) > _STATE_BYTES_MAX:
            value = check_value(f"the state {key!r}", value)
        if staged.private is None:
            staged.private = {encoded: value}
        else:
            staged.private[encoded] = value
        self._private[encoded] = value
        if hook is not None:
            hook("staged")

    def _encode(self, key: Any) -> bytes:
        """The key in the space of a user's key. Cached: most operators save under the same few keys again and again."""
        encoded = self._private_prefix + keys.user_key(key)
        if self.replicas > 1:
            raise NodeRuntimeError(
                f"save_state({key!r}) of {self.node_id!r}, which has replicas: none of them owns this key. Keep a "
                "state for each key of the messages, with a KeyedOperator or stateful_map, or remove `replicas`."
            )
        if len(self._encoded) >= ENCODED_KEYS_MAX:
            self._encoded.clear()
        self._encoded[key] = encoded
        return encoded

    def delete_state(self, key: Any) -> None:
        """Delete `key` from the private state. A missing key is not an error."""
        staged = self.staged
        if staged is None:
            raise self.too_early("delete_state")
        encoded = self._private_prefix + keys.user_key(key)
        if staged.private is None:
            staged.private = {}
        staged.private[encoded] = self._private[encoded] = None

    def load_state(self, key: Any, default: Any = None) -> Any:
        """The private value of `key`, or `default`."""
        encoded = self._private_prefix + keys.user_key(key)
        found: Any = self._private.get(encoded, MISSING)
        if found is MISSING:
            with self._space.read() as txn:
                stored = txn.get(encoded)
            found = None if stored is None else stored[records.PRIVATE_BYTES :]
        return default if found is None else found

    def state(self) -> dict[str, bytes]:
        """All of the private state, that of keys included, as a copy."""
        found = self.own_state()
        found.update((tag, value) for _, tag, value in self.keyed.all())
        return dict(sorted(found.items()))

    def own_state(self) -> dict[str, bytes]:
        """The private state without that of keys, as a copy: what `restore_state` gets."""
        prefix = self._private_prefix
        with self._space.read() as txn:
            found = {key: value[records.PRIVATE_BYTES :] for key, value in scan(txn, prefix)}
        for key, value in self._private.items():
            if value is None:
                found.pop(key, None)
            else:
                found[key] = value
        return {key[len(prefix) :].decode(): found[key] for key in sorted(found)}

    def kvs_write(self, key: Any, value: Any, ttl: Any = None) -> None:
        """Write to the shared KVS, as part of the event's transaction."""
        encoded = keys.user_key(key)
        kept = check_value(f"the value of {key!r}", value)
        self._stage("kvs_write", SharedWrite(encoded, kept, ttl_ns=ttl_to_ns(ttl)), kept)

    def kvs_read(self, key: Any, default: Any = None) -> Any:
        """The shared value of `key`: as staged, otherwise as last committed, otherwise `default`."""
        encoded = keys.user_key(key)
        found: Any = self._shared.get(encoded, MISSING) if self._shared else MISSING
        if found is MISSING:
            if self._session.external is not None:
                found = self._read_external(self._session.external, key, encoded)
                return default if found is None else found
            with self._space.read() as txn:
                found = kvs.read_value(txn, encoded, self._space.now_ns)
        return default if found is None else found

    def _read_external(self, external: State, key: str, encoded: bytes) -> bytes | None:
        """The value in an external State, once this node's earlier writes are applied there."""
        last = self._session.outbox_last
        deadline = time.monotonic() + APPLIED_WITHIN_S
        while last != self._applied:
            with self._space.read() as txn:
                waits = last is not None and txn.get(last) is not None
            if not waits:
                self._applied = last
            elif time.monotonic() > deadline:
                raise StoreUnreachable("the external State", "earlier writes still wait", APPLIED_WITHIN_S)
            else:
                time.sleep(0.0005)
        entry = external.get(key)
        value = None if entry is None else entry.value
        for merge in self._merges.get(encoded, ()):
            value = merge.apply(value)
        return value

    def kvs_delete(self, key: Any) -> None:
        """Delete a shared key, as part of the event's transaction. A missing key is not an error."""
        self._stage("kvs_delete", SharedWrite(keys.user_key(key)), None)

    def kvs_merge(self, key: Any, merge: Any) -> None:
        """Combine a shared value with `merge` inside the commit. Raises TypeError if the two do not fit."""
        if not hasattr(merge, "apply"):
            raise TypeError(f"kvs_merge takes one of noderuntime.merges, not {type(merge).__name__}")
        encoded = keys.user_key(key)
        if self._session.external is not None:
            check_merge(merge)
            if encoded not in self._shared:  # no need to read the present value: the store process merges
                self._stage("kvs_merge", SharedWrite(encoded, merge=merge))
                self._merges.setdefault(encoded, []).append(merge)
                return
        merged = check_value(f"the value of {key!r}", merge.apply(self.kvs_read(key)))
        self._stage("kvs_merge", SharedWrite(encoded, merge=merge), merged)

    def _stage(self, call: str, write: SharedWrite, result: Any = MISSING) -> None:
        hook = self._point
        if hook is not None:
            hook("stage")
        staged = self.staged
        if staged is None:
            raise self.too_early(call)
        rare = staged.also()
        if rare.shared is None:
            rare.shared = []
        rare.shared.append(write)
        if result is not MISSING:
            self._shared[write.key] = result
            self._merges.pop(write.key, None)
        if hook is not None:
            hook("staged")

    def too_early(self, call: str) -> NodeRuntimeError:
        """What to raise for a call that needs an event in hand."""
        if self._is_fork:
            return forks.Forked()
        return NodeRuntimeError(
            f"{call}: there is no event in hand. Sending and writing belong to on_event or produce; "
            "__init__, restore_state and other threads can only read."
        )
