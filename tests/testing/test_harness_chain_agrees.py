"""ChainHarness against real processes: after the same random events, failures and kills, the same is committed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.fake_runtime import Child, Run
from support.procs import wait_until

from noderuntime.api.operator import POSITION_KEY, packed_position
from noderuntime.ipc.protocol import Failed, StopMember
from noderuntime.testing import ChainHarness

EVENTS = 30
ATTEMPTS_MAX = 3

OPERATORS = '''
import json
from noderuntime import Operator, Source, Status
from noderuntime.merges import Add

class Boom(Exception):
    """Its text is the attempt that failed."""

def play(script, ctx, attempt=1):
    """Do what a script says. Returns what the handler is to return."""
    returned = None
    for what, *how in script:
        if what == "send":
            ctx.send_output(how[0], how[1], {"n": len(how[1])})
        elif what == "many":
            for number in range(1100):
                ctx.send_output(how[0], [["save", "many", number]])
        elif what == "save":
            ctx.save_state(how[0], str(how[1]).encode())
        elif what == "delete":
            ctx.delete_state(how[0])
        elif what == "add":
            ctx.kvs_merge(how[0], Add(how[1]))
        elif what == "write":
            ctx.kvs_write(how[0], str(how[1]).encode())
        elif what == "read":
            ctx.send_output("seen", ["read", how[0], ctx.kvs_read(how[0]), ctx.load_state(how[0])])
        elif what == "raise" and attempt <= how[0]:
            raise Boom(attempt)
        elif what == "stop":
            returned = Status.STOP
    return returned

class Plays(Operator):
    def on_event(self, event, ctx):
        if event["type"] != "INPUT":
            ctx.send_output("seen", [event["type"], event["id"]])
            return None
        number = event["uid"].partition("#")[2]
        what = [event["id"], number, event["attempt"], dict(event["metadata"]), len(event["value"])]
        ctx.send_output("seen", what)
        return play(event["value"], ctx, event["attempt"])

class Lines(Source):
    """Plays the scripts of a file, to which the test adds."""
    def produce(self, position, ctx):
        with open(ctx.config["lines"]) as file:
            lines = json.load(file)
        number = position or 0
        if number >= len(lines):
            return Source.IDLE
        ctx.send_output("seen", number)
        play(lines[number], ctx)
        return number + 1
'''

# to which operator, and which of its inputs, an output goes
OUTPUTS = {
    "s": {"x": ("x", "lines")},
    "x": {"y": ("y", "in"), "z": ("z", "also")},
    "y": {"z": ("z", "in")},
    "z": {"back": ("x", "back")},
}
LINKS = {f"{to}/{input}": f"{id}/{output}" for id, outs in OUTPUTS.items() for output, (to, input) in outs.items()}
OUTSIDE = {"x": "in", "z": "side"}  # inputs that the test feeds
MEMBERS = tuple(OUTPUTS)


def script(chance: random.Random, node: str, depth: int) -> list[Any]:
    """What an operator is to do, and what it is to tell the next one to do."""
    found: list[Any] = []
    for _ in range(chance.randrange(4)):
        key, number = chance.choice("ab"), chance.randrange(100)
        kind = chance.random()
        output = chance.choice(list(OUTPUTS[node]))
        if kind < 0.5 and depth:
            found.append(["send", output, script(chance, OUTPUTS[node][output][0], depth - 1)])
        elif kind < 0.52 and node in "xy":
            found.append(["many", output])
        elif kind < 0.6 and node != "s":  # what a Source itself raises is raised for ever
            found.append(["raise", chance.choice([1, 2, 9])])
        elif kind < 0.61 and node == "y":
            found.append(["stop"])
        else:
            what = chance.choice(["save", "add", "read", "write", "delete"])
            found.append([what, "n" if what == "add" else key, number])
    return found


def without_closed(seen: dict[str, list[Any]]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """What was seen, and apart from it the ends of inputs: they come behind the messages of their own input, and in no
    certain order to those of others.
    """

    def is_end(value: Any) -> bool:
        return isinstance(value, list) and value[0] == "INPUT_CLOSED"

    rest = {id: [value for value in values if not is_end(value)] for id, values in seen.items()}
    return rest, {id: sorted(value for value in values if is_end(value)) for id, values in seen.items()}


class Real:
    """The operators in one process, after each event at rest."""

    def __init__(self, run: Callable[..., Run], lines: Path) -> None:
        nodes: dict[str, Any] = {id: {"outputs": ["out"]} for id in OUTSIDE.values()}
        for id, outputs in OUTPUTS.items():
            inputs: dict[str, Any] = {to.partition("/")[2]: source for to, source in LINKS.items() if to[0] == id}
            if id in OUTSIDE:
                inputs[OUTSIDE[id]] = f"{OUTSIDE[id]}/out"
            if "back" in inputs:
                inputs["back"] = {"source": inputs["back"], "queue_policy": "drop_oldest", "queue_size": 5000}
            python = "op.py:Lines" if id == "s" else "op.py:Plays"
            code = {"python": python, "inputs": inputs, "outputs": [*outputs, "seen"]}
            nodes[id] = {"process": "p", "operator": code, "config": {"lines": str(lines)}}
        seen = {id: {"source": f"{id}/seen", "queue_size": 1_000_000, "queue_bytes": "1GB"} for id in MEMBERS}
        nodes["c"] = {"inputs": seen}
        self.run = run(nodes, op=OPERATORS)
        self.child: Child = self.run.begun("s")
        self.lines = lines

    def is_at_rest(self) -> bool:
        run = self.run
        count = len(json.loads(self.lines.read_text()))
        if count and run.private("s").get(POSITION_KEY) != packed_position(count):
            return False
        waiting = list(OUTSIDE.items())
        waiting += [(place[0], place[2:]) for place in LINKS]
        return not any(run.queued(id, input) for id, input in waiting)

    def settle(self) -> None:
        """Until all is handled, with as many lives as it takes."""
        while True:
            wait_until(lambda: self.child.code is not None or self.is_at_rest(), str(self.child))
            if self.child.code is None:
                return
            failed = self.child.expect(Failed)
            assert "Boom: " in failed.error, failed
            self.next_life(f"on_event of {failed.node}: {failed.error}", True)

    def next_life(self, cause: str, counts: bool) -> None:
        hands = {id: [list(hand) for hand in self.child.pulse_of(id).hands] for id in MEMBERS}
        others = {id: found for id, found in hands.items() if id != "s" and found}
        self.child = self.run.begun("s", cause=cause, counts=counts, hands=hands["s"], of_others=others)

    def send(self, node: str, value: Any) -> None:
        self.run.send(OUTSIDE[node], value)
        self.settle()

    def produce(self) -> None:
        self.settle()

    def crash(self) -> None:
        self.child.kill()
        self.next_life("SIGKILL", False)

    def stop(self, node: str) -> None:
        self.child.send(StopMember(node, "MANUAL"))
        wait_until(lambda: self.run.figures(node)["status"] == "ended", str(self.child))
        self.settle()

    def outcome(self) -> dict[str, Any]:
        seen = {id: [value for value in self.run.queued("c", id) if type(value) is not tuple] for id in MEMBERS}
        seen, closed = without_closed(seen)
        state = {id: {k: v for k, v in self.run.private(id).items() if len(k) < 5} for id in MEMBERS}
        return {"seen": seen, "closed": closed, "state": state, "kvs": self.run.shared()}


class Pretended:
    def __init__(self, lines: Path) -> None:
        made: dict[str, Any] = {}
        exec(compile(OPERATORS, "op.py", "exec"), made)
        operators = {id: made["Lines" if id == "s" else "Plays"] for id in MEMBERS}
        config = {id: {"lines": str(lines)} for id in MEMBERS}
        self.harness = ChainHarness(operators, LINKS, config=config, drop_oldest=["x/back"])
        self.boom = made["Boom"]

    def act(self, call: Callable[..., Any], *arguments: Any) -> None:
        """A call, and what a run does when a handler raises: the event again, until it would be a dead letter."""
        try:
            call(*arguments)
        except self.boom as boom:
            if boom.args[0] < ATTEMPTS_MAX:
                self.act(self.harness.redeliver)
            else:  # any other call skips it, and goes on with what waits inside
                self.act(self.harness.produce, "s")

    def send(self, node: str, value: Any) -> None:
        self.act(self.harness.send, f"{node}/{OUTSIDE[node]}", value)

    def produce(self) -> None:
        self.act(self.harness.produce, "s")

    def crash(self) -> None:
        self.harness.crash()

    def stop(self, node: str) -> None:
        self.act(self.harness.stop, node)

    def outcome(self) -> dict[str, Any]:
        state = {id: {k: v for k, v in self.harness.state(id).items() if len(k) < 5} for id in MEMBERS}
        seen, closed = without_closed({id: self.harness.outputs(f"{id}/seen") for id in MEMBERS})
        return {"seen": seen, "closed": closed, "state": state, "kvs": dict(self.harness.kvs)}


@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 13))])
def test_the_harness_agrees_with_real_processes_event_by_event(
    run: Callable[..., Run], tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    file = tmp_path / "lines.json"
    lines: list[Any] = []
    file.write_text("[]")
    sides: tuple[Real | Pretended, ...] = (Real(run, file), Pretended(file))
    for number in range(EVENTS):
        kind = chance.random()
        node, depth = chance.choice(list(OUTSIDE)), chance.randrange(1, 5)
        told = script(chance, "s" if kind < 0.3 else node, depth)
        if kind < 0.3:
            lines.append(told)
            new = file.with_suffix(".new")
            new.write_text(json.dumps(lines))
            new.replace(file)
        for side in sides:
            if kind < 0.3:
                side.produce()
            elif kind < 0.9:
                side.send(node, told)
            elif kind < 0.97 or number < EVENTS - 5:
                side.crash()
            else:
                side.stop("y")
        real, pretended = (side.outcome() for side in sides)
        assert real == pretended, f"seed {seed}, event {number}: {told}"
    assert sum(len(seen) for seen in real["seen"].values()) > EVENTS
