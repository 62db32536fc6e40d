"""`ctx` of an operator that shares its process: what it sends to the others of that process stays inside (chain.py)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from time import CLOCK_BOOTTIME, clock_gettime_ns
from typing import Any, Final

from noderuntime.api.events import Event, input_event
from noderuntime.errors import UnknownOutput, ValueTooLarge
from noderuntime.node.chain import Chain, InnerInput
from noderuntime.node.context import MISSING, OperatorContext
from noderuntime.node.route import Route
from noderuntime.node.session import NodeSession
from noderuntime.space.kvs import SharedWrite
from noderuntime.space.records import decode_message, encode_message
from noderuntime.space.segments import THRESHOLD_BYTES
from noderuntime.space.staging import Staged

_INT_MAX: Final = 1 << 63  # of the integers that MessagePack carries with a sign
_INT_MIN: Final = -_INT_MAX
_INNER_BYTES: Final = 24  # about what the head of a message takes

# Compiled, what is Final in its own module is read without a lookup.
_INLINE_BYTES: Final = THRESHOLD_BYTES
_clock_ns: Final = partial(clock_gettime_ns, CLOCK_BOOTTIME)


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

    def _stage(self, call: str, write: SharedWrite, result: Any = MISSING) -> None:
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
            raise self.too_early("send_output")
        route = self._routes.get(output)
        if route is None:
            raise UnknownOutput(self.node_id, output, sorted(self._outputs))
        chain = self._chain
        if not (chain.open and route.is_inner):
            self._send(route, staged, value, metadata)
            if hook is not None:
                hook("staged")
            return
        # All receivers are here, which is what this process is for: no call of ours that can be avoided. The value is
        # immutable, or it is copied by way of its bytes, because the sender may still change it.
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
        sent = route.output
        number = sent.sent + 1
        now_ns: int = self._booted_ns + _clock_ns()
        if 0 <= size < _INLINE_BYTES:
            size += _INNER_BYTES
            for link in route.inner:
                own = dict(metadata) if metadata else {}
                self._put((link, input_event(link.name, value, own, link.source, now_ns, number, chain.attempt)))
        else:
            record, size = self._record(sent.name, value, metadata, number, now_ns)
            for link in route.inner:
                self._put((link, self._decoded(link, record)))
        sent.sent = number
        chain.left -= len(route.inner)
        chain.left_bytes -= size * len(route.inner)
        if chain.left <= 0 or chain.left_bytes <= 0:
            chain.fused = chain.open = False
        if staged.numbers is None:
            staged.numbers = {route.counter: number}
        else:
            staged.numbers[route.counter] = number
        if hook is not None:
            hook("staged")

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
        record, _ = encode_message(value, metadata, number, now_ns)
        size, limit = len(record), self._space.message_bytes_max
        if size > limit:
            raise ValueTooLarge(f"a message to {output!r}", size, limit)
        return record, size
