"""Is a history of operations on one register linearizable? Wing and Gong's search, with Lowe's memory of dead ends.

    history = [Operation("write", 1, invoked=0, returned=10, value=b"a"), Operation("read", 2, 5, 8, None)]
    assert linearizable(history)

A history is linearizable if each operation can be given one moment between its beginning and its end such that, done in
the order of these moments, all of them have the results that they had. One without an end (its process was killed)
may have taken effect at any later time, or never.

Wing and Gong, "Testing and Verifying Concurrent Objects", 1993; Lowe, "Testing for Linearizability", 2017.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `kind` is write (`value`), read (`value` is what it returned) or swap: writes `value` if the
    register holds `expected`, and `done` says whether it did. `returned` is infinite when it never returned.
    """

    kind: str
    process: int
    invoked: float
    returned: float
    value: Hashable = None
    expected: Hashable = None
    done: bool = True

    @property
    def pending(self) -> bool:
        return self.returned == math.inf

    def steps(self, held: Hashable) -> Iterator[Hashable]:
        """What the register may hold after it; nothing when it cannot have had this result."""
        if self.kind == "write":
            yield self.value
        elif self.kind == "read":
            if self.pending or held == self.value:
                yield held
        elif self.kind == "swap":
            if self.pending:
                yield self.value if held == self.expected else held
            elif self.done == (held == self.expected):
                yield self.value if self.done else held
        else:
            raise ValueError(f"there is no kind of operation {self.kind!r}")


def linearizable(history: Iterable[Operation], initial: Hashable = None) -> bool:
    """Whether `history` is one that a single register, holding `initial` at first, could have had."""
    operations = sorted(history, key=lambda item: (item.invoked, item.returned))
    # A state of the search: how many operations from the front are done, which of those after them (bits), and what
    # the register holds.
    stack: list[tuple[int, int, Hashable]] = [_forward(operations, 0, 0, initial)]
    seen = set(stack)
    while stack:
        front, ahead, held = stack.pop()
        if all(item.pending for item in _left(operations, front, ahead)):
            return True
        for place in _candidates(operations, front, ahead):
            for after in operations[place].steps(held):
                state = _forward(operations, front, ahead | 1 << (place - front), after)
                if state not in seen:
                    seen.add(state)
                    stack.append(state)
    return False


def _forward(operations: list[Operation], front: int, ahead: int, held: Any) -> tuple[int, int, Any]:
    while ahead & 1:
        front, ahead = front + 1, ahead >> 1
    return front, ahead, held


def _left(operations: list[Operation], front: int, ahead: int) -> Iterator[Operation]:
    return (
        operations[place] for place in range(front, len(operations)) if not ahead >> (place - front) & 1
    )


def _candidates(operations: list[Operation], front: int, ahead: int) -> list[int]:
    """The operations not yet done that began before any of the others had ended: one of them comes next."""
    found = []
    first_end = math.inf
    for place in range(front, len(operations)):
        item = operations[place]
        if item.invoked > first_end:
            break
        if not ahead >> (place - front) & 1:
            found.append(place)
            first_end = min(first_end, item.returned)
    return [place for place in found if operations[place].invoked <= first_end]
