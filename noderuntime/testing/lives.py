"""The lives of one operator in a harness, and what is committed of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from noderuntime.api.events import Event
from noderuntime.api.keyed.codecs import TAG_KINDS
from noderuntime.api.keyed.operator import KeyedOperator
from noderuntime.api.operator import (
    POSITION_KEY,
    Status,
    make,
    own_state,
    packed_position,
    position_of,
    status_of,
)
from noderuntime.errors import OperatorError
from noderuntime.space.records import decode_message
from noderuntime.testing.harness_context import HarnessContext, SharedKVS, Staged


@dataclass(frozen=True, slots=True)
class Sent:
    """One committed message, as its receivers get it."""

    output: str
    value: Any
    metadata: dict[str, Any]
    uid: str


class Lives:
    """What a harness knows of one operator. `alive`: the last handler has returned."""

    def __init__(
        self,
        factory: Callable[..., Any],
        node_id: str,
        run_id: str,
        config: Mapping[str, Any],
        declared: list[str] | None,
        kvs: SharedKVS,
        state: Mapping[str, bytes],
    ) -> None:
        self.node_id = node_id
        self.run_id = run_id
        self.config: Mapping[str, Any] = dict(config)
        self.declared = declared
        self.kvs = kvs
        self.watched: set[str] = set()
        self.state: dict[str, bytes] = dict(state)
        self.sent: list[Sent] = []
        self.numbers: dict[str, int] = {}
        self.incarnation = 0
        self._factory = factory
        self.start()

    def start(self) -> None:
        """A new life begins, with the committed state."""
        self.incarnation += 1
        self.alive = True
        self.ctx = HarnessContext(self, self.incarnation)
        self._operator = make(self._factory, self.ctx)
        state = own_state(self.state)
        if isinstance(self._operator, KeyedOperator):  # which reads the states of its keys one by one
            state = {key: value for key, value in state.items() if key.partition(":")[0] not in TAG_KINDS}
        if state and hasattr(self._operator, "restore_state"):
            self._operator.restore_state(state)

    @property
    def position(self) -> Any:
        """A Source's committed position; None at first."""
        return position_of(self.state)

    def begin(self) -> Staged:
        """An event begins: what is staged from now on is part of it."""
        return self.ctx.begin()

    def give_up(self) -> None:
        """Its handler has returned, or failed: nothing more can be staged."""
        self.ctx.end()

    def handle(self, event: Event) -> Status:
        """Run the handler. Raises OperatorError when it returns no Status."""
        returned = self._operator.on_event(event, self.ctx)
        try:
            return status_of(returned)
        except TypeError as error:
            raise OperatorError("on_event", str(error)) from None

    def produce_once(self) -> Any:
        """One call of `produce`. Raises OperatorError when it returns no position."""
        returned = self._operator.produce(self.position, self.ctx)
        try:
            position = packed_position(returned)
        except TypeError as error:
            raise OperatorError("produce", str(error)) from None
        if position is not None:
            self.ctx.save_state(POSITION_KEY, position)
        return returned

    def commit(self, staged: Staged) -> None:
        """Make what was staged the state, and part of what was sent."""
        for key, value in staged.private.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        for steps in staged.shared.values():
            for step in steps:
                step(self.kvs)
        for output, record in staged.messages:
            _, value, metadata, _, _ = decode_message(record)
            uid = f"{self.node_id}/{output}#{self.count(output)}"
            self.sent.append(Sent(output, value, metadata, uid))

    def count(self, counted: str) -> int:
        """The number of the next message of an output, or of a source of the test."""
        self.numbers[counted] = self.numbers.get(counted, 0) + 1
        return self.numbers[counted]


def nanoseconds(moment: dt.datetime) -> int:
    return (moment - dt.datetime.fromtimestamp(0, dt.UTC)) // dt.timedelta(microseconds=1) * 1000
