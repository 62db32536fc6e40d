"""What an event of a shared process costs the others: room, bytes, failures of events that are no messages, forks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.fake_runtime import Child, Run
from support.kit import MB, send
from support.procs import wait_until

from noderuntime.ipc import pulse
from noderuntime.ipc.protocol import EXIT_FENCED, EXIT_RELOAD, Failed, MemberEnded, Reload, Stop, StopMember
from noderuntime.space.dead_letters import letters
from noderuntime.space.environment import MARK_NEW_WORK, MARK_SINGLE, scan

Make = Callable[..., Run]

OPERATORS = """
import os
from noderuntime import Operator, Source, Status

class Floods(Source):
    '''Sends as much as there is room for.'''
    def produce(self, position, ctx):
        ctx.send_output("out", b"x" * SIZE)
        return (position or 0) + 1

class Payloads(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("large", b"x" * 1_000_000)

class Pass(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out", event["value"])

class Sizes(Operator):
    '''Says how large what it gets is, and what its first byte is.'''
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            value = event["value"]
            ctx.send_output("out", [event["id"], len(value), int(value[0])])

class Texts(Operator):
    '''Sends so many large texts.'''
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            for number in range(event["value"]):
                ctx.send_output("out", f"{number:06}" * 10_000)

class Heads(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out", int(event["value"][:6]))

class Watches(Operator):
    '''Passes on the changes of keys.'''
    def __init__(self, ctx):
        ctx.kvs.watch("w/")
    def on_event(self, event, ctx):
        if event["type"] == "KVS_UPDATE":
            ctx.send_output("out", int(event["value"]))

class Many(Operator):
    '''Sends as many numbers as it is told; for a change of a key its value.'''
    def __init__(self, ctx):
        ctx.kvs.watch("many/")
    def on_event(self, event, ctx):
        if event["type"] in ("INPUT", "KVS_UPDATE"):
            for number in range(int(event["value"])):
                ctx.send_output("out", number)

class Times(Operator):
    '''Sends every number three times.'''
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            for times in range(3):
                ctx.send_output("out", event["value"] * 10 + times)

class Show(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out", [event["id"], event["value"]])

class Ticks(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out", 13)

class Waits(Operator):
    '''Passes on, from its third life on.'''
    def on_event(self, event, ctx):
        import time
        if event["type"] == "INPUT":
            while ctx.incarnation == 2:
                time.sleep(0.01)
            ctx.send_output("out", event["value"])

class Refuses(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            if event["value"] in (13, "last words"):
                raise ValueError("unlucky")
            ctx.send_output("out", event["value"])

class LastWords(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "STOP":
            ctx.send_output("out", "last words")
            if not os.path.exists("mended"):
                raise ValueError("not yet")

class Stops(Operator):
    '''Ends with the number 1.'''
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out", event["value"])
            return Status.STOP if event["value"] == 1 else None

class Blows(Operator):
    '''Makes something large of each number.'''
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out", b"x" * 60_000)

class HangsBeside(Operator):
    def on_event(self, event, ctx):
        import time
        if event["type"] == "INPUT" and event["id"] == "also":
            time.sleep(60)

class Forks(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("out", event["value"])
            pid = os.fork()
            if not pid:
                CHILD
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)

class ForkingLines(Source):
    def produce(self, position, ctx):
        number = position or 0
        if number == 3:
            return Source.END
        with open("produced", "a") as file:
            file.write(f"{number}\\n")
        ctx.send_output("out", number)
        pid = os.fork()
        if not pid:
            CHILD
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        return number + 1

class Notes(Operator):
    '''Whoever handles something leaves a line.'''
    def on_event(self, event, ctx):
        with open("handled", "a") as file:
            file.write(f"{event['type']}\\n")
        if event["type"] == "INPUT":
            ctx.send_output("out", event["value"])
"""


def operator(name: str, inputs: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    code = {"python": f"op.py:{name}", "inputs": inputs or {}, "outputs": ["out"]}
    return {"process": "p", "operator": code, **more}


def shared(run: Make, nodes: dict[str, Any], bytes_: int = 16 * MB, child: str = "pass", size: int = 3000) -> Run:
    code = OPERATORS.replace("CHILD", child).replace("SIZE", str(size))
    return run(nodes, bytes_, op=code)


def line(first: str, second: str) -> dict[str, Any]:
    """a feeds x, which feeds y in the same process; c takes what y sends."""
    return {
        "a": {"outputs": ["out"]},
        "x": operator(first, {"in": "a/out"}),
        "y": operator(second, {"in": "x/out"}),
        "c": {"inputs": {"in": "y/out"}},
    }


def beside(source: str) -> dict[str, Any]:
    """A Source x, whose messages nobody takes, beside y, which passes on from a to c. With its input a is not the first
    that has to wait.
    """
    return {
        "begin": {"outputs": ["out"]},
        "a": {"inputs": {"in": "begin/out"}, "outputs": ["out"]},
        "x": operator(source),
        "y": operator("Pass", {"in": "a/out"}),
        "c": {"inputs": {"in": "y/out"}},
        "never": {"inputs": {"in": {"source": "x/out", "queue_size": 1_000_000, "queue_bytes": "1GB"}}},
    }


def share(r: Run) -> float:
    return r.space.used_bytes() / r.space.size_bytes


def failed_life(r: Run, child: Child, node: str, entered: str, leader: str = "x") -> Child:
    """A life that raised ends, and the next one begins, as the runtime does it."""
    failed = child.expect(Failed)
    assert (failed.node, child.wait()) == (node, 1)
    hands = [list(hand) for hand in child.pulse_of(entered).hands]
    assert len(hands) == 1
    mine, others = (hands, {}) if entered == leader else ([], {entered: hands})
    cause = f"{failed.where} of {failed.node}: {failed.error}"
    return r.begun(leader, cause=cause, counts=True, hands=mine, of_others=others)


# --- room in the space ----------------------------------------------------------------------------------------------


def test_a_source_waits_in_a_space_that_fills_up_and_its_neighbours_go_on(run: Make) -> None:
    r = shared(run, beside("Floods"))
    child = r.begun("x")
    wait_until(lambda: share(r) > MARK_NEW_WORK, str(child))
    for number in range(100):
        r.send("a", number)
        assert r.take("c") == [number]
    assert share(r) < MARK_SINGLE, "nothing new was begun"
    assert child.code is None and not child.has_said(Failed)


def test_a_source_goes_on_when_there_is_room_again(run: Make) -> None:
    r = shared(run, beside("Floods"), 4 * MB)
    child = r.begun("x")
    wait_until(lambda: share(r) > MARK_NEW_WORK, str(child))
    sent = r.figures("x")["outputs"]["out"]
    r.take("never", sent // 2)
    wait_until(lambda: r.figures("x")["outputs"]["out"] > sent, str(child))


def test_a_source_whose_event_finds_no_room_ends_this_life_so_that_its_neighbours_can_make_some(run: Make) -> None:
    """Its group is begun while there is room, and is larger than that."""
    r = shared(run, beside("Floods"), 1 * MB, size=30_000)
    r.send("a", 1)
    first = r.begun("x")
    assert r.take("c") == [1]
    assert first.wait() == EXIT_FENCED and not first.has_said(Failed)
    r.send("a", 2)
    second = r.begun("x", cause="it was fenced")
    r.take("c")
    assert r.take("c") == [2]
    assert second.code is None


def test_a_source_that_finds_no_room_for_a_payload_has_not_failed(run: Make) -> None:
    r = shared(run, beside("Floods"), 16 * MB, size=1_000_000)
    child = r.begun("x")
    assert child.wait() == EXIT_FENCED
    assert not child.has_said(Failed), "it waited for room: that is nobody's fault"
    sent = r.figures("x")["outputs"]["out"]
    assert sent == len(r.queued("never", "in")) > 0
    second = r.begun("x", cause="it was fenced")
    r.take("c")
    for number in range(20):  # what this life makes of it is made at once: nobody waits for the Source
        r.send("a", number)
        assert r.take("c") == [number]
    assert r.figures("x")["outputs"]["out"] == sent and second.code is None
    r.take("never", sent)
    wait_until(lambda: r.figures("x")["outputs"]["out"] > sent, str(second))


@pytest.mark.parametrize("message", [Stop("MANUAL", 30.0), Reload()])
def test_a_process_that_waits_for_room_for_a_payload_can_be_ended_and_has_not_failed(run: Make, message: Any) -> None:
    """An operator that was sent something waits as long as it takes: only its receivers can make room."""
    nodes = line("Payloads", "Pass")
    nodes["c"]["inputs"]["in"] = {"source": "y/out", "queue_bytes": "1GB"}
    nodes["x"]["operator"]["outputs"].append("large")
    nodes["d"] = {"inputs": {"in": {"source": "x/large", "queue_bytes": "1GB"}}}
    r = shared(run, nodes)
    child = r.begun("x")
    r.send("a", *range(30))
    wait_until(lambda: child.pulse.phase == pulse.WAITING_FOR_ROOM, str(child))
    child.send(message)
    assert child.wait() == (0 if isinstance(message, Stop) else EXIT_RELOAD)
    assert not child.has_said(Failed)
    done = len(r.queued("d", "in"))
    assert r.queued("x", "in") == [*range(done, 30)], "what found no room is handled by the next life"
    r.begun("x", cause="reloaded")
    assert len([value for value in r.take("d", 31) if type(value) is not tuple]) == 30


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_beyond_the_bytes_of_one_event_messages_go_through_the_mailbox_in_order(run: Make) -> None:
    r = shared(run, line("Texts", "Heads"))
    child = r.begun("x")
    count = r.space.event_bytes_max // 60_000 + 20
    r.send("a", count, 2)
    assert r.take("c", count + 2) == [*range(count), 0, 1]
    wait_until(lambda: child.pulse.commits > 2, "the last one to be counted")


def test_less_than_the_bytes_of_one_event_is_one_commit(run: Make) -> None:
    r = shared(run, line("Texts", "Heads"))
    child = r.begun("x")
    count = r.space.event_bytes_max // 60_000 - 5
    r.send("a", count)
    assert r.take("c", count) == [*range(count)]
    wait_until(lambda: child.pulse.phase == pulse.WAITING, "what it did to be counted")
    assert child.pulse.commits == 1


@pytest.mark.parametrize("killed", [False, True])
def test_a_large_payload_from_outside_reaches_the_second_operator(run: Make, killed: bool) -> None:
    nodes = line("Pass", "Sizes")
    nodes["y"]["operator"]["inputs"]["also"] = "a/out"
    r = shared(run, nodes)
    if killed:
        r.begun("x").kill()
    r.send("a", b"\x05" * 500_000)
    child = r.begun("x", cause="SIGKILL" if killed else "")
    found = [value for value in r.take("c", 3 if killed else 2) if isinstance(value, list)]
    assert sorted(found) == [["also", 500_000, 5], ["in", 500_000, 5]]
    assert child.code is None


def test_the_limit_of_what_an_event_sends_is_that_of_each_handler(run: Make) -> None:
    nodes = line("Many", "Blows")
    nodes["c"]["inputs"]["in"] = {"source": "y/out", "queue_bytes": "1GB"}
    r = shared(run, nodes)
    child = r.begun("x")
    count = r.space.event_bytes_max // 60_000 + 10
    r.send("a", count)
    assert [len(value) for value in r.take("c", count)] == [60_000] * count
    wait_until(lambda: child.pulse.phase == pulse.WAITING, "what it did to be counted")
    assert child.pulse.commits == 1 and not child.has_said(Failed)


# --- ends, and what is in hand --------------------------------------------------------------------------------------


def test_what_an_event_has_sent_to_an_operator_that_ends_with_it_is_discarded_and_counted(run: Make) -> None:
    r = shared(run, line("Many", "Stops"))
    child = r.begun("x")
    r.send("a", 5)
    assert r.take("c", 3) == [0, 1, ("INPUT_CLOSED", "", None)]
    wait_until(lambda: r.figures("y")["status"] == "ended", str(child))
    figures = r.figures("y")["inputs"]["in"]
    assert (figures["taken"], figures["discarded"], figures["queued"]) == (2, 3, 0)
    assert child.code is None


def test_messages_that_were_read_for_an_operator_that_has_ended_are_not_handled(run: Make) -> None:
    nodes = line("Stops", "Show")
    nodes["b"] = {"outputs": ["out"]}
    nodes["y"]["operator"]["inputs"]["also"] = "b/out"
    r = shared(run, nodes)
    assert send(r.play("a"), *[0] * 20, 1, 5, 7) == 23
    r.send("b", 9)
    child = r.begun("x")
    assert sorted(r.take("c", 22)) == [["also", 9], *[["in", 0]] * 20, ["in", 1]]
    figures = r.figures("x")["inputs"]["in"]
    assert (figures["taken"], figures["discarded"]) == (21, 2)
    r.send("b", 10)
    assert r.take("c") == [["also", 10]]
    assert child.code is None and len(r.children) == 1


def test_only_the_message_that_is_handled_is_in_hand(run: Make) -> None:
    nodes = line("Pass", "HangsBeside")
    nodes["y"]["operator"]["inputs"]["also"] = "a/out"
    r = shared(run, nodes)
    r.send("a", 1)  # to both: x handles its own, then y hangs
    child = r.begun("x")
    wait_until(lambda: child.pulse_of("y").hands, str(child))
    assert child.pulse_of("x").hands == ()


# --- mailboxes inside -----------------------------------------------------------------------------------------------


def test_what_waits_inside_is_handled_before_what_waits_outside(run: Make) -> None:
    nodes = line("Many", "Show")
    nodes["b"] = {"outputs": ["out"]}
    nodes["y"]["operator"]["inputs"]["also"] = "b/out"
    nodes["c"]["inputs"]["in"] = {"source": "y/out", "queue_size": 5000}
    r = shared(run, nodes)
    r.send("a", 1100)
    r.send("b", *range(5))  # these are older than the hundred messages that go through the mailbox inside
    r.begun("x")
    assert r.take("c", 1105) == [["in", number] for number in range(1100)] + [["also", number] for number in range(5)]


def test_messages_go_behind_those_that_wait_inside_already(run: Make) -> None:
    """Two changes of keys, one after the other: the first one's messages are not over when the second is handled."""
    nodes = line("Many", "Show")
    nodes["c"]["inputs"]["in"] = {"source": "y/out", "queue_size": 5000}
    r = shared(run, nodes)
    r.begun("x")
    r.ask("kvs_set", key="many/1", value=b"1100")
    r.ask("kvs_set", key="many/2", value=b"2")
    r.ring("x")
    assert r.take("c", 1102) == [["in", number] for number in (*range(1100), 0, 1)]


def test_the_mailbox_farthest_downstream_is_emptied_first(run: Make) -> None:
    """x sends more than a thousand messages, and y three for each: both y and z have some in their mailboxes."""
    nodes = {
        "a": {"outputs": ["out"]},
        "x": operator("Many", {"in": "a/out"}),
        "y": operator("Times", {"in": "x/out"}),
        "z": operator("Show", {"in": "y/out"}),
        "c": {"inputs": {id: {"source": f"{id}/out", "queue_size": 100_000} for id in "yz"}},
    }
    r = shared(run, nodes)
    r.begun("x")
    r.send("a", 1010)
    found = r.take("c", 2 * 3 * 1010)
    first_behind = found.index(10_000)
    assert len([value for value in found[:first_behind] if isinstance(value, list)]) == 3000
    expected = [["in", number * 10 + times] for number in range(1010) for times in range(3)]
    assert [value for value in found if isinstance(value, list)] == expected


def test_what_an_event_that_failed_has_left_inside_is_handled_unfused_in_later_lives_too(run: Make) -> None:
    nodes = {
        "x": operator("Ticks", {"tick": "timer/millis/20"}),
        "y": operator("Waits", {"in": "x/out"}),
        "z": operator("Refuses", {"in": "y/out"}),
        "c": {"inputs": {"in": "z/out"}},
    }
    r = shared(run, nodes)
    child = failed_life(r, r.begun("x"), "z", "x")
    wait_until(lambda: child.pulse_of("y").hands, str(child))
    child.kill()  # behind the commit of the tick, before that of the message which y gets of it
    hands = [list(hand) for hand in child.pulse_of("y").hands]
    child = r.begun("x", cause="SIGKILL", of_others={"y": hands})
    for _ in range(3):
        child = failed_life(r, child, "z", "z")
    with r.space.read() as txn:
        assert [letter.uid for letter in letters(txn, r.numbers["z"]["number"])] == ["y/out#1"]
        assert list(letters(txn, r.numbers["y"]["number"])) == []


# --- events that are no messages ------------------------------------------------------------------------------------


def test_a_change_of_a_key_whose_message_fails_inside_is_committed_alone_and_that_message_buried(run: Make) -> None:
    nodes = {
        "x": operator("Pass", {"tick": "timer/secs/1000"}),
        "y": operator("Watches", {"tick": "timer/secs/1000"}),
        "z": operator("Refuses", {"in": "y/out"}),
        "c": {"inputs": {"in": "z/out"}},
    }
    r = shared(run, nodes)
    child = r.begun("x")
    for number in (12, 13, 14):
        r.ask("kvs_set", key=f"w/{number}", value=str(number).encode())
    r.ring("x")
    child = failed_life(r, child, "z", "y")  # the change, which nobody can bury
    for _ in range(3):
        child = failed_life(r, child, "z", "z")  # the message that y made of it
    values = [value for value in r.take("c", 6) if isinstance(value, int)]
    assert values == [12, 14]
    with r.space.read() as txn:
        (letter,) = letters(txn, r.numbers["z"]["number"])
        assert [key for key, _ in scan(txn, b"a")] == [], "what was noted about the change is forgotten"
    assert (letter.uid, letter.error) == ("y/out#2", "on_event of z: ValueError: unlucky")


def test_a_stop_that_failed_is_handled_again_in_the_next_life(run: Make) -> None:
    nodes = line("LastWords", "Refuses")
    r = shared(run, nodes)
    child = r.begun("x")
    child.send(StopMember("x", "MANUAL"))
    child = failed_life(r, child, "x", "x")
    assert r.figures("x")["status"] == "live" and r.queued("y", "in") == []
    (r.folder / "mended").touch()
    child.send(StopMember("x", "MANUAL"))
    assert [said.node for said in [child.expect(MemberEnded)]] == ["x"]
    for _ in range(3):
        child = failed_life(r, child, "y", "y")  # the last words are a message like others
    assert child.wait() == 0
    with r.space.read() as txn:
        (letter,) = letters(txn, r.numbers["y"]["number"])
        assert [key for key, _ in scan(txn, b"a")] == []
    assert letter.uid == "x/out#1"


def test_a_stop_of_the_run_that_failed_ends_the_process_by_name(run: Make) -> None:
    r = shared(run, line("LastWords", "Refuses"))
    child = r.begun("x")
    child.send(Stop("MANUAL", 5.0))
    failed = child.expect(Failed)
    assert (failed.node, failed.where) == ("x", "on_event") and "not yet" in failed.error
    assert r.queued("y", "in") == [] and r.queued("c", "in") == []


# --- forks ----------------------------------------------------------------------------------------------------------

ENDS = {
    "returns": ("return", "it ends here"),
    "raises": ("raise ValueError('mine')", "ValueError: mine"),
    "sends": ("ctx.send_output('out', 'lost')", "only that one can send"),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("nodes", [("Forks", "Notes"), ("Notes", "Forks")])
def test_a_fork_that_comes_back_from_a_handler_ends_there(run: Make, nodes: tuple[str, str], end: str) -> None:
    """Whichever operator has forked; and nothing is handled twice."""
    what, said = ENDS[end]
    r = shared(run, line(*nodes), child=what)
    r.send("a", 1, 2, 3)
    child = r.begun("x")
    assert r.take("c", 3) == [1, 2, 3]
    wait_until(lambda: [line for line in child.text.split("\n") if line == "1"] == ["1"] * 3, child.text)
    assert child.text.count(said) == 3 and not child.has_said(Failed)
    assert (r.folder / "handled").read_text().split() == ["INPUT"] * 3
    page = pulse.PulsePage(r.dir.pulse(r.numbers["x"]["number"]))
    assert page.words[pulse.PHASE] != pulse.ENDED
    page.close()


@pytest.mark.parametrize("end", ["return number", "return number + 1", "return Source.END", "return Source.IDLE"])
def test_a_fork_that_comes_back_from_a_source_ends_there(run: Make, end: str) -> None:
    nodes = {"x": operator("ForkingLines"), "y": operator("Notes", {"in": "x/out"}), "c": {"inputs": {"in": "y/out"}}}
    r = shared(run, nodes, child=end)
    child = r.begun("x")
    assert r.take("c", 3) == [0, 1, 2]
    assert child.wait() == 0
    assert child.text.count("it ends here") == 3 and child.text.split("\n").count("1") == 3
    assert (r.folder / "produced").read_text().split() == ["0", "1", "2"]
    assert (r.folder / "handled").read_text().split() == ["INPUT"] * 3 + ["INPUT_CLOSED", "STOP"]
