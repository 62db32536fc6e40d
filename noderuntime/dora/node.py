"""`Node` of the module `dora`: the methods of dora-rs 1.1.0 on top of a custom node of ours.

It gives dora's events (events.py), takes its values (arrays.py) and its metadata (metadata.py), and raises what dora
raises, with the same first lines. Two calls more: `kvs_read` and `kvs_write`, as dora's first design promised.

Where dora's behaviour differs from what its documentation says, ours follows the documentation:
docs/coming-from-dora.md has the list.
"""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, NoReturn

from noderuntime.api.events import Event, external_event
from noderuntime.dora import arrays, child, events, log_lines, logging_bridge, metadata
from noderuntime.dora.samples import SampleHandler
from noderuntime.errors import NodeRuntimeError, NotRunning, UnknownOutput
from noderuntime.node.custom_node import Node as CustomNode

TIMEOUT_MAX_S: Final = 2.0**64
UUID_7: Final = 7

_TARGET = "dora"  # of our own warnings
_REQUEST_ID = metadata.REQUEST_ID  # the methods have parameters that are called metadata

_joined: dict[int, tuple[CustomNode, child.Facts]] = {}  # by process: a second Node() is the same node again
_joining = threading.Lock()


def _join(node_id: str | None) -> tuple[CustomNode, child.Facts]:
    with _joining:
        found = _joined.get(os.getpid())
        if found is not None:
            return found
        if _joined:
            raise RuntimeError(f"{child.OUTSIDE} This process is a fork of the node's, which remains the node.")
        arrays.load()  # before the others are told that this node is ready: its first event must not wait for it
        run = None
        if node_id is None or child.is_child():  # as in dora, the environment goes before `node_id`
            facts = child.facts()
        else:
            run, facts = child.find_dynamic(node_id)
        try:
            inner = CustomNode(node_id, run) if run else CustomNode()
        except NotRunning as error:
            raise child.as_runtime_error(error) from None
        inner.decode_with(arrays.decode)
        logging_bridge.install()
        _joined[os.getpid()] = inner, facts
        return inner, facts


class Node(log_lines.LogCalls):
    """This process as a node of a running dataflow; `Node("id")` for one with `path: dynamic`, started by hand.

    Iterate over it, or call `next`. It may be used from several threads. RuntimeError outside a dataflow.
    """

    def __init__(self, node_id: str | None = None, daemon_port: int | None = None) -> None:
        self._node, self._facts = _join(_checked(node_id, str, "str") if node_id is not None else None)

    # --- events -----------------------------------------------------------------------------------------------------

    def next(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next event; None when the stream has ended; an ERROR event when none comes within `timeout` seconds.

        Raises ValueError for a negative timeout.
        """
        deadline = None if timeout is None else time.monotonic() + _seconds(timeout)
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                event = self._node.next(left)
            except TimeoutError:
                return events.error(events.TIMED_OUT)
            if event is None:
                return None
            told = self._told(event)
            if told is not None:
                return told

    async def recv_async(self, timeout: float | None = None) -> dict[str, Any] | None:
        """As `next`, for a task: others run meanwhile."""
        try:
            async with asyncio.timeout(None if timeout is None else _seconds(timeout)):
                while (event := await self._node.next_async()) is not None:
                    told = self._told(event)
                    if told is not None:
                        return told
                return None
        except TimeoutError:
            return events.error(events.TIMED_OUT)

    def try_recv(self) -> dict[str, Any] | None:
        """The next event; None when there is none now, or the stream has ended."""
        while (event := self._node.try_next()) is not None:
            told = self._told(event)
            if told is not None:
                return told
        return None

    def drain(self) -> list[dict[str, Any]]:
        """All events that are there now."""
        told = (self._told(event) for event in self._node.take_all())
        return [event for event in told if event is not None]

    def is_empty(self) -> bool:
        """Whether there is no event now."""
        return not self._node.is_waiting()

    def __iter__(self) -> Node:
        return self

    def __next__(self) -> dict[str, Any]:
        while (event := self._node.next()) is not None:
            told = self._told(event)
            if told is not None:
                return told
        raise StopIteration

    def merge_external_events(self, subscription: Iterable[Any]) -> None:
        """Hand out the items of an iterable as events too: {"kind": "external", "type": "EXTERNAL", "value": item}.

        A thread takes them from it, until it ends or this process does. A subscription of ROS 2 is refused.
        """
        if not isinstance(subscription, Iterable):
            raise TypeError(
                f"'{type(subscription).__name__}' object is not iterable: merge_external_events takes an iterable, "
                "such as a generator that yields what comes from elsewhere; subscriptions of ROS 2 are not supported"
            )
        items = iter(subscription)
        threading.Thread(target=self._merge, args=(items,), name="external events", daemon=True).start()

    def _merge(self, items: Iterator[Any]) -> None:
        for item in items:
            try:
                self._node.put_event(external_event(item))
            except NodeRuntimeError:  # the node has been closed
                return

    def _told(self, event: Event) -> dict[str, Any] | None:
        return events.as_dora(event, self._facts.nodes, self._facts.inputs)

    # --- sending ----------------------------------------------------------------------------------------------------

    def send_output(self, output_id: str, data: Any, metadata: dict[str, Any] | None = None) -> None:
        """Send bytes or an Arrow array to the receivers of an output; waits while a backpressure queue is full.

        Raises RuntimeError for other data. An output that the dataflow file does not declare is a warning.
        """
        _checked(output_id, str, "str")
        value = arrays.outgoing(data)
        self._send(output_id, value, {} if metadata is None else self._outgoing(metadata))

    def send_output_raw(
        self, output_id: str, data_length: int, metadata: dict[str, Any] | None = None
    ) -> SampleHandler:
        """A buffer of `data_length` bytes to fill and send. RuntimeError for an undeclared output."""
        _checked(output_id, str, "str")
        _checked(data_length, int, "int")
        if data_length < 0:
            raise OverflowError("can't convert negative int to unsigned")
        if output_id not in self._facts.outputs:
            raise RuntimeError(_not_declared(output_id))
        told = self._outgoing(metadata)
        return SampleHandler(data_length, lambda sample: self._send(output_id, sample, told))

    def send_service_request(self, output_id: str, data: Any, metadata: dict[str, Any] | None = None) -> str:
        """Send a request under a new id, which the response carries in its metadata as `request_id`. Returns the id."""
        value = arrays.outgoing(data)
        told = self._outgoing(metadata)
        if _REQUEST_ID in told:
            self._warn("send_service_request: overwriting caller-provided 'request_id' with auto-generated value")
        told[_REQUEST_ID] = request = uuid7(time.time_ns(), os.urandom(10))
        self._send(_checked(output_id, str, "str"), value, told)
        return request

    def send_service_response(self, output_id: str, data: Any, metadata: dict[str, Any]) -> None:
        """Answer a request. `metadata` is that of the request: it carries the `request_id`."""
        _checked(output_id, str, "str")
        if not isinstance(metadata, dict):
            name = "None" if metadata is None else type(metadata).__name__
            raise TypeError(f"'{name}' {'' if metadata is None else 'object '}is not an instance of 'dict'")
        value = arrays.outgoing(data)
        told = self._outgoing(metadata)
        if _REQUEST_ID not in told:
            what = "metadata is missing 'request_id' — response will not be matched to a request"
            self._warn(f"send_service_response: {what}")
        self._send(output_id, value, told)

    def _outgoing(self, given: Any) -> dict[str, Any]:
        return metadata.outgoing(given, self._warn)

    def _send(self, output: str, value: Any, told: dict[str, Any]) -> None:
        try:
            self._node.send_output(output, value, told or None, told.get(metadata.FLUSH) is True)
        except UnknownOutput:
            self._warn(_not_declared(output, "Ignoring output"))

    # --- facts ------------------------------------------------------------------------------------------------------

    def dataflow_descriptor(self) -> dict[str, Any]:
        """The dataflow file, with every default filled in."""
        return copy.deepcopy(self._facts.descriptor)

    def dataflow_id(self) -> str:
        """The UUID of the run."""
        return self._facts.dataflow_id

    def node_config(self) -> dict[str, Any]:
        """The inputs and outputs of this node, as the dataflow file has them."""
        facts = self._facts
        return copy.deepcopy({"inputs": facts.inputs, "outputs": facts.outputs, **facts.options})

    def is_restart(self) -> bool:
        """Whether there was a life of this node before this one."""
        return self._node.is_restart

    def restart_count(self) -> int:
        """How many lives of this node there were before this one."""
        return self._node.incarnation - 1

    def timestamp(self) -> dt.datetime:
        """The time now, in UTC."""
        return dt.datetime.now(dt.UTC)

    # --- logs -------------------------------------------------------------------------------------------------------

    def log(self, level: str, message: str, target: str | None = None, fields: Mapping[str, str] | None = None) -> None:
        """A log record of `level`: error, warn, info, debug or trace; any other counts as info."""
        _checked(level, str, "str")
        _checked(message, str, "str")
        if target is not None:
            _checked(target, str, "str")
        if fields is not None:
            for part in (part for item in _checked(fields, dict, "dict").items() for part in item):
                _checked(part, str, "str")
        log_lines.write(log_lines.line(level, message, target, fields))

    def _warn(self, message: str) -> None:
        self.log("warn", message, _TARGET)

    # --- the shared store, which dora has not -----------------------------------------------------------------------

    def kvs_read(self, key: str, default: bytes | None = None) -> bytes | None:
        """The shared value of `key`, or `default`. All nodes of the dataflow see the same."""
        return self._node.kvs_read(key, default)

    def kvs_write(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """Write to the shared store, at once. With `ttl`, the value expires that many seconds from now."""
        self._node.kvs_write(key, value, ttl)

    # --- what is not supported --------------------------------------------------------------------------------------

    def extension_store(self, namespace: str, key: str, value: bytes) -> NoReturn:
        """Not supported; see `kvs_write`."""
        raise _no_extensions("extension_store", "node.kvs_write(key, value)")

    def extension_load(self, namespace: str, key: str, remove: bool = False) -> NoReturn:
        """Not supported; see `kvs_read`."""
        raise _no_extensions("extension_load", "node.kvs_read(key)")

    def extension_drop(self, namespace: str, key: str) -> NoReturn:
        """Not supported; see `kvs_write`, whose values can expire."""
        raise _no_extensions("extension_drop", "node.kvs_write(key, b'', ttl=...)")

    def drain_dropped_extension_keys(self, namespace: str) -> NoReturn:
        """Not supported."""
        raise _no_extensions("drain_dropped_extension_keys", "node.kvs_read(key)")


def uuid7(now_ns: int, random: bytes) -> str:
    """A UUID of version 7 (RFC 9562): the time in milliseconds, then 74 of the 80 bits of `random`."""
    bits = int.from_bytes(random, "big")
    value = (now_ns // 1_000_000 & (1 << 48) - 1) << 80 | UUID_7 << 76 | (bits >> 68) << 64
    value |= 0b10 << 62 | bits & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _checked(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"'{type(value).__name__}' object is not an instance of '{name}'")
    return value


def _seconds(timeout: Any) -> float:
    """A timeout as dora takes it: any finite number from 0."""
    if isinstance(timeout, str | bytes) or not hasattr(type(timeout), "__float__") | hasattr(
        type(timeout), "__index__"
    ):
        raise TypeError(f"must be real number, not {type(timeout).__name__}")
    seconds = float(timeout)
    if seconds < 0 or not seconds < TIMEOUT_MAX_S:
        why = "value is negative" if seconds < 0 else "value is either too big or NaN"
        shown = f"{Decimal(repr(seconds)):f}".removesuffix(".0") if math.isfinite(seconds) else f"{seconds}"
        shown = "NaN" if math.isnan(seconds) else shown
        raise ValueError(f"invalid timeout of {shown} seconds: cannot convert float seconds to Duration: {why}")
    return seconds


def _not_declared(output: str, what: str = "Output") -> str:
    return f"{what} `{output}` not in node's output list."


def _no_extensions(call: str, instead: str) -> NotImplementedError:
    return NotImplementedError(f"{call} is not supported: use the shared store of the run instead, {instead}")
