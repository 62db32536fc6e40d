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
from typing import Any, Final, Protocol

from noderuntime.errors import StoreError
from noderuntime.ipc.protocol import Reply, Request, refusal
from noderuntime.space import kvs, watches
from noderuntime.space.environment import BROKEN, Space
from noderuntime.space.keys import user_key
from noderuntime.space.transactions import ReadTxn

WAIT_S_MAX: Final = 60.0
PARKED_MAX: Final = 20_000
FRESH_MAX: Final = 1000
KEEP_S: Final = 30.0  # a prefix stays watched that long after the last request for it

Result = dict[str, Any]
Answer = Callable[[bytes, Reply], None]


class Operation(Protocol):
    """One operation that may have to wait. Both run outside any transaction of the caller."""

    def begin(self, arguments: dict[str, Any]) -> None:
        """Make sure that the bell rings for what is waited for."""

    def look(self, arguments: dict[str, Any]) -> Result | None:
        """The result; None: nothing yet."""

    def nothing(self, arguments: dict[str, Any]) -> Result:
        """The result when the time is over."""

    def turn(self) -> None:
        """All requests are about to be looked at again."""

    def may_have(self, arguments: dict[str, Any]) -> bool:
        """Whether it is worth looking at this one: a quick answer, which may be wrongly yes."""


class _Parked:
    __slots__ = ("arguments", "deadline", "identity", "name", "number", "operation")

    def __init__(
        self,
        identity: bytes,
        number: int,
        name: str,
        operation: Operation,
        arguments: dict[str, Any],
        deadline: float,
    ) -> None:
        self.identity = identity
        self.number = number
        self.name = name
        self.operation = operation
        self.arguments = arguments
        self.deadline = deadline


class Waits:
    """The parked requests."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._parked: dict[tuple[str, int], _Parked] = {}
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
        seconds = arguments.get("wait", 0)
        if type(seconds) not in (int, float) or not 0 <= seconds <= WAIT_S_MAX:
            raise ValueError(f"wait is a number of seconds from 0 to {WAIT_S_MAX:.0f}")
        if len(self._parked) >= PARKED_MAX:
            raise StoreError(f"{PARKED_MAX} requests wait here already; ask again later")
        operation = self.operations[request.operation]
        if seconds:
            operation.begin(arguments)
        parked = _Parked(identity, request.number, request.operation, operation, arguments, time.monotonic() + seconds)
        if self._try(parked, operation.look):
            return
        if seconds:
            self._parked[request.client, request.number] = parked
        else:
            self._try(parked, operation.nothing)

    def look(self) -> None:
        """Something may have happened: answer those who waited for it, and those whose time is over."""
        if not self._parked:
            return
        for operation in self.operations.values():
            operation.turn()
        now = time.monotonic()
        for key, parked in list(self._parked.items()):
            operation = parked.operation
            if operation.may_have(parked.arguments) and self._try(parked, operation.look):
                del self._parked[key]
            elif now >= parked.deadline:
                del self._parked[key]
                self._try(parked, operation.nothing)

    def _try(self, parked: _Parked, look: Callable[[dict[str, Any]], Result | None]) -> bool:
        """Answer with what `look` returns or raises; False when it has nothing yet."""
        try:
            result = look(parked.arguments)
        except BROKEN:
            raise
        except Exception as error:
            self._answer(parked.identity, refusal(parked.number, parked.name, error))
            return True
        if result is None:
            return False
        self._answer(parked.identity, Reply(parked.number, result, "", ""))
        return True

    @property
    def next_deadline(self) -> float:
        """When the first of them has waited for long enough (monotonic seconds)."""
        return min((parked.deadline for parked in self._parked.values()), default=float("inf"))

    def __len__(self) -> int:
        return len(self._parked)


class WatchKeys:
    """The operation `kvs_watch`: the store watches for its clients, under a number of its own."""

    def __init__(self, space: Space, watch: Callable[[ReadTxn, dict[str, Any]], Result | None]) -> None:
        self._space = space
        self._watch = watch
        self._asked: dict[bytes, float] = {}  # prefix -> when it was asked for last
        with space.write() as txn:
            watches.forget(txn, watches.STORE)
        self._subscription = watches.Subscription(space, watches.STORE)
        self._before = self._seen = self._head()
        self._fresh: list[bytes] = []  # the keys that have changed between the two

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

    def may_have(self, arguments: dict[str, Any]) -> bool:
        """Who has seen everything up to the last turn need only hear of the keys that have changed since."""
        match = arguments.get("_match")
        if match is None or arguments["cursor"] < self._before:
            return True
        if any(match(key) for key in self._fresh):
            return True
        arguments["cursor"] = max(arguments["cursor"], self._seen)
        return False

    def begin(self, arguments: dict[str, Any]) -> None:
        if arguments.get("cursor") is None:
            return
        now = time.monotonic()
        prefixes = [user_key(prefix) for prefix in arguments["prefixes"]]
        self._subscription.add(prefixes)
        for prefix in prefixes:
            self._asked[prefix] = max(self._asked.get(prefix, 0.0), now + float(arguments["wait"]))

    def look(self, arguments: dict[str, Any]) -> Result | None:
        with self._space.read() as txn:
            return self._watch(txn, arguments)

    def nothing(self, arguments: dict[str, Any]) -> Result:
        cursor = arguments.get("cursor")
        if cursor is None:
            with self._space.read() as txn:
                head = kvs.head(txn)
            cursor = [head.revision, head.nth]
        return {"updates": [], "cursor": cursor}

    def tidy(self) -> None:
        """Stop watching what nobody has asked for lately."""
        end = time.monotonic() - KEEP_S
        old = [prefix for prefix, asked in self._asked.items() if asked < end]
        if old:
            self._subscription.remove(old)
            for prefix in old:
                del self._asked[prefix]
