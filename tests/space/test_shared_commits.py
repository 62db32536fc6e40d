"""Operators that share a process, in the space: one fence, one commit, one claim, one end."""

from __future__ import annotations

from typing import Any

import pytest
from support.kit import CHAIN, Make, Net, Nodes, commit, send, shown, staged

from noderuntime.errors import Fenced
from noderuntime.space import keys, records
from noderuntime.space.commit import Commits
from noderuntime.space.dead_letters import letters
from noderuntime.space.environment import scan
from noderuntime.space.staging import Staged


def operator(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"process": "p", "operator": {"python": "op.py", "inputs": inputs, "outputs": ["out"]}}


SHARED: Nodes = {
    "a": {"outputs": ["out"]},
    "x": operator({"in": "a/out"}),
    "y": operator({"in": "x/out", "also": "a/out"}),
    "c": {"inputs": {"in": "y/out"}},
}


@pytest.fixture
def net(make: Make) -> Net:
    return make(SHARED)


def hand(net: Net, node: str, input: str, at: int = 0) -> list[int]:
    """The place of a message that waits."""
    number = net.numbers[node]
    with net.space.read() as txn:
        prefix = keys.mailbox(number["number"], number["inputs"][input])
        found = [key for key, _ in scan(txn, prefix)]
    return list(keys.parse_message(found[at])[1:])


def attempts(net: Net, node: str) -> dict[tuple[int, ...], tuple[int, ...]]:
    with net.space.read() as txn:
        found = scan(txn, keys.attempts_prefix(net.numbers[node]["number"]))
        return {keys.parse_message(key)[1:]: records.ATTEMPTS.unpack(value) for key, value in found}


def put(net: Net, *values: Any) -> None:
    """One message a commit, so that each lies alone."""
    a = net.begin("a")
    for value in values:
        send(a, value)


def ends(commits: Commits, *places: int, stops_all: bool = False) -> Staged:
    event = Staged()
    rare = event.also()
    rare.ends, rare.ending, rare.stops_all = True, places, stops_all
    return event


# --- the commit -----------------------------------------------------------------------------------------------------


def test_one_commit_changes_all_nodes_of_the_process(net: Net) -> None:
    put(net, 1)
    p = net.begin("x")
    x, y = p.nodes
    event = staged(p, ack=net.messages(p, 1)[0], private={"of": b"x"})
    event.inside = [y.inputs["in"]]
    event.private = {**(event.private or {}), keys.private_prefix(net.numbers["y"]["number"]) + b"of": b"y"}
    event.numbers = {x.outputs["out"].counter: 1}
    y.outputs["out"].stage(event, "result", None, net.space)  # type: ignore[arg-type]
    assert commit(p, event) == 1
    assert (net.private("x"), net.private("y")) == ({"of": b"x"}, {"of": b"y"})
    assert net.queued("c", "in") == ["result"] and net.queued("y", "in") == []
    assert net.figures("x")["outputs"] == net.figures("y")["outputs"] == {"out": 1}
    assert net.figures("y")["inputs"]["in"]["taken"] == 1


@pytest.mark.parametrize("count", [1, 40])
def test_what_goes_outside_and_what_stays_inside_of_a_group_is_counted_apart(net: Net, count: int) -> None:
    """Also where the messages for outside are a pack, and where there is not room for all."""
    p = net.begin("x")
    x, y = p.nodes
    group = []
    for number in range(count):
        event = Staged()
        event.inside = [y.inputs["in"]]
        event.numbers = {x.outputs["out"].counter: number + 1}
        y.outputs["out"].stage(event, number, None, net.space)  # type: ignore[arg-type]
        group.append(event)
    assert commit(p, *group) == count
    assert net.queued("c", "in") == [*range(count)]
    assert net.figures("x")["outputs"] == {"out": count}
    assert net.figures("y")["inputs"]["in"]["taken"] == count


def test_of_a_group_that_does_not_fit_outside_what_fits_is_committed(make: Make) -> None:
    net = make({**SHARED, "c": {"inputs": {"in": {"source": "y/out", "queue_size": 3}}}})
    p = net.begin("x")
    x, y = p.nodes
    group = []
    for number in range(5):
        event = Staged()
        event.numbers = {x.outputs["out"].counter: number + 1}
        y.outputs["out"].stage(event, number, None, net.space)  # type: ignore[arg-type]
        group.append(event)
    assert commit(p, *group) == 3 and p.waits_for
    assert net.figures("x")["outputs"] == net.figures("y")["outputs"] == {"out": 3}
    assert net.queued("c", "in") == [0, 1, 2]


def test_a_mailbox_inside_admits_everything(make: Make) -> None:
    inputs = {"in": {"source": "x/out", "queue_size": 1}, "also": "a/out"}
    net = make({**SHARED, "y": operator(inputs)})
    p = net.begin("x")
    assert send(p, *range(20)) == 20, "a process that waited for itself would wait for ever"
    assert net.queued("y", "in") == [*range(20)]


def test_the_process_is_fenced_by_one_record(net: Net) -> None:
    old = net.begin("x")
    net.claim("x", cause="killed")
    with pytest.raises(Fenced):
        commit(old, staged(old, ("out", 1)))
    assert net.figures("x")["incarnation"] == net.figures("y")["incarnation"] == 2


# --- the claim ------------------------------------------------------------------------------------------------------


def test_what_was_in_hand_is_counted_at_the_operator_whose_message_it_was(net: Net) -> None:
    put(net, 1, 2)
    net.claim("x")
    at = hand(net, "y", "also")
    found = net.claim("x", cause="no", counts=True, of_others={"y": [at]})
    assert found["attempts"] == [[*at, 1, net.numbers["y"]["number"]]]
    assert attempts(net, "x") == {} and attempts(net, "y") == {tuple(at): (1, 1)}


def test_a_message_becomes_a_dead_letter_of_the_operator_at_which_it_entered(net: Net) -> None:
    put(net, 1, 2)
    net.claim("x")
    at = hand(net, "y", "also")
    for _ in range(2):
        assert net.claim("x", cause="no", counts=True, of_others={"y": [at]})["buried"] == ""
    found = net.claim("x", cause="on_event of x: no", counts=True, of_others={"y": [at]})
    assert (found["buried"], found["entry"]) == ("a/out#1", "y")
    with net.space.read() as txn:
        (letter,) = letters(txn, net.numbers["y"]["number"])
    assert (letter.input, letter.error, letter.attempts) == ("also", "on_event of x: no", 3)
    assert net.queued("y", "also") == [2] and net.queued("x", "in") == [1, 2]


def test_a_message_in_a_pack_becomes_a_dead_letter_too(net: Net) -> None:
    a = net.begin("a")
    send(a, *range(10))
    p = net.begin("x")
    key, _ = net.messages(p, 3)[2]
    at = list(keys.parse_message(key)[1:])
    for _ in range(3):
        found = net.claim("x", cause="no", counts=True, hands=[at])
    assert (found["buried"], found["entry"]) == ("a/out#3", "x")
    assert net.queued("x", "in") == [0, 1, *range(3, 10)] and net.queued("y", "also") == [*range(10)]


def test_an_event_that_is_no_message_is_noted_when_it_has_failed_and_never_buried(net: Net) -> None:
    event = [keys.NO_INPUT, 0, 0]
    net.claim("x", cause="killed", counts=False, hands=[event])
    assert attempts(net, "x") == {}, "a kill from outside is no failure"
    for lives in range(1, 6):
        found = net.claim("x", cause="no", counts=True, hands=[event])
        assert found["buried"] == "" and found["attempts"] == [[*event, lives, net.numbers["x"]["number"]]]


def test_a_node_with_a_process_of_its_own_notes_messages_only(make: Make) -> None:
    net = make(CHAIN)
    net.claim("b", cause="no", counts=True, hands=[[keys.NO_INPUT, 0, 0]])
    assert attempts(net, "b") == {}


def test_receivers_outside_are_told_of_a_restart_and_those_inside_are_not(net: Net) -> None:
    net.claim("x")
    net.claim("x", cause="killed")
    assert net.queued("c", "in") == [("NODE_RESTARTED", "y", "killed")]
    assert net.queued("y", "in") == []


# --- the end --------------------------------------------------------------------------------------------------------


def test_an_operator_ends_alone_and_the_next_claim_says_so(net: Net) -> None:
    p = net.begin("x")
    assert commit(p, ends(p, 0)) == 1
    assert net.figures("x")["status"] == "ended" and net.figures("y")["status"] == "live"
    assert net.queued("y", "in") == [("INPUT_CLOSED", "", None)] and net.queued("c", "in") == []
    found = net.claim("x", cause="killed")
    assert found["ended_members"] == ["x"] and not found["stop_all"]
    assert net.queued("c", "in") == [("NODE_RESTARTED", "y", "killed")]


def test_a_claim_of_a_process_that_has_ended_is_refused(net: Net) -> None:
    p = net.begin("x")
    assert commit(p, ends(p, 0, 1, stops_all=True)) == 1
    assert net.claim("x", cause="killed") == {"ended": True, "stop_all": True}
    assert net.queued("c", "in") == [("INPUT_CLOSED", "", None)]


def test_the_failed_event_of_an_operator_that_has_ended_is_forgotten(net: Net) -> None:
    net.claim("x")
    found = net.claim("x", cause="no", counts=True, hands=[[keys.NO_INPUT, 0, 2]])
    p = Commits(net.space, net.wirings["x"], found["incarnation"])
    assert attempts(net, "x")
    commit(p, ends(p, 0))
    assert attempts(net, "x") == {}


def test_a_process_that_fails_fails_as_a_whole_and_keeps_what_waits(net: Net) -> None:
    put(net, 1)
    p = net.begin("x")
    net.end("x", "on_event of y: no")
    assert net.figures("x")["status"] == net.figures("y")["status"] == "failed"
    assert net.queued("x", "in") == net.queued("y", "also") == [1]
    assert net.queued("y", "in") == [], "operators of the process are not told of each other"
    assert [kind for kind, *_ in net.queued("c", "in")] == ["NODE_FAILED", "INPUT_CLOSED"]
    with pytest.raises(Fenced):
        commit(p, staged(p, ("out", 1)))


def test_a_process_that_had_failed_lives_again_but_not_its_operators_that_had_ended(net: Net) -> None:
    p = net.begin("x")
    commit(p, ends(p, 0))
    net.end("x", "no")
    net.ask("revive", node="x", others=["y"])
    assert net.figures("x")["status"] == "ended" and net.figures("y")["status"] == "live"
    assert net.claim("x", cause="no")["ended_members"] == ["x"]


def test_messages_of_a_group_are_acknowledged_at_several_nodes(net: Net) -> None:
    put(net, 1, 2)
    p = net.begin("x")
    x, y = p.nodes
    found = []
    for ports in (x, y):
        for item in ports.inputs.values():
            with net.space.read() as txn:
                found += [(key, item, record) for key, record in scan(txn, item.mailbox)]
    group = []
    for key, item, record in found:
        event = Staged()
        event.ack = key, item, record
        group.append(event)
    assert [shown(record) for _, _, record in found] == [1, 2, 1, 2]
    assert commit(p, *group) == 4
    assert net.queued("x", "in") == net.queued("y", "also") == []
