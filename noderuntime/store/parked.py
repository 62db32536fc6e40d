"""Requests that wait for something to happen: the store parks them, and answers when a bell has rung.

A client has at most one reply under way for each request it has made, so a client that does not read piles up nothing
here. Each waits for at most WAIT_S_MAX seconds and is then answered with what there is; the client asks again with the
cursor it has. So a client that is gone leaves nothing behind for longer than that, and a store that is killed loses
nothing: the next one is asked the same.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

from noderuntime.errors import ProtocolError, StoreError
from noderuntime.ipc.protocol import Reply, Request, refusal
from noderuntime.space import kvs, watches
from noderuntime.space.environment import BROKEN, Space
from noderuntime.space.keys import user_key
from noderuntime.space.transactions import ReadTxn

WAIT_S_MAX: Final = 60.0
PARKED_MAX: Final = 20_000
PREFIXES_MAX: Final = 20_000
FRESH_MAX: Final = 1000
KEEP_S: Final = 30.0  # a prefix stays watched that long after the last request for it

Arguments = dict[str, Any]
Result = dict[str, Any]
Answer = Callable[[bytes, Reply], None]


def wait_of(arguments: Arguments) -> float:
    """How many seconds the client waits for. Raises ValueError."""
    seconds = arguments.get("wait", 0)
    if type(seconds) not in (int, float) or not 0 <= seconds <= WAIT_S_MAX:
        raise ValueError(f"wait is a number of seconds from 0 to {WAIT_S_MAX:.0f}")
    return float(seconds)


def place_of(cursor: Any, revisions: int) -> tuple[int, int]:
    """The revision (below `revisions`) and the place in it that a cursor of kvs_watch names. Raises ProtocolError."""
    revision, nth = cursor
    if type(revision) is not int or type(nth) is not int or not (0 <= revision < revisions and 0 <= nth < 1 << 31):
        raise ProtocolError("cursor is what an earlier kvs_watch has returned, or nil")
    return revision, nth


def match_of(arguments: Arguments) -> Callable[[bytes], bool]:
    """Whether a key begins with one of the prefixes that the client watches. Raises ProtocolError."""
    prefixes = arguments["prefixes"]
    if type(prefixes) is not list or len(prefixes) > PREFIXES_MAX:
        raise ProtocolError(f"prefixes is an array of at most {PREFIXES_MAX} texts")
    return watches.Prefixes(user_key(prefix) for prefix in prefixes).match


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


def _begin(arguments: Arguments) -> None:
    pass


def _may_have(arguments: Arguments) -> bool:
    return True


@dataclass(frozen=True)
class Operation:
    """One operation that may have to wait. Its functions run outside any transaction of the caller."""

    look: Callable[[Arguments, bool], Result | None]  # as in Parking
    begin: Callable[[Arguments], None] = _begin  # make sure that the bell rings for what is waited for
    turn: Callable[[], None] = _nothing  # all requests are about to be looked at again
    may_have: Callable[[Arguments], bool] = _may_have  # a quick answer, which may be wrongly yes


@dataclass(slots=True)
class _Waiting(Parked):
    operation: Operation
    arguments: Arguments


class Waits:
    """The requests of operations on the space that wait: looked at by the loop whenever a bell has rung."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._parking: Parking[_Waiting] = Parking(answer, self._look)
        self.operations: dict[str, Operation] = {}

    def take(self, identity: bytes, request: Request) -> None:
        """Answer a request at once, or park it."""
        try:
            self._take(identity, request)
        except BROKEN:
            raise
        except Exception as error:
            self._answer(identity, refusal(request.number, request.operation, error))

    def _take(self, identity: bytes, request: Request) -> None:
        arguments = {name: value for name, value in request.arguments.items() if name != "_match"}
        arguments["_request"] = request.client, request.number
        seconds = wait_of(arguments)
        self._parking.check_room()
        operation = self.operations[request.operation]
        if seconds:
            operation.begin(arguments)
        waiting = _Waiting(identity, request, time.monotonic() + seconds, operation, arguments)
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
        if over or waiting.operation.may_have(waiting.arguments):
            return waiting.operation.look(waiting.arguments, over)
        return None

    @property
    def next_deadline(self) -> float:
        """When the first of them has waited for long enough (monotonic seconds)."""
        return self._parking.next_deadline

    def __len__(self) -> int:
        return len(self._parking)


class WatchKeys:
    """The operation `kvs_watch`: the store watches for its clients, under a number of its own."""

    def __init__(self, space: Space, watch: Callable[[ReadTxn, Arguments], Result | None]) -> None:
        self._space = space
        self._watch = watch
        self._asked: dict[bytes, float] = {}  # prefix -> when it was asked for last
        with space.write() as txn:
            watches.forget(txn, watches.STORE)
        self._subscription = watches.Subscription(space, watches.STORE)
        self._before = self._seen = self._head()
        self._fresh: list[bytes] = []  # the keys that have changed between the two
        self.operation = Operation(self.look, self.begin, self.turn, self.may_have)

    def _head(self) -> list[int]:
        with self._space.read() as txn:
            head = kvs.head(txn)
        return [head.revision, head.nth]

    def turn(self) -> None:
        self._before = self._seen
        with self._space.read() as txn:
            changes = list(itertools.islice(kvs.changes_after(txn, *self._before), FRESH_MAX))
            whole = len(changes) < FRESH_MAX and watches.reaches(txn, (self._before[0], self._before[1]))
        self._fresh = [change.key for change in changes]
        if not whole:
            self._before = self._seen = self._head()  # too many: each has to look for itself
        elif changes:
            self._seen = [changes[-1].revision, changes[-1].nth]

    def may_have(self, arguments: Arguments) -> bool:
        """Who has seen everything up to the last turn need only hear of the keys that have changed since."""
        match = arguments.get("_match")
        if match is None or arguments["cursor"] < self._before:
            return True
        if any(match(key) for key in self._fresh):
            return True
        arguments["cursor"] = max(arguments["cursor"], self._seen)
        return False

    def begin(self, arguments: Arguments) -> None:
        if arguments.get("cursor") is None:
            return
        now = time.monotonic()
        prefixes = [user_key(prefix) for prefix in arguments["prefixes"]]
        self._subscription.add(prefixes)
        for prefix in prefixes:
            self._asked[prefix] = max(self._asked.get(prefix, 0.0), now + float(arguments["wait"]))

    def look(self, arguments: Arguments, over: bool) -> Result | None:
        with self._space.read() as txn:
            found = self._watch(txn, arguments)
        if found is None and over:
            return {"updates": [], "cursor": arguments["cursor"]}
        return found

    def tidy(self) -> None:
        """Stop watching what nobody has asked for lately."""
        end = time.monotonic() - KEEP_S
        old = [prefix for prefix, asked in self._asked.items() if asked < end]
        if old:
            self._subscription.remove(old)
            for prefix in old:
                del self._asked[prefix]
