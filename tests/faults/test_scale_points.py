"""A node gets other replicas, and whoever takes part is killed at each point of that: sums and order are exact.

The runtime, if it was the victim, is started again: the file's number rules then, and it says what became of the other.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest
from support.harness import wait_until
from support.live_cast import command
from support.stage import Stage

KEYS, COUNT = 23, 500
CODE = """
import json, os
from noderuntime import Source, stateful_map

class Numbers(Source):
    def produce(self, position, ctx):
        number = position or 0
        if number == COUNT - 1 and os.path.exists("pause"):
            return Source.IDLE
        if number == COUNT:
            return Source.END
        ctx.send_output("n", {"user": f"u{number % KEYS}", "n": number})
        return number + 1

@stateful_map(output="sum", key=lambda value: value["user"], default=int)
def sums(key, value, state):
    return [key, value["n"], state + value["n"]], state + value["n"]

class Sink:
    def __init__(self):
        self.seen = []
    def restore_state(self, state):
        self.seen = json.loads(state["seen"])
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            self.seen.append(event["value"])
            ctx.save_state("seen", json.dumps(self.seen).encode())
        elif event["type"] == "STOP" and event["id"] == "ALL_INPUTS_CLOSED":
            with open("result.json", "w") as file:
                json.dump(self.seen, file)
""".replace("COUNT", str(COUNT)).replace("KEYS", str(KEYS))

RUNTIME = (
    "apply numbers", "apply switch", "apply switching", "apply switched", "apply done", "apply moved", "apply moved it",
)  # fmt: skip
OPERATIONS = ("change_prepare", "change_switch", "change_move")
STORE = tuple(f"{when} {operation}" for operation in OPERATIONS for when in ("request", "answer"))
SETTLE = ("request change_settle", "answer change_settle")
WAYS = [(2, 4), (4, 2)]


def flow(replicas: int) -> str:
    nodes = [
        {"id": "numbers", "operator": {"python": "flow_code.py:Numbers", "outputs": ["n"]}},
        {"id": "sums", "replicas": replicas, "partition_by": "value.user", "restart_delay": "1ms",
         "operator": {"python": "flow_code.py:sums", "inputs": {"n": "numbers/n"}, "outputs": ["sum"]}},
        {"id": "sink", "operator": {"python": "flow_code.py:Sink", "inputs": {"sum": "sums/sum"}}},
    ]  # fmt: skip
    return json.dumps({"snapshots": {"to": "none"}, "nodes": nodes})


def replicas(count: int) -> set[str]:
    return {"sums", *(f"sums[{at}]" for at in range(1, count))}


def scaled_under(fault: dict[str, Any], before: int, after: int) -> None:
    with Stage([fault]) as stage:
        folder = stage.folder
        folder.write(flow_code_py=CODE, pause="")
        running = stage.start(flow(before))
        running.wait_running("numbers", "sink", *replicas(before))
        wait_until(lambda: running.status()["sink"]["handled"] > 50, "some sums")
        code, out, err = command(folder, "scale", "--json", "sums", str(after))
        now = after
        if fault["who"] == "runtime":
            running.finish()
            folder.wait_gone()
            running = stage.start(resume=True)
            now = before
            running.wait_running("numbers", "sink")
            told = "\n".join(running.statuses())
            assert ("is undone" in told) != (f"the {after} of `scale` held until this resume" in told), told
        else:
            assert code == 0, (out, err)
            assert json.loads(out)["applied"]
        running.wait_running(*replicas(now))
        wait_until(lambda: {id for id in running.status() if id.startswith("sums")} == replicas(now), "the replicas")
        (folder.folder / "pause").unlink()
        assert running.finish(120) == 0
        check(json.loads((folder.folder / "result.json").read_text()))
        assert stage.fired() == {0}


def check(seen: list[list[Any]]) -> None:
    """Each key's numbers came in order, each once, with the right sum."""
    found, expected = defaultdict(list), defaultdict(list)
    for key, number, total in seen:
        found[key].append([number, total])
    for number in range(COUNT):
        mine = expected[f"u{number % KEYS}"]
        mine.append([number, number + (mine[-1][1] if mine else 0)])
    assert found == expected


@pytest.mark.parametrize(("before", "after"), WAYS)
@pytest.mark.parametrize("point", RUNTIME)
def test_the_runtime_killed(point: str, before: int, after: int) -> None:
    scaled_under({"who": "runtime", "point": point, "hit": 1, "action": "kill"}, before, after)


@pytest.mark.parametrize(("before", "after"), WAYS)
@pytest.mark.parametrize("point", STORE)
def test_the_store_killed(point: str, before: int, after: int) -> None:
    scaled_under({"who": "store", "point": point, "hit": 1, "action": "kill"}, before, after)


@pytest.mark.parametrize("point", SETTLE)
def test_the_store_killed_while_replicas_leave(point: str) -> None:
    scaled_under({"who": "store", "point": point, "hit": 1, "action": "kill"}, 4, 2)


@pytest.mark.parametrize(("before", "after"), [*WAYS, (1, 2)])
@pytest.mark.parametrize("who", ["numbers", "sums", "sink"])
def test_a_node_killed_while_it_takes_the_wiring_up(who: str, before: int, after: int) -> None:
    scaled_under({"who": who, "point": "rewire", "hit": 1, "action": "kill"}, before, after)
