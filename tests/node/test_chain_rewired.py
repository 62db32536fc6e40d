"""A shared process whose inputs and outputs are changed while it runs: it keeps its life, and what it has in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.fake_runtime import Child, Run
from support.kit import Nodes, commit, settle, staged
from support.procs import wait_until

from noderuntime.ipc.protocol import Rewired
from noderuntime.space import keys

Make = Callable[..., Run]

OPERATORS = """
import os, time
from noderuntime import Operator, Source, Status

class Pass(Operator):
    '''Passes on what it gets, and how many that were in this life, which no state is kept of.'''
    def __init__(self):
        self.count = 0
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            self.count += 1
            value = event["value"]
            if event["value"] == "wait":
                open("waiting", "w").close()
                while not os.path.exists("go"):
                    time.sleep(0.01)
            ctx.send_output("out", [ctx.node_id, self.count, event["id"], event["value"]])
        elif event["type"] != "STOP":
            ctx.send_output("out", [ctx.node_id, event["type"], event["id"]])

class Forward(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out", event["value"])

class Each(Operator):
    '''Sends the items of a list in one event.'''
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            for item in event["value"]:
                ctx.send_output("out", item)

class Twice(Operator):
    '''Sends to both of its outputs, if it has the second one.'''
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out", event["value"])
            try:
                ctx.send_output("more", event["value"])
            except Exception as error:
                ctx.send_output("out", type(error).__name__)

class Lines(Source):
    def produce(self, position, ctx):
        number = position or 0
        if not os.path.exists(f"line{number}"):
            return Source.idle(0.01)
        ctx.send_output("out", number)
        return number + 1

class Stops(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out", event["value"])
            return Status.STOP if event["value"] == "stop" else None
"""


def operator(name: str, inputs: dict[str, Any] | None = None, outputs: Any = ("out",), **more: Any) -> dict[str, Any]:
    code = {"python": f"op.py:{name}", "inputs": inputs or {}, "outputs": list(outputs)}
    return {"process": "p", "operator": code, **more}


def flow(**more: Any) -> dict[str, Any]:
    """a feeds x, which feeds y in the same process; c takes what y sends."""
    nodes = {
        "a": {"outputs": ["out"]},
        "x": operator("Forward", {"in": "a/out"}),
        "y": operator("Pass", {"in": "x/out"}),
        "c": {"inputs": {"in": "y/out"}},
    }
    return {**nodes, **more}


def begun(run: Make, nodes: Nodes, first: str = "x") -> tuple[Run, Child]:
    r = run(nodes, op=OPERATORS)
    return r, r.begun(first)


def told(r: Run, child: Child, version: int) -> None:
    """The runtime tells the process of a change."""
    child.send(Rewired(version, r.wirings[child.node].ports()))


def same_life(r: Run, child: Child) -> None:
    assert child.code is None
    assert r.figures(child.node)["incarnation"] == 1


def test_a_receiver_outside_gets_the_first_message_that_is_sent_behind_the_change(run: Make) -> None:
    r, child = begun(run, flow())
    r.send("a", 1, 2)
    assert r.take("c", 2) == [["y", 1, "in", 1], ["y", 2, "in", 2]]
    r.switch(flow(d={"inputs": {"in": "x/out"}}))  # nobody tells the process, which has nothing to do
    r.send("a", 3, 4)
    assert r.take("d", 2) == [3, 4]
    assert r.take("c", 2) == [["y", 3, "in", 3], ["y", 4, "in", 4]]
    r.switch(flow(d={"inputs": {"in": "a/out"}}))
    r.send("a", 5)
    assert r.take("c") == [["y", 5, "in", 5]]
    assert r.figures("x")["outputs"] == {"out": 5} and r.figures("y")["outputs"] == {"out": 5}
    same_life(r, child)


def test_a_receiver_that_was_added_is_told_of_the_end(run: Make) -> None:
    r, child = begun(run, flow())
    r.send("a", 1)
    r.take("c")
    r.switch(flow(d={"inputs": {"in": "x/out"}}, e={"inputs": {"in": "y/out"}}))
    r.send("a", 2, ends=True)
    assert r.take("d", 2) == [2, ("INPUT_CLOSED", "", None)]
    assert r.take("e", 3)[-1] == ("INPUT_CLOSED", "", None)
    assert child.wait() == 0


def test_a_tap_on_an_output_that_stays_inside_sees_the_first_message(run: Make) -> None:
    from noderuntime.space import taps

    r, child = begun(run, flow())
    r.send("a", 1)
    r.take("c")
    numbers = [r.numbers[id]["number"] for id in ("x", "y")]
    with r.space.write() as txn:
        topic = taps.topics(txn)["x/out"]
        assert taps.change(txn, [topic], [], dict.fromkeys(numbers, numbers)) == {"x/out": (0, 1)}
    r.send("a", 2)
    r.take("c")
    with r.space.read() as txn:
        assert len(taps.waiting(txn, 0, 10)) == 1
    same_life(r, child)


def test_an_input_from_outside_is_added_and_removed_behind_what_waits(run: Make) -> None:
    nodes = flow(b={"outputs": ["out"]})
    r, child = begun(run, nodes)
    r.send("a", 1)
    assert r.take("c") == [["y", 1, "in", 1]]
    r.switch({**nodes, "y": operator("Pass", {"in": "x/out", "more": "b/out"})})
    r.send("b", "b1")
    assert r.take("c") == [["y", 2, "more", "b1"]]
    r.send("a", "wait")
    wait_until((r.folder / "waiting").exists)
    r.send("b", "b2", "b3")
    version = r.switch(nodes)  # what waits is handled
    told(r, child, version)
    (r.folder / "go").touch()
    assert r.take("c", 3) == [["y", 3, "in", "wait"], ["y", 4, "more", "b2"], ["y", 5, "more", "b3"]]
    wait_until(lambda: settle(r)["left"] == [])
    r.send("a", 2)
    assert r.take("c") == [["y", 6, "in", 2]]
    same_life(r, child)


def test_a_connection_inside_is_made_and_taken_away_between_two_events(run: Make) -> None:
    apart = flow(z=operator("Pass", {"in": "a/out"}), e={"inputs": {"in": "z/out"}})
    r, child = begun(run, apart)
    r.send("a", 1)
    assert r.take("c") == [["y", 1, "in", 1]] and r.take("e") == [["z", 1, "in", 1]]
    inside = {**apart, "z": operator("Pass", {"in": "a/out", "own": "y/out"})}
    r.switch(inside)
    r.send("a", 2)
    assert r.take("c") == [["y", 2, "in", 2]]
    assert sorted(item[2:] for item in r.take("e", 2)) == [["in", 2], ["own", ["y", 2, "in", 2]]]
    assert r.queue("z", "own")[:2] == [0, 0]
    r.switch(apart)
    r.send("a", 3)
    assert r.take("c") == [["y", 3, "in", 3]] and r.take("e") == [["z", 4, "in", 3]]
    wait_until(lambda: settle(r)["left"] == [])
    r.switch({**apart, "y": operator("Pass", {"in": "a/out"})})  # x feeds nobody any more
    r.send("a", 4)
    assert r.take("c") == [["y", 4, "in", 4]] and r.take("e") == [["z", 5, "in", 4]]
    same_life(r, child)


def test_what_waits_inside_of_a_connection_that_goes_is_handled_first(run: Make) -> None:
    each = operator("Each", {"in": "a/out"})
    dropping = operator("Pass", {"in": {"source": "x/out", "queue_policy": "drop_oldest", "queue_size": 100}})
    r, child = begun(run, flow(x=each, y=dropping))
    r.send("a", ["wait", 1, 2])
    wait_until((r.folder / "waiting").exists)
    version = r.switch(flow(x=each, y=operator("Pass", {"in": "a/out"})))
    told(r, child, version)
    (r.folder / "go").touch()
    found = [value for _, _, _, value in r.take("c", 3)]
    assert found == ["wait", 1, 2]
    wait_until(lambda: settle(r)["left"] == [])
    r.send("a", [3])
    assert r.take("c") == [["y", 4, "in", [3]]]
    same_life(r, child)


def test_with_discard_what_waits_inside_is_dropped(run: Make) -> None:
    each = operator("Each", {"in": "a/out"})
    dropping = operator("Pass", {"in": {"source": "x/out", "queue_policy": "drop_oldest", "queue_size": 100}})
    r, child = begun(run, flow(x=each, y=dropping))
    r.send("a", ["wait", 1, 2])
    wait_until((r.folder / "waiting").exists)
    r.switch(flow(x=each, y=operator("Pass", {"in": "a/out"})), discard=True)
    (r.folder / "go").touch()
    r.send("a", [3])
    found = [value for _, _, _, value in r.take("c", 2)]
    assert found == ["wait", [3]]
    with r.space.read() as txn:
        assert txn.get(keys.queue(r.numbers["y"]["number"], 0)) is None, "counted in a queue that is gone"
    same_life(r, child)


@pytest.mark.parametrize("policy", ["drop_oldest", "backpressure"])
def test_the_policy_of_an_input_inside_changes_and_what_it_has_waiting_comes_in_order(run: Make, policy: str) -> None:
    other = {"drop_oldest": "backpressure", "backpressure": "drop_oldest"}[policy]

    def with_policy(policy: str) -> Any:
        return flow(y=operator("Pass", {"in": {"source": "x/out", "queue_policy": policy, "queue_size": 100}}))

    r, child = begun(run, with_policy(policy))
    r.send("a", *range(5), "wait", *range(5, 10))
    wait_until((r.folder / "waiting").exists)
    r.switch(with_policy(other))
    (r.folder / "go").touch()
    r.send("a", *range(10, 15))
    wait_until(lambda: r.figures("y")["inputs"]["in"]["taken"] == 16)
    r.switch(with_policy(policy))
    r.send("a", 15)
    values = [value for _, _, _, value in r.take("c", 17)]
    assert values == [*range(5), "wait", *range(5, 16)]
    same_life(r, child)


def test_a_queue_outside_that_is_full_has_room_when_its_limit_is_raised(run: Make) -> None:
    r, child = begun(run, flow(c={"inputs": {"in": {"source": "y/out", "queue_size": 2}}}))
    r.send("a", *range(6))
    wait_until(lambda: r.figures("c")["inputs"]["in"]["queued"] == 2)
    r.switch(flow(c={"inputs": {"in": {"source": "y/out", "queue_size": 50}}}))
    wait_until(lambda: r.figures("c")["inputs"]["in"]["queued"] == 6)
    same_life(r, child)


def test_an_output_is_added_and_removed_and_goes_on_counting(run: Make) -> None:
    nodes = flow(x=operator("Twice", {"in": "a/out"}))
    r, child = begun(run, nodes)
    r.send("a", 1)
    assert [value for *_, value in r.take("c", 2)] == [1, "UnknownOutput"]
    more = {**nodes, "x": operator("Twice", {"in": "a/out"}, ("out", "more")), "d": {"inputs": {"in": "x/more"}}}
    r.switch(more)
    r.send("a", 2)
    assert [value for *_, value in r.take("c")] == [2] and r.take("d") == [2]
    r.switch({**nodes, "d": {"inputs": {"in": "x/out"}}})
    r.send("a", 3)
    assert [value for *_, value in r.take("c")] == [3]
    assert r.take("d", 2)[-1] == 3
    assert commit(r.play("d"), staged(r.play("d"))) == 1  # it takes up its inputs of now
    wait_until(lambda: not settle(r)["left"])
    r.switch(more)
    r.send("a", 4)
    assert [value for *_, value in r.take("c")] == [4]
    assert r.figures("x")["outputs"] == {"out": 5, "more": 3}
    child.kill()
    again = r.begun("x")
    r.send("a", 5)
    assert [value for *_, value in r.take("c")] == [5]
    assert r.figures("x")["outputs"] == {"out": 6, "more": 4}
    again.kill()


def test_timers_and_timeouts_come_and_go(run: Make) -> None:
    r, child = begun(run, flow())
    r.send("a", 1)
    r.take("c")
    r.switch(flow(y=operator("Pass", {"in": {"source": "x/out", "input_timeout": 0.05}, "tick": "timer/millis/5"})))
    r.send("a", 2)
    found = r.take("c", 4)
    while ["y", "INPUT_CLOSED", "in"] not in found:
        found += r.take("c")
    assert "tick" in [item[2] for item in found]
    r.switch(flow())
    r.send("a", 3)
    wait_until(lambda: r.take("c")[0][2:] == ["in", 3], "what was sent behind the ticks")
    r.switch(flow(y=operator("Pass", {"in": {"source": "x/out", "input_timeout": 0.05}})))
    r.send("a", 4)
    assert [item[-2:] for item in r.take("c", 2)] == [["in", 4], ["INPUT_CLOSED", "in"]], "it begins anew"
    same_life(r, child)


def test_a_source_inside_sends_its_next_line_to_a_receiver_that_was_added(run: Make) -> None:
    nodes = {"s": operator("Lines"), "y": operator("Pass", {"in": "s/out"}), "c": {"inputs": {"in": "y/out"}}}
    r, child = begun(run, nodes, "s")
    (r.folder / "line0").touch()
    assert r.take("c") == [["y", 1, "in", 0]]
    r.switch({**nodes, "d": {"inputs": {"in": "s/out"}}})
    (r.folder / "line1").touch()
    assert r.take("d") == [1]
    assert r.take("c") == [["y", 2, "in", 1]]
    same_life(r, child)


def test_what_is_in_hand_while_the_dataflow_changes_goes_to_the_receivers_that_stay(run: Make) -> None:
    nodes = flow(d={"inputs": {"in": "x/out"}}, e={"inputs": {"in": "y/out"}})
    r, child = begun(run, nodes)
    r.send("a", "wait", 1)
    wait_until((r.folder / "waiting").exists)
    changed = {**flow(), "f": {"inputs": {"in": "x/out"}}, "g": {"inputs": {"in": "y/out"}}}
    r.switch(changed)
    (r.folder / "go").touch()
    r.send("a", 2)
    assert [value for *_, value in r.take("c", 3)] == ["wait", 1, 2]
    joined = r.take("f")[0]
    assert joined in (1, 2), "behind the one that was in hand"
    assert r.take("g")[0][-1] == joined, "both outputs have it from the same event on"
    assert r.queued("d", "in") if "d" in r.numbers else True
    same_life(r, child)


def test_an_operator_that_has_ended_stays_so(run: Make) -> None:
    nodes = flow(y=operator("Stops", {"in": "x/out"}))
    r, child = begun(run, nodes)
    r.send("a", 1, "stop")
    assert r.take("c", 3)[:2] == [1, "stop"]
    changed = {**nodes, "z": {"inputs": {"in": "x/out"}}}
    r.switch(changed)
    r.send("a", 2, 3)
    assert r.take("z", 2) == [2, 3]
    assert r.figures("y")["status"] == "ended"
    same_life(r, child)


def test_a_life_that_begins_behind_a_change_has_the_counters_of_each_operator(run: Make) -> None:
    r, child = begun(run, flow(x=operator("Twice", {"in": "a/out"})))
    r.send("a", 1)
    r.take("c", 2)
    r.switch(flow(x=operator("Twice", {"in": "a/out", "t": "timer/secs/1000"}, ("out", "more"))))
    r.send("a", 2, 3)
    assert [value for *_, value in r.take("c", 2)] == [2, 3]
    child.kill()
    assert r.figures("x")["outputs"] == {"out": 4, "more": 2} and r.figures("y")["outputs"] == {"out": 4}
    again = r.begun("x")
    r.send("a", 4)
    assert r.take("c") == [["y", 1, "in", 4]]
    assert r.figures("x")["outputs"] == {"out": 5, "more": 3} and r.figures("y")["outputs"] == {"out": 5}
    again.kill()


def test_many_messages_while_it_is_changed_again_and_again(run: Make) -> None:
    r, child = begun(run, flow())
    receivers = [{}, {"d": {"inputs": {"in": "x/out"}}}, {"e": {"inputs": {"in": "y/out"}}}]
    sent = 0
    for at in range(30):
        r.send("a", *range(sent, sent + 7))
        sent += 7
        nodes = flow(**receivers[at % 3])  # type: ignore[arg-type]
        if at % 2:
            nodes["y"] = operator("Pass", {"in": "x/out", f"more{at}": "a/out"})
        told(r, child, r.switch(nodes, discard=True))
        settle(r, "d", "e")
    found = [item for item in r.take("c", sent) if item[2] == "in"]
    while len(found) < sent:
        found += [item for item in r.take("c") if item[2] == "in"]
    assert [item[3] for item in found] == [*range(sent)]
    same_life(r, child)
