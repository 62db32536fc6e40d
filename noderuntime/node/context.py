"""`ctx`: the context that an operator's methods get. What it stages belongs to the transaction of the event in hand.

Staging copies or encodes at the call; the commit only compares and puts. Reads first see what is staged by this event
and by the earlier events of the same group.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import CLOCK_BOOTTIME, clock_gettime_ns
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from noderuntime.api.events import Event, input_event
from noderuntime.errors import NodeRuntimeError, StoreFull, StoreUnreachable, UnknownOutput, ValueTooLarge
from noderuntime.ipc import forks
from noderuntime.ipc.fault_points import point
from noderuntime.node.chain import Chain, InnerInput
from noderuntime.node.session import NodeSession
from noderuntime.space import keys, kvs, records
from noderuntime.space.environment import scan
from noderuntime.space.keys import VALUE_BYTES_MAX
from noderuntime.space.kvs import Merge, SharedWrite, check_value, ttl_to_ns
from noderuntime.space.outbox import check_merge
from noderuntime.space.records import decode_message
from noderuntime.space.segments import THRESHOLD_BYTES
from noderuntime.space.staging import Output, Staged
from noderuntime.state import State

if TYPE_CHECKING:
    from numpy.typing import NDArray

APPLIED_WITHIN_S: Final = 30.0
ENCODED_KEYS_MAX: Final = 1000

_MISSING: Final = object()
_INT_MAX: Final = 1 << 63  # of the integers that MessagePack carries with a sign
_INT_MIN: Final = -_INT_MAX
_INNER_BYTES: Final = 24  # about what the head of a message takes

# Compiled, names of this module that are Final are read without a lookup.
_INLINE_BYTES: Final = THRESHOLD_BYTES
_STATE_BYTES_MAX: Final = VALUE_BYTES_MAX
_clock_ns: Final = partial(clock_gettime_ns, CLOCK_BOOTTIME)


def _no_room(full: StoreFull) -> None:
    raise full


class OperatorContext:
    """See noderuntime.api.operator.Context for what users rely on, and for the types of arguments.

    Here those are Any: compiled, the call itself would refuse others, before the checks here, and in other words.
    """

    def __init__(self, session: NodeSession, config: Mapping[str, Any], log: logging.Logger) -> None:
        self.node_id = session.wiring.node
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
            raise self._too_early("send_output")
        known = self._outputs.get(output)
        if known is None:
            raise UnknownOutput(self.node_id, output, sorted(self._outputs))
        self._stage_output(known, staged, value, metadata)
        if hook is not None:
            hook("staged")

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
            raise self._too_early("save_state")
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
        if len(self._encoded) >= ENCODED_KEYS_MAX:
            self._encoded.clear()
        self._encoded[key] = encoded
        return encoded

    def delete_state(self, key: Any) -> None:
        """Delete `key` from the private state. A missing key is not an error."""
        staged = self.staged
        if staged is None:
            raise self._too_early("delete_state")
        encoded = self._private_prefix + keys.user_key(key)
        if staged.private is None:
            staged.private = {}
        staged.private[encoded] = self._private[encoded] = None

    def load_state(self, key: Any, default: Any = None) -> Any:
        """The private value of `key`, or `default`."""
        encoded = self._private_prefix + keys.user_key(key)
        found: Any = self._private.get(encoded, _MISSING)
        if found is _MISSING:
            with self._space.read() as txn:
                stored = txn.get(encoded)
            found = None if stored is None else stored[records.PRIVATE_BYTES :]
        return default if found is None else found

    def state(self) -> dict[str, bytes]:
        """All of the private state, as a copy."""
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
        found: Any = self._shared.get(encoded, _MISSING) if self._shared else _MISSING
        if found is _MISSING:
            if self._session.external is not None:
                found = self._read_external(self._session.external, key, encoded)
                return default if found is None else found
            with self._space.read() as txn:
                found = kvs.read_value(txn, encoded, self._space.now_ns)
        return default if found is None else found

    def _read_external(self, external: State, key: str, encoded: bytes) -> bytes | None:
        """The value in an external State, once this node's earlier writes are applied there."""
        last = self._session.commits.outbox_last
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

    def _stage(self, call: str, write: SharedWrite, result: Any = _MISSING) -> None:
        hook = self._point
        if hook is not None:
            hook("stage")
        staged = self.staged
        if staged is None:
            raise self._too_early(call)
        rare = staged.also()
        if rare.shared is None:
            rare.shared = []
        rare.shared.append(write)
        if result is not _MISSING:
            self._shared[write.key] = result
            self._merges.pop(write.key, None)
        if hook is not None:
            hook("staged")

    def _too_early(self, call: str) -> NodeRuntimeError:
        if self._is_fork:
            return forks.Forked()
        return NodeRuntimeError(
            f"{call}: there is no event in hand. Sending and writing belong to on_event or produce; "
            "__init__, restore_state and other threads can only read."
        )


def _is_flat(metadata: dict[Any, Any]) -> bool:
    """Whether copying a dict is as good as sending it: its values cannot be changed, and would arrive as they are."""
    for key, value in metadata.items():
        kind = type(value)
        if type(key) is not str or not key.isascii():
            return False
        if kind is int:
            if not _INT_MIN <= value < _INT_MAX:
                return False
        elif kind is str:
            if not value.isascii():
                return False
        elif kind is not float and kind is not bool and kind is not bytes and value is not None:
            return False
    return True


class Route:
    """Where the messages of one output go: `inner` are its inputs in this process, in the order of the file.

    `is_inner`: all of its inputs are, and none of them drops anything.
    """

    __slots__ = ("counter", "inner", "is_inner", "mailboxes", "output", "variants")

    def __init__(self, output: Output, inner: Sequence[tuple[int, InnerInput[Any]]]) -> None:
        self.output = output
        self.counter = output.counter
        self.inner = [link for _, link in inner]
        self.mailboxes = [at for at, _ in inner]  # their places among the receivers of the output
        self.is_inner = len(inner) == output.copies and not any(link.drops for link in self.inner) and bool(inner)
        self.variants: dict[int, Output] = {}  # the output without the inputs that are taken inside, which are bits

    def without(self, taken: int) -> Output:
        """The output, to be committed to all receivers but the `taken` ones (a bit for each of `inner`).

        One of these goes to no receiver inside. So when a transaction has several for one receiver outside, it has a
        message for a mailbox inside, and is written message by message: packs of two of them would overlap.
        """
        found = self.variants.get(taken)
        if found is None:
            gone = {at for bit, at in enumerate(self.mailboxes) if taken >> bit & 1}
            kept = [receiver for at, receiver in enumerate(self.output.receivers) if at not in gone]
            found = self.variants[taken] = self.output.to(kept)
        return found


class ChainContext(OperatorContext):
    """The `ctx` of the operator at `place` of a shared process. `shared`: the context of the first one, because what
    one of them stages of the shared KVS, all of them see.
    """

    def __init__(
        self,
        session: NodeSession,
        config: Mapping[str, Any],
        log: logging.Logger,
        chain: Chain[Any],
        place: int,
        shared: ChainContext | None = None,
    ) -> None:
        super().__init__(session, config, log)
        self._place = place
        self._chain = chain
        self._put = chain.queue.append
        self._routes: dict[str, Route] = {}
        self._booted_ns = session.space.booted_ns
        if shared is not None:
            self._shared, self._merges = shared._shared, shared._merges

    def _stage(self, call: str, write: SharedWrite, result: Any = _MISSING) -> None:
        super()._stage(call, write, result)
        if self.staged is not None:
            rare = self.staged.also()
            rare.writers = (*rare.writers, self._place)

    def connect(self, routes: dict[str, Route]) -> None:
        """Where the messages of each output go."""
        self._routes = routes

    def send_output(self, output: Any, value: Any, metadata: Any = None) -> None:
        """Send `value` to the receivers of `output`. Raises UnknownOutput, TypeError, ValueTooLarge."""
        hook = self._point
        if hook is not None:
            hook("stage")
        staged = self.staged
        if staged is None:
            raise self._too_early("send_output")
        route = self._routes.get(output)
        if route is None:
            raise UnknownOutput(self.node_id, output, sorted(self._outputs))
        if self._chain.open and route.is_inner:
            self._send_inside(route, staged, value, metadata)
        else:
            self._send(route, staged, value, metadata)
        if hook is not None:
            hook("staged")

    def _send_inside(self, route: Route, staged: Staged, value: Any, metadata: Any) -> None:
        """Send to receivers that are all here, which is what this process is for.

        The value is immutable, or it is copied by way of its bytes: the sender may still change it.
        """
        sent = route.output
        number = sent.sent + 1
        kind = type(value)
        if metadata and (type(metadata) is not dict or not _is_flat(metadata)):
            size = -1
        elif kind is bytes:
            size = len(value)
        elif kind is int:
            size = 8 if _INT_MIN <= value < _INT_MAX else -1
        elif kind is str:
            size = len(value) if value.isascii() else -1
        else:
            size = 8 if kind is float or kind is bool or value is None else -1
        now_ns: int = self._booted_ns + _clock_ns()
        if 0 <= size < _INLINE_BYTES:
            size += _INNER_BYTES
            for link in route.inner:
                own = dict(metadata) if metadata else {}
                event = input_event(link.name, value, own, link.source, now_ns, number, self._chain.attempt)
                self._put((link, event))
        else:
            record, size = self._record(sent.name, value, metadata, number, now_ns)
            for link in route.inner:
                self._put((link, self._decoded(link, record)))
        sent.sent = number
        self._chain.count(len(route.inner), size * len(route.inner))
        if staged.numbers is None:
            staged.numbers = {route.counter: number}
        else:
            staged.numbers[route.counter] = number

    def _send(self, route: Route, staged: Staged, value: Any, metadata: Mapping[str, Any] | None) -> None:
        """Send to some receivers inside, and to the mailboxes of the others."""
        chain, base = self._chain, route.output
        taken = 0
        for bit, link in enumerate(route.inner):
            if chain.takes(link):
                taken |= 1 << bit
        number = base.sent + 1
        now_ns: int = self._booted_ns + _clock_ns()
        record, size = self._record(base.name, value, metadata, number, now_ns) if taken else (b"", 0)
        output = route.without(taken) if taken else base
        if output.copies or not taken:
            output.sent = base.sent
            self._stage_output(output, staged, value, metadata)
        base.sent = number
        if staged.numbers is None:
            staged.numbers = {}
        staged.numbers[route.counter] = number
        for bit, link in enumerate(route.inner):
            if taken >> bit & 1:
                chain.put(link, self._decoded(link, record), size)
            else:
                chain.passed_on(link)

    def _decoded(self, to: InnerInput[Any], record: bytes) -> Event:
        """The event of a message inside, its value decoded once more for each receiver."""
        _, value, metadata, number, sent_ns = decode_message(record)
        return input_event(to.name, value, metadata, to.source, sent_ns, number, self._chain.attempt)

    def _record(
        self, output: str, value: Any, metadata: Mapping[str, Any] | None, number: int, now_ns: int
    ) -> tuple[bytes, int]:
        """The bytes of a message inside, which no segment is needed for, and their number. Raises as `send_output`."""
        record, _ = records.encode_message(value, metadata, number, now_ns)
        size, limit = len(record), self._space.message_bytes_max
        if size > limit:
            raise ValueTooLarge(f"a message to {output!r}", size, limit)
        return record, size
