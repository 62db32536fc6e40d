"""Changes that are numbered by who asks for them count once, with an external State as with the space itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from support.redis_server import RedisServer

from noderuntime.errors import ProtocolError, RevisionConflict
from noderuntime.ipc.protocol import VERSION, Reply, Request
from noderuntime.merges import Add, Union, decode
from noderuntime.space.kvs import SharedWrite
from noderuntime.state.common import Once, TableState
from noderuntime.state.redis import RedisState
from noderuntime.state.sqlite import SqliteState
from noderuntime.store.external import ExternalRequests
from noderuntime.testing.state_contract import wait_until

Open = Callable[[], TableState]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with TemporaryDirectory(prefix="noderuntime-redis-") as folder:
        server = RedisServer(Path(folder))
        yield server
        server.kill()


@pytest.fixture(params=["redis", "sqlite"])
def opened(request: pytest.FixtureRequest, server: RedisServer, tmp_path: Path) -> Iterator[Open]:
    """Opens the same store each time, as a store process that was killed and the next one do."""
    states: list[TableState] = []

    def make() -> TableState:
        state: TableState
        if request.param == "redis":
            state = RedisState.open({"url": server.url, "name": request.node.name})
        else:
            state = SqliteState.open({"path": str(tmp_path / "shared.db")})
        state.init()
        states.append(state)
        return state

    yield make
    for state in states:
        state.close()


def numbered(number: int, client: str = "a client") -> Once:
    return Once(client, f"{number:020d}")


def test_a_change_that_is_repeated_counts_once_and_is_answered_the_same(opened: Open) -> None:
    state, again = opened(), opened()
    state.set("gone", b"v")
    other = SqliteState.open({"path": ":memory:"})
    other.init()
    other.set("from elsewhere", b"v")
    diff = other.diff(state)
    calls: list[Callable[[TableState, Once], Any]] = [
        lambda state, once: state.merge_once(once, "n", Add(1)),
        lambda state, once: state.set_once(once, "k", b"v", expect=0),
        lambda state, once: state.delete_once(once, "gone"),
        lambda state, once: state.apply_once(once, diff),
        lambda state, once: state.delete_once(once, "never there"),
    ]
    for number, call in enumerate(calls, 1):
        first = call(state, numbered(number))
        state.merge("meanwhile", Add(1))
        assert call(again, numbered(number)) == first
        assert call(again, numbered(number)) == first
    assert decode(state.get_or("n", b"")) == 1
    other.close()


def test_a_change_that_was_refused_may_be_tried_again(opened: Open) -> None:
    state = opened()
    state.set("k", b"v")
    with pytest.raises(RevisionConflict):
        state.set_once(numbered(1), "k", b"w", expect=0)
    state.delete("k")
    state.set_once(numbered(1), "k", b"w", expect=0)
    assert state.get_or("k", b"") == b"w"


def test_a_change_from_before_the_last_one_is_refused(opened: Open) -> None:
    state = opened()
    state.set_once(numbered(2), "k", b"new")
    with pytest.raises(ProtocolError, match="its last is 2"):
        state.set_once(numbered(1), "k", b"old")
    state.set_once(numbered(1, "another client"), "k", b"newer")
    assert state.get_or("k", b"") == b"newer"


def test_the_writes_of_an_event_are_applied_once_and_what_cannot_be_is_left_out(opened: Open) -> None:
    state, again = opened(), opened()
    state.set("text", b"\xa1a")
    state.merge("large", Union({b"x" * 600_000}))
    writes = [
        SharedWrite(b"n", merge=Add(2)),
        SharedWrite(b"text", merge=Add(1)),
        SharedWrite(b"large", merge=Union({b"y" * 600_000})),
        SharedWrite(b"n", merge=Add(3)),
        SharedWrite(b"k", b"v", ttl_ns=10**12),
        SharedWrite(b"never", None),
    ]
    left_out = state.write_all(writes, 7, Once("outbox", "01ab", for_ever=True))
    assert [("'text'" in why, "'large'" in why) for why in left_out] == [(True, False), (False, True)]
    for mark in ("01ab", "01aa"):
        assert again.write_all(writes, 7, Once("outbox", mark, for_ever=True)) == []
    assert decode(state.get_or("n", b"")) == 5
    entry = state.get("k")
    assert entry is not None
    assert entry.origin.endswith("/7")
    assert entry.ttl is not None
    assert decode(state.get_or("large", b"")) == [b"x" * 600_000]


def reply_of(external: ExternalRequests, number: int, operation: str, arguments: dict[str, Any]) -> Reply:
    external.take(b"peer", Request(VERSION, "a client", number, operation, arguments))
    wait_until(lambda: bool(external.replies))
    return external.replies.popleft()[1]


def test_a_request_that_the_next_store_process_gets_again_counts_once(opened: Open) -> None:
    first, second = ExternalRequests(opened(), int), ExternalRequests(opened(), int)
    asked: list[tuple[str, dict[str, Any]]] = [
        ("kvs_merge", {"key": "n", "merge": ["add", 1]}),
        ("kvs_set", {"key": "k", "value": b"v", "expect": 0}),
        ("kvs_delete", {"key": "k"}),
        ("state_set", {"scope": "shared", "key": "k", "value": b"w"}),
        ("state_rm", {"scope": "shared", "key": "k"}),
    ]
    for number, (operation, arguments) in enumerate(asked, 1):
        told = reply_of(first, number, operation, arguments)
        assert not told.error
        assert reply_of(second, number, operation, arguments) == told
    state = opened()
    assert decode(state.get_or("n", b"")) == 1
    assert state.get("k") is None
    for external in (first, second):
        external.close()
