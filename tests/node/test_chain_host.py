"""The process of several operators, as the runtime and its neighbours see it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from support.fake_runtime import Child, Run
from support.kit import commit, staged
from support.procs import wait_until

from noderuntime.ipc import pulse
from noderuntime.ipc.protocol import (
    EXIT_RELOAD,
    Bye,
    Failed,
    LogOf,
    MemberEnded,
    QuietMember,
    Ready,
    Reload,
    ReloadFailed,
    Stop,
    StopAll,
    StopMember,
)
from noderuntime.space.dead_letters import letters
from noderuntime.space.environment import scan
from noderuntime.space.kvs import SharedWrite

Make = Callable[..., Run]


def operator(name: str, inputs: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    code = {"python": f"op.py:{name}", "inputs": inputs or {}, "outputs": ["out"]}
    return {"process": "p", "operator": code, **more}


def line(first: str = "Add", second: str = "Sum", **more: Any) -> dict[str, Any]:
    """a feeds x, which feeds y in the same process; c takes what y sends."""
    return {
        "a": {"outputs": ["out"]},
        "x": operator(first, {"in": "a/out"}),
        "y": operator(second, {"in": {"source": "x/out", **more}}),
        "c": {"inputs": {"in": "y/out"}},
    }


OPERATORS = """
from noderuntime import Operator, Source, Status
from noderuntime.merges import Add as Plus

class Add(Operator):
    '''Passes on one more; what begins with a word does what that says.'''
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.save_state("last", repr(event["value"]).encode())
            ctx.send_output("out", event["value"] + 1)
        elif event["type"] == "STOP":
            ctx.send_output("out", 1000)

class Sum(Operator):
    def __init__(self):
        self.total = 0
    def restore_state(self, state):
        self.total = int(state["total"])
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            if event["value"] == 13 + 1:
                raise ValueError("unlucky")
            self.total += event["value"]
            ctx.save_state("total", str(self.total).encode())
            ctx.send_output("out", [self.total, event["uid"], event["attempt"], event["source"]])
        elif event["type"] == "INPUT_CLOSED":
            ctx.send_output("out", "closed")
        elif event["type"] == "STOP":
            ctx.send_output("out", event["id"])

class Show(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out", [event["id"], event["value"], dict(event["metadata"])])
        else:
            ctx.send_output("out", [event["type"], event["id"]])

class Many(Operator):
    '''Sends as many numbers as it is told.'''
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            for number in range(event["value"]):
                ctx.send_output("out", number)

class Times(Operator):
    '''Sends every number three times.'''
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            for times in range(3):
                ctx.send_output("out", event["value"] * 10 + times)

class Mutating(Operator):
    '''Goes on using what it has sent.'''
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            value, metadata = [event["value"]], {"list": [1]}
            ctx.send_output("out", value, metadata)
            value.append("late")
            metadata["list"].append("late")

class Stops(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out", event["value"])
            return {1: Status.STOP, 2: Status.STOP_ALL}.get(event["value"])

class Counts(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.kvs_write("seen", str(event["value"]).encode())
            ctx.kvs_merge("count", Plus(1))
            ctx.send_output("out", event["value"])

class Reads(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.kvs_merge("count", Plus(1))
            ctx.send_output("out", [ctx.kvs_read("seen").decode(), ctx.kvs_read("count")[-1]])

class Lines(Source):
    def produce(self, position, ctx):
        number = (position or 10) + 1
        if number > 16:
            return Source.END
        ctx.send_output("out", number)
        return number

class Ticks(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out", 13)

class AtClose(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT_CLOSED":
            ctx.send_output("out", 13)

class Merges(Operator):
    '''Merges, and waits until somebody has written something else.'''
    def on_event(self, event, ctx):
        import os, time
        if event["type"] == "INPUT":
            ctx.kvs_merge("n", Plus(1))
            open("merged", "w").close()
            while not os.path.exists("go"):
                time.sleep(0.01)
            ctx.send_output("out", event["value"])

class Logs(Operator):
    def on_event(self, event, ctx):
        import logging
        ctx.log.warning("own %s", ctx.node_id)
        logging.getLogger("other").warning("another of %s", ctx.node_id)
        if event["type"] == "INPUT":
            ctx.send_output("out", event["value"])

class Array(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            array = ctx.allocate(event["value"], "uint8")
            array[:] = 7
            ctx.send_output("out", array)

class Total(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out", [int(event["value"].sum()), event["value"].flags.writeable])

class Slow(Operator):
    def on_event(self, event, ctx):
        import time
        time.sleep(60)
"""


def shared(run: Make, nodes: dict[str, Any], **more: str) -> Run:
    return run(nodes, op=OPERATORS, **more)


def failed_life(r: Run, child: Child, node: str, entered: str) -> Child:
    """A life that raised ends, and the next one begins, as the runtime does it."""
    failed = child.expect(Failed)
    assert child.wait() == 1
    hands = [list(hand) for hand in child.pulse_of(entered).hands]
    assert len(hands) == 1
    mine, others = (hands, {}) if entered == node else ([], {entered: hands})
    return r.begun(node, cause=f"{failed.where} of {failed.node}: {failed.error}", counts=True, hands=mine,
                   of_others=others)  # fmt: skip


# --- one transaction ------------------------------------------------------------------------------------------------


def test_what_an_event_makes_inside_is_handled_in_its_transaction(run: Make) -> None:
    r = shared(run, line())
    child = r.begun("x")
    assert child.has_said(Ready) == [Ready(1)]
    r.send("a", 1)
    assert r.take("c") == [[2, "x/out#1", 1, "x/out"]]
    assert r.private("x") == {"last": b"1"} and r.private("y") == {"total": b"2"}
    wait_until(lambda: child.pulse.phase == pulse.WAITING, "what it did to be counted")
    assert child.pulse.commits == 1
    r.send("a", 5)
    assert r.take("c") == [[8, "x/out#2", 1, "x/out"]]
    assert r.queue("y", "in")[2] == 2, "what was taken inside is counted"
    assert r.figures("x")["outputs"] == {"out": 2}


def test_the_states_of_all_and_the_numbers_of_messages_survive_a_kill(run: Make) -> None:
    r = shared(run, line())
    first = r.begun("x")
    r.send("a", 1)
    assert r.take("c") == [[2, "x/out#1", 1, "x/out"]]
    first.kill()
    second = r.begun("x", cause="SIGKILL")
    assert second.has_said(Ready) == [Ready(2)]
    r.send("a", 2)
    assert r.take("c", 2) == [("NODE_RESTARTED", "y", "SIGKILL"), [5, "x/out#2", 1, "x/out"]]


def test_messages_inside_are_handled_in_the_order_in_which_they_were_sent(run: Make) -> None:
    nodes = {
        "a": {"outputs": ["out"]},
        "x": operator("Times", {"in": "a/out"}),
        "y": operator("Times", {"in": "x/out"}),
        "z": operator("Show", {"near": "x/out", "far": "y/out"}),
        "c": {"inputs": {"in": "z/out"}},
    }
    r = shared(run, nodes)
    r.begun("x")
    r.send("a", 1)
    near = [["near", value, {}] for value in (10, 11, 12)]
    far = [["far", value * 10 + times, {}] for value in (10, 11, 12) for times in range(3)]
    assert r.take("c", 12) == near + far


def test_a_receiver_inside_gets_what_was_sent_and_not_what_became_of_it(run: Make) -> None:
    r = shared(run, line("Mutating", "Show"))
    r.begun("x")
    r.send("a", 1)
    assert r.take("c") == [["in", [1], {"list": [1]}]]


@pytest.mark.parametrize("value", [None, True, 2, 2.5, "é", "text", b"bytes", [1, {"a": None}], {"k": "v"}])
def test_every_value_arrives_inside_as_it_does_outside(run: Make, value: Any) -> None:
    passing = (
        "class Pass:\n    def on_event(self, event, ctx):\n"
        "        if event.type == 'INPUT': ctx.send_output('out', event.value, {'key': event.value})\n"
    )
    nodes = line("Pass", "Show")
    nodes["x"]["operator"]["python"] = "passing.py:Pass"
    r = shared(run, nodes, passing=passing)
    r.begun("x")
    r.send("a", value)
    assert r.take("c") == [["in", value, {"key": value}]]


def test_a_value_that_cannot_be_sent_is_refused_inside_too(run: Make) -> None:
    wrong = "class Wrong:\n    def on_event(self, event, ctx):\n        ctx.send_output('out', 1 << 70)\n"
    nodes = line("Wrong", "Show")
    nodes["x"]["operator"]["python"] = "wrong.py:Wrong"
    r = shared(run, nodes, wrong=wrong)
    child = r.begun("x")
    r.send("a", 1)
    failed = child.expect(Failed)
    assert (failed.node, failed.where) == ("x", "on_event") and "larger" in failed.error


@pytest.mark.parametrize("length", [100, 300_000])
def test_an_array_arrives_inside_whole_and_read_only(run: Make, length: int) -> None:
    r = shared(run, line("Array", "Total"))
    r.begun("x")
    r.send("a", length)
    assert r.take("c") == [[7 * length, False]]


def test_an_output_goes_inside_and_outside_under_one_number(run: Make) -> None:
    nodes = line()
    nodes["d"] = {"inputs": {"in": "x/out"}}
    r = shared(run, nodes)
    r.begun("x")
    r.send("a", 1, 2)
    assert r.take("c", 2) == [[2, "x/out#1", 1, "x/out"], [5, "x/out#2", 1, "x/out"]]
    assert r.take("d", 2) == [2, 3]
    assert r.figures("x")["outputs"] == {"out": 2}


def test_what_one_stages_in_the_shared_kvs_all_see(run: Make) -> None:
    r = shared(run, line("Counts", "Reads"))
    r.begun("x")
    r.send("a", 1, 2)
    assert r.take("c", 2) == [["1", 2], ["2", 4]]
    assert r.shared()["seen"] == b"2"


# --- through the mailbox --------------------------------------------------------------------------------------------


def test_beyond_a_thousand_messages_of_one_event_they_go_through_the_mailbox_in_order(run: Make) -> None:
    r = shared(run, line("Many", "Show"))
    child = r.begun("x")
    r.send("a", 2500, 3)
    found = r.take("c", 2503)
    assert [value for _, value, _ in found] == [*range(2500), 0, 1, 2]
    wait_until(lambda: child.pulse.commits > 2, "more than one for each message of a")


def test_a_drop_oldest_input_inside_goes_through_its_mailbox(run: Make) -> None:
    r = shared(run, line(queue_policy="drop_oldest", queue_size=1000))
    child = r.begun("x")
    r.send("a", 1)
    assert r.take("c") == [[2, "x/out#1", 1, "x/out"]]
    wait_until(lambda: child.pulse.commits == 2)


def test_a_cycle_inside_goes_round_through_its_mailbox(run: Make) -> None:
    loop = """
class Loop:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out" if event["value"] < 5 else "done", event["value"] + 1)
"""
    nodes = {
        "a": {"outputs": ["out"]},
        "x": operator("Add", {"in": "a/out", "back": {"source": "y/out", "queue_policy": "drop_oldest"}}),
        "y": {"process": "p", "operator": {"python": "loop.py:Loop", "inputs": {"in": "x/out"},
                                           "outputs": ["out", "done"]}},
        "c": {"inputs": {"in": "y/done"}},
    }  # fmt: skip
    r = shared(run, nodes, loop=loop)
    r.begun("x")
    r.send("a", 0)
    assert r.take("c") == [6]


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_failure_counts_on_the_message_that_entered_and_names_who_raised(run: Make) -> None:
    r = shared(run, line())
    child = r.begun("x")
    r.send("a", 1, 13, 2)
    assert r.take("c") == [[2, "x/out#1", 1, "x/out"]]
    for _ in range(3):
        assert child.expect(Failed).node == "y"
        child = failed_life(r, child, "x", "x")
    restarts = [("NODE_RESTARTED", "y", "on_event of y: ValueError: unlucky")] * 3
    assert r.take("c", 4) == [*restarts, [5, "x/out#2", 1, "x/out"]]
    with r.space.read() as txn:
        (letter,) = letters(txn, r.numbers["x"]["number"])
        assert list(letters(txn, r.numbers["y"]["number"])) == []
    assert (letter.input, letter.uid, letter.attempts) == ("in", "a/out#2", 3)
    assert letter.error == "on_event of y: ValueError: unlucky"
    assert r.private("x") == {"last": b"2"}, "the bad message has left no trace"


def test_an_inner_message_has_the_attempt_of_the_one_that_entered(run: Make) -> None:
    r = shared(run, line("Slow", "Sum"))
    child = r.begun("x")
    r.send("a", 1)
    wait_until(lambda: child.pulse_of("x").hands)
    child.kill()
    hands = [list(hand) for hand in child.pulse_of("x").hands]
    (r.folder / "op.py").write_text(OPERATORS.replace("class Slow", "class Old").replace("class Add", "class Slow"))
    r.begun("x", cause="SIGKILL", hands=hands)
    assert r.take("c", 2)[1] == [2, "x/out#1", 2, "x/out"]


def test_a_line_of_a_source_that_failed_is_committed_alone_and_its_bad_message_buried(run: Make) -> None:
    nodes = {"x": operator("Lines"), "y": operator("Add", {"in": "x/out"}), "z": operator("Sum", {"in": "y/out"}),
             "c": {"inputs": {"in": "z/out"}}}  # fmt: skip
    r = shared(run, nodes)
    child = r.begun("x")
    child = failed_life(r, child, "x", "x")  # the line 13, which nobody can bury
    for _ in range(3):
        child = failed_life(r, child, "x", "z")  # 14, which y has made of it
    values = [found[0] for found in r.take("c", 10) if isinstance(found, list)]
    assert values == [12, 25, 40, 56, 73, 1073], "the last one is what y sends at its STOP"
    with r.space.read() as txn:
        (letter,) = letters(txn, r.numbers["z"]["number"])
        assert list(letters(txn, r.numbers["x"]["number"])) == list(letters(txn, r.numbers["y"]["number"])) == []
        assert [key for key, _ in scan(txn, b"a")] == [], "what was noted about the line is forgotten"
    assert (letter.uid, letter.error) == ("y/out#3", "on_event of z: ValueError: unlucky")


def test_a_tick_that_failed_is_committed_alone(run: Make) -> None:
    nodes = {"x": operator("Ticks", {"tick": "timer/millis/20"}), "y": operator("Add", {"in": "x/out"}),
             "z": operator("Sum", {"in": "y/out"}), "c": {"inputs": {"in": "z/out"}}}  # fmt: skip
    r = shared(run, nodes)
    child = failed_life(r, r.begun("x"), "x", "x")
    for _ in range(3):
        child = failed_life(r, child, "x", "z")
    with r.space.read() as txn:
        assert [letter.uid for letter in letters(txn, r.numbers["z"]["number"])] == ["y/out#1"]


def test_a_notice_that_failed_is_committed_alone(run: Make) -> None:
    nodes = {"a": {"outputs": ["out"]}, "x": operator("AtClose", {"in": "a/out"}),
             "y": operator("Add", {"in": "x/out"}),
             "z": operator("Sum", {"in": "y/out"}), "c": {"inputs": {"in": "z/out"}}}  # fmt: skip
    r = shared(run, nodes)
    child = r.begun("x")
    r.send("a", ends=True)
    child = failed_life(r, child, "x", "x")  # INPUT_CLOSED, of which x has made 13, and y 14
    for _ in range(3):
        child = failed_life(r, child, "x", "z")
    assert child.wait() == 0
    with r.space.read() as txn:
        assert [letter.uid for letter in letters(txn, r.numbers["z"]["number"])] == ["y/out#1"]
        assert [key for key, _ in scan(txn, b"a")] == []


@pytest.mark.parametrize(("first", "second", "raised"), [("Merges", "Add", "x"), ("Add", "Merges", "y")])
def test_a_shared_write_that_cannot_be_applied_names_who_made_it(
    run: Make, first: str, second: str, raised: str
) -> None:
    r = shared(run, line(first, second))
    child = r.begun("x")
    r.send("a", 1)
    page = pulse.PulsePage(r.dir.pulse(r.numbers["x"]["number"]))
    wait_until(lambda: page.words[pulse.MEMBER] == "xy".index(raised) and page.words[pulse.PHASE] == pulse.HANDLING)
    wait_until((r.folder / "merged").exists)
    page.close()
    a = r.play("a")
    assert commit(a, staged(a, shared=[SharedWrite(b"n", b"a text")])) == 1
    (r.folder / "go").touch()
    failed = child.expect(Failed)
    assert (failed.node, failed.where) == (raised, "on_event") and "TypeError" in failed.error
    assert r.queued("x", "in") == [1] and len(child.pulse_of("x").hands) == 1


# --- ends -----------------------------------------------------------------------------------------------------------


def test_the_last_messages_of_an_operator_come_before_its_end_and_the_process_ends_with_the_last(run: Make) -> None:
    r = shared(run, line())
    child = r.begun("x")
    r.send("a", 1, ends=True)
    found = r.take("c", 5)
    assert found[0] == [2, "x/out#1", 1, "x/out"]
    assert found[1] == [1002, "x/out#2", 1, "x/out"], "x sends at its STOP, through the mailbox"
    assert found[2:] == ["closed", "ALL_INPUTS_CLOSED", ("INPUT_CLOSED", "", None)]
    assert child.wait() == 0
    assert [said.node for said in child.has_said(MemberEnded)] == ["x", "y"]
    assert child.has_said(Bye) == [Bye(True, "")]


def test_an_operator_that_stops_closes_its_own_outputs_only(run: Make) -> None:
    nodes = line("Stops", "Show")
    nodes["b"] = {"outputs": ["out"]}
    nodes["y"]["operator"]["inputs"]["also"] = "b/out"
    r = shared(run, nodes)
    child = r.begun("x")
    r.send("a", 0, 1, 5)
    assert r.take("c", 3) == [["in", 0, {}], ["in", 1, {}], ["INPUT_CLOSED", "in"]]
    r.send("b", 7)
    assert r.take("c") == [["also", 7, {}]]
    child.expect(MemberEnded)
    assert [said.node for said in child.has_said(MemberEnded)] == ["x"]
    child.kill()
    second = r.begun("x", cause="SIGKILL")
    r.send("b", 8)
    assert r.take("c", 2)[1] == ["also", 8, {}]
    assert second.code is None
    assert r.figures("x")["status"] == "ended" and r.queue("x", "in")[4] == 1, "the third message is discarded"


def test_stop_all_of_one_operator_is_told_to_the_runtime(run: Make) -> None:
    r = shared(run, line("Stops", "Show"))
    child = r.begun("x")
    r.send("a", 2)
    assert r.take("c", 2) == [["in", 2, {}], ["INPUT_CLOSED", "in"]]
    child.expect(StopAll)


def test_a_stop_is_told_to_all_and_what_they_send_then_waits_for_the_next_run(run: Make) -> None:
    r = shared(run, line())
    child = r.begun("x")
    child.send(Stop("MANUAL", 5.0))
    assert child.wait() == 0
    assert child.has_said(Bye) == [Bye(False, "")]
    assert r.take("c") == ["MANUAL"]
    assert r.queued("y", "in") == [1000]
    r.begun("x")
    assert r.take("c") == [[1000, "x/out#1", 1, "x/out"]]


def test_one_operator_is_asked_to_end_and_the_others_end_after_it(run: Make) -> None:
    nodes = {"x": operator("Ticks", {"tick": "timer/secs/1000"}), "y": operator("Show", {"in": "x/out"}),
             "c": {"inputs": {"in": "y/out"}}}  # fmt: skip
    r = shared(run, nodes)
    child = r.begun("x")
    child.send(StopMember("x", "MANUAL"))
    assert r.take("c", 3) == [["INPUT_CLOSED", "in"], ["STOP", "ALL_INPUTS_CLOSED"], ("INPUT_CLOSED", "", None)]
    assert child.wait() == 0


def test_one_operator_is_told_to_make_no_more_ticks(run: Make) -> None:
    nodes = {"x": operator("Show", {"tick": "timer/millis/10"}), "y": operator("Show", {"tick": "timer/millis/10"}),
             "c": {"inputs": {"x": "x/out", "y": "y/out"}}}  # fmt: skip
    r = shared(run, nodes)
    child = r.begun("x")
    r.take("c", 4)
    child.send(QuietMember("x"))
    wait_until(lambda: all(r.take("c")[0] and not r.queued("c", "x") for _ in range(10)), "only ticks of y")


# --- the rest of a life ---------------------------------------------------------------------------------------------


def test_the_code_of_all_is_tried_at_a_reload(run: Make) -> None:
    r = shared(run, line())
    child = r.begun("x")
    (r.folder / "op.py").write_text("nonsense(")
    child.send(Reload())
    assert "SyntaxError" in child.expect(ReloadFailed).error
    (r.folder / "op.py").write_text(OPERATORS)
    child.send(Reload())
    assert child.wait() == EXIT_RELOAD


@pytest.mark.parametrize("bad", ["x", "y"])
def test_an_operator_that_cannot_be_made_is_named(run: Make, bad: str) -> None:
    nodes = line()
    nodes[bad]["operator"]["python"] = "op.py:Missing"
    r = shared(run, nodes)
    child = r.start("x")
    r.welcome(child)
    failed = child.expect(Failed)
    assert (failed.node, failed.where, failed.permanent) == (bad, "import", True)


def test_two_operators_of_one_file_are_of_one_module(run: Make) -> None:
    code = textwrap.dedent("""
        made = []
        class First:
            def __init__(self): made.append("first")
            def on_event(self, event, ctx): ctx.send_output("out", list(made))
        class Second(First):
            def __init__(self): made.append("second")
    """)
    nodes = line()
    nodes["x"]["operator"]["python"] = "both.py:First"
    nodes["y"]["operator"]["python"] = "both.py:Second"
    r = shared(run, nodes, both=code)
    r.begun("x")
    r.send("a", 1)
    assert r.take("c") == [["first", "second"]]


@pytest.mark.parametrize("both", [True, False])
def test_operators_of_different_folders_do_not_get_each_others_modules(run: Make, both: bool) -> None:
    code = "import util\nclass Operator:\n    def on_event(self, event, ctx): ctx.send_output('out', util.NAME)\n"
    nodes = line()
    nodes["x"]["operator"]["python"] = "one.py"
    nodes["y"]["operator"]["python"] = "there/other.py"
    r = shared(run, nodes, one=code, util="NAME = 'here'")
    there = r.folder / "there"
    there.mkdir()
    (there / "other.py").write_text(code)
    if both:
        (there / "util.py").write_text("NAME = 'there'")
        child = r.start("x")
        r.welcome(child)
        failed = child.expect(Failed)
        assert (failed.where, failed.permanent) == ("import", True) and "another 'util'" in failed.error
    else:
        r.begun("x")
        r.send("a", 1)
        assert r.take("c") == ["here"]


def test_records_are_of_the_operator_that_made_them(run: Make) -> None:
    r = shared(run, line("Logs", "Logs"))
    child = r.begun("x")
    r.send("a", 1)
    assert r.take("c") == [1]
    told = wait_until(lambda: child.has_said(LogOf)[:4] if len(child.has_said(LogOf)) > 3 else [], "four records")
    assert [(said.node, said.text) for said in told] == [
        ("x", "own x"), ("x", "another of x"), ("y", "own y"), ("y", "another of y"),
    ]  # fmt: skip


def test_the_pulse_names_the_operator_whose_handler_runs(run: Make) -> None:
    r = shared(run, line("Add", "Slow"))
    child = r.begun("x")
    r.send("a", 1)
    page = pulse.PulsePage(r.dir.pulse(r.numbers["x"]["number"]))
    wait_until(lambda: page.words[pulse.MEMBER] == 1 and page.words[pulse.PHASE] == pulse.HANDLING, str(child))
    page.close()


def test_an_input_inside_falls_silent_and_recovers(run: Make) -> None:
    r = shared(run, line("Add", "Show", input_timeout="200ms"))
    r.begun("x")
    r.send("a", 1)
    assert r.take("c", 2) == [["in", 2, {}], ["INPUT_CLOSED", "in"]]
    r.send("a", 2)
    assert r.take("c", 2) == [["INPUT_RECOVERED", "in"], ["in", 3, {}]]


def test_one_full_queue_outside_holds_up_the_whole_process(run: Make) -> None:
    nodes = line()
    nodes["c"]["inputs"]["in"] = {"source": "y/out", "queue_size": 2}
    r = shared(run, nodes)
    child = r.begun("x")
    r.send("a", *range(6))
    wait_until(lambda: child.pulse.phase == pulse.WAITING_FOR_ROOM)
    assert r.private("x")["last"] == b"1" and len(r.queued("a" and "x", "in")) == 4
    assert [found[0] for found in r.take("c", 6)] == [1, 3, 6, 10, 15, 21]


def test_queue_options_of_an_input_inside_hold_nobody_up(run: Make) -> None:
    r = shared(run, line("Many", "Show", queue_size=1))
    r.begun("x")
    r.send("a", 1100)
    assert [value for _, value, _ in r.take("c", 1100)] == [*range(1100)]


def test_what_waits_farthest_downstream_comes_first(run: Make) -> None:
    nodes = {
        "a": {"outputs": ["out"]},
        "x": operator("Many", {"in": "a/out"}),
        "y": operator("Many", {"in": "x/out"}),
        "z": operator("Show", {"in": "y/out"}),
        "c": {"inputs": {"in": "z/out"}},
    }
    r = shared(run, nodes)
    r.begun("x")
    r.send("a", 60)  # 1770 messages for z
    found = [value for _, value, _ in r.take("c", 1770)]
    assert found == [number for count in range(60) for number in range(count)]
