"""The store's API: every operation of the contract, many clients, and peers that do not behave."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgpack
import pytest
import zmq
from support import absurd
from support.redis_server import RedisServer

from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import FRAME_BYTES_MAX, VERSION, Edge, Reply, Request
from noderuntime.ipc.rundir import RunDir
from noderuntime.merges import decode
from noderuntime.state import Diff

ANSWER_S = 30.0
NODES = [{"id": "sums", "kind": "operator", "inputs": [], "outputs": ["sum"]}]


class Client:
    def __init__(self, run_dir: RunDir, name: str = "test") -> None:
        self.dealer = Dealer(run_dir.store_socket, Edge.STORE_TO_CLIENT)
        self.name = name
        self.number = 0

    def send(self, operation: str, /, **arguments: Any) -> int:
        self.number += 1
        self.dealer.send(Request(VERSION, self.name, self.number, operation, arguments))
        return self.number

    def reply(self) -> Reply:
        reply = self.dealer.receive(ANSWER_S)
        assert isinstance(reply, Reply), reply
        return reply

    def ask(self, operation: str, /, **arguments: Any) -> dict[str, Any]:
        number = self.send(operation, **arguments)
        reply = self.reply()
        assert (reply.number, reply.error) == (number, ""), reply
        return reply.result

    def refused(self, operation: str, /, **arguments: Any) -> str:
        self.send(operation, **arguments)
        reply = self.reply()
        assert reply.text
        return reply.error


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.long)])
def run_dir(request: pytest.FixtureRequest) -> Iterator[RunDir]:
    with TemporaryDirectory(dir="/dev/shm", prefix="noderuntime-test-") as folder:
        run_dir = RunDir(Path(folder))
        server = RedisServer(Path(folder)) if request.param == "redis" else None
        url = server.url if server else ""
        options = {"memory": {}, "sqlite": {"path": f"{folder}/k.db"}, "redis": {"url": url}}[request.param]
        store = start(run_dir, request.param, options)
        yield run_dir
        store.kill()
        store.wait()
        if server is not None:
            server.kill()


def start(run_dir: RunDir, kind: str, options: dict[str, str]) -> subprocess.Popen[bytes]:
    state = json.dumps({"kind": kind, "options": options})
    return subprocess.Popen(
        [sys.executable, "-m", "noderuntime.store", str(run_dir.root), "--size", "100000000",
         "--purge-interval", ".05", "--state", state]
    )  # fmt: skip


@pytest.fixture
def client(run_dir: RunDir) -> Iterator[Client]:
    client = Client(run_dir)
    client.ask("open", nodes=NODES, fingerprint="", fresh=True, resume=False)
    yield client
    client.dealer.close(0)


def test_every_operation_of_the_contract_is_there(client: Client) -> None:
    empty = client.ask("kvs_version")["version"]
    first = client.ask("kvs_set", key="k", value=b"v")["revision"]
    value, revision, _, expires_ns, origin, packed = client.ask("kvs_get", key="k")["entry"]
    assert (value, revision, expires_ns, packed) == (b"v", first, 0, False)
    assert origin.endswith("/0")
    assert client.refused("kvs_set", key="k", value=b"w", expect=0) == "RevisionConflict"
    assert client.ask("kvs_set", key="k", value=b"w", expect=first)["revision"] > first
    client.ask("kvs_merge", key="n", merge=["add", 2])
    client.ask("kvs_merge", key="n", merge=["add", 3])
    client.ask("kvs_merge", key="u", merge=["union", ["b", "a"]])
    assert decode(client.ask("kvs_get", key="n")["entry"][0]) == 5
    found = client.ask("kvs_read", keys=["k", "none"])
    assert (found["entries"]["k"][0], found["entries"]["none"]) == (b"w", None)
    assert found["version"] == client.ask("kvs_version")["version"]
    root = client.ask("kvs_root")
    assert ([item[0] for item in root["entries"]], root["more"]) == (["k", "n", "u"], False)
    assert [item[0] for item in client.ask("kvs_root", prefix="n")["entries"]] == ["n"]
    assert [item[0] for item in client.ask("kvs_root", after="k")["entries"]] == ["n", "u"]
    assert client.ask("kvs_delete", key="k")["deleted"] is True
    assert client.ask("kvs_delete", key="k")["deleted"] is False
    diff = client.ask("kvs_diff", since=empty)
    assert (set(diff["changed"]), diff["deleted"]) == ({"n", "u"}, ["k"])
    assert client.refused("kvs_diff", since="0" * 31 + "1") == "HistoryLost"
    assert Diff.from_bytes(client.ask("kvs_cells")["diff"]).version == diff["version"]


def test_a_diff_is_applied_to_another_store(client: Client) -> None:
    client.ask("kvs_set", key="k", value=b"v")
    client.ask("kvs_merge", key="n", merge=["max", 7])
    diff = client.ask("kvs_diff", since="0" * 32)
    with TemporaryDirectory(dir="/dev/shm", prefix="noderuntime-test-") as folder:
        other_dir = RunDir(Path(folder))
        store = start(other_dir, "memory", {})
        other = Client(other_dir)
        assert other.ask("kvs_apply", diff=diff["diff"])["changed"] == ["k", "n"]
        assert other.ask("kvs_apply", diff=diff["diff"])["changed"] == []
        assert other.ask("kvs_version")["version"] == diff["version"]
        assert other.refused("kvs_apply", diff=b"nonsense") == "ProtocolError"
        other.dealer.close(0)
        store.kill()
        store.wait()


def test_a_request_that_is_repeated_counts_once(client: Client) -> None:
    request = Request(VERSION, "repeater", 1, "kvs_merge", {"key": "n", "merge": ["add", 1]})
    replies = []
    for _ in range(3):
        client.dealer.send(request)
        replies.append(client.reply())
    assert replies[0] == replies[1] == replies[2]
    assert decode(client.ask("kvs_get", key="n")["entry"][0]) == 1


def test_a_watch_waits_for_changes_and_its_cursor_goes_on(client: Client, run_dir: RunDir) -> None:
    cursor = client.ask("kvs_watch", prefixes=["w/"], cursor=None)["cursor"]
    assert client.ask("kvs_watch", prefixes=["w/"], cursor=cursor)["updates"] == []
    number = client.send("kvs_watch", prefixes=["w/"], cursor=cursor, wait=30)
    writer = Client(run_dir, "writer")
    writer.ask("kvs_set", key="other", value=b"1")
    revision = writer.ask("kvs_set", key="w/a", value=b"1")["revision"]
    reply = client.reply()
    assert (reply.number, reply.result["updates"]) == (number, [["w/a", b"1", revision]])
    writer.ask("kvs_delete", key="w/a")
    found = client.ask("kvs_watch", prefixes=["w/"], cursor=reply.result["cursor"], wait=30)
    assert [(key, value) for key, value, _ in found["updates"]] == [("w/a", None)]
    client.ask("kvs_merge", key="w/n", merge=["add", 1])
    found = client.ask("kvs_watch", prefixes=["w/"], cursor=found["cursor"], wait=10)
    assert ([key for key, _, _ in found["updates"]], found["packed"]) == (["w/n"], [True])
    writer.dealer.close(0)


def test_a_request_that_waits_is_answered_in_its_time_however_often_it_is_repeated(client: Client) -> None:
    """Clients repeat what is not answered yet, because the store may have been killed."""
    cursor = client.ask("kvs_watch", prefixes=["w/"], cursor=None)["cursor"]
    asked = Request(VERSION, "repeater", 1, "kvs_watch", {"prefixes": ["w/"], "cursor": cursor, "wait": 0.5})
    reply = None
    for _ in range(100):
        client.dealer.send(asked)
        reply = client.dealer.receive(0.1)
        if reply is not None:
            break
    assert isinstance(reply, Reply), "not answered for twenty times as long as it was to wait"
    assert (reply.number, reply.error, reply.result["updates"]) == (1, "", [])


def test_what_expires_is_purged_and_seen_as_a_deletion(client: Client, run_dir: RunDir) -> None:
    cursor = client.ask("kvs_watch", prefixes=["k"], cursor=None)["cursor"]
    client.send("kvs_watch", prefixes=["k"], cursor=cursor, wait=30)  # first, so that it sees the value before the end
    writer = Client(run_dir, "writer")
    writer.ask("kvs_set", key="k", value=b"v", ttl=1)
    found = client.reply().result
    assert [value for _, value, _ in found["updates"]] == [b"v"]
    found = client.ask("kvs_watch", prefixes=["k"], cursor=found["cursor"], wait=30)
    assert [value for _, value, _ in found["updates"]] == [None]
    writer.dealer.close(0)


def test_200_clients_watch_10_000_keys(client: Client, run_dir: RunDir) -> None:
    context = zmq.Context()
    poller = zmq.Poller()
    sockets = []
    cursor = client.ask("kvs_watch", prefixes=[], cursor=None)["cursor"]
    for number in range(200):
        peer = context.socket(zmq.DEALER)
        peer.setsockopt(zmq.LINGER, 0)
        peer.connect(f"ipc://{run_dir.store_socket}")
        prefixes = [f"key/{number * 50 + place:05}" for place in range(50)]
        peer.send(_frame(f"many-{number}", 1, "kvs_watch", {"prefixes": prefixes, "cursor": cursor, "wait": 60}))
        poller.register(peer, zmq.POLLIN)
        sockets.append((peer, prefixes))
    seen: dict[int, set[str]] = {number: set() for number in range(200)}
    asked = dict.fromkeys(range(200), 1)
    for place in range(10_000):
        client.send("kvs_set", key=f"key/{place:05}", value=b"%d" % place)
        if place % 200 == 199:
            for _ in range(200):
                assert client.reply().error == ""
    by_socket = {peer: number for number, (peer, _) in enumerate(sockets)}
    while any(len(found) < 50 for found in seen.values()):
        ready = poller.poll(ANSWER_S * 1000)
        assert ready, "some client was not told"
        for peer, _ in ready:
            number = by_socket[peer]
            kind, answered, result, error, text = msgpack.unpackb(peer.recv())
            assert (kind, answered, error) == ("reply", asked[number], ""), text
            for key, value, _ in result["updates"]:
                assert value == b"%d" % int(key[4:])
                seen[number].add(key)
            if len(seen[number]) < 50:
                asked[number] += 1
                arguments = {"prefixes": sockets[number][1], "cursor": result["cursor"], "wait": 60}
                peer.send(_frame(f"many-{number}", asked[number], "kvs_watch", arguments))
    assert all(seen[number] == set(prefixes) for number, (_, prefixes) in enumerate(sockets))
    context.destroy(linger=0)


def _frame(client: str, number: int, operation: str, arguments: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(["request", VERSION, client, number, operation, arguments])
    return packed


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("kvs_set", {"key": "k", "value": b"x" * 1_000_001}, "ValueTooLarge"),
    ("kvs_set", {"key": "k" * 509, "value": b""}, "KeyTooLong"),
    ("kvs_set", {"key": "k", "value": "text"}, "ProtocolError"),
    ("kvs_set", {"key": 5, "value": b""}, "ProtocolError"),
    ("kvs_set", {"key": "k"}, "ProtocolError"),
    ("kvs_set", {"key": "k", "value": b"", "ttl": -1}, "ProtocolError"),
    ("kvs_set", {"key": "k", "value": b"", "expect": "1"}, "ProtocolError"),
    ("kvs_merge", {"key": "k", "merge": ["power", 2]}, "ProtocolError"),
    ("kvs_merge", {"key": "k", "merge": ["add", "2"]}, "ProtocolError"),
    ("kvs_merge", {"key": "k", "merge": 5}, "ProtocolError"),
    ("kvs_watch", {"prefixes": ["k"], "cursor": [1]}, "ProtocolError"),
    ("kvs_watch", {"prefixes": ["k"], "cursor": [-1, 0]}, "ProtocolError"),
    ("kvs_watch", {"prefixes": "k", "cursor": [0, 0]}, "ProtocolError"),
    ("kvs_watch", {"prefixes": ["k"], "cursor": [0, 0], "limit": float("inf")}, "ProtocolError"),
    ("kvs_watch", {"prefixes": ["k"], "cursor": [0, 0], "limit": 0, "wait": 1}, "ProtocolError"),
    ("kvs_watch", {"prefixes": ["k"], "cursor": [0, 0], "wait": float("nan")}, "ProtocolError"),
    ("kvs_set", {"key": "k", "value": b"", "ttl": float("inf")}, "ProtocolError"),
    ("kvs_watch", {"prefixes": ["k"], "cursor": [0, 0], "wait": 1e9}, "ProtocolError"),
    ("kvs_watch", {"prefixes": ["k" * 600], "cursor": [0, 0], "wait": 1}, "KeyTooLong"),
    ("kvs_diff", {"since": 5}, "ProtocolError"),
    ("kvs_nothing", {}, "ProtocolError"),
    ("node_open", {}, "ProtocolError"),
    ("node_open", {"wiring": {"node": "sums"}, "incarnation": 1, "pid": 1}, "ProtocolError"),
    ("node_next", {"node": "sums", "incarnation": 1}, "NodeNotOpen"),
    ("node_send", {"node": "nobody", "incarnation": 1, "messages": []}, "NodeNotOpen"),
]


def test_a_request_that_makes_no_sense_is_refused_with_a_typed_error(client: Client) -> None:
    for operation, arguments, error in BAD:
        assert client.refused(operation, **arguments) == error, (operation, arguments)
    client.ask("kvs_set", key="after", value=b"fine")


def test_arguments_of_any_shape_get_an_answer(client: Client) -> None:
    seed = absurd.seed()
    chance = random.Random(seed)
    operations = ["kvs_set", "kvs_get", "kvs_read", "kvs_delete", "kvs_merge", "kvs_root", "kvs_diff", "kvs_apply",
                  "kvs_watch", "node_open", "node_next", "node_send", "state_ls", "state_get", "state_set"]  # fmt: skip
    names = ["key", "value", "ttl", "expect", "merge", "since", "diff", "prefixes", "cursor", "keys", "prefix", "after",
             "wiring", "incarnation", "node", "messages", "scope", "pid", "ack", "limit"]  # fmt: skip

    for _ in range(400):
        arguments = {name: absurd.value(chance) for name in chance.sample(names, chance.randrange(8))}
        client.send(chance.choice(operations), **arguments)
        reply = client.reply()
        assert reply.number == client.number, f"seed {seed}"
    client.ask("kvs_set", key="after", value=b"fine")


def test_peers_that_do_not_behave_harm_nobody(client: Client, run_dir: RunDir) -> None:
    context = zmq.Context()
    peer = context.socket(zmq.DEALER)
    peer.connect(f"ipc://{run_dir.store_socket}")
    for frame in (b"", b"garbage", msgpack.packb(["request"]), msgpack.packb(["hello", 1, "x", "node", 1, 1])):
        peer.send(frame)
    peer.send_multipart([b"several", b"frames"])
    peer.send(msgpack.packb(["request", VERSION + 1, "old", 1, "kvs_version", {}]))
    kind, _, _, error, text = msgpack.unpackb(peer.recv())
    assert (kind, error) == ("reply", "ProtocolError")
    assert "version" in text
    peer.send(b"x" * (FRAME_BYTES_MAX + 1))  # cut off by ZeroMQ
    for number in range(50):  # asks, and is gone before there is an answer
        gone = context.socket(zmq.DEALER)
        gone.setsockopt(zmq.LINGER, 1000)
        gone.connect(f"ipc://{run_dir.store_socket}")
        gone.send(_frame(f"gone-{number}", 1, "kvs_watch", {"prefixes": ["k"], "cursor": [0, 0], "wait": 60}))
        gone.close()
    half_open = []
    for _ in range(20):  # connects, and says half a greeting, or nothing
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(str(run_dir.store_socket))
        raw.send(b"\xff\0\0\0")
        half_open.append(raw)
    client.ask("kvs_set", key="k", value=b"fine")
    assert client.ask("kvs_get", key="k")["entry"][0] == b"fine"
    for raw in half_open:
        raw.close()
    context.destroy(linger=0)


def test_a_result_that_no_frame_holds_is_an_error_and_pages_help(client: Client) -> None:
    for number in range(20):
        client.ask("kvs_set", key=f"k{number:02}", value=b"x" * 1_000_000)
    assert client.refused("kvs_diff", since="0" * 32) == "ProtocolError"
    found = []
    page = client.ask("kvs_root")
    while page["entries"]:
        found += [item[0] for item in page["entries"]]
        page = client.ask("kvs_root", after=found[-1])
    assert found == [f"k{number:02}" for number in range(20)]
