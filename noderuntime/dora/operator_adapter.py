"""dora's operators in our operator host: `adapt` makes a class for the host out of a class for dora.

A dora operator is made without arguments and has `on_event(dora_event, send_output)`, which returns a DoraStatus. It
may also call `send_output.save_state(key, value)` and define `restore_state(state)`: then it is exactly-once, as any
operator of ours.

Importing this module makes `import dora` find ours, also in a process that was forked from a warm interpreter.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from noderuntime.api.events import Event
from noderuntime.api.operator import Context, Source, Status
from noderuntime.dora import arrays, child, events, metadata
from noderuntime.errors import UnknownOutput

PATH = str(Path(__file__).parent / "path")
"""The folder that holds the module `dora`."""

if PATH not in sys.path:
    sys.path.insert(0, PATH)


class DoraStatus(enum.Enum):
    """What `on_event` of a dora operator returns."""

    CONTINUE = 0
    STOP = 1
    STOP_ALL = 2


_FLUSH = metadata.FLUSH  # a parameter is called metadata
_STATUSES = {0: Status.CONTINUE, 1: Status.STOP, 2: Status.STOP_ALL}


class Host(Context, Protocol):
    """What a dora operator needs of the runtime beyond a Context."""

    def drop_earlier(self, output: str) -> None:
        """What waits of `output` from before its last message is dropped with the event's commit."""


class SendOutputCallback:
    """The `send_output` that a dora operator is called with."""

    def __init__(self, ctx: Host) -> None:
        self._ctx = ctx

    def __call__(self, output: str, data: Any, metadata: dict[str, Any] | None = None) -> None:
        """Send bytes or an Arrow array, as part of the event's transaction. Raises as Node.send_output."""
        if not isinstance(output, str):
            raise TypeError(f"'{type(output).__name__}' object is not an instance of 'str'")
        value = arrays.outgoing(data)
        told = self._outgoing(metadata)
        try:
            self._ctx.send_output(output, value, told or None)
            if told.get(_FLUSH) is True:
                self._ctx.drop_earlier(output)
        except UnknownOutput:
            self._ctx.log.warning("Ignoring output `%s` not in node's output list.", output)

    def _outgoing(self, given: Any) -> dict[str, Any]:
        if given is not None and not isinstance(given, dict):
            raise TypeError(f"'{type(given).__name__}' object is not an instance of 'dict'")
        try:
            return metadata.outgoing(given, self._ctx.log.warning)
        except Exception as error:  # as dora has it, for operators only
            raise RuntimeError(f"failed to parse metadata\n\nCaused by:\n    {type(error).__name__}: {error}") from None

    def save_state(self, key: str, value: bytes) -> None:
        """Keep `value` under `key` in the private state, as part of the event's transaction; see restore_state."""
        self._ctx.save_state(key, value)

    def load_state(self, key: str, default: bytes | None = None) -> bytes | None:
        """The private value of `key`, or `default`."""
        return self._ctx.load_state(key, default)


class AdaptedOperator:
    """A dora operator, as the host of operators calls it."""

    def __init__(self, factory: Callable[[], Any], ctx: Host) -> None:
        arrays.load()
        self._facts = child.facts(ctx.node_id)
        self._send = SendOutputCallback(ctx)
        self._operator = operator = factory()
        if not hasattr(operator, "on_event"):
            raise TypeError(f"{type(operator).__name__} has no on_event(self, dora_event, send_output)")
        operator.dataflow_descriptor = self._facts.descriptor
        if hasattr(operator, "restore_state"):
            self.restore_state = operator.restore_state
        if not self._facts.inputs:  # the host takes an operator without inputs for a Source
            self.produce = _nothing

    def on_event(self, event: Event, ctx: Context) -> Status:
        """Hand an event to the operator. The end of all inputs ends it without a STOP event, as in dora."""
        if event.type == "STOP" and event.id != "MANUAL":
            return Status.CONTINUE
        told = events.as_dora(event, self._facts.nodes, self._facts.inputs)
        if told is None:
            return Status.CONTINUE
        return status_of(self._operator.on_event(told, self._send))


def status_of(returned: Any) -> Status:
    """Our Status for what an operator returned: a member of any Enum with the value 0, 1 or 2. Raises TypeError."""
    value = getattr(returned, "value", None)
    found = _STATUSES.get(value) if type(value) is int else None
    if found is None:
        raise TypeError(f"on_event must have enum return value: return DoraStatus.CONTINUE, not {returned!r:.80}")
    return found


def adapt(factory: Callable[[], Any]) -> Callable[[Host], AdaptedOperator]:
    """A factory for the host. `factory`: the user's class."""

    def make(ctx: Host) -> AdaptedOperator:
        return AdaptedOperator(factory, ctx)

    return make


def _nothing(position: Any, ctx: Context) -> Any:
    return Source.idle(3600.0)
