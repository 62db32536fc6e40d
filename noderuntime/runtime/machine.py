"""A machine that decides: events go in, actions come out, and time is an argument. Pure.

A node's `Lifecycle` and the run's `RunPhase` are machines. The table of a machine has one row for each (state, type of
event) that can happen: the handler, and the states it may lead to. `handle` checks both, and the diagrams of the docs
and the tests read the table. An event without a row raises `IllegalEvent`: if a process sent it, the caller drops it,
because processes are not trusted; otherwise it is a bug of ours.

flight_recorder.py observes the steps of machines, so that they can be replayed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

NEVER = math.inf

M = TypeVar("M")
S = TypeVar("S", bound=Enum)
E = TypeVar("E")
A = TypeVar("A")


class IllegalEvent(Exception):
    """This event cannot happen in this state: the table has no row for it, or its handler refused it."""

    def __init__(self, state: Enum, event: object) -> None:
        self.state = state
        self.event = event
        super().__init__(f"{type(event).__name__} cannot happen while {state.value}")


@dataclass(frozen=True, slots=True)
class Tick:
    """An event of every machine: its `deadline_s` has come. An earlier one is harmless."""


@dataclass(frozen=True, slots=True)
class Tell:
    """An action of every machine: a line for the user. `is_error`: something is lost for good."""

    text: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Row(Generic[M, S, E, A]):
    """One row of a table: the handler, and the states that it may lead to."""

    handler: Callable[[M, E, float], list[A]]
    to: frozenset[S]


class Table(dict[tuple[S, type], Row[M, S, E, A]], Generic[M, S, E, A]):
    """(state, type of event) -> row."""

    def row(self, state: S, event: type, handler: Callable[[M, E, float], list[A]], *to: S) -> None:
        """Add a row."""
        self[state, event] = Row(handler, frozenset(to))


@dataclass(slots=True, kw_only=True)
class Machine(Generic[S, E, A]):
    """A state, and what is remembered besides. Only `handle` changes it."""

    state: S
    since_s: float = 0.0  # when this state began
    deadline_s: float = NEVER  # when `Tick` is due
    # called after each step with the event, the time, and the actions, or None if it raised
    observe: Callable[[E, float, list[A] | None], None] | None = field(default=None, repr=False)

    def table(self) -> Table[Any, S, E, A]:
        """The rows of machines of this kind."""
        raise NotImplementedError

    def handle(self, event: E, now_s: float) -> list[A]:
        """Take an event, change the state, and return the actions in the order in which to carry them out.

        `now_s`: seconds of any clock that never goes back. Raises IllegalEvent, having changed nothing.
        """
        actions = None
        try:
            actions = self._step(event, now_s)
        finally:
            if self.observe is not None:
                self.observe(event, now_s, actions)
        return actions

    def _step(self, event: E, now_s: float) -> list[A]:
        row = self.table().get((self.state, type(event)))
        if row is None:
            raise IllegalEvent(self.state, event)
        before = self.state
        actions = row.handler(self, event, now_s)
        if self.state not in row.to:
            raise AssertionError(f"{before.value} + {event}: {self.state.value} is not in the table")
        if self.state is not before:
            self.since_s = now_s
        return actions

    def broken_invariants(self, event: object, actions: Sequence[object]) -> list[str]:
        """Promises that do not hold now that `event` has led to `actions`. Checked by tests after each step."""
        return []
