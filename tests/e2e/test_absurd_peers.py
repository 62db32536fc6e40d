"""Both sides of every socket of a run get well-typed absurdities, from children, clients and dynamic nodes: the run's
results are exact, and nothing ends it but its own dataflow. $NODERUNTIME_TEST_SEED repeats a run of the fuzz tests.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import msgpack
import pyarrow
import pytest
import zmq
from support import absurd
from support.harness import COUNTING, SUMS, Folder, Running, wait_until

from noderuntime.ipc.channel import Dealer, Router
from noderuntime.ipc.protocol import (
    FRAME_BYTES_MAX,
    VERSION,
    Answer,
    Ask,
    Bye,
    Edge,
    Failed,
    Hello,
    Log,
    Message,
    Ready,
    Refused,
    Reload,
    Reply,
    Request,
    RestoreState,
    Stop,
    StopAll,
    Welcome,
    decode,
)

WAIT_S = 30.0
FRAMES = int(os.environ.get("NODERUNTIME_TEST_FRAMES", "400"))
DYNAMIC = """
nodes:
  - id: count
    path: count.py
    outputs: [n]
  - id: sums
    operator: {python: sums.py, inputs: {n: count/n}, outputs: [sum]}
  - {id: sink, path: sink.py, inputs: {sum: sums/sum}}
  - {id: guest, path: dynamic, inputs: {sum: {source: sums/sum, queue_policy: drop_oldest}}, outputs: [g]}
"""


class Peer:
    """A raw socket to the runtime or the store of a run."""

    def __init__(self, path: Any) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.SNDTIMEO, 5000)
        self._socket.connect(f"ipc://{path}")

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def say(self, message: Message) -> None:
        from noderuntime.ipc.protocol import encode

        self.send(encode(message))

    def expect(self, *kinds: type) -> Any:
        while True:
            assert self._socket.poll(int(WAIT_S * 1000)), f"no {kinds} came"
            message = decode(self._socket.recv(), Edge.RUNTIME_TO_CHILD, Edge.STORE_TO_CLIENT, Edge.RUNTIME_TO_COMMAND)
            if isinstance(message, kinds):
                return message

    def close(self) -> None:
        self._context.destroy(linger=2000)


def ask(run: Running, operation: str, number: int, **arguments: Any) -> Reply:
    with Dealer(run.folder.run_dir().store_socket, Edge.STORE_TO_CLIENT) as dealer:
        dealer.send(Request(VERSION, "after", number, operation, arguments))
        reply = dealer.receive(WAIT_S)
    assert isinstance(reply, Reply)
    return reply


# --- children -> runtime --------------------------------------------------------------------------------------------

LOGS = """
import threading
class Operator:
    def on_event(self, event, ctx):
        if event["type"] != "INPUT":
            return
        class Unfriendly:
            def __repr__(self): raise ValueError("no")
        for extra in ({b"k": 1}, {"n": 1 << 70}, {"s": "\\ud800"}, {"u": Unfriendly()}, {"x": "x" * (17 << 20)}):
            ctx.log.info("seen", extra=extra)
            thread = threading.Thread(target=ctx.log.info, args=("seen",), kwargs={"extra": extra})
            thread.start()
            thread.join()
        ctx.save_state("n", b"1")
"""


def test_whatever_an_operator_logs_the_run_goes_on(folder: Folder) -> None:
    folder.write(logs_py=LOGS)
    text = SUMS + "  - id: logs\n    operator: {python: logs.py, inputs: {n: count/n}}\n"
    running = folder.start(text, env={"COUNT": "3"})
    assert running.finish() == 0, running.said
    assert running.rows()["logs"]["restarts"] == 0
    (file,) = (folder.home / "state/flow/logs").glob("*/logs.jsonl")
    assert sum(json.loads(line)["text"] == "seen" for line in file.read_text().splitlines()) == 40


@pytest.mark.parametrize("pid", [0, -1, 2**31, 2**31 - 1, 2**63 - 1, -(2**63)])
def test_the_hello_of_a_dynamic_node_with_an_impossible_process_is_refused(folder: Folder, pid: int) -> None:
    running = folder.start(DYNAMIC, env=COUNTING)
    running.wait_running("count")
    peer = Peer(folder.run_dir().runtime_socket)
    peer.say(Hello(VERSION, "guest", "dynamic", pid, 0))
    assert str(pid) in peer.expect(Refused).why
    peer.close()
    running.ask("stop")
    assert running.finish() == 0


def test_an_error_as_large_as_a_frame_is_an_ordinary_failure(folder: Folder) -> None:
    folder.write(
        fails_py="""
class Operator:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT" and event["value"] == 2:
            raise ValueError("x" * (17 << 20) + "\\ud800")
"""
    )
    text = SUMS + "  - id: fails\n    operator: {python: fails.py, inputs: {n: count/n}}\n"
    running = folder.start(text, env={"COUNT": "5"})
    assert running.finish(60.0) == 0, running.statuses()
    assert "1 dead letter" in running.rows()["fails"]["reason"]
    assert running.lines("sink") == ["last 15 of 6"]


SAID = (Log, Log, Failed, Hello, Ready, Answer, Reply, Request, Welcome, RestoreState, Reload, Stop)


@pytest.mark.parametrize("part", range(3))
def test_children_may_say_anything(folder: Folder, part: int) -> None:
    seed = absurd.seed()
    chance = random.Random(f"{seed}/{part}")
    running = folder.start(DYNAMIC, env=COUNTING)
    running.wait_running("count", "sums", "sink")
    socket = folder.run_dir().runtime_socket
    known = Peer(socket)
    known.say(Hello(VERSION, "guest", "dynamic", os.getpid(), 0))
    welcome = known.expect(Welcome)
    known.say(Ready(welcome.incarnation))
    stranger = Peer(socket)
    for _ in range(FRAMES):
        kind = chance.choice(SAID)
        given: dict[str, Any] = {}
        if kind is Hello:
            given = {"version": VERSION, "node": chance.choice(("count", "sums", "guest", "x", "")),
                     "kind": chance.choice(("operator", "node", "dynamic", ""))}  # fmt: skip
        peer = stranger if kind is Hello or chance.random() < 0.3 else known
        peer.send(absurd.frame(chance, kind, **given))
        if chance.random() < 0.2:
            what = chance.choice(("status", "reload", "nothing", "x" * 100_000))
            stranger.send(absurd.frame(chance, Ask, version=VERSION, what=what))
    largest = "x" * (FRAME_BYTES_MAX - 1000)
    known.say(Log(1.0, 20, largest, {}))
    known.say(Log(1.0, 20, "", {"k": largest, "nested": absurd.nested(400)}))
    known.say(Failed(largest, "", "", False))
    known.say(Failed("on_event", "", largest, False))
    stranger.say(Hello(VERSION, largest, "dynamic", 1, 0))
    stranger.say(Ask(VERSION, largest, {}))
    stranger.say(Ask(VERSION, "reload", {"node": largest}))
    assert {row["id"] for row in running.ask("status").result["nodes"]} == {"count", "sums", "sink", "guest"}, seed
    known.say(Bye(True, "\x1b[2J"))
    known.close()
    stranger.close()
    running.enough()
    assert running.finish(60.0) == 0, (seed, running.statuses())
    sent, total = running.counted()
    assert running.lines("sink") == [f"last {total} of {sent}"], seed


# --- clients -> store -----------------------------------------------------------------------------------------------

ASKED: list[tuple[str, dict[str, Any]]] = [
    ("kvs_watch", {"prefixes": ["k"], "cursor": [0, 0], "wait": 1, "limit": float("inf")}),
    ("kvs_watch", {"prefixes": ["k"], "cursor": [0, 0], "limit": -1}),
    ("node_next", {"node": "guest", "ack": [[0, -1, 0]]}),
    ("node_next", {"node": "guest", "ack": [[0, float("nan"), 0]]}),
    ("node_next", {"node": "guest", "limit": float("inf")}),
    ("node_next", {"node": "guest", "limit": 0}),
    ("node_send", {"node": "guest", "messages": [["g", float("nan"), "msgpack", b"", b"\xc0", b""]]}),
    ("node_send", {"node": "guest", "messages": [["g", 1, "msgpack", b"", b"\xc1", b""]]}),
    ("node_send", {"node": "guest", "messages": [["g", 1, "ndarray", b"\x92\xa3<f8\x91\x05", b"x" * 39, b""]]}),
    ("node_send", {"node": "guest", "messages": [["g", 1, "bytes", b"", b"", b"\x81\xc4\x01k\x01"]]}),
    ("node_send", {"node": "guest", "messages": [[["g"], 1, "bytes", b"", b"", b""]]}),
    ("state_set", {"scope": "x" * 1_000_000, "key": "k", "value": b""}),
    ("x" * 1_000_000, {}),
]


def opened(running: Running) -> tuple[Peer, Welcome]:
    """The dynamic node, played by a client without LMDB."""
    runtime = Peer(running.folder.run_dir().runtime_socket)
    runtime.say(Hello(VERSION, "guest", "dynamic", os.getpid(), 0))
    welcome = runtime.expect(Welcome)
    runtime.say(Ready(welcome.incarnation))
    return runtime, welcome


def test_a_request_that_is_absurd_is_refused_as_often_as_it_comes(folder: Folder) -> None:
    running = folder.start(DYNAMIC, env=COUNTING)
    running.wait_running("count", "sums", "sink")
    store_pid = running.helper("nr-store")
    runtime, welcome = opened(running)
    peer = Peer(folder.run_dir().store_socket)
    number = 0

    def request(operation: str, arguments: dict[str, Any]) -> Reply:
        nonlocal number
        number += 1
        peer.say(Request(VERSION, "odd", number, operation, {"incarnation": welcome.incarnation, **arguments}))
        reply = peer.expect(Reply)
        assert reply.number == number
        assert isinstance(reply, Reply)
        return reply

    wiring = welcome.wiring
    for wrong in ({"number": 99}, {"node": "nobody"}, {"node": "sums"}, {"inputs": []}):
        other = {**wiring, **wrong}
        for _ in range(50):  # each of them would leave descriptors behind, if it left any
            assert request("node_open", {"wiring": other, "pid": os.getpid()}).error
    for pid in (0, -1, 2**31, 2**63):
        assert request("node_open", {"wiring": wiring, "pid": pid}).error
    assert request("node_open", {"wiring": wiring, "pid": 1, "incarnation": 2**63}).error == "Fenced"
    assert request("node_open", {"wiring": wiring, "pid": 1, "in_hand": [[0, -1, 0]]}).error
    assert not request("node_open", {"wiring": wiring, "pid": os.getpid()}).error
    for operation, arguments in ASKED * 2:
        reply = request(operation, arguments)
        assert reply.error, (operation, arguments)
        assert len(reply.text) < 20_000
    assert running.helper("nr-store") == store_pid
    event = request("node_next", {"node": "guest", "wait": 10}).result["events"][0]
    assert request("node_next", {"node": "guest", "ack": [event["place"], [0, -1, 0]]}).error
    again = request("node_next", {"node": "guest", "ack": [], "wait": 0}).result["events"]
    assert event["uid"] not in [item.get("uid") for item in again], "it is in hand still"
    runtime.say(Bye(True, ""))
    runtime.close()
    peer.close()
    running.enough()
    assert running.finish() == 0, running.statuses()
    sent, total = running.counted()
    assert running.lines("sink") == [f"last {total} of {sent}"]


OPERATIONS = (
    *("kvs_set", "kvs_get", "kvs_read", "kvs_delete", "kvs_merge", "kvs_root", "kvs_diff", "kvs_apply", "kvs_cells"),
    *("kvs_version", "kvs_watch", "node_open", "node_next", "node_send", "state_ls", "state_get", "state_set"),
    *("state_rm", "letters_ls", "letters_show", "letters_replay", "letters_drop", "figures", "resumed", "outbox"),
    *("touch", "snapshot_status", "snapshot_take", "nothing"),
)
NAMES = (
    *("key", "value", "ttl", "expect", "merge", "since", "diff", "prefixes", "cursor", "keys", "prefix", "after"),
    *("wiring", "node", "messages", "scope", "pid", "ack", "limit", "uids", "ticket", "why", "in_hand", "attempts"),
)
KINDS = ("msgpack", "bytes", "view", "ndarray", "arrow", "x")
SCOPES = ("shared", "guest", "nobody")


@pytest.mark.parametrize("part", range(3))
def test_clients_may_ask_anything_with_a_node_open(folder: Folder, part: int) -> None:
    seed = absurd.seed()
    chance = random.Random(f"{seed}/{part}")
    running = folder.start(DYNAMIC, env=COUNTING)
    running.wait_running("count", "sums", "sink")
    store_pid = running.helper("nr-store")
    runtime, welcome = opened(running)
    peer = Peer(folder.run_dir().store_socket)
    base = {"node": "guest", "incarnation": welcome.incarnation, "wiring": welcome.wiring, "pid": os.getpid()}
    peer.say(Request(VERSION, "odd", 1, "node_open", base))
    assert not peer.expect(Reply).error
    for number in range(2, FRAMES):
        arguments = {name: absurd.value(chance) for name in chance.sample(NAMES, chance.randrange(8))}
        if chance.random() < 0.5:
            arguments |= {name: base[name] for name in chance.sample(list(base), 3)}
        if chance.random() < 0.3:
            arguments["wait"] = chance.choice((0, 0.001, *absurd.FLOATS))
        if chance.random() < 0.5:
            arguments |= {"scope": chance.choice(SCOPES), "key": chance.choice(("k", "x" * 600, ""))}
        if chance.random() < 0.3:
            parts = [absurd.of(chance, bytes) for _ in range(3)]
            arguments["messages"] = [["g", chance.choice(absurd.INTS), chance.choice(KINDS), *parts]]
        if chance.random() < 0.3:
            arguments["ack"] = [[absurd.value(chance) for _ in range(3)]]
        peer.say(Request(VERSION, "odd", number, chance.choice(OPERATIONS), arguments))
        assert peer.expect(Reply).number == number, f"seed {seed}"
    assert running.helper("nr-store") == store_pid, f"seed {seed}: {running.statuses()}"
    assert not ask(running, "kvs_set", 1, key="after", value=b"fine").error
    runtime.say(Bye(True, ""))
    runtime.close()
    peer.close()
    running.enough()
    assert running.finish(60.0) == 0, (seed, running.statuses())
    sent, total = running.counted()
    assert running.lines("sink") == [f"last {total} of {sent}"], seed


RECEIVERS = """
nodes:
  - {id: guest, path: dynamic, outputs: [g]}
  - id: takes
    operator: {python: takes.py, inputs: {g: guest/g}}
  - {id: node, path: node.py, inputs: {g: guest/g}, restart_policy: on-failure}
"""
TAKES = """
class Operator:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            print("took", type(event["value"]).__name__, flush=True)
"""
NODE = """
from noderuntime import Node
for event in Node():
    if event["type"] == "INPUT":
        print("took", type(event["value"]).__name__, flush=True)
"""


def test_the_store_decodes_no_arrays_and_what_is_no_value_becomes_a_dead_letter(folder: Folder) -> None:
    folder.write(takes_py=TAKES, node_py=NODE)
    running = folder.start(RECEIVERS)
    running.wait_running("takes", "node")
    runtime, welcome = opened(running)
    peer = Peer(folder.run_dir().store_socket)
    node = {"node": "guest", "incarnation": welcome.incarnation}
    peer.say(Request(VERSION, "odd", 1, "node_open", {**node, "wiring": welcome.wiring, "pid": os.getpid()}))
    assert not peer.expect(Reply).error
    table = pyarrow.table({"a": [1, 2]})
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    messages = [
        ["g", 1, "ndarray", msgpack.packb(["<f8", [2, 5]]), bytes(80), b""],
        ["g", 2, "arrow", b"table", sink.getvalue().to_pybytes(), b""],
        ["g", 3, "msgpack", b"", b"\xdd\xff\xff\xff\xff" + bytes(100_000), b""],  # an array of 4 billion items
        ["g", 4, "msgpack", b"", b"\xa3end", b""],
    ]
    peer.say(Request(VERSION, "odd", 2, "node_send", {**node, "messages": messages, "wait": 10}))
    reply = peer.expect(Reply)
    assert (reply.error, reply.result) == ("", {"sent": {"g": 4}, "done": True})
    maps = Path(f"/proc/{running.helper('nr-store')}/maps").read_text()
    assert "numpy" not in maps and "arrow" not in maps
    runtime.say(Bye(True, ""))
    runtime.close()
    peer.close()
    assert running.finish(60.0) == 0, running.statuses()
    for receiver in ("takes", "node"):
        assert "1 dead letter" in running.rows()[receiver]["reason"]
        assert [line for line in running.lines(receiver) if line.startswith("took")][-1] == "took str"
        assert {"took ndarray", "took Table"} <= set(running.lines(receiver))


# --- runtime -> children, store -> clients --------------------------------------------------------------------------


ECHO = {
    "operator": """
class Operator:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out", event["value"])
""",
    "node": """
from noderuntime import Node
with Node() as node:
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("out", event["value"])
""",
}


@pytest.mark.parametrize("kind", ECHO)
def test_a_child_may_be_sent_anything(run: Any, kind: str) -> None:
    seed = absurd.seed()
    chance = random.Random(seed)
    echo: dict[str, Any] = {"inputs": {"in": "a/out"}, "outputs": ["out"]}
    if kind == "operator":
        echo = {"operator": {"python": "b.py", **echo}}
    nodes = {"a": {"outputs": ["out"]}, "b": echo, "c": {"inputs": {"in": "b/out"}}}
    net = run(nodes, b=ECHO[kind])
    child = net.begun("b", None if kind == "operator" else ECHO[kind])
    kinds = (Welcome, RestoreState, Answer, Reply, Log, Hello, Bye, StopAll, Ready, Failed)
    for number in range(FRAMES):
        net.router._socket.send_multipart([child.identity, absurd.frame(chance, chance.choice(kinds))])
        if number % 50 == 0:
            net.send("a", number)
            assert net.take("c") == [number], f"seed {seed}"
    net.router._socket.send_multipart([child.identity, absurd.frame(chance, Stop, id="MANUAL")])
    assert child.wait() == 0, f"seed {seed}"
    assert not child.has_said(Failed), f"seed {seed}"


def test_a_store_that_answers_anything_ends_no_client(tmp_path: Any) -> None:
    from noderuntime.ipc.rundir import RunDir
    from noderuntime.ipc.store_records import claim_result
    from noderuntime.runtime.loop import Loop
    from noderuntime.runtime.store_link import StoreLink

    seed = absurd.seed()
    chance = random.Random(seed)
    router = Router(tmp_path / "store.sock", Edge.CLIENT_TO_STORE)
    loop = Loop()
    link = StoreLink(loop, RunDir(tmp_path), "runtime-1")
    link.connect()
    found: list[Any] = []
    link.request("claim", {}, claim_result, found.append, lambda error, text: found.append(error))
    link.advance(1.0)
    taken = router.receive(WAIT_S)
    assert taken is not None
    identity, request = taken
    assert isinstance(request, Request)
    for _ in range(FRAMES):
        router._socket.send_multipart([identity, absurd.frame(chance, Reply, number=request.number, error="")])
        link.receive()
    result = {"incarnation": 1, "state": {}, "by_reference": False, "attempts": []}
    router.send(identity, Reply(request.number, result, "", ""))
    wait_until(lambda: (link.receive(), found)[1], "the answer")  # absurd replies may still come before it
    assert found[-1] == result, f"seed {seed}"
    link.close()
    loop.close()
    router.close(0)
