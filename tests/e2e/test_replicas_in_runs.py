"""Replicas of operators in real runs: killed, resumed, with timers and ends, refused where they cannot be."""

from __future__ import annotations

import json
import os
import random
import signal
from collections import defaultdict
from typing import Any

import pytest
from support.harness import Folder, Running, wait_until
from test_survive import call, call_json

from noderuntime import Tap

CODE = """
import json, os, time
from noderuntime import KeyedOperator, Operator, Source, Status, stateful_map

KEYS = 23

class Numbers(Source):
    def produce(self, position, ctx):
        number = position or 0
        if number == ctx.config["count"]:
            return Source.END
        if number == ctx.config.get("pause") and os.path.exists("pause"):
            return Source.IDLE
        ctx.send_output("n", {"user": f"u{number % KEYS}", "n": number})
        return number + 1

@stateful_map(output="sum", key=lambda value: value["user"], default=int)
def sums(key, value, state):
    if value["n"] == 77 and os.path.exists("poison"):
        raise ValueError("77 is poison")
    return [key, value["n"], state + value["n"]], state + value["n"]

class Whose(KeyedOperator):
    default = int
    ttl = 3600.0
    def key_of(self, event):
        return event["value"]["user"]
    def on_key_event(self, key, event, state, ctx):
        ctx.send_output("sum", [key, event["value"]["n"], state + event["value"]["n"], ctx.replica, ctx.replicas])
        return state + event["value"]["n"]
    def on_end(self, key, state, ctx):
        ctx.send_output("sum", ["end", key, state, ctx.replica])

@stateful_map(output="sum", key=lambda value: value["n"] % 5, default=int)
def other_key(key, value, state):
    return state, state + 1

class Keeps(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT" and event["id"] == "n":
            ctx.save_state("total", b"1")

class Plain(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT" and event["id"] == "n":
            ctx.send_output("sum", [ctx.replica, event["value"]["n"]])

class Stops(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT" and event["id"] == "n":
            ctx.send_output("sum", event["value"]["n"])
            return Status.STOP if event["value"]["n"] == 100 else None

class Sink(Operator):
    def __init__(self):
        self.seen = []
    def restore_state(self, state):
        self.seen = json.loads(state["seen"])
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            self.seen.append([event["uid"], event["value"]])
            ctx.save_state("seen", json.dumps(self.seen[-20000:]).encode())
        elif event["type"] == "STOP" and event["id"] == "ALL_INPUTS_CLOSED":
            with open("result.json", "w") as file:
                json.dump(self.seen, file)

batch = stateful_map(lambda k, v, s: (None, 1), output="sum", key=lambda v: v, batch=True)
keyless = stateful_map(lambda k, v, s: (None, 1), output="sum")
timed = stateful_map(lambda k, v, s: (None, 1), output="sum", key=lambda v: v, time=lambda event: 1.0)
"""
FLOW = """
snapshots: {to: %(snapshots)s}
nodes:
  - id: numbers
    operator: {python: code.py:Numbers, outputs: [n]}
    config: {count: %(count)s, pause: %(pause)s}
  - id: sums
    replicas: %(replicas)s
    %(partition)s
    operator: {python: "code.py:%(name)s", inputs: {n: numbers/n, tick: timer/millis/200}, outputs: [sum]}
    restart_delay: 1ms
    max_restarts: 0
    max_attempts: 2
  - id: sink
    operator: {python: code.py:Sink, inputs: {sum: sums/sum}}
"""


def flow(
    name: str = "sums", count: int = 2000, pause: int = -1, replicas: int = 3, partition: str = "value.user",
    snapshots: str = "none",
) -> str:  # fmt: skip
    return FLOW % {
        "name": name, "count": count, "pause": pause, "replicas": replicas, "snapshots": snapshots,
        "partition": f"partition_by: {partition}" if partition else "",
    }  # fmt: skip


@pytest.fixture
def place(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("NODERUNTIME_HOME", str(folder.home))
    folder.write(code_py=CODE)
    return folder


def result(folder: Folder) -> list[Any]:
    seen: list[Any] = json.loads((folder.folder / "result.json").read_text())
    assert len({uid for uid, _ in seen}) == len(seen)
    return [value for _, value in seen]


def check_sums(values: list[Any], count: int, without: tuple[int, ...] = ()) -> None:
    """Each key's numbers came in order, each once, with the right sum."""
    by_key = defaultdict(list)
    for key, number, total, *_ in values:
        by_key[key].append((number, total))
    expected: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number in range(count):
        if number not in without:
            mine = expected[f"u{number % 23}"]
            mine.append((number, number + (mine[-1][1] if mine else 0)))
    assert by_key == expected


def kill(running: Running, node: str) -> None:
    pid = int(wait_until(lambda: running.status()[node]["pid"], f"{node} to run"))
    os.kill(pid, signal.SIGKILL)


def test_keys_are_summed_exactly_by_replicas_that_are_killed_again_and_again(place: Folder) -> None:
    dice = random.Random(7)
    place.write(pause="")
    running = place.start(flow(count=3000, pause=2999))
    running.wait_running("sums", "sums[1]", "sums[2]", "sink")
    for _ in range(12):
        kill(running, dice.choice(["sums", "sums[1]", "sums[2]", "numbers", "sink"]))
        wait_until(lambda: all(node["state"] == "running" for node in running.status().values()), "all to run")
    (place.folder / "pause").unlink()
    assert running.finish() == 0
    check_sums(result(place), 3000)


def test_each_key_has_one_replica_and_each_replica_ends_its_keys(place: Folder) -> None:
    assert place.start(flow("Whose", count=500)).finish() == 0
    values = result(place)
    ends = {key: (state, replica) for what, key, state, replica in (v for v in values if v[0] == "end")}
    events = [value for value in values if value[0] != "end"]
    check_sums(events, 500)
    homes = {key: replica for key, _, _, replica, _ in events}
    assert len({(key, replica) for key, _, _, replica, _ in events}) == len(homes) == 23
    assert set(homes.values()) == {0, 1, 2} and {count for *_, count in events} == {3}
    assert {key: replica for key, (_, replica) in ends.items()} == homes
    assert {key: state for key, (state, _) in ends.items()} == {
        f"u{key}": sum(range(key, 500, 23)) for key in range(23)
    }


def test_without_a_partition_whoever_is_free_takes_a_message_and_each_comes_once(place: Folder) -> None:
    assert place.start(flow("Plain", partition="")).finish() == 0
    values = result(place)
    assert sorted(number for _, number in values) == list(range(2000))
    assert {replica for replica, _ in values} == {0, 1, 2}


def test_a_message_that_fails_becomes_a_dead_letter_of_its_replica_and_the_others_go_on(place: Folder) -> None:
    place.write(poison="")
    running = place.start(flow(count=300))
    assert running.finish() == 0
    check_sums(result(place), 300, without=(77,))


@pytest.mark.parametrize("replicas", [1, 3, 5])
@pytest.mark.parametrize("kept", ["none", "./snapshots"], ids=["from its space", "from a snapshot"])
def test_a_run_goes_on_where_it_was_also_with_more_replicas_or_fewer(place: Folder, kept: str, replicas: int) -> None:
    place.write(pause="")
    running = place.start(flow(count=2000, pause=1000, snapshots=kept))
    running.wait_running("sums", "sums[1]", "sums[2]", "sink")
    wait_until(lambda: running.status()["sink"]["handled"] > 300, "some sums")
    if kept == "none":
        running.kill()
    else:
        running.ask("stop", drain=False)
        running.finish()
    (place.folder / "pause").unlink()
    again = place.start(flow(count=2000, snapshots=kept, replicas=replicas), resume=True)
    assert again.finish() == 0
    told = f"node 'sums' has {replicas} replicas now; before it had 3"
    assert any(told in text for text in again.statuses()) == (replicas != 3)
    check_sums(result(place), 2000)


@pytest.mark.parametrize(
    ("name", "partition", "why"),
    [
        ("sums", "", "`partition_by` has to say"),
        ("Numbers", "value", "Source"),
        ("batch", "value", "batch=True"),
        ("keyless", "value", "no key"),
        ("timed", "value", "event time"),
    ],
)
def test_an_operator_that_cannot_have_replicas_says_why(place: Folder, name: str, partition: str, why: str) -> None:
    running = place.start(flow(name, partition=partition, count=5))
    assert running.finish() == 1
    assert why in running.rows()["sums"]["reason"]


def test_state_under_keys_of_its_own_is_refused_with_a_sentence(place: Folder) -> None:
    running = place.start(flow("Keeps", partition="", count=1))
    running.finish()
    said = json.dumps([str(item) for item in running.said])
    assert "none of them owns this key" in said


def test_where_partition_and_key_disagree_the_message_says_so(place: Folder) -> None:
    running = place.start(flow("other_key", count=200))
    running.finish()
    said = json.dumps([str(item) for item in running.said])
    assert "partition_by: value.user" in said and "disagree" in said


def test_commands_take_the_replicas_as_one_node(place: Folder) -> None:
    place.write(pause="", poison="")
    head = "def sums(key, value, state):"
    slow = CODE.replace(head, f"{head}\n    print('saw', key, flush=True)")
    place.write(code_py=slow)
    running = place.start(flow(count=300, pause=250))
    running.wait_running("sums", "sums[1]", "sums[2]", "sink")
    wait_until(lambda: len(call_json("dead-letters", "ls", "--run", "flow", "sums")) == 1, "a dead letter")
    wait_until(lambda: running.status()["sink"]["handled"] >= 249, "all sums")
    nodes = {node["id"]: node for node in json.loads(call("ps", "flow", "--json"))["nodes"]}
    assert list(nodes) == ["numbers", "sums", "sink"]
    sums = nodes["sums"]
    assert sums["pid"] is None and sums["state"] == "running" and sums["messages"] == 249
    assert [own["replica"] for own in sums["replicas"]] == [0, 1, 2]
    assert sum(own["messages"] for own in sums["replicas"]) == 249
    assert len({own["pid"] for own in sums["replicas"]} - {None, 0}) == 3
    assert nodes["sink"]["replicas"] == [] and nodes["sink"]["pid"]
    table = call("ps", "flow")
    assert all(f"sums[{number}]" in table for number in range(3))
    listed = [item["key"] for item in call_json("state", "ls", "--run", "flow", "sums")]
    assert listed == sorted(f"str:u{number}" for number in range(23))
    said = call("logs", "flow", "sums")
    assert all(f"sums[{number}] " in said for number in range(3))
    assert said.count("saw u") == 250 + 1  # 77 twice
    one = call("logs", "flow", "sums[1]")
    assert 0 < one.count("saw u") < 250
    letter = call_json("dead-letters", "ls", "--run", "flow", "sums")[0]
    assert letter["node"] == "sums" and letter["uid"] == "numbers/n#78"
    (place.folder / "poison").unlink()
    call("dead-letters", "replay", "--run", "flow", "sums", letter["uid"])
    wait_until(lambda: running.status()["sink"]["handled"] >= 250, "the letter to be handled")
    (place.folder / "pause").unlink()
    assert running.finish() == 0
    assert running.rows()["sums"]["messages"] == 300
    assert [row for row in running.rows() if row.startswith("sums")] == ["sums"]


def test_a_node_is_stopped_started_and_restarted_with_all_its_replicas(place: Folder) -> None:
    place.write(pause="")
    running = place.start(flow(count=900, pause=899))
    names = "sums", "sums[1]", "sums[2]"
    running.wait_running(*names, "sink")
    call("node", "stop", "flow", "sums")
    assert {running.status()[name]["state"] for name in names} == {"stopped"}
    assert "'sums' was stopped already" in call("node", "stop", "flow", "sums", code=1)
    call("node", "start", "flow", "sums")
    before = {running.status()[name]["pid"] for name in names}
    assert 0 not in before
    said = call("node", "restart", "flow", "sums")
    pids = [running.status()[name]["pid"] for name in names]
    assert before.isdisjoint(pids) and f"is running, as processes {pids[0]}, {pids[1]}, {pids[2]}" in said
    assert "name 'sums', which means all its replicas" in call("node", "restart", "flow", "sums[1]", code=1)
    assert f"sums[1] running ({pids[1]})" in call("node", "info", "flow", "sums")
    assert json.loads(call("node", "info", "flow", "sums", "--json"))["pid"] is None
    assert json.loads(call("node", "info", "flow", "sums[1]", "--json"))["pid"] == pids[1]
    (place.folder / "pause").unlink()
    assert running.finish() == 0
    check_sums(result(place), 900)


def test_to_those_who_look_the_outputs_of_all_replicas_are_one_topic(place: Folder) -> None:
    place.write(pause="")
    running = place.start(flow("Whose", count=600, pause=300))
    running.wait_running("sums", "sums[1]", "sums[2]", "sink")
    wait_until(lambda: running.status()["sink"]["handled"] >= 300, "the first sums")
    with Tap("flow", "s*") as tap:
        assert tap.topics == ["sums/sum"]
        (place.folder / "pause").unlink()
        found = list(tap)
        assert tap.missed == 0
    assert running.finish() == 0
    assert {topic for topic, _ in found} == {"sums/sum"}
    assert [event["uid"] for _, event in found if event["source"] != "sums/sum"] == []
    values = [event["value"] for _, event in found]
    assert len({event["uid"] for _, event in found}) == len(found) == 300 + 23
    assert {replica for *_, replica, count in values if count == 3} == {0, 1, 2}
    everything = result(place)
    assert sorted(values, key=str) == sorted(everything[-len(values) :], key=str)


def test_who_looks_misses_nothing_while_replicas_come_and_go(place: Folder) -> None:
    send = "        ctx.send_output("
    place.write(code_py=CODE.replace(send, f"        time.sleep(0.005)\n{send}", 1))
    running = place.start(flow("Whose", count=1 << 40, replicas=1))
    running.wait_running("sums", "sink")
    with Tap("flow", "sums/sum") as tap:
        found: list[Any] = [tap.receive()]
        for replicas in (3, 2, 1):
            call("scale", "flow", "sums", str(replicas))
            found += [tap.receive() for _ in range(100)]
        running.ask("stop", drain=True)
        found += list(tap)
        assert tap.missed == 0
    assert running.finish() == 0
    uids = [event["uid"] for _, event in found]
    everything = [uid for uid, _ in json.loads((place.folder / "result.json").read_text())]
    assert len(uids) == len(set(uids)) and set(everything[-len(uids) :]) == set(uids[-len(everything) :])


def test_a_replica_that_stops_ends_the_node(place: Folder) -> None:
    assert place.start(flow("Stops", count=400)).finish() == 0
    values = result(place)
    assert values.count(100) == 1 and len(values) == len(set(values))


def test_under_chaos_the_report_counts_replicas_as_one_node(place: Folder) -> None:
    slow = CODE.replace("def sums(key, value, state):", "def sums(key, value, state):\n    time.sleep(0.002)")
    place.write(code_py=slow)
    running = place.start(flow(count=1500), chaos_s=0.3, seed=5)
    assert running.finish() == 0, running.said
    check_sums(result(place), 1500)
    assert running.rows()["sums"]["restarts"] + running.rows()["sink"]["restarts"] > 0


def test_under_chaos_connections_of_replicas_that_are_gone_are_not_counted(place: Folder) -> None:
    place.write(pause="")
    running = place.start(flow(count=600, pause=300), chaos_s=1000.0, seed=1)
    running.wait_running("sums", "sums[1]", "sums[2]", "sink")
    wait_until(lambda: running.status()["sink"]["handled"] >= 300, "the first sums")
    call("scale", "flow", "sums", "1")
    (place.folder / "pause").unlink()
    assert running.finish() == 0, running.said
    check_sums(result(place), 600)
    assert "not counted, because the dataflow was changed there: 2 of its connections" in str(running.said)


def test_a_shared_process_sends_to_replicas(place: Folder) -> None:
    text = flow(count=600).replace("n: numbers/n", "n: pass/sum") + """
  - id: pass
    process: p
    operator: {python: "code.py:Plain2", inputs: {n: numbers/n}, outputs: [sum]}
  - id: tee
    process: p
    operator: {python: "code.py:Plain2", inputs: {n: pass/sum}, outputs: [sum]}
"""
    text = text.replace("operator: {python: code.py:Numbers", "process: p\n    operator: {python: code.py:Numbers")
    plain2 = """
class Plain2(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT" and event["id"] == "n":
            ctx.send_output("sum", event["value"])
"""
    place.write(code_py=CODE + plain2)
    running = place.start(text)
    assert running.finish() == 0, running.said
    check_sums(result(place), 600)
