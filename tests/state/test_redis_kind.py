"""The kind `redis` keeps the contract of State, with a real redis-server; and what happens when that is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import redis
from support.redis_server import RedisServer

from noderuntime.errors import StoreError, StoreUnreachable
from noderuntime.merges import Add, decode
from noderuntime.space import kvs_cells
from noderuntime.state.base import Diff
from noderuntime.state.redis import RedisState
from noderuntime.testing.state_contract import SOON_S, StateContract


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with TemporaryDirectory(prefix="noderuntime-redis-") as folder:
        server = RedisServer(Path(folder))
        yield server
        server.kill()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    with TemporaryDirectory(prefix="noderuntime-redis-") as folder:  # the paths of sockets are short
        server = RedisServer(Path(folder))
        yield server
        server.kill()


class TestRedis(StateContract):
    kind = RedisState

    @pytest.fixture
    def configs(self, server: RedisServer, request: pytest.FixtureRequest) -> Callable[[str], dict[str, Any]]:
        return lambda name: {"url": server.url, "name": f"{request.node.name}/{name}"}


def opened(server: RedisServer, timeout: float = 20.0) -> RedisState:
    state = RedisState.open({"url": server.url, "timeout": timeout})
    state.init()
    return state


def test_14_a_lost_server_is_a_typed_error_and_works_again_when_it_is_back(own_server: RedisServer) -> None:
    with opened(own_server, timeout=1.0) as state:
        state.set("k", b"v")
        own_server.kill()
        for call in (lambda: state.get("k"), lambda: state.set("k", b"w"), state.version, state.get_root):
            with pytest.raises(StoreUnreachable, match=r"redis\.sock"):
                call()
        own_server.start()
        assert state.get_or("k", b"") == b"v"
        state.set("k", b"w")


def test_a_call_waits_for_a_server_that_comes_back_in_time(own_server: RedisServer) -> None:
    with opened(own_server) as state:
        state.set("k", b"v")
        own_server.kill()
        found: list[bytes] = []
        thread = threading.Thread(target=lambda: found.append(state.get_or("k", b"")))
        thread.start()
        own_server.start()
        thread.join()
    assert found == [b"v"]


def test_merges_count_once_while_the_server_is_killed_again_and_again(own_server: RedisServer) -> None:
    done = 0
    stop = threading.Event()

    def work() -> None:
        nonlocal done
        with opened(own_server) as state:
            while not stop.is_set():
                state.merge("n", Add(1))
                done += 1

    thread = threading.Thread(target=work)
    thread.start()
    with opened(own_server) as state:
        for _ in range(5):
            before = done
            while done < before + 20:
                stop.wait(0.002)
            own_server.kill()
            own_server.start()
        stop.set()
        thread.join()
        assert decode(state.get_or("n", b"")) == done


def test_a_watch_misses_nothing_while_the_server_is_away(own_server: RedisServer) -> None:
    with opened(own_server) as state, opened(own_server) as writer, state.watch("k") as watch:
        writer.set("k1", b"1")
        update = watch.next(SOON_S)
        assert update is not None
        own_server.kill()
        own_server.start()
        writer.set("k2", b"2")
        while update is not None and update.key != "k2":
            update = watch.next(SOON_S)
        assert update is not None
        assert update.value == b"2"


def test_a_bad_url_is_refused_with_the_reason() -> None:
    with pytest.raises(StoreError, match="url"):
        RedisState.open({"url": "http://example.org"})


def test_stores_of_two_names_on_one_server_are_apart(server: RedisServer) -> None:
    one = RedisState.open({"url": server.url, "name": "one"})
    two = RedisState.open({"url": server.url, "name": "two"})
    with one, two:
        one.init()
        two.init()
        one.set("k", b"1")
        assert two.get("k") is None
        assert one.version() != two.version()


@pytest.mark.parametrize("how", ["one step", "read and commit"])
def test_the_first_mark_raises_the_format_so_that_earlier_versions_refuse_the_store(
    own_server: RedisServer, how: str
) -> None:
    def format_of() -> bytes | None:
        with redis.Redis.from_url(own_server.url, protocol=2) as client:
            return client.hget("{noderuntime}:head", "format")

    with opened(own_server) as state:
        state.set("k", b"v")
        state.merge("n", Add(1))
        assert format_of() == b"2", "what earlier versions can read stays theirs"
        if how == "one step":
            state.set_packed("m", b"\x01")
        else:
            other = kvs_cells.written(1, 1 << 20, b"\x01", packed=True)
            state.apply(Diff({}, frozenset(), "", {"m": other}))
        assert format_of() == b"3"
    with opened(own_server) as state:
        assert {key: entry.packed for key, entry in state.get_root().items()} == {"k": False, "m": True, "n": True}


def test_a_store_of_a_later_format_is_refused(own_server: RedisServer) -> None:
    opened(own_server).close()
    with redis.Redis.from_url(own_server.url, protocol=2) as client:
        client.hset("{noderuntime}:head", "format", "4")
    with pytest.raises(StoreError, match="has format 4; this noderuntime knows 2 and 3"):
        opened(own_server)
