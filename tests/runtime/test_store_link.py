"""storelink.py against a store that is played by the test, over a real socket. Time is a number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.harness import wait_until

from noderuntime.ipc.channel import Router
from noderuntime.ipc.protocol import Edge, Reply, Request
from noderuntime.ipc.rundir import RunDir
from noderuntime.ipc.state_records import Cursor, PlainUpdate, Updates
from noderuntime.ipc.store_records import Done, Ticket, result
from noderuntime.runtime.loop import Loop
from noderuntime.runtime.store_link import ANSWER_S_MAX, NO_ROOM_PAUSE_S, REPEAT_S, StoreLink

WAIT_S = 10.0


class Store:
    """The other end: takes requests, and answers when it is told to."""

    def __init__(self, path: Path) -> None:
        self.router = Router(path, Edge.CLIENT_TO_STORE)
        self.taken: list[Request] = []
        self._identity = b""

    def take(self) -> Request:
        found = self.router.receive(WAIT_S)
        assert found is not None
        self._identity, message = found
        assert isinstance(message, Request)
        self.taken.append(message)
        return message

    def nothing_comes(self) -> bool:
        return self.router.receive(0.05) is None

    def answer(self, number: int, result: dict[str, Any] | None = None, error: str = "", text: str = "") -> None:
        assert self.router.send(self._identity, Reply(number, result or {}, error, text))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store.sock")
    yield store
    store.router.close(0)


@pytest.fixture
def link(tmp_path: Path, store: Store) -> Iterator[StoreLink]:
    loop = Loop()
    link = StoreLink(loop, RunDir(tmp_path), "runtime-1")
    link.connect()
    yield link
    link.close()
    loop.close()


@pytest.fixture
def said() -> list[Any]:
    return []


def ask(link: StoreLink, said: list[Any], operation: str = "touch", **arguments: Any) -> None:
    link.request(operation, arguments, result(Done), said.append, lambda error, text: said.append((error, text)))


def wait_answer(link: StoreLink, now_s: float) -> None:
    while not link.advance(now_s):
        pass


def test_requests_go_one_at_a_time_and_in_order(link: StoreLink, store: Store, said: list[Any]) -> None:
    for name in "abc":
        ask(link, said, name)
    for number, name in enumerate("abc", 1):
        link.advance(1.0)
        request = store.take()
        assert (request.client, request.number, request.operation) == ("runtime-1", number, name)
        assert store.nothing_comes()
        store.answer(number, {"name": name})
        wait_answer(link, 1.0)
    assert said == [{"name": "a"}, {"name": "b"}, {"name": "c"}]
    assert link.idle


def test_a_request_that_is_not_answered_is_repeated_with_its_number(
    link: StoreLink, store: Store, said: list[Any]
) -> None:
    ask(link, said)
    link.advance(1.0)
    link.advance(1.0 + REPEAT_S / 2)
    link.advance(1.0 + REPEAT_S)
    assert [store.take().number, store.take().number] == [1, 1]
    assert store.nothing_comes()
    store.answer(1)
    store.answer(1)
    wait_answer(link, 2.0)
    ask(link, said)
    link.advance(3.0)
    store.take()
    store.answer(2)
    wait_until(lambda: link.receive() and link.idle, "the answer to the second request")
    assert said == [{}, {}], "the second answer to the first request counts nothing"


def test_another_store_process_gets_what_was_not_answered_under_the_same_number(
    link: StoreLink, store: Store, said: list[Any], tmp_path: Path
) -> None:
    ask(link, said, "end", node="a")
    link.advance(1.0)
    first = store.take()
    link.disconnect()
    store.router.close(0)
    assert not link.advance(1.1)
    second = Store(tmp_path / "store.sock")
    link.connect()
    link.advance(1.2)
    assert second.take() == first
    second.answer(1)
    wait_answer(link, 1.3)
    second.router.close(0)
    assert said == [{}]


def test_no_room_is_asked_again_later_with_a_new_number(link: StoreLink, store: Store, said: list[Any]) -> None:
    ask(link, said)
    link.advance(1.0)
    store.take()
    store.answer(1, error="StoreFull", text="full")
    wait_answer(link, 1.0)
    link.advance(1.0)
    assert store.nothing_comes()
    link.advance(1.1 + NO_ROOM_PAUSE_S)
    assert store.take().number == 2
    store.answer(2)
    wait_answer(link, 2.0)
    assert said == [{}]


def test_any_other_error_is_told(link: StoreLink, store: Store, said: list[Any]) -> None:
    ask(link, said)
    link.advance(1.0)
    store.take()
    store.answer(1, error="NotRunning", text="no such node")
    wait_answer(link, 1.0)
    assert said == [("NotRunning", "no such node")]
    assert link.idle


def test_a_result_comes_as_its_record(link: StoreLink, store: Store) -> None:
    said: list[Updates] = []
    link.request("kvs_watch", {}, result(Updates), said.append, lambda error, text: None)
    link.advance(1.0)
    store.take()
    store.answer(1, {"updates": [["k", b"v", 7]], "cursor": [7, 0]})
    wait_answer(link, 1.0)
    assert isinstance(said[0]["updates"][0], PlainUpdate)
    assert (said[0]["updates"][0].revision, said[0]["cursor"]) == (7, Cursor(7, 0))


@pytest.mark.parametrize("absurd", [{}, {"ticket": "7"}, {"ticket": None}, {"ticket": True}])
def test_an_answer_that_is_not_the_record_is_none_and_the_store_is_asked_again(
    link: StoreLink, store: Store, absurd: dict[str, Any]
) -> None:
    said: list[Any] = []
    link.request("snapshot_take", {}, result(Ticket), said.append, lambda error, text: said.append(error))
    link.advance(1.0)
    store.take()
    store.answer(1, absurd)
    wait_answer(link, 1.0)
    assert (said, link.rejected, link.idle) == ([], 1, False)
    link.advance(1.0 + REPEAT_S)
    assert store.take().number == 1
    store.answer(1, {"ticket": 7})
    wait_answer(link, 2.0)
    assert said == [{"ticket": 7}]


def test_a_store_that_does_not_answer_for_long_hangs_and_is_forgiven_when_it_was_killed(
    link: StoreLink, store: Store, said: list[Any]
) -> None:
    assert not link.hangs(1e6, 1)
    ask(link, said)
    assert not link.hangs(1e6, 1), "not sent yet"
    link.advance(1.0)
    assert not link.hangs(1.0 + ANSWER_S_MAX, 1)
    assert link.hangs(1.1 + ANSWER_S_MAX, 1)
    assert not link.hangs(1.0 + 4 * ANSWER_S_MAX, 4)
    assert link.hangs(1.1 + 4 * ANSWER_S_MAX, 4)
    link.forgive()
    assert not link.hangs(1.1 + ANSWER_S_MAX, 1)
