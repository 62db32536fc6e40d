"""A listing of external shared state goes page by page, and a page costs about a page, however large the store is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import redis
from support.redis_server import RedisServer

from noderuntime.ipc.protocol import VERSION, Reply, Request
from noderuntime.space import kvs_cells
from noderuntime.state import redis as redis_kind
from noderuntime.state.common import TableState
from noderuntime.state.redis import RedisState
from noderuntime.state.sqlite import SqliteState
from noderuntime.store import external

VALUE_BYTES = 1_000
KEYS = 200
ROOM = 20 * VALUE_BYTES
ANSWER_S = 30.0


class Asker:
    """Asks for pages, as a client of the store does."""

    def __init__(self, state: TableState) -> None:
        self.answered = threading.Event()
        self.requests = external.ExternalRequests(state, self.answered.set)
        self.number = 0

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        self.number += 1
        self.answered.clear()
        self.requests.take(b"me", Request(VERSION, "me", self.number, operation, arguments))
        assert self.answered.wait(ANSWER_S)
        _, reply = self.requests.replies.popleft()
        assert isinstance(reply, Reply) and not reply.error, reply
        return reply.result

    def listed(self, operation: str, **arguments: Any) -> list[str]:
        return [key for page in self.pages(operation, **arguments) for key in page]

    def pages(self, operation: str, **arguments: Any) -> Iterator[list[str]]:
        """The keys of each page."""
        name = {"kvs_root": "entries", "state_ls": "keys"}[operation]
        more = True
        while more:
            page = self.ask(operation, **arguments)
            keys = [item[0] for item in page[name]]
            yield keys
            more = page["more"]
            if keys:
                arguments["after"] = keys[-1]


Cost = Callable[[], int]  # how many bytes were read from the store up to now


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TableState, Cost]]:
    """The cost is the bytes of the rows that were taken out of the file."""
    read = 0
    load = kvs_cells.load

    def counting(packed: bytes) -> kvs_cells.Cell:
        nonlocal read
        read += len(packed)
        return load(packed)

    monkeypatch.setattr(kvs_cells, "load", counting)
    with SqliteState.open({"path": str(tmp_path / "k.db")}) as state:
        state.init()
        yield state, lambda: read


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with TemporaryDirectory(prefix="noderuntime-redis-") as folder:  # the paths of sockets are short
        server = RedisServer(Path(folder))
        yield server
        server.kill()


@pytest.fixture
def on_redis(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TableState, Cost]]:
    """The cost is the bytes that the server has sent. Some keys make a page, so that a page may hold none in force."""
    monkeypatch.setattr(redis_kind, "PAGE_KEYS", 50)
    with redis.Redis(unix_socket_path=str(server.socket)) as client, RedisState.open({"url": server.url}) as state:
        state.init()
        yield state, lambda: int(client.info("stats")["total_net_output_bytes"])


@pytest.fixture(params=["sqlite", "on_redis"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[TableState, Cost]:
    monkeypatch.setattr(external, "LISTING_BYTES_MAX", ROOM)
    found: tuple[TableState, Cost] = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def state(store: tuple[TableState, Cost]) -> TableState:
    return store[0]


@pytest.fixture
def asker(state: TableState) -> Iterator[Asker]:
    asker = Asker(state)
    yield asker
    asker.requests.close()


def fill(state: TableState) -> list[str]:
    """Values under keys of one to four bytes a character; the keys, as a listing has them."""
    names = [f"{start}{number}" for start in ("a", "é", "漢", "\U0001f600") for number in range(KEYS // 4)]
    for name in reversed(names):
        state.set(name, bytes(VALUE_BYTES))
    return sorted(names, key=str.encode)


@pytest.mark.parametrize("operation", ["kvs_root", "state_ls"])
def test_a_page_reads_about_a_page(store: tuple[TableState, Cost], asker: Asker, operation: str) -> None:
    state, cost = store
    names = fill(state)
    found: list[str] = []
    costs = []
    before = cost()
    for page in asker.pages(operation, scope="shared"):
        found += page
        costs.append(cost() - before)
        before = cost()
    assert found == names
    assert len(costs) >= 8
    assert max(costs) < 3 * ROOM, costs
    assert sum(costs) < 2 * KEYS * VALUE_BYTES, costs


@pytest.mark.parametrize("operation", ["kvs_root", "state_ls"])
def test_pages_of_keys_that_begin_alike(state: TableState, asker: Asker, operation: str) -> None:
    names = [name for name in fill(state) if name.startswith("é1")]
    for name in ("é0/expected", "é2/expected"):
        state.set(name, b"")
    assert asker.listed(operation, scope="shared", prefix="é1") == names
    assert asker.listed(operation, scope="shared", prefix="é1", after="é10") == names[names.index("é10") + 1 :]
    assert asker.listed(operation, scope="shared", prefix="é1", after="a") == names
    assert asker.listed(operation, scope="shared", prefix="é1", after="漢") == []


@pytest.mark.parametrize("operation", ["kvs_root", "state_ls"])
def test_pages_have_all_keys_while_others_write(state: TableState, asker: Asker, operation: str) -> None:
    names = fill(state)
    found: list[str] = []
    for number, page in enumerate(asker.pages(operation, scope="shared")):
        found += page
        state.set(f"a-before-{number}", bytes(VALUE_BYTES))  # keys that come
        state.set(f"\U0001f600-behind-{number}", b"new")
        state.set(names[number], b"changed")  # ... that change
        state.delete(f"a-before-{number - 1}")  # ... that go
    kept = set(names)
    assert [key for key in found if key in kept] == names
    assert len(set(found)) == len(found)
    last = [key for key in found if "-behind-" in key]
    assert last, "a key behind the present page, written between two pages, is in a later one"


def test_a_page_goes_past_what_was_deleted_and_what_has_expired(state: TableState, asker: Asker) -> None:
    names = fill(state)
    for name in names[3:-3]:
        state.delete(name)
    state.set("b", b"short-lived", ttl=0.001)
    wait_until_gone(state, "b")
    assert asker.listed("kvs_root") == names[:3] + names[-3:]
    assert asker.listed("state_ls", scope="shared", prefix="b") == []
    assert asker.listed("state_ls", scope="shared", prefix="a", after="a2") == []


def wait_until_gone(state: TableState, key: str) -> None:
    until = time.monotonic() + ANSWER_S
    while state.get(key) is not None:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_a_page_says_the_version_of_its_moment(state: TableState, asker: Asker) -> None:
    fill(state)
    state.set("passing", b"", ttl=0.001)
    wait_until_gone(state, "passing")
    assert asker.ask("kvs_root")["version"] == state.version()
    state.set("more", b"")
    assert asker.ask("kvs_root", after="é")["version"] == state.version()


def test_listings_at_once_do_not_mix(state: TableState, asker: Asker) -> None:
    names = fill(state)
    short = asker.pages("kvs_root", prefix="漢")
    found: list[str] = []
    for page in asker.pages("kvs_root"):
        found += page
        next(short, [])
    assert found == names


def test_a_store_that_was_made_anew_on_the_server_is_listed_anew(
    server: RedisServer, on_redis: tuple[TableState, Cost], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "LISTING_BYTES_MAX", ROOM)
    state, _ = on_redis
    asker = Asker(state)
    fill(state)
    listing = asker.pages("kvs_root")
    first = next(listing)
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        client.flushall()
    state.init()
    names = [f"z{number:04}" for number in range(2 * KEYS)]
    for name in names:
        state.set(name, b"")
    assert first
    assert [key for page in listing for key in page] == names
    asker.requests.close()
