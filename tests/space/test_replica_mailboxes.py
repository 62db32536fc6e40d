"""Replicas in the space: which of them gets a message, the numbers of what they send, and how they end."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from support.kit import Net, commit, send, staged, take

from noderuntime.api.keyed.slots import slot_of
from noderuntime.dataflow.identifiers import replica_id
from noderuntime.dataflow.replicas import owners
from noderuntime.errors import Fenced
from noderuntime.space import keys, records
from noderuntime.space.mailbox import messages

Make = Callable[..., Net]


def flow(replicas: int = 3, partition: str = "value.k", **of_input: Any) -> dict[str, Any]:
    """a and b feed the replicas of s, and the plain node p; c takes what the replicas send."""
    by = {"partition_by": partition} if partition else {}
    operator = {"operator": {"python": "s.py"}, "replicas": replicas, **by}
    return {
        "a": {"outputs": ["out"]},
        "b": {"outputs": ["out"]},
        "s": {**operator, "inputs": {"x": {"source": "a/out", **of_input}, "y": "b/out"}, "outputs": ["out"]},
        "p": {"inputs": {"x": "a/out"}},
        "c": {"inputs": {"in": "s/out"}},
    }


def replicas(count: int) -> list[str]:
    return [replica_id("s", number) for number in range(count)]


def numbers(net: Net, node: str, input: str) -> list[int]:
    """The numbers of the messages that wait, oldest first."""
    ids = net.numbers[node]["number"], net.numbers[node]["inputs"][input]
    with net.space.read() as txn:
        return [records.decode_message(record)[3] for _, record in messages(txn, keys.mailbox(*ids))]


@pytest.mark.parametrize("seed", range(8))
def test_each_message_goes_to_the_owner_of_its_slot_in_order_and_to_every_other_receiver(
    make: Make, seed: int
) -> None:
    dice = random.Random(seed)
    net = make(flow())
    a, b = net.begin("a"), net.begin("b")
    sent: dict[str, list[dict[str, Any]]] = {"x": [], "y": []}
    for _ in range(30):
        sender, input = dice.choice([(a, "x"), (b, "y")])
        values = [{"k": dice.choice([1, 1.0, True, "1", None, "ann", 77]), "n": dice.random()}
                  for _ in range(dice.choice([1, 1, 2, 9]))]  # fmt: skip
        size = dice.choice([1, 3, 9])  # of an event
        events = [staged(sender, *(("out", value) for value in values[at : at + size]))
                  for at in range(0, len(values), size)]  # fmt: skip
        assert commit(sender, *events) == len(events)
        sent[input] += values
    for input in sent:
        for number, node in enumerate(replicas(3)):
            mine = [value for value in sent[input] if owners(3)[slot_of(value["k"])] == number]
            assert net.queued(node, input) == mine
            assert numbers(net, node, input) == sorted(numbers(net, node, input))
    assert net.queued("p", "x") == sent["x"]
    assert numbers(net, "p", "x") == list(range(1, len(sent["x"]) + 1))


def test_a_message_without_the_field_goes_where_null_goes(make: Make) -> None:
    net = make(flow())
    a = net.begin("a")
    send(a, 5, {"other": 1}, {"k": None}, {"k": [2**64 - 1]})
    home = replica_id("s", owners(3)[slot_of(None)])
    assert net.queued(home, "x")[:3] == [5, {"other": 1}, {"k": None}]


def test_without_a_partition_the_one_with_least_waiting_gets_it(make: Make) -> None:
    net = make(flow(partition=""))
    a = net.begin("a")
    send(a, *range(9))
    assert [len(net.queued(node, "x")) for node in replicas(3)] == [3, 3, 3]
    first = net.begin("s")
    for _ in range(3):
        take(net, first)
    routes = a.outputs["out"].routes
    assert routes is not None
    next(iter(routes.groups.values()))._read_ns = 0  # as if some time had passed
    for value in range(3):
        send(a, value)
    assert [len(net.queued(node, "x")) for node in replicas(3)] == [3, 3, 3]


def test_the_limits_of_queues_are_those_of_each_replica_and_a_full_one_holds_up_its_sender(make: Make) -> None:
    net = make(flow(queue_size=2))
    a = net.begin("a")
    keys_of = {owners(3)[slot_of(number)]: number for number in range(50)}
    mine, other = {"k": keys_of[0]}, {"k": keys_of[1]}
    assert send(a, mine, other, mine) == 3
    assert send(a, mine) == 0 and a.waits_for
    assert send(a, other) == 1
    first = net.begin("s")
    take(net, first)
    assert net.wirings["a"].number in first.rings
    assert send(a, mine) == 1


def test_what_replicas_send_has_the_replica_in_the_upper_bits_of_its_number_and_goes_on_in_the_next_life(
    make: Make,
) -> None:
    net = make(flow())
    for number, node in enumerate(replicas(3)):
        for life in range(2):
            mine = net.begin(node)
            send(mine, "m", "m")
            expected = [(number << records.REPLICA_SHIFT) + count for count in range(2 * life + 1, 2 * life + 3)]
            assert numbers(net, "c", "in")[-2:] == expected
        assert net.figures(node)["outputs"] == {"out": 4}
    assert len(set(numbers(net, "c", "in"))) == 12
    assert max(numbers(net, "c", "in")) < 2**53


@pytest.mark.parametrize("by_store", [False, True])
def test_the_last_replica_that_ends_closes_the_outputs(make: Make, by_store: bool) -> None:
    net = make(flow())
    lives = {node: net.begin(node) for node in replicas(3)}
    for at, node in enumerate(["s[1]", "s", "s[2]"]):
        send(lives[node], "last words")
        assert ("INPUT_CLOSED", "", None) not in net.queued("c", "in")
        if by_store:
            net.end(node)
        else:
            commit(lives[node], staged(lives[node], ends=True))
        assert net.queued("c", "in").count("last words") == at + 1
    assert net.queued("c", "in")[-1] == ("INPUT_CLOSED", "", None)
    a = net.begin("a")
    send(a, {"k": 1})
    assert sum(net.queue(node, "x")[records.DISCARDED] for node in replicas(3)) == 1


def test_notices_of_a_sender_go_to_every_replica_and_all_are_rung(make: Make) -> None:
    net = make(flow())
    net.begin("a")
    net.claim("a", cause="killed")
    net.end("b")
    for node in replicas(3):
        assert net.queued(node, "x") == [("NODE_RESTARTED", "a", "killed")]
        assert net.queued(node, "y") == [("INPUT_CLOSED", "", None)]


def test_a_replica_that_fails_is_told_of_by_the_name_of_its_node_and_the_others_go_on(make: Make) -> None:
    net = make(flow())
    lives = {node: net.begin(node) for node in replicas(3)}
    send(lives["s[1]"], "before")
    net.end("s[1]", error="broken")
    assert net.queued("c", "in") == ["before", ("NODE_FAILED", "s", "broken")]
    a = net.begin("a")
    send(a, *({"k": number} for number in range(30)))
    assert net.queue("s[1]", "x")[records.QUEUED] == sum(owners(3)[slot_of(number)] == 1 for number in range(30))
    send(lives["s"], "after")
    net.end("s")
    net.end("s[2]")
    closed = net.queued("c", "in")[-1]
    assert closed[0] == "INPUT_CLOSED" and "a replica of s has failed" in closed[2]
    assert net.queue("c", "in")[records.FLAGS] & records.SOURCE_FAILED
    net.ask("revive", node="s[1]", others=[])
    assert net.claim("s[1]", cause="node restart")["incarnation"] > 1
    assert net.queued("c", "in")[-1] == ("NODE_RESTARTED", "s", "node restart")
    net.end("s[1]")
    assert net.queued("c", "in")[-1] == ("INPUT_CLOSED", "", None)


def test_a_replica_that_takes_a_message_of_replicas_rings_all_of_them(make: Make) -> None:
    nodes = flow(queue_size=2)
    nodes["c"]["inputs"] = {"in": {"source": "s/out", "queue_size": 2}}
    net = make(nodes)
    lives = [net.begin(node) for node in replicas(3)]
    send(lives[0], 1, 2)
    assert send(lives[1], 3) == 0
    c = net.begin("c")
    take(net, c)
    assert {net.wirings[node].number for node in replicas(3)} <= c.rings


def test_one_that_stops_by_itself_ends_all_of_them_in_its_commit(make: Make) -> None:
    net = make(flow())
    a = net.begin("a")
    send(a, *({"k": number} for number in range(30)))
    lives = {node: net.begin(node) for node in replicas(3)}
    event = staged(lives["s[1]"], ("out", "last"), ack=net.messages(lives["s[1]"])[0], ends=True)
    event.also().by_itself = True
    assert commit(lives["s[1]"], event) == 1
    assert net.queued("c", "in") == ["last", ("INPUT_CLOSED", "", None)]
    assert {net.wirings[node].number for node in ("s", "s[2]")} <= lives["s[1]"].rings
    for node in replicas(3):
        assert net.queued(node, "x") == [] and net.figures(node)["status"] == "ended"
        assert net.claim(node)["ended"]
    assert sum(net.queue(node, "x")[records.DISCARDED] for node in replicas(3)) == 29
    for node in ("s", "s[2]"):
        with pytest.raises(Fenced):
            commit(lives[node], staged(lives[node], ("out", "too late")))
    assert send(a, {"k": 1}) == 1
