"""Runs with an external State: what operators write to it counts once, whoever is killed."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.harness import Folder, Running, kill_node, wait_until
from support.redis_server import RedisServer

from noderuntime.cli.client import StoreClient
from noderuntime.cli.state_watch import WAIT_S
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import VERSION, Edge, Reply, Request
from noderuntime.ipc.runs import list_runs
from noderuntime.ipc.state_records import Updates
from noderuntime.ipc.store_records import result
from noderuntime.merges import decode
from noderuntime.state.redis import RedisState
from noderuntime.state.sqlite import SqliteState

COUNT = 400

WRITER = """
from noderuntime.merges import Add, Union
class Operator:
    def __init__(self, ctx):
        self.kvs = ctx.kvs
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            number = event["value"]
            ctx.kvs_merge("sum", Add(number))
            ctx.kvs_merge("count", Add(1))
            ctx.kvs_write(f"w/{number}", b"%d" % number)
            if number % 50 == 0:
                assert ctx.kvs_read(f"w/{number}") == b"%d" % number
                before = ctx.kvs_read("own", b"0")
                assert int(before) == number // 50, (before, number)
                ctx.kvs_write("own", b"%d" % (number // 50 + 1))
            ctx.send_output("n", number)
"""

WATCHER = """
class Operator:
    def __init__(self, ctx):
        self.total = self.count = 0
        ctx.kvs.watch("w/")
    def restore_state(self, state):
        self.total, self.count = map(int, state["sums"].split())
    def on_event(self, event, ctx):
        if event["type"] == "KVS_UPDATE":
            self.total += int(event["value"])
            self.count += 1
            ctx.save_state("sums", b"%d %d" % (self.total, self.count))
            ctx.kvs_write("seen", b"%d %d" % (self.total, self.count))
"""

FLOW = """
state: {STATE}
nodes:
  - {id: count, path: count.py, outputs: [n], env: {COUNT: "400", PAUSE: "0.005"}}
  - id: writer
    operator: {python: writer.py, inputs: {n: count/n}, outputs: [n]}
    max_restarts: 0
  - id: watcher
    operator: {python: watcher.py, inputs: {tick: timer/millis/500}}
    max_restarts: 0
"""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with TemporaryDirectory(prefix="noderuntime-redis-") as folder:
        server = RedisServer(Path(folder))
        yield server
        server.kill()


def ask(running: Running, operation: str, **arguments: object) -> dict[str, object]:
    with Dealer(running.folder.run_dir().store_socket, Edge.STORE_TO_CLIENT) as dealer:
        dealer.send(Request(VERSION, secrets.token_hex(8), 1, operation, arguments))
        reply = dealer.receive(30.0)
    assert isinstance(reply, Reply)
    assert not reply.error, reply
    return reply.result


def assert_all_counted(running: Running, state: RedisState | SqliteState) -> None:
    total = COUNT * (COUNT + 1) // 2
    wait_until(lambda: running.status()["writer"]["state"] == "ended", "the writer to end")
    wait_until(lambda: decode(state.get_or("count", b"\x00")) >= COUNT + 1, "all to be applied")
    wait_until(lambda: state.get_or("seen", b"") == b"%d %d" % (total, COUNT + 1), "the watcher to have seen all")
    assert decode(state.get_or("count", b"")) == COUNT + 1
    assert decode(state.get_or("sum", b"")) == total
    assert state.get_or("own", b"") == b"9"
    assert {key for key in state.get_root() if key.startswith("w/")} == {f"w/{n}" for n in range(COUNT + 1)}
    assert ask(running, "kvs_version")["version"] == state.version()
    assert ask(running, "state_get", scope="shared", key="own")["value"] == b"9"
    cursor = ask(running, "kvs_watch", prefixes=["x"], cursor=None)["cursor"]
    ask(running, "kvs_set", key="x", value=b"1")
    found = ask(running, "kvs_watch", prefixes=["x"], cursor=cursor, wait=30)["updates"]
    assert isinstance(found, list)
    assert found[0][:2] == ["x", b"1"]
    assert running.ask("stop").error == ""
    assert running.finish() == 0


def test_writes_reach_a_redis_server_once_while_everybody_is_killed(folder: Folder, server: RedisServer) -> None:
    folder.write(writer_py=WRITER, watcher_py=WATCHER)
    running = folder.start(FLOW.replace("{STATE}", f"{{kind: redis, url: '{server.url}', timeout: 20}}"))
    running.wait_running()
    chance = random.Random(3)
    for _ in range(8):
        victim = chance.choice(["writer", "store", "server", "watcher"])
        if victim == "server":
            server.kill()
            server.start()
        else:
            kill_node(running, victim)
    with RedisState.open({"url": server.url}) as state:
        state.init()
        assert_all_counted(running, state)


def test_writes_reach_a_file_once_while_everybody_is_killed(folder: Folder) -> None:
    folder.write(writer_py=WRITER, watcher_py=WATCHER)
    running = folder.start(FLOW.replace("{STATE}", "{kind: sqlite, path: shared.db}"))
    running.wait_running()
    chance = random.Random(4)
    for _ in range(6):
        kill_node(running, chance.choice(["writer", "store", "watcher"]))
    with SqliteState.open({"path": str(folder.folder / "shared.db")}) as state:
        state.init()
        assert_all_counted(running, state)


SEES = """
class Operator:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            number = event["value"]
            assert ctx.kvs_read(f"w/{number}") == b"%d" % number, "the writer's, which is not committed yet"
            ctx.kvs_write("read", b"%d" % number)
"""


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_writes_of_operators_that_share_a_process_arrive_once_and_all_of_them_see_what_one_has_staged(
    folder: Folder, server: RedisServer, kind: str
) -> None:
    reader = "  - {id: reader, operator: {python: reader.py, inputs: {n: writer/n}}, max_restarts: 0}\n"
    where = f"{{kind: redis, url: '{server.url}', timeout: 20}}" if kind == "redis" else "{kind: sqlite, path: s.db}"
    flow = FLOW.replace("{STATE}", where) + reader
    for id in ("writer", "watcher"):
        flow = flow.replace(f"- id: {id}\n", f"- id: {id}\n    process: p\n")
    folder.write(writer_py=WRITER, watcher_py=WATCHER, reader_py=SEES)
    running = folder.start(flow.replace("{id: reader, ", "{id: reader, process: p, "))
    running.wait_running()
    chance = random.Random(5)
    for _ in range(6):
        kill_node(running, chance.choice(["writer", "store", "watcher", "reader"]))
    assert len({running.status()[id]["restarts"] for id in ("writer", "watcher", "reader")}) == 1
    with (
        RedisState.open({"url": server.url})
        if kind == "redis"
        else SqliteState.open({"path": str(folder.folder / "s.db")})
    ) as state:
        state.init()
        wait_until(lambda: state.get_or("read", b"") == b"400", "the reader's last write")
        assert_all_counted(running, state)


FINISHING = """
state: {kind: redis, url: 'URL', timeout: 0.3}
snapshots: {to: none}
nodes:
  - {id: count, path: count.py, outputs: [n], env: {COUNT: "200"}}
  - id: writer
    operator: {python: adder.py, inputs: {n: count/n}}
"""

ADDER = """
from noderuntime.merges import Add
class Operator:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.kvs_merge("count", Add(1))
            if event["value"] == 100:
                print("half", flush=True)
                while not __import__("os").path.exists("go"):
                    __import__("time").sleep(0.005)
"""


def finishing(folder: Folder, server: RedisServer) -> Running:
    """A run that ends by itself, while the server is away."""
    folder.write(adder_py=ADDER)
    running = folder.start(FINISHING.replace("URL", server.url))
    running.wait_for("line", "writer", "stdout", "half")
    server.kill()
    (folder.folder / "go").touch()
    return running


def counted(server: RedisServer) -> int:
    with RedisState.open({"url": server.url}) as state:
        state.init()
        return int(decode(state.get_or("count", b"\x00")))


def test_a_run_does_not_end_before_its_writes_have_arrived(folder: Folder, server: RedisServer) -> None:
    running = finishing(folder, server)
    running.wait_for("status", "shared writes wait for*")
    server.start()
    assert running.finish() == 0
    assert counted(server) == 201
    assert list((folder.home / "runs").iterdir()) == []


def test_a_store_process_that_begins_while_the_server_is_away_waits_for_it(folder: Folder, server: RedisServer) -> None:
    running = finishing(folder, server)
    os.kill(running.helper("nr-store"), signal.SIGKILL)
    running.wait_for("status", "the store died*")
    wait_until(lambda: refused(running, "kvs_get", key="count") == "StoreUnreachable", "the store to have tried once")
    server.start()
    assert running.finish() == 0
    assert counted(server) == 201


def test_an_operator_begins_a_life_while_the_server_is_away(folder: Folder, server: RedisServer) -> None:
    folder.write(adder_py=ADDER)
    running = folder.start(FINISHING.replace("URL", server.url))
    running.wait_for("line", "writer", "stdout", "half")
    server.kill()
    os.kill(running.status()["writer"]["pid"], signal.SIGKILL)
    running.wait_for("line", "writer", "stdout", "half")
    assert running.status()["writer"]["restarts"] == 1
    (folder.folder / "go").touch()
    running.wait_for("status", "shared writes wait for*")
    server.start()
    assert running.finish() == 0
    assert counted(server) == 201


def refused(running: Running, operation: str, **arguments: object) -> str:
    """The error that a request is answered with, if it is answered soon."""
    with Dealer(running.folder.run_dir().store_socket, Edge.STORE_TO_CLIENT) as dealer:
        dealer.send(Request(VERSION, secrets.token_hex(8), 1, operation, arguments))
        reply = dealer.receive(1.0)
        dealer.close(0)
    return reply.error if isinstance(reply, Reply) else ""


def test_writes_that_cannot_arrive_are_kept_and_delivered_by_resume(folder: Folder, server: RedisServer) -> None:
    running = finishing(folder, server)
    running.wait_for("status", "shared writes wait for*")
    for told in ("SIGTERM*", "stopping at once"):
        os.kill(running.runtime_pid, signal.SIGTERM)
        running.wait_for("status", told)
    assert running.finish() == 128 + signal.SIGTERM
    assert any("--resume" in text and "kept" in text for text in running.statuses()), running.statuses()
    (run,) = list_runs({**os.environ, "NODERUNTIME_HOME": str(folder.home)})
    assert run.state == "interrupted"
    server.start()
    assert folder.start(resume=True).finish() == 0
    assert counted(server) == 201
    assert list((folder.home / "runs").iterdir()) == []


SEEDED = """
state: {STATE}
nodes:
  - id: reader
    operator: {python: reader.py, inputs: {tick: timer/millis/10}}
"""

READER = """
from noderuntime import Status
class Operator:
    def on_event(self, event, ctx):
        print({key: entry.value for key, entry in ctx.kvs.get_root().items()}, flush=True)
        return Status.STOP
"""

TWICE = """
class Operator:
    def __init__(self, ctx):
        self.told = False
    def on_event(self, event, ctx):
        before = ctx.kvs.get_or("name", b"")
        ctx.kvs.set("name", b"mine")
        if not self.told:
            self.told = True
            print(before, "->", ctx.kvs.get_or("name", b""), flush=True)
"""

MORTAL = """
from noderuntime import Status
class Operator:
    def __init__(self):
        self.wrote = False
    def on_event(self, event, ctx):
        if not self.wrote:
            self.wrote = True
            ctx.kvs.set("at once", b"")
            ctx.kvs_write("with the event", b"")
            return
        found = [ctx.kvs.get(key) for key in ("at once", "with the event")]
        if all(found):
            print(*(3500 < entry.ttl <= 3600 for entry in found), flush=True)
            return Status.STOP
"""

SEED = """
name: grün
limit: 5
raw: !!binary AAEC
nested: {a: [1, 2]}
"""


@pytest.mark.parametrize("kind", ["", "kind: sqlite, path: seeded.db, "])
def test_a_seed_file_is_there_before_the_first_event(folder: Folder, kind: str) -> None:
    folder.write(reader_py=READER, **{"seed.yml": SEED})
    running = folder.start(SEEDED.replace("{STATE}", f"{{{kind}seed: {{file: seed.yml}}}}"))
    assert running.finish() == 0
    expected = {
        "limit": b"\x05",
        "name": "grün".encode(),
        "nested": b"\x81\xa1a\x92\x01\x02",
        "raw": b"\x00\x01\x02",
    }
    assert running.lines("reader") == [str(expected)]


@pytest.mark.parametrize("kind", ["", "kind: sqlite, path: seeded.db, "])
def test_a_seed_goes_into_an_empty_store_only(folder: Folder, kind: str) -> None:
    """Into the space of a run that is resumed, or into a file that was there before, it does not go again."""
    folder.write(reader_py=TWICE, **{"seed.yml": "name: first"})
    flow = SEEDED.replace("{STATE}", f"{{{kind}seed: {{file: seed.yml}}}}")
    running = folder.start(flow)
    running.wait_for("line", "reader", "stdout", "b'first' -> b'mine'")
    os.kill(running.runtime_pid, signal.SIGKILL)
    running.finish()
    folder.write(**{"seed.yml": "name: second"})
    again = folder.start(flow, resume=True)
    again.wait_for("line", "reader", "stdout", "b'mine' -> b'mine'")
    assert again.ask("stop").error == ""
    again.finish()


@pytest.mark.parametrize("kind", ["", "kind: sqlite, path: mortal.db, "])
def test_shared_keys_live_as_long_as_the_file_says(folder: Folder, kind: str) -> None:
    folder.write(reader_py=MORTAL)
    running = folder.start(SEEDED.replace("{STATE}", f"{{{kind}ttl: 1h}}"))
    assert running.finish() == 0
    assert running.lines("reader") == ["True True"]


def test_a_run_that_goes_on_from_a_snapshot_says_that_shared_keys_are_not_in_it(folder: Folder) -> None:
    folder.write(reader_py=TWICE, **{"seed.yml": "name: first"})
    state = "{kind: sqlite, path: k.db, seed: {file: seed.yml}}"
    flow = SEEDED.replace("{STATE}", state) + "snapshots: {every: 60s, to: ./snapshots}"
    running = folder.start(flow)
    running.wait_for("line", "reader", "stdout", "b'first' -> b'mine'")
    assert running.ask("stop").error == ""
    assert running.finish() == 0
    again = folder.start(resume=True)
    again.wait_for("status", "continuing from snapshot*")
    again.wait_for("status", "shared keys are not in snapshots*")
    again.wait_for("line", "reader", "stdout", "b'mine' -> b'mine'")
    assert again.ask("stop").error == ""
    again.finish()


def test_a_seed_command_is_run_where_the_file_is(folder: Folder) -> None:
    folder.write(reader_py=READER, **{"made.json": '{"made": "here"}'})
    running = folder.start(SEEDED.replace("{STATE}", "{seed: {command: [cat, made.json]}}"))
    assert running.finish() == 0
    assert running.lines("reader") == ["{'made': b'here'}"]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("{seed: {file: none.yml}}", "none.yml"),
        ("{kind: redis, url: 'unix:///nowhere.sock', timeout: 0.1}", "nowhere.sock"),
        pytest.param("{kind: sqlite, path: a.db, colour: red}", "colour", marks=pytest.mark.long),
        pytest.param("{kind: sqlight}", "sqlite", marks=pytest.mark.long),
    ],
)
def test_what_is_wrong_with_the_state_fails_the_start_with_its_reason(
    folder: Folder, state: str, reason: str
) -> None:
    folder.write(reader_py=READER)
    running = folder.start(SEEDED.replace("{STATE}", state))
    assert running.finish() != 0
    assert running.lines("reader") == []
    told = "\n".join([*running.statuses(), *running.errors])
    assert reason in told, told


KEEPER = """
class Operator:
    def on_event(self, event, ctx):
        ctx.kvs_write("name", b"mine")
        ctx.save_state("seen", b"yes")
        print("kept", flush=True)
"""


def command(folder: Folder, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "noderuntime", *arguments],
        env={**os.environ, "NODERUNTIME_HOME": str(folder.home)},
        cwd=folder.home,  # elsewhere than the dataflow file: paths in it are meant from where that is
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


QUIET = """
class Operator:
    def on_event(self, event, ctx):
        pass
"""


@pytest.mark.parametrize("kind", ["memory", "sqlite", pytest.param("redis", marks=pytest.mark.long)])
def test_a_quiet_run_can_be_watched_for_as_long_as_one_likes(folder: Folder, server: RedisServer, kind: str) -> None:
    options = {"memory": "", "sqlite": ", path: quiet.db", "redis": f", url: '{server.url}'"}[kind]
    folder.write(reader_py=QUIET)
    running = folder.start(SEEDED.replace("{STATE}", f"{{kind: {kind}{options}}}"))
    running.wait_running()
    watched: dict[str, object] = {"prefixes": ["w/"], "cursor": None}
    with StoreClient("flow", folder.run_dir().store_socket) as client:
        for _ in range(3):  # as `noderuntime state watch` does it
            watched["cursor"] = client.request("kvs_watch", {**watched, "wait": WAIT_S}, result(Updates))["cursor"]
    seen = subprocess.Popen(
        [sys.executable, "-m", "noderuntime", "state", "watch", "shared", "w/", "--count", "1"],
        env={**os.environ, "NODERUNTIME_HOME": str(folder.home)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )  # fmt: skip
    assert seen.stderr is not None
    assert seen.stderr.readline().startswith(b"watching the keys")
    assert command(folder, "state", "set", "shared", "w/a", "here").returncode == 0
    out, told = seen.communicate(timeout=60)
    assert (seen.returncode, out.split()[1:], told) == (0, [b"w/a", b"here"], b"")
    assert running.ask("stop").error == ""
    assert running.finish() == 0


COUNTER = """
from noderuntime.merges import Add

class Operator:
    def __init__(self, ctx):
        if not ctx.is_restart:
            ctx.kvs.merge("visits", Add(51))
            ctx.kvs.set("name", b"0")
            print("kept", flush=True)

    def on_event(self, event, ctx):
        pass
"""


@pytest.mark.parametrize("kind", ["", "kind: sqlite, path: kept.db, "])
@pytest.mark.parametrize("killed", [True, False])
def test_a_counter_stays_a_counter_whatever_its_store_and_however_the_run_ended(
    folder: Folder, kind: str, killed: bool
) -> None:
    folder.write(reader_py=COUNTER, **{"seed.yml": "limits: {a: [1]}"})
    running = folder.start(SEEDED.replace("{STATE}", f"{{{kind}seed: {{file: seed.yml}}}}"))
    running.wait_for("line", "reader", "stdout", "kept")

    def shown(key: str) -> str:
        return command(folder, "state", "get", "shared", key).stdout.strip()

    assert (shown("visits"), shown("name"), shown("limits")) == ("51", "0", '{"a": [1]}')
    assert command(folder, "state", "set", "shared", "visits", "0").returncode == 0
    assert command(folder, "state", "set", "shared", "visits", "none").returncode == 2
    if killed:
        os.kill(running.runtime_pid, signal.SIGKILL)
    else:
        assert running.ask("stop").error == ""
    running.finish()
    assert (shown("visits"), shown("name"), shown("limits")) == ("0", "0", '{"a": [1]}')
    assert command(folder, "state", "set", "shared", "visits", "7").returncode == 0
    assert command(folder, "state", "set", "shared", "limits", "--json", "5").returncode == 0
    assert (shown("visits"), shown("limits")) == ("7", "5")


@pytest.mark.parametrize("interrupted", [True, False])
def test_state_commands_on_a_run_that_does_not_run_go_to_the_external_state(folder: Folder, interrupted: bool) -> None:
    folder.write(reader_py=KEEPER)
    running = folder.start(SEEDED.replace("{STATE}", "{kind: sqlite, path: kept.db}"))
    running.wait_for("line", "reader", "stdout", "kept")
    state = SqliteState.open({"path": str(folder.folder / "kept.db")})
    state.init()
    wait_until(lambda: state.get_or("name", b"") == b"mine", "the write to arrive")
    if interrupted:
        os.kill(running.runtime_pid, signal.SIGKILL)
    else:
        assert running.ask("stop").error == ""
    running.finish()
    state.set("from elsewhere", b"1")
    listed = command(folder, "state", "ls", "shared", "--json")
    assert [row["key"] for row in json.loads(listed.stdout)] == ["from elsewhere", "name"], listed
    assert command(folder, "state", "set", "shared", "name", "yours").returncode == 0
    assert state.get_or("name", b"") == b"yours"
    assert command(folder, "state", "get", "shared", "name").stdout == "yours\n"
    assert command(folder, "state", "get", "reader", "seen").stdout == "yes\n"
    assert command(folder, "state", "rm", "shared", "name").returncode == 0
    assert state.get("name") is None
    state.close()
    if interrupted:
        moved = folder.folder.with_name("moved")
        folder.folder.rename(moved)
        try:
            gone = subprocess.run(
                [sys.executable, "-m", "noderuntime", "state", "ls", "shared"],
                env={**os.environ, "NODERUNTIME_HOME": str(moved / "home")},
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
        finally:
            moved.rename(folder.folder)
        assert gone.returncode != 0
        assert "belongs to a dataflow file in another folder" in gone.stderr
