"""A run that is resumed with another number of replicas: each message is where its slot is owned now, in order."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from support.kit import Net, commit, send, staged
from test_replica_mailboxes import flow, replicas

from noderuntime.api.keyed.slots import slot_of
from noderuntime.space import dead_letters, keys, lives, records, routing

Make = Callable[..., Net]


def owned(net: Net, count: int) -> tuple[int, ...]:
    with net.space.read() as txn:
        return routing.owners_of(txn, net.numbers["s"]["number"], count)


def waiting(net: Net, count: int, input: str = "x") -> list[list[Any]]:
    return [net.queued(node, input) for node in replicas(count)]


def check_queues(net: Net, count: int) -> None:
    for node in replicas(count):
        for input in ("x", "y"):
            found = [item for item in net.queued(node, input) if not isinstance(item, tuple)]
            assert net.queue(node, input)[records.QUEUED] == len(found)


@pytest.mark.parametrize("seed", range(10))
def test_what_waits_goes_to_the_owners_of_now_in_the_order_of_sending(make: Make, seed: int) -> None:
    dice = random.Random(seed)
    count = dice.choice([1, 2, 3, 5])
    net = make(flow(count))
    sent: list[dict[str, Any]] = []
    taken: list[dict[str, Any]] = []
    number = 0
    for _ in range(6):
        a = net.begin("a")
        for _ in range(dice.randint(0, 6)):
            values = [{"k": dice.randrange(40), "n": number + at} for at in range(dice.choice([1, 2, 30]))]
            number += len(values)
            assert send(a, *values) == len(values)
            sent += values
        for node in replicas(count):
            mine = net.begin(node)
            for message in net.messages(mine)[: dice.randint(0, 9)]:
                taken.append(records.decode_message(message[1])[1])
                assert commit(mine, staged(mine, ack=message)) == 1
        count = dice.choice([1, 2, 3, 4, 7])
        net.open(flow(count), resume=True)
        left = [value for value in sent if value not in taken]
        home = owned(net, count)
        assert waiting(net, count) == [
            [value for value in left if home[slot_of(value["k"])] == replica] for replica in range(count)
        ]
        check_queues(net, count)
        taken_counts = sum(net.queue(node, "x")[records.TAKEN] for node in replicas(count))
        assert taken_counts <= len(taken)
    assert net.queued("p", "x") == sent


def test_as_many_as_before_changes_nothing(make: Make) -> None:
    net = make(flow(3))
    a = net.begin("a")
    send(a, *({"k": number} for number in range(50)))
    before = waiting(net, 3)
    opened = net.open(flow(3), resume=True)
    assert waiting(net, 3) == before and opened["dropped"] == []


def test_another_partition_puts_what_waits_elsewhere(make: Make) -> None:
    net = make(flow(3))
    send(net.begin("a"), *({"k": number, "j": -number} for number in range(50)))
    net.open(flow(3, partition="value.j"), resume=True)
    home = owned(net, 3)
    assert waiting(net, 3) == [
        [{"k": number, "j": -number} for number in range(50) if home[slot_of(-number)] == replica]
        for replica in range(3)
    ]


def test_it_is_told_and_a_replica_that_is_gone_is_no_loss(make: Make) -> None:
    net = make(flow(3))
    send(net.begin("a"), *({"k": number} for number in range(50)))
    assert net.open(flow(1), resume=True)["dropped"] == ["node 's' has 1 replicas now; before it had 3"]
    assert len(net.queued("s", "x")) == 50


def test_a_sender_that_has_ended_closes_the_input_of_each_behind_its_last_message(make: Make) -> None:
    net = make(flow(2))
    a = net.begin("a")
    send(a, *({"k": number} for number in range(20)))
    commit(a, staged(a, ends=True))
    for count in (4, 1, 3):
        net.open(flow(count), resume=True)
        for node in replicas(count):
            found = net.queued(node, "x")
            assert found[-1] == ("INPUT_CLOSED", "", None) and found.count(found[-1]) == 1
            assert net.queue(node, "x")[records.FLAGS] & records.SOURCE_ENDED
            assert not net.queue(node, "y")[records.FLAGS]
        assert sum(len(net.queued(node, "x")) - 1 for node in replicas(count)) == 20


def test_a_replica_that_ended_lives_again_while_others_do(make: Make) -> None:
    net = make(flow(3))
    net.begin("s[1]")
    net.end("s[1]")
    send(net.begin("a"), {"k": 1})
    net.open(flow(2), resume=True)
    assert [net.figures(node)["status"] for node in replicas(2)] == ["live", "live"]
    for node in replicas(2):
        net.begin(node)
    assert net.queued("c", "in") == []


def test_numbers_go_on_when_a_replica_comes_back(make: Make) -> None:
    net = make(flow(2))
    send(net.begin("s[1]"), "m", "m")
    net.open(flow(1), resume=True)
    net.open(flow(2), resume=True)
    mine = net.begin("s[1]")
    assert mine.outputs["out"].sent == (1 << records.REPLICA_SHIFT) + 2
    assert net.claim("s[1]")["incarnation"] > 2


def test_attempts_and_dead_letters_go_with_their_messages(make: Make) -> None:
    net = make(flow(1))
    send(net.begin("a"), *({"k": number} for number in range(30)))
    mine = net.begin("s")
    places = [list(keys.parse_message(key)[1:]) for key, _ in net.messages(mine)]
    net.claim("s", "raised", True, [places[4]], max_attempts=3)
    net.claim("s", "raised", True, [places[9]], max_attempts=1)
    net.open(flow(3), resume=True)
    home = owned(net, 3)
    for number, replica in ((4, home[slot_of(4)]), (9, home[slot_of(9)])):
        node = replicas(3)[replica]
        claimed = net.claim(node)
        entry = net.store.registry[node]
        with net.space.read() as txn:
            letters = [letter.uid for letter in dead_letters.letters(txn, entry.number)]
        if number == 9:
            assert letters == ["a/out#10"]
        else:
            assert [item[3] for item in claimed["attempts"]] == [1]
            _, sequence, index, _ = claimed["attempts"][0]
            assert {"k": 4} in net.queued(node, "x") and [sequence, index] == places[4][1:]
    total = net.ask("letters_ls", node="s")["letters"]
    assert [letter["node"] for letter in total] == ["s"]
    net.ask("letters_replay", node="s", uids=["a/out#10"])
    assert {"k": 9} in net.queued(replicas(3)[home[slot_of(9)]], "x")


def test_what_came_from_another_source_is_not_taken_for_what_comes_from_the_source_of_now(make: Make) -> None:
    net = make(flow(3))
    a = net.begin("a")
    send(a, *({"k": number} for number in range(50)))
    changed = flow(2)
    changed["s"] = {**changed["s"], "inputs": {"x": "b/out", "y": "b/out"}}
    opened = net.open(changed, resume=True)
    assert [item for node in waiting(net, 2) for item in node] == []
    dropped = [text for text in opened["dropped"] if "input 'x'" in text]
    assert sum(int(text.split("dropped ")[1].split()[0]) for text in dropped) == 50


def test_a_replica_that_comes_back_does_not_have_the_wiring_of_a_change_that_is_long_over(make: Make) -> None:
    net = make(flow(2))
    number = net.numbers["s[1]"]["number"]
    with net.space.write() as txn:  # as a change of the run leaves it
        record = lives.node_record(txn, number)
        record.wiring = 7
        txn.put(keys.node(number), record.pack())
        txn.put(keys.wiring(number), msgpack.packb(net.wirings["s[1]"].ports()))
    net.open(flow(1), resume=True)
    opened = net.open(flow(2), resume=True)
    assert opened["ports"] == {}
    with net.space.read() as txn:
        assert lives.node_record(txn, number).wiring == 0
