"""`dora.testing`: a node for unit tests, without a dataflow. Its events are given, and what it sends is kept."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from noderuntime.dora.log_lines import LogCalls
from noderuntime.dora.node import uuid7

__all__ = ["MockNode"]

_STOP = {"type": "STOP", "id": "ALL_INPUTS_CLOSED"}


class MockNode(LogCalls):
    """Stands in for `dora.Node` in a test.

    `inputs`: (input, value) for INPUT events, whose metadata is `metadata`, or whole event dicts; a STOP follows unless
    one is among them. Then the events are as given: without `kind`, and values are not converted. `service_responses`:
    for an output, the replies to its requests, one each.

    After the test: `outputs` (lists of values, by output), `logs`, `service_requests`, `service_responses_sent`, and
    `kvs`, which `kvs_write` fills.
    """

    def __init__(
        self,
        inputs: Iterable[tuple[str, Any] | dict[str, Any]],
        metadata: dict[str, Any] | None = None,
        *,
        dataflow_descriptor: dict[str, Any] | None = None,
        dataflow_id: str | None = None,
        node_config: dict[str, Any] | None = None,
        is_restart: bool = False,
        restart_count: int = 0,
        service_responses: dict[str, list[Any]] | None = None,
    ) -> None:
        self._events = deque(_event(given, metadata or {}) for given in inputs)
        if not any(event.get("type") == "STOP" for event in self._events):
            self._events.append(dict(_STOP))
        self._descriptor = dataflow_descriptor or {}
        self._id = dataflow_id or ""
        self._config = node_config or {}
        self._is_restart = is_restart
        self._restarts = restart_count
        self._replies = {output: deque(replies) for output, replies in (service_responses or {}).items()}
        self.outputs: dict[str, list[Any]] = {}
        self.logs: list[dict[str, Any]] = []
        self.service_requests: list[dict[str, Any]] = []
        self.service_responses_sent: list[dict[str, Any]] = []
        self.kvs: dict[str, bytes] = {}

    # --- events -----------------------------------------------------------------------------------------------------

    def next(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next event; None after the last. It never waits."""
        return self._events.popleft() if self._events else None

    async def recv_async(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The same as `next`."""
        return self.next()

    def try_recv(self) -> dict[str, Any] | None:
        """The same as `next`."""
        return self.next()

    def drain(self) -> list[dict[str, Any]]:
        """All events that are left."""
        left = list(self._events)
        self._events.clear()
        return left

    def is_empty(self) -> bool:
        """Whether no event is left."""
        return not self._events

    def __iter__(self) -> MockNode:
        return self

    def __next__(self) -> dict[str, Any]:
        if not self._events:
            raise StopIteration
        return self._events.popleft()

    def merge_external_events(self, subscription: Any) -> NoReturn:
        """Not for unit tests: raises NotImplementedError."""
        raise NotImplementedError("MockNode has no merge_external_events: give the events to its constructor, as dicts")

    # --- sending ----------------------------------------------------------------------------------------------------

    def send_output(self, output_id: str, data: Any, metadata: dict[str, Any] | None = None) -> None:
        """Keep `data`, whatever it is, in `outputs`."""
        self.outputs.setdefault(output_id, []).append(data)

    def send_output_raw(self, output_id: str, data_length: int, metadata: dict[str, Any] | None = None) -> NoReturn:
        """Not for unit tests: raises NotImplementedError."""
        raise NotImplementedError("MockNode has no send_output_raw: use send_output in unit tests")

    def send_service_request(self, output_id: str, data: Any, metadata: dict[str, Any] | None = None) -> str:
        """Keep the request in `service_requests`. A reply that was given for it becomes the last event before STOP."""
        request = uuid7(time.time_ns(), os.urandom(10))
        told = {"output_id": output_id, "data": data, "metadata": dict(metadata or {}), "request_id": request}
        self.service_requests.append(told)
        replies = self._replies.get(output_id)
        if replies:
            reply = _event((output_id, replies.popleft()), {"request_id": request})
            ends = [at for at, event in enumerate(self._events) if event.get("type") == "STOP"]
            self._events.insert(ends[0] if ends else len(self._events), reply)
        return request

    def send_service_response(self, output_id: str, data: Any, metadata: dict[str, Any]) -> None:
        """Keep the response in `service_responses_sent`."""
        told = {"output_id": output_id, "data": data, "metadata": dict(metadata)}
        self.service_responses_sent.append({**told, "request_id": metadata.get("request_id")})

    # --- logs -------------------------------------------------------------------------------------------------------

    def log(
        self, level: str, message: str, target: str | None = None, fields: Mapping[str, str] | None = None
    ) -> None:
        """Keep a log record in `logs`."""
        self.logs.append({"level": level, "message": message, "target": target, "fields": dict(fields or {})})

    # --- facts ------------------------------------------------------------------------------------------------------

    def dataflow_descriptor(self) -> dict[str, Any]:
        """As given to the constructor."""
        return dict(self._descriptor)

    def dataflow_id(self) -> str:
        """As given to the constructor."""
        return self._id

    def node_config(self) -> dict[str, Any]:
        """As given to the constructor."""
        return dict(self._config)

    def is_restart(self) -> bool:
        """As given to the constructor."""
        return self._is_restart

    def restart_count(self) -> int:
        """As given to the constructor."""
        return self._restarts

    def timestamp(self) -> dt.datetime:
        """The time now, in UTC."""
        return dt.datetime.now(dt.UTC)

    # --- what ours has beyond dora's --------------------------------------------------------------------------------

    def kvs_read(self, key: str, default: bytes | None = None) -> bytes | None:
        """The value of `key` in `kvs`, or `default`."""
        return self.kvs.get(key, default)

    def kvs_write(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """Keep a value in `kvs`; it does not expire."""
        self.kvs[key] = bytes(value)


def _event(given: tuple[str, Any] | dict[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(given, dict):
        return dict(given)
    input, value = given
    return {"type": "INPUT", "id": input, "value": value, "metadata": dict(metadata)}
