"""Dead letters: listed, shown, back into the mailbox, dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.kit import CHAIN, Make, Net, Place, StoreRefused, commit, send, staged, take

from noderuntime.errors import StoreError
from noderuntime.space import keys, records
from noderuntime.space.segments import referenced


@pytest.fixture
def chain(make: Make) -> Net:
    return make(CHAIN)


def bury(net: Net, node: str = "b") -> str:
    """Bury the oldest message of a node."""
    key, _ = net.messages(net.begin(node), 1)[0]
    hand = list(keys.parse_message(key)[1:])
    uid: str = net.claim(node, "on_event: ValueError: no", True, [hand], max_attempts=1)["buried"]
    return uid


def listed(net: Net, node: str = "b") -> list[str]:
    return [letter["uid"] for letter in net.ask("letters_ls", node=node)["letters"]]


def test_a_list_says_who_failed_how_often_and_why(chain: Net) -> None:
    send(chain.begin("a"), "poison")
    bury(chain)
    (letter,) = chain.ask("letters_ls", node="")["letters"]
    assert (letter["node"], letter["uid"], letter["input"], letter["attempts"]) == ("b", "a/out#1", "in", 1)
    assert letter["error"] == "on_event: ValueError: no"
    assert chain.ask("letters_ls", node="c")["letters"] == []


def test_a_letter_shows_its_value_metadata_and_traceback(chain: Net) -> None:
    a = chain.begin("a")
    event = staged(a)
    a.outputs["out"].stage(event, [1, b"\xff", {"x": None}], {"unit": "m"}, Place(a))
    commit(a, event)
    bury(chain)
    (letter,) = chain.ask("letters_show", node="b", uids=[])["letters"]
    assert letter["value"] == [1, {"base64": "/w=="}, {"x": None}]
    assert letter["metadata"] == {"unit": "m"}
    assert letter["trace"] == "trace"


def test_a_value_that_is_too_large_is_described(chain: Net) -> None:
    send(chain.begin("a"), "x" * 300_000, "y" * 60_000)
    bury(chain)
    bury(chain)
    large, small = chain.ask("letters_show", node="b", uids=[])["letters"]
    assert "too many to be shown" in large["value"]
    assert small["value"] == "y" * 60_000


def test_letters_are_counted_apart_from_what_is_queued(chain: Net) -> None:
    send(chain.begin("a"), 1, 2)
    bury(chain)
    figures = chain.figures("b")
    assert figures["dead_letters"] == 1
    assert (figures["inputs"]["in"]["queued"], figures["inputs"]["in"]["dead"]) == (1, 1)


def test_replay_puts_letters_behind_what_waits_with_their_attempts_forgotten(chain: Net) -> None:
    send(chain.begin("a"), 1, 2, 3)
    bury(chain)
    bury(chain)
    assert chain.ask("letters_replay", node="b", uids=[]) == {"replayed": 2}
    assert chain.queued("b", "in") == [3, 1, 2]
    assert chain.queue("b", "in")[records.QUEUED] == 3
    assert chain.claim("b")["attempts"] == []
    assert listed(chain) == []


def test_a_replayed_message_keeps_its_number_and_is_handled_like_any_other(chain: Net) -> None:
    send(chain.begin("a"), 1, 2)
    uid = bury(chain)
    chain.ask("letters_replay", node="b", uids=[])
    b = chain.begin("b")
    assert [take(chain, b), take(chain, b)] == [2, 1]
    queue = chain.queue("b", "in")
    assert (queue[records.QUEUED], queue[records.BYTES], queue[records.TAKEN]) == (0, 0, 2)
    assert uid == "a/out#1"


def test_replay_of_a_message_that_fails_again_buries_it_again(chain: Net) -> None:
    send(chain.begin("a"), 1)
    assert bury(chain) == "a/out#1"
    chain.ask("letters_replay", node="b", uids=["a/out#1"])
    assert bury(chain) == "a/out#1"
    assert listed(chain) == ["a/out#1"]


def test_one_letter_of_several_can_be_chosen(chain: Net) -> None:
    send(chain.begin("a"), 1, 2, 3)
    for _ in range(3):
        bury(chain)
    chain.ask("letters_replay", node="b", uids=["a/out#2"])
    chain.ask("letters_drop", node="b", uids=["a/out#1"])
    assert chain.queued("b", "in") == [2]
    assert listed(chain) == ["a/out#3"]
    assert len(chain.ask("letters_show", node="b", uids=["a/out#3"])["letters"]) == 1


@pytest.mark.parametrize("operation", ["letters_show", "letters_replay", "letters_drop"])
def test_a_letter_that_is_not_there_is_an_error_that_says_where_to_look(operation: str, chain: Net) -> None:
    send(chain.begin("a"), 1)
    bury(chain)
    with pytest.raises(StoreRefused, match="dead-letters ls b") as refused:
        chain.ask(operation, node="b", uids=["a/out#1", "a/out#9"])
    assert refused.value.kind is StoreError
    assert listed(chain) == ["a/out#1"]


def test_a_replay_wakes_the_node(chain: Net) -> None:
    send(chain.begin("a"), 1)
    bury(chain)
    chain.store.state.taken_rings()
    chain.ask("letters_replay", node="b", uids=[])
    assert chain.numbers["b"]["number"] in chain.store.state.taken_rings()


def test_a_replay_that_is_asked_for_twice_with_one_number_counts_once(chain: Net) -> None:
    send(chain.begin("a"), 1)
    bury(chain)
    for _ in range(2):
        assert chain.ask("letters_replay", node="b", uids=[]) == {"replayed": 1}
        chain.requests -= 1
    assert chain.queued("b", "in") == [1]


def test_a_dropped_letter_counts_as_discarded(chain: Net) -> None:
    send(chain.begin("a"), 1)
    bury(chain)
    assert chain.ask("letters_drop", node="b", uids=[]) == {"dropped": 1}
    assert listed(chain) == []
    assert chain.queue("b", "in")[records.DISCARDED] == 1


def test_to_an_ended_node_nothing_is_replayed_and_to_a_failed_one_everything(chain: Net) -> None:
    send(chain.begin("a"), 1)
    bury(chain)
    chain.end("b", "it failed")
    assert chain.ask("letters_replay", node="b", uids=[]) == {"replayed": 1}
    chain.open(CHAIN, resume=True)
    assert chain.queued("b", "in") == [1]
    bury(chain)
    chain.end("b")
    with pytest.raises(StoreRefused, match="has ended"):
        chain.ask("letters_replay", node="b", uids=[])
    assert listed(chain) == ["a/out#1"]


def test_a_letter_of_an_input_that_is_gone_can_only_be_dropped(chain: Net) -> None:
    send(chain.begin("a"), 1)
    bury(chain)
    changed: Any = {**CHAIN, "b": {"inputs": {"other": "a/out"}, "outputs": ["out"]}}
    chain.open(changed, resume=True)
    with pytest.raises(StoreRefused, match="no such input any more"):
        chain.ask("letters_replay", node="b", uids=[])
    chain.ask("letters_drop", node="b", uids=[])
    assert listed(chain) == []


def references(net: Net) -> int:
    with net.space.read() as txn:
        return sum(count for _, _, _, count in referenced(txn))


def test_a_large_payload_is_kept_with_its_letter_handed_back_at_replay_and_released_at_drop(chain: Net) -> None:
    send(chain.begin("a"), np.zeros((300, 300)))
    bury(chain)
    (letter,) = chain.ask("letters_show", node="b", uids=[])["letters"]
    assert letter["value"] == "array of float64 [300, 300]"
    assert references(chain) == 1
    chain.ask("letters_replay", node="b", uids=[])
    assert references(chain) == 1
    bury(chain)
    chain.ask("letters_drop", node="b", uids=[])
    assert references(chain) == 0
