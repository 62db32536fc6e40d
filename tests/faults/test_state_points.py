"""Writers, watchers, the store process and a Redis server killed between any two steps of the State layer.

Whatever was killed: each write of an event took effect once, what was written at once by `expect` too, watches have
missed nothing, nothing that has expired is seen, seeds are there once, and a repeated request counted once.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lmdb
import pytest
from support.flows import Flow
from support.harness import wait_until
from support.redis_server import RedisServer
from support.stage import HERE, Fault, Stage
from support.state_cast import chained

from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import VERSION, Edge, Reply, Request
from noderuntime.merges import decode
from noderuntime.space import kvs, kvs_cells
from noderuntime.state.redis import RedisState
from noderuntime.state.sqlite import SqliteState

COUNT = 40
SEED = {"seeded": "once", "count": 0}

LMDB = ("lock", "locked", "put", "commit", "committed")
SQL = ("sql", "sql done")
SERVER = ("server send", "server sent", "server told")
OWN = {"memory": LMDB, "sqlite": SQL, "redis": SERVER}
WRITER = ("kvs", "kvs done")
WATCHER = ("subscribe", "subscribed", "look", "looked", "commit", "committed")
START = ("seeds", "seeds read", "sow", "sown")
STORE = {
    "memory": ("purge", "purged", *LMDB),
    "sqlite": ("apply", "applied", "purge", "purged", *LMDB, *SQL),
    "redis": ("apply", "applied", "purge", "purged", *LMDB, *SERVER),
}
API = {
    "memory": ("request kvs_merge", "commit", "committed", "answer kvs_merge", "send Reply", "sent Reply"),
    "sqlite": ("forward", "forwarded", "carry out", "kvs", *SQL, "kvs done", "carried out", "done", "send Reply"),
    "redis": ("forward", "forwarded", "carry out", "kvs", *SERVER, "kvs done", "carried out", "done", "send Reply"),
}


class Server:
    """A Redis server that is started again whenever somebody has killed it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.deaths = -1
        self._closing = threading.Event()
        self._server = RedisServer(folder)
        self.url = self._server.url
        self._up()
        self._thread = threading.Thread(target=self._keep)
        self._thread.start()

    def _up(self) -> None:
        assert self._server.process is not None
        (self.folder / "pid.new").write_text(str(self._server.process.pid))
        (self.folder / "pid.new").rename(self.folder / "pid")
        self.deaths += 1

    def _keep(self) -> None:
        while not self._closing.wait(0.01):
            assert self._server.process is not None
            if self._server.process.poll() is not None:
                self._server.kill()
                self._server.start()
                self._up()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._server.kill()


@pytest.fixture
def server() -> Iterator[Server]:
    with TemporaryDirectory(prefix="noderuntime-redis-") as folder:
        server = Server(Path(folder))
        yield server
        server.close()


def at(who: str, points: tuple[str, ...], hits: tuple[int, ...] = (1,), action: str = "kill") -> list[Fault]:
    return [{"who": who, "point": point, "hit": hit, "action": action} for hit in hits for point in points]


def dataflow(kind: str, folder: Path, url: str, nodes: list[dict[str, Any]]) -> str:
    state: dict[str, Any] = {"purge_interval": "50ms", "seed": {"file": "seed.json"}}
    state |= {"memory": {"size": "48MB"}, "sqlite": {"kind": "sqlite", "path": "k.db"},
              "redis": {"kind": "redis", "url": url, "timeout": 20}}[kind]  # fmt: skip
    keeper = {"id": "keeper", "path": "cast.py", "args": "keeping", "env": {"KEEP_UNTIL": f"{folder}/done"}}
    again = {"restart_policy": "on-failure", "max_restarts": 0, "restart_delay": "5ms", "max_restart_delay": "50ms"}
    listed = [{**node, **again, "max_attempts": 0} for node in [*nodes, keeper]]
    return json.dumps({"state": state, "snapshots": {"to": "none"}, "nodes": listed})


def nodes_of(count: int) -> list[dict[str, Any]]:
    source = {"python": "cast.py:Numbers", "outputs": ["o0"]}
    writer = {"python": "state_cast.py:Writer", "inputs": {"n": "source/o0"}}
    watcher = {"python": "state_cast.py:Watcher", "inputs": {"tick": "timer/millis/20"}}
    return [
        {"id": "source", "operator": source, "config": {"count": count, "seed": 1, "batch": 1, "outputs": ["o0"]}},
        {"id": "writer", "operator": writer},
        {"id": "watcher", "operator": watcher, "config": {"count": count}},
    ]


@contextlib.contextmanager
def staged(kind: str, faults: list[Fault], server: Server | None, nodes: list[dict[str, Any]]) -> Iterator[Stage]:
    """A run with these faults, all of which have to happen, and no death of the server but theirs."""
    env = {"FAULTS_SERVER": str(server.folder / "pid")} if server else {}
    with Stage(faults, **env) as stage:
        shutil.copy(HERE / "state_cast.py", stage.root)
        (stage.root / "seed.json").write_text(json.dumps(SEED))
        stage.start(dataflow(kind, stage.root, server.url if server else "", nodes))
        yield stage
        missed = set(range(len(faults))) - stage.fired()
        assert not missed, f"these faults never happened: {[faults[index] for index in sorted(missed)]}"
    if server:
        killed = sum(fault["action"] == "server" for fault in faults)
        wait_until(lambda: server.deaths >= killed, "the last server to come back")
        assert server.deaths == killed


def contents(kind: str, stage: Stage, server: Server | None) -> dict[str, bytes]:
    """All keys in force, and below "digest" whether the digest is the one of the contents."""
    if kind == "memory":
        env = lmdb.open(str(stage.folder.run_dir().space), readonly=True, lock=False, max_dbs=0)
        with env, env.begin() as txn:
            kept = dict(kvs.all_stored(txn))
            digest = sum(kvs_cells.contribution(key, kvs_cells.visible(item.cell, 0)) for key, item in kept.items())
            assert digest & kvs_cells.DIGEST_MASK == kvs.head(txn).digest
            return {key.decode(): entry.value for key, entry in kvs.entries(txn, b"", 1 << 62)}
    config = {"url": server.url} if server else {"path": str(stage.root / "k.db")}
    with (RedisState if server else SqliteState).open(config) as state:
        state.init()
        with state._moment() as moment:
            rows = dict(moment.rows())
            seen = {key.encode(): kvs_cells.visible(row.cell, 0) for key, row in rows.items()}
            made = sum(kvs_cells.contribution(key, value) for key, value in seen.items())
            assert made & kvs_cells.DIGEST_MASK == moment.digest
        return {key: entry.value for key, entry in state.get_root().items()}


def check(found: dict[str, bytes], tries: int) -> None:
    numbers = list(range(1, COUNT + 1))
    chain = [0, 0]
    for number in numbers:
        chain = chained(chain, number)
    assert json.loads(found.pop("chain")) == chain
    assert COUNT <= decode(found.pop("tries")) <= COUNT + tries
    assert decode(found.pop("seen at once")) == numbers
    assert decode(found.pop("seen")) == numbers
    assert decode(found.pop("count")) == COUNT
    assert found.pop("watched").split() == [b"%d" % COUNT, b"%d" % sum(numbers)]
    assert found.pop("seeded") == b"once"
    assert found == {**{f"w/{n}": b"%d" % n for n in numbers}, "last": b"%d" % COUNT, f"passing/{COUNT}": b"v"}


def play(kind: str, faults: list[Fault], server: Server | None) -> None:
    server = server if kind == "redis" else None
    with staged(kind, faults, server, nodes_of(COUNT)) as stage:
        stage.complete(Flow({}))
        if kind == "memory":
            found = contents(kind, stage, None)
            stage.finish()
        else:
            stage.finish()
            found = contents(kind, stage, server)
        check(found, len(faults))


KINDS = ["memory", "sqlite", pytest.param("redis", marks=pytest.mark.long)]


@pytest.mark.parametrize("kind", KINDS)
def test_writers_killed_between_any_two_steps(kind: str, server: Server) -> None:
    play(kind, at("writer", (*WRITER, *OWN[kind]), (1, 3, 7)), server)


@pytest.mark.parametrize("kind", KINDS)
def test_watchers_killed_between_any_two_steps(kind: str, server: Server) -> None:
    play(kind, at("watcher", WATCHER) + at("watcher", OWN[kind], (1, 3)), server)


@pytest.mark.parametrize("kind", KINDS)
def test_the_store_killed_while_it_seeds_applies_and_purges(kind: str, server: Server) -> None:
    play(kind, at("store", START) + at("store", STORE[kind], (1, 4)), server)


@pytest.mark.parametrize("who", ["writer", "store", "watcher"])
def test_the_redis_server_killed_at_every_step_of(who: str, server: Server) -> None:
    play("redis", at(who, SERVER, (1, 3, 8, 21), "server"), server)


@pytest.mark.parametrize("kind", KINDS)
def test_requests_of_clients_count_once_wherever_the_store_is_killed(kind: str, server: Server) -> None:
    faults = at("store", API[kind], (1, 3))
    if kind == "redis":
        faults += at("store", SERVER, (5,), "server")
    own = server if kind == "redis" else None
    with staged(kind, faults, own, []) as stage:
        assert stage.running is not None
        stage.running.wait_running()
        done = 0
        while len(stage.fired()) < len(faults) or done < COUNT:
            done += 1
            request(stage, Request(VERSION, "a client", done, "kvs_merge", {"key": "count", "merge": ["add", 1]}))
            assert done < 2000, stage.fired()
        result = request(stage, Request(VERSION, "a reader", 1, "kvs_get", {"key": "count"}))
        assert decode(result["entry"][0]) == done
        stage.finish()


def request(stage: Stage, asked: Request) -> dict[str, Any]:
    """Repeat a request until it is answered, as a client does."""
    for _ in range(300):
        with contextlib.suppress(OSError), Dealer(stage.folder.run_dir().store_socket, Edge.STORE_TO_CLIENT) as dealer:
            dealer.send(asked)
            reply = dealer.receive(0.1)
            dealer.close(0)
            if isinstance(reply, Reply):
                assert not reply.error, reply
                return reply.result
    raise AssertionError(f"no answer to {asked}")
