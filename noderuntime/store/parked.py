"""Requests that wait for something to happen: the store parks them, and answers when a bell has rung.

A client has at most one reply under way for each request it has made, so a client that does not read piles up nothing
here. Each waits for at most WAIT_S_MAX seconds and is then answered with what there is; the client asks again with the
cursor it has. So a client that is gone leaves nothing behind for longer than that, and a store that is killed loses
nothing: the next one is asked the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

from noderuntime.errors import ProtocolError, StoreError
from noderuntime.ipc.protocol import Reply, Request, refusal
from noderuntime.space.environment import BROKEN
from noderuntime.store.dispatch import Result

WAIT_S_MAX: Final = 60.0
PARKED_MAX: Final = 20_000

Answer = Callable[[bytes, Reply], None]


class Waits(Protocol):
    """A request that may wait."""

    @property
    def wait(self) -> float: ...


def wait_of(asked: Waits) -> float:
    """How many seconds the client waits for. Raises ProtocolError."""
    if not 0 <= asked.wait <= WAIT_S_MAX:
        raise ProtocolError(f"wait is a number of seconds from 0 to {WAIT_S_MAX:.0f}")
    return float(asked.wait)


def limit_of(limit: int | None, default: int, most: int) -> int:
    """How many the client wants, at most `most`. Raises ProtocolError when that is less than 1."""
    if limit is None:
        return min(default, most)
    if limit < 1:
        raise ProtocolError(f"limit is a whole number from 1, not {limit}")
    return min(limit, most)


@dataclass(slots=True)
class Parked:
    """A request that waits, and when its time is over (monotonic seconds)."""

    identity: bytes
    request: Request
    deadline: float

    def reply(self, look: Callable[[], Result | None]) -> Reply | None:
        """The reply with what `look` returns or raises; None when it has nothing yet."""
        try:
            result = look()
        except BROKEN:
            raise
        except Exception as error:
            return refusal(self.request.number, self.request.operation, error)
        return None if result is None else Reply(self.request.number, result, "", "")


P = TypeVar("P", bound=Parked)


class Parking(Generic[P]):
    """The requests that are parked in one place. `look` gives a request's result, or None when there is nothing yet;
    its second argument says that the time is over: then it has to give one.
    """

    def __init__(self, answer: Answer, look: Callable[[P, bool], Result | None]) -> None:
        self._answer = answer
        self._look = look
        self._parked: dict[tuple[str, int], P] = {}

    def check_room(self) -> None:
        """Raise StoreError when no more requests can be parked."""
        if len(self._parked) >= PARKED_MAX:
            raise StoreError(f"{PARKED_MAX} requests wait here already; ask again later")

    def park(self, parked: P) -> None:
        """Until there is a result. One that is repeated still waits from its first time on: a client that repeats it
        more often than it waits would get no answer otherwise."""
        key = parked.request.client, parked.request.number
        if key in self._parked:
            parked.deadline = min(parked.deadline, self._parked[key].deadline)
        self._parked[key] = parked

    def settle(self, parked: P, over: bool) -> bool:
        """Answer it if there is something to answer; whether there was."""
        reply = parked.reply(partial(self._look, parked, over))
        if reply is not None:
            self._answer(parked.identity, reply)
        return reply is not None

    def look(self) -> None:
        """Something may have happened: answer those who waited for it, and those whose time is over."""
        now = time.monotonic()
        for key, parked in list(self._parked.items()):
            reply = parked.reply(partial(self._look, parked, now >= parked.deadline))
            if reply is not None:
                del self._parked[key]
                self._answer(parked.identity, reply)

    def refuse(self, error: BaseException) -> None:
        """Answer all of them with an error."""
        parked, self._parked = self._parked, {}
        for each in parked.values():
            self._answer(each.identity, refusal(each.request.number, each.request.operation, error))

    @property
    def next_deadline(self) -> float:
        """When the first of them has waited for long enough (monotonic seconds)."""
        return min((parked.deadline for parked in self._parked.values()), default=float("inf"))

    def __len__(self) -> int:
        return len(self._parked)


def _nothing() -> None:
    pass


def _begin(asked: object) -> None:
    pass


def _may_have(asked: object) -> bool:
    return True


W = TypeVar("W", bound=Waits)


@dataclass(frozen=True)
class Operation(Generic[W]):
    """One operation that may have to wait. Its functions run outside any transaction of the caller."""

    read: Callable[[Request], W]  # what is asked; raises what is wrong with it
    look: Callable[[W, bool], Result | None]  # as in Parking
    begin: Callable[[W], None] = _begin  # make sure that the bell rings for what is waited for
    turn: Callable[[], None] = _nothing  # all requests are about to be looked at again
    may_have: Callable[[W], bool] = _may_have  # a quick answer, which may be wrongly yes


@dataclass(slots=True)
class _Waiting(Parked):
    operation: Operation[Any]
    asked: Any  # what its `read` has returned


class WaitingRequests:
    """The requests of operations on the space that wait: looked at by the loop whenever a bell has rung."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._parking: Parking[_Waiting] = Parking(answer, self._look)
        self.operations: dict[str, Operation[Any]] = {}

    def take(self, identity: bytes, request: Request) -> None:
        """Answer a request at once, or park it."""
        try:
            self._take(identity, request)
        except BROKEN:
            raise
        except Exception as error:
            self._answer(identity, refusal(request.number, request.operation, error))

    def _take(self, identity: bytes, request: Request) -> None:
        operation = self.operations[request.operation]
        asked = operation.read(request)
        seconds = wait_of(asked)
        self._parking.check_room()
        if seconds:
            operation.begin(asked)
        waiting = _Waiting(identity, request, time.monotonic() + seconds, operation, asked)
        if not self._parking.settle(waiting, over=not seconds):
            self._parking.park(waiting)

    def look(self) -> None:
        """Something may have happened: answer those who waited for it, and those whose time is over."""
        if not self._parking:
            return
        for operation in self.operations.values():
            operation.turn()
        self._parking.look()

    def _look(self, waiting: _Waiting, over: bool) -> Result | None:
        if over or waiting.operation.may_have(waiting.asked):
            result: Result | None = waiting.operation.look(waiting.asked, over)
            return result
        return None

    @property
    def next_deadline(self) -> float:
        """When the first of them has waited for long enough (monotonic seconds)."""
        return self._parking.next_deadline

    def __len__(self) -> int:
        return len(self._parking)
