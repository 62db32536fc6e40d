"""Processes of replicas while their slots move, with the process stopped or killed at each point that it passes.

A process that stops at a point goes on when the slots have moved. One that is killed there has its next life then.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import scaling
from support.fake_runtime import Child, Forker, Run
from support.procs import is_stopped, wait_until

from noderuntime.api import values
from noderuntime.api.keyed.slots import slot_of
from noderuntime.dataflow.identifiers import replica_id
from noderuntime.ipc.protocol import EXIT_FENCED
from noderuntime.ipc.store_records import NodeOpen, Outgoing
from noderuntime.space import keys, records, routing
from noderuntime.space.environment import scan
from noderuntime.space.mailbox import queue_of
from noderuntime.store.remote_nodes import RemoteNode

KEYS = 24  # some of them change their replica in each scale here

COUNTS = """
import json, os, sys
from noderuntime import KeyedOperator

injector = sys.modules["noderuntime_fault_injector"]
injector.PLAN[:] = json.loads(os.environ.get("POINTS", "[]"))
injector.FOLDER = os.environ.get("FIRED", "")

class Counts(KeyedOperator):
    default = list
    def key_of(self, event):
        return event["value"]["k"]
    def on_key_event(self, key, event, state, ctx):
        ctx.set_timer(ctx.now)  # it rings before the next event, so once for each event
        state = [*state, event["value"]["n"]]
        ctx.send_output("out", {"k": key, "state": state})
        return state
    def on_timer(self, key, due, state, ctx):
        ctx.send_output("rang", {"k": key, "count": len(state)})
        return state
    def on_end(self, key, state, ctx):
        ctx.send_output("end", {"k": key, "state": state})
"""


def flow(count: int) -> dict[str, Any]:
    """a feeds the replicas of s, c takes what they send; the tick has timers ring."""
    inputs = {"in": "a/out", "tick": "timer/millis/50"}
    operator = {"python": "op.py:Counts", "inputs": inputs, "outputs": ["out", "rang", "end"]}
    return {
        "a": {"outputs": ["out"]},
        "s": {"operator": operator, "replicas": count, "partition_by": "value.k"},
        "c": {"inputs": {"in": "s/out", "rang": "s/rang", "end": "s/end"}},
    }


@pytest.fixture(scope="module")
def forker_with_points() -> Iterator[Forker]:
    made = Forker(has_points=True)
    yield made
    made.close()


class Replicas:
    """The children that are the replicas of s, and the messages that came out of them."""

    def __init__(self, run: Run, count: int, nodes: Callable[[int], dict[str, Any]] = flow) -> None:
        self.run, self.count, self.nodes = run, 0, nodes
        self.children: dict[str, Child] = {}
        self.sent = 0
        self.begin(count)

    def begin(self, count: int) -> None:
        """Begin those that are not there."""
        self.run.hang_bells()
        for id in [replica_id("s", number) for number in range(count)]:
            if id not in self.children:
                self.children[id] = self.run.begun(id)
        self.count = count

    def arm(self, point: str, hit: int, action: str, id: str = "s") -> Child:
        """Replace a replica by a life that stops, or is killed, at a point."""
        self.children[id].kill()
        plan = [{"who": id, "point": point, "hit": hit, "action": action}]
        fired = self.run.folder / f"fired {id}"
        fired.mkdir()
        self.children[id] = self.run.start(id, env={"POINTS": json.dumps(plan), "FIRED": str(fired)})
        self.run.welcome(self.children[id])  # it may stop before it has said that it is ready
        return self.children[id]

    def send(self, count: int) -> None:
        values = [{"k": (self.sent + at) % KEYS, "n": self.sent + at} for at in range(count)]
        self.sent += count
        self.run.send("a", *values)

    def scale(self, count: int) -> None:
        """As the runtime does: slots move away before the switch, or to replicas that are ready."""
        before = self.count
        scaling.scale(self.run, self.nodes(count), "s", before, count, lambda: self.begin(count))
        for id in list(self.children):
            self.run.ring(id)
            if id not in [replica_id("s", number) for number in range(count)]:
                self.children[id].signal(signal.SIGCONT)
                assert self.children.pop(id).wait() in (EXIT_FENCED, -signal.SIGKILL)
        scaling.settle(self.run)

    def got(self, input: str) -> list[Any]:
        return [value for value in self.run.queued("c", input) if not isinstance(value, tuple)]

    def check(self) -> None:
        """All that was sent has been counted once, in order of each key, and each timer has rung once."""
        wait_until(lambda: len(self.got("in")) >= self.sent and len(self.got("rang")) >= self.sent, str(self.children))
        for key in range(KEYS):
            states = [value["state"] for value in self.got("in") if value["k"] == key]
            numbers = list(range(key, self.sent, KEYS))
            assert states == [numbers[: end + 1] for end in range(len(numbers))]
            rings = [value["count"] for value in self.got("rang") if value["k"] == key]
            assert rings == list(range(1, len(numbers) + 1))


Make = Callable[[int], Replicas]


@pytest.fixture
def replicas(shm: Path, forker_with_points: Forker) -> Iterator[Make]:
    made: list[Run] = []

    def build(count: int) -> Replicas:
        (shm / "op.py").write_text(COUNTS)
        made.append(Run(shm, flow(count), forker_with_points))
        return Replicas(made[-1], count)

    yield build
    for run in made:
        run.close()


# outside of transactions: who stops within one holds up everybody else, the store included
STOPS = ["take", "taken", "handle", "stage", "staged", "handled", "let go"]


@pytest.mark.parametrize("counts", [(1, 2), (2, 3), (3, 1)], ids=str)
@pytest.mark.parametrize("point", STOPS)
def test_a_replica_that_has_handled_and_not_committed_goes_on_when_its_slots_have_moved(
    replicas: Make, point: str, counts: tuple[int, int]
) -> None:
    r = replicas(counts[0])
    r.send(30)
    child = r.arm(point, 4, "stop")
    wait_until(lambda: is_stopped(child.pid), str(child))
    r.send(20)
    r.scale(counts[1])
    r.send(20)
    child.signal(signal.SIGCONT)
    r.check()
    assert child.code is None
    r.send(20)
    r.check()


@pytest.mark.parametrize("point", [*STOPS, "lock", "put", "commit", "committed", "rewire", "follow", "start over"])
def test_a_replica_that_is_killed_while_its_slots_move_leaves_nothing_behind(replicas: Make, point: str) -> None:
    r = replicas(2)
    r.send(30)
    child = r.arm(point, 1 if point in ("rewire", "follow", "start over") else 4, "kill")
    r.scale(3)
    r.send(30)
    r.run.ring("s", "s[1]", "s[2]")
    assert child.wait() == -signal.SIGKILL
    r.scale(2)
    r.send(20)
    r.children["s"] = r.run.begun("s", cause="SIGKILL")
    r.scale(4)
    r.send(20)
    r.check()


@pytest.mark.parametrize("counts", [(1, 3), (2, 3), (3, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("point", ["taken", "handled", "let go"])
def test_inputs_that_end_while_slots_move_end_after_the_last_message(
    replicas: Make, point: str, counts: tuple[int, int]
) -> None:
    r = replicas(counts[0])
    r.send(60)
    children = [r.arm(point, 4, "stop", id) for id in list(r.children)]
    for child in children:  # none ends before the slots have moved: then it is too late for other replicas
        wait_until(lambda child=child: is_stopped(child.pid), str(child))
    r.send(30)
    r.run.send("a", ends=True)
    r.scale(counts[1])
    for child in r.children.values():
        child.signal(signal.SIGCONT)
    for child in r.children.values():
        assert child.wait() == 0
    r.check()
    assert sorted(value["k"] for value in r.got("end")) == list(range(KEYS))
    assert all(value["state"] == list(range(value["k"], r.sent, KEYS)) for value in r.got("end"))
    for input in ("in", "rang", "end"):
        assert [value[0] for value in r.run.queued("c", input)[-1:]] == ["INPUT_CLOSED"]


SENDS = """
from noderuntime import Node
node = Node()
for number in range(4000):
    node.send_output("out", {"k": number % 40, "n": number})
"""


def plain(count: int) -> dict[str, Any]:
    """The custom node a feeds the replicas of s, and p."""
    fed = {"source": "a/out", "queue_size": 100_000}
    return {
        "a": {"outputs": ["out"]},
        "s": {"operator": {"python": "s.py"}, "inputs": {"in": fed}, "replicas": count, "partition_by": "value.k"},
        "p": {"inputs": {"in": fed}},
    }


def check_owners(run: Run, count: int, sent: int) -> None:
    """Each of the messages waits at the owner of its slot, in order of its key."""
    with run.space.read() as txn:
        owned = routing.owners_of(txn, run.numbers["s"]["number"], count)
    waits = [[v for v in run.queued(replica_id("s", n), "in") if not isinstance(v, tuple)] for n in range(count)]
    assert sorted(value["n"] for found in waits for value in found) == list(range(sent))
    for replica, found in enumerate(waits):
        assert {owned[slot_of(value["k"])] for value in found} <= {replica}
        for key in {value["k"] for value in found}:
            numbers = [value["n"] for value in found if value["k"] == key]
            assert numbers == sorted(numbers)
    assert [v["n"] for v in run.queued("p", "in") if not isinstance(v, tuple)] == list(range(sent))


def test_a_custom_node_in_a_loop_of_its_own_sends_to_the_owners_of_now(shm: Path, forker: Forker) -> None:
    run = Run(shm, plain(2), forker)
    try:
        child = run.begun("a", SENDS)
        wait_until(lambda: run.queued("p", "in"), str(child))
        count = 2
        for wanted in (4, 1, 3, 5, 2, 3):
            scaling.scale(run, plain(wanted), "s", count, wanted)
            count = wanted
        assert child.wait() == 0
        check_owners(run, count, 4000)
    finally:
        run.close()


def test_a_node_without_lmdb_sends_to_the_owners_of_now(shm: Path, forker: Forker) -> None:
    run = Run(shm, plain(2), forker)
    try:
        node = RemoteNode(run.dir, run.space, NodeOpen(run.wirings["a"].to_plain(), run.claim("a")["incarnation"], 1))
        sent = 0
        for wanted, before in ((2, 2), (4, 2), (1, 4), (3, 1)):
            messages = [
                Outgoing("out", number + 1, "msgpack", b"", values.pack({"k": number % 40, "n": number}), b"")
                for number in range(sent, sent + 100)
            ]
            sent += 100
            staged = node.stage(messages)
            if wanted != before:
                scaling.scale(run, plain(wanted), "s", before, wanted)
            while staged:
                del staged[: node.session.commit(staged)]
            check_owners(run, wanted, sent)
        node.close()
    finally:
        run.close()


def test_messages_of_moved_slots_keep_their_attempts(replicas: Make) -> None:
    r = replicas(1)
    r.children["s"].kill()
    r.send(KEYS)
    run = r.run
    number = run.numbers["s"]["number"]
    hands = [[*keys.parse_message(key)[1:]] for key, _ in run.messages(run.begin("s"))]
    run.claim("s", cause="exit", counts=True, hands=hands)
    scaling.switch(run, flow(2))
    assert scaling.move(run, "s", 2) == 0
    other = run.numbers["s[1]"]["number"]
    with run.space.read() as txn:
        found = {node: len(list(scan(txn, keys.attempts_prefix(node)))) for node in (number, other)}
        waits = {node: queue_of(txn, keys.queue(node, 0))[records.QUEUED] for node in (number, other)}
    assert found == waits and sum(waits.values()) == KEYS and all(waits.values())


HEARS = """
class Hears:
    def on_event(self, event, ctx):
        if event["type"] != "STOP":
            ctx.send_output("out", [ctx.replica, event["type"], event.get("value")])
"""


def hears(count: int) -> dict[str, Any]:
    """What a replica says when nothing has come for a while."""
    inputs = {"in": {"source": "a/out", "input_timeout": 0.15}}
    operator = {"python": "op.py:Hears", "inputs": inputs, "outputs": ["out"]}
    return {
        "a": {"outputs": ["out"]},
        "s": {"operator": operator, "replicas": count, "partition_by": "value.k"},
        "c": {"inputs": {"in": "s/out"}},
    }


class Heard:
    """What each replica has said of its input so far. It is silent only after a message, and then until the next."""

    def __init__(self, replicas: Replicas) -> None:
        self.replicas = replicas
        self.said: dict[int, list[str]] = {}
        self.read = 0

    def comes_back(self, replica: int) -> None:
        """A replica was gone for a while: what it had heard before is over."""
        self.said[replica] = []

    def look(self) -> None:
        everything = self.replicas.got("in")
        for replica, what, _ in everything[self.read :]:
            said = self.said.setdefault(replica, [])
            last = said[-1] if said else ""
            assert what in {
                "": ["INPUT"], "INPUT": ["INPUT", "INPUT_CLOSED"], "INPUT_CLOSED": ["INPUT_RECOVERED"],
                "INPUT_RECOVERED": ["INPUT", "INPUT_CLOSED"],  # the message may have gone to another replica
            }[last], (replica, said[-5:], what)  # fmt: skip
            said.append(what)
        self.read = len(everything)

    def wait_silent(self, *replicas: int) -> None:
        """Until all that was sent has been handled, and these have told that nothing comes any more."""
        numbers = list(range(self.replicas.sent))

        def is_silent() -> bool:
            self.look()
            found = sorted(value["n"] for _, what, value in self.replicas.got("in") if what == "INPUT")
            return found == numbers and all(self.said.get(id, [""])[-1:] == ["INPUT_CLOSED"] for id in replicas)

        wait_until(is_silent, f"{self.said} {self.replicas.children}")


def test_an_input_with_a_timeout_falls_silent_for_each_replica_that_has_heard_of_it(shm: Path, forker: Forker) -> None:
    (shm / "op.py").write_text(HEARS)
    run = Run(shm, hears(2), forker)
    try:
        r = Replicas(run, 2, hears)
        heard = Heard(r)
        r.send(2 * KEYS)
        heard.wait_silent(0, 1)
        r.scale(3)  # nothing comes meanwhile: who is new has nothing to tell, and the others have told it
        r.send(2 * KEYS)
        heard.wait_silent(0, 1, 2)
        for count in (1, 3, 2, 4, 1):  # while messages flow
            r.send(2 * KEYS)
            for replica in range(r.count, count):
                heard.look()
                heard.comes_back(replica)
            r.scale(count)
            r.send(2 * KEYS)
        heard.wait_silent(0)
        for replica in (1, 2):
            heard.comes_back(replica)
        r.scale(3)
        r.send(2 * KEYS)
        heard.wait_silent(0, 1, 2)
    finally:
        run.close()


def drops(count: int) -> dict[str, Any]:
    nodes = hears(count)
    fed = {"in": {"source": "a/out", "queue_policy": "drop_oldest", "queue_size": 3}}
    return {**nodes, "s": {**nodes["s"], "operator": {**nodes["s"]["operator"], "inputs": fed}}}


def test_what_an_input_drops_while_slots_move_is_counted_and_the_rest_comes_once_in_order(
    shm: Path, forker: Forker
) -> None:
    (shm / "op.py").write_text(HEARS)
    run = Run(shm, drops(2), forker)
    try:
        r = Replicas(run, 2, drops)
        for count in (3, 1, 4, 2, 3):
            r.send(2 * KEYS)
            r.scale(count)
        r.send(2 * KEYS)

        def counts() -> tuple[int, int, int]:
            queues = [run.queue(replica_id("s", number), "in") for number in range(r.count)]
            waiting, taken, dropped = (
                sum(queue[at] for queue in queues) for at in (records.QUEUED, records.TAKEN, records.DROPPED)
            )
            return waiting, taken, dropped

        wait_until(lambda: counts()[0] == 0 and counts()[1] == len(r.got("in")), f"{counts()} {r.children}")
        _, taken, dropped = counts()
        assert taken + dropped == r.sent and taken and dropped
        for key in range(KEYS):
            numbers = [value["n"] for _, _, value in r.got("in") if value["k"] == key]
            assert numbers == sorted(set(numbers))
    finally:
        run.close()
