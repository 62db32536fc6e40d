"""The life of nodes in the space: numbers, claims, burials, endings, and being made live again."""

from __future__ import annotations

from typing import Any

import pytest
from support.kit import CHAIN, Make, Net, StoreRefused, commit, send, staged, take

from noderuntime.errors import Fenced
from noderuntime.node.session import keys
from noderuntime.space import records
from noderuntime.space.commit import Commits
from noderuntime.space.environment import scan


@pytest.fixture
def chain(make: Make) -> Net:
    return make(CHAIN)


def in_hand(net: Net, commits: Any, which: int = 0) -> list[int]:
    key, _ = net.messages(commits, which + 1)[which]
    return list(keys.parse_message(key)[1:])


def letters(net: Net, node: str) -> int:
    with net.space.read() as txn:
        return len(list(scan(txn, keys.dead_prefix(net.numbers[node]["number"]))))


# --- numbers --------------------------------------------------------------------------------------------------------


def test_opening_again_gives_the_same_numbers(chain: Net) -> None:
    before = chain.numbers
    chain.open(CHAIN)
    assert chain.numbers == before


def test_a_number_that_is_not_used_any_more_goes_to_nobody_else(chain: Net) -> None:
    before = chain.numbers
    a = chain.begin("a")
    commit(a, staged(a, private={"k": b"of a"}))
    chain.open({"c": {"outputs": ["x"]}})
    chain.open({"c": {"outputs": ["x"]}, "new": {"inputs": {"in": "c/x"}}})
    assert chain.numbers["new"]["number"] not in [item["number"] for item in before.values()]
    assert chain.private("new") == {}


def test_what_a_node_had_that_is_gone_is_dropped_by_name_and_does_not_come_back(chain: Net) -> None:
    a = chain.begin("a")
    commit(a, staged(a, private={"k": b"of a"}))
    dropped = chain.open({"c": {}})["dropped"]
    assert any("node 'a' is no longer in the dataflow: dropped 1 keys of private state" in text for text in dropped)
    chain.open(CHAIN)
    assert chain.private("a") == {}


def test_an_input_that_is_fed_by_another_output_is_another_input(make: Make) -> None:
    def nodes(source: str) -> Any:
        return {"a": {"outputs": ["x", "y"]}, "b": {"inputs": {"in": source}}}

    net = make(nodes("a/x"))
    send(net.begin("a"), 1, output="x")
    dropped = net.open(nodes("a/y"))["dropped"]
    assert dropped == ["input 'in' of node 'b' is gone or has another source: dropped 1 queued messages"]
    net.open(nodes("a/x"))
    assert net.queued("b", "in") == []


# --- claims ---------------------------------------------------------------------------------------------------------


def test_each_claim_raises_the_incarnation(chain: Net) -> None:
    assert [chain.claim("a")["incarnation"] for _ in range(3)] == [1, 2, 3]


def test_a_claim_brings_the_committed_state(chain: Net) -> None:
    b = chain.begin("b")
    commit(b, staged(b, private={"k": b"v", "l": b""}))
    result = chain.claim("b")
    assert result["state"] == {"k": b"v", "l": b""} and not result["by_reference"]


def test_a_large_state_comes_by_reference(chain: Net) -> None:
    b = chain.begin("b")
    commit(b, staged(b, private={"k": b"v" * 300_000}))
    result = chain.claim("b")
    assert result["state"] == {} and result["by_reference"]


def test_receivers_learn_of_a_restart_in_order_with_the_data(make: Make) -> None:
    net = make({"a": {"outputs": ["o"]}, "b": {"inputs": {"x": "a/o", "y": "a/o"}}, "c": {"inputs": {"x": "a/o"}}})
    send(net.begin("a"), 1, output="o")
    net.claim("a", cause="SIGKILL")
    b = net.begin("b")
    assert [take(net, b) for _ in range(3)] == [1, 1, ("NODE_RESTARTED", "a", "SIGKILL")]
    assert net.queued("c", "x") == [1, ("NODE_RESTARTED", "a", "SIGKILL")]


def test_a_first_life_is_no_restart(chain: Net) -> None:
    chain.claim("a")
    assert chain.queued("b", "in") == []


def test_attempts_count_the_lives_that_ended_with_a_message_in_hand(chain: Net) -> None:
    send(chain.begin("a"), 1, 2)
    b = chain.begin("b")
    first, second = in_hand(chain, b, 0), in_hand(chain, b, 1)
    assert chain.claim("b", hands=[first])["attempts"] == [[*first, 1]]
    assert chain.claim("b", hands=[first, second])["attempts"] == [[*first, 2], [*second, 1]]


def test_a_kill_from_outside_never_buries(chain: Net) -> None:
    send(chain.begin("a"), 1)
    for lives in range(1, 10):
        b = chain.begin("b")
        result = chain.claim("b", hands=[in_hand(chain, b)], counts=False, max_attempts=1)
        assert result["buried"] == ""
        assert result["attempts"][0][3] == lives


def test_a_message_that_fails_too_often_becomes_a_dead_letter(chain: Net) -> None:
    send(chain.begin("a"), "poison", "next")
    hand = in_hand(chain, chain.begin("b"))
    assert [chain.claim("b", "it raised", True, [hand])["buried"] for _ in range(3)] == ["", "", "a/out#1"]
    assert chain.queued("b", "in") == ["next"]
    assert letters(chain, "b") == 1
    assert chain.queue("b", "in")[records.QUEUED] == 1
    assert chain.claim("b")["attempts"] == []


def test_with_no_limit_nothing_is_buried(chain: Net) -> None:
    send(chain.begin("a"), 1)
    hand = in_hand(chain, chain.begin("b"))
    assert {chain.claim("b", "x", True, [hand], max_attempts=0)["buried"] for _ in range(20)} == {""}


def test_the_attempts_of_a_message_go_with_its_acknowledgement(chain: Net) -> None:
    send(chain.begin("a"), 1)
    b = chain.begin("b")
    hand = in_hand(chain, b)
    chain.claim("b", hands=[hand])
    b = chain.begin("b")
    event = staged(b, ack=chain.messages(b, 1)[0])
    event.also().attempts = True
    commit(b, event)
    with chain.space.read() as txn:
        assert list(scan(txn, keys.attempts_prefix(b.node))) == []


def test_the_attempts_of_a_message_that_was_dropped_go_with_the_next_claim(make: Make) -> None:
    source = {"source": "a/out", "queue_size": 1, "queue_policy": "drop_oldest"}
    net = make({"a": {"outputs": ["out"]}, "b": {"inputs": {"in": source}}})
    a = net.begin("a")
    send(a, 1)
    net.claim("b", hands=[in_hand(net, net.begin("b"))])
    send(a, 2)
    assert net.claim("b")["attempts"] == []
    with net.space.read() as txn:
        assert list(scan(txn, keys.attempts_prefix(net.numbers["b"]["number"]))) == []


def test_a_hand_that_is_no_message_any_more_or_a_notice_counts_nothing(chain: Net) -> None:
    chain.begin("a")
    chain.claim("a", cause="killed")
    hand = in_hand(chain, chain.begin("b"))
    assert chain.claim("b", "x", True, [hand, [0, 12345, 6]], max_attempts=1)["attempts"] == []
    assert chain.queued("b", "in") == [("NODE_RESTARTED", "a", "killed")]


# --- endings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, "broken"])
def test_an_ended_or_failed_node_cannot_be_claimed_or_commit(chain: Net, error: str | None) -> None:
    a = chain.begin("a")
    chain.end("a", error)
    assert chain.claim("a") == {"ended": True, "stop_all": False}
    with pytest.raises(Fenced):
        send(a, 1)


def test_ending_twice_is_ending_once(chain: Net) -> None:
    chain.begin("a")
    chain.end("a")
    chain.end("a", error="late")
    assert chain.queued("b", "in") == [("INPUT_CLOSED", "", None)]
    assert chain.figures("a")["status"] == "ended"


def test_an_operator_that_ended_itself_is_not_ended_again(chain: Net) -> None:
    a = chain.begin("a")
    commit(a, staged(a, ends=True))
    chain.end("a")
    assert chain.queued("b", "in") == [("INPUT_CLOSED", "", None)]


def test_a_failed_node_keeps_its_queue_and_what_comes(chain: Net) -> None:
    a = chain.begin("a")
    send(a, 1)
    chain.end("b", error="broken")
    send(a, 2)
    assert chain.queued("b", "in") == [1, 2]
    assert chain.figures("b")["inputs"]["in"]["discarded"] == 0
    assert chain.queued("c", "in") == [("NODE_FAILED", "b", "broken"), ("INPUT_CLOSED", "", "broken")]


def test_the_full_queue_of_a_failed_node_holds_its_sender_up_and_a_dropping_one_drops(make: Make) -> None:
    full = {"source": "a/out", "queue_size": 2}
    net = make({"a": {"outputs": ["out"]}, "b": {"inputs": {"in": full}}})
    a = net.begin("a")
    net.end("b", error="broken")
    assert a.commit([staged(a, ("out", value)) for value in range(5)], 0) == 2
    assert a.waits_for
    dropping = make({"a": {"outputs": ["out"]}, "b": {"inputs": {"in": {**full, "queue_policy": "drop_oldest"}}}})
    a = dropping.begin("a")
    dropping.end("b", error="broken")
    send(a, 1, 2, 3)
    assert dropping.queued("b", "in") == [2, 3]
    assert dropping.figures("b")["inputs"]["in"]["dropped"] == 1


def test_a_failed_node_that_is_revived_goes_on_with_its_queue_and_its_receivers_are_told(chain: Net) -> None:
    a, c = chain.begin("a"), chain.begin("c")
    old = chain.begin("b")
    send(a, 1)
    chain.end("b", error="broken")
    take(chain, c)
    chain.ask("revive", node="b")
    chain.ask("revive", node="b")
    assert chain.claim("b", cause="its code was changed")["incarnation"] == 3
    b = Commits(chain.space, chain.wirings["b"], 3)
    assert take(chain, b, ("out", 10)) == 1
    restarted = ("NODE_RESTARTED", "b", "its code was changed")
    assert chain.queued("c", "in") == [("INPUT_CLOSED", "", "broken"), restarted, 10]
    commit(b, staged(b, ends=True))
    assert chain.queued("c", "in")[-1] == ("INPUT_CLOSED", "", None)
    with pytest.raises(Fenced):
        commit(old, staged(old))


def test_a_node_that_had_ended_and_is_revived_feeds_and_is_fed_anew(chain: Net) -> None:
    a, c = chain.begin("a"), chain.begin("c")
    b = chain.begin("b")
    send(a, 1)
    commit(b, staged(b, ends=True))
    send(a, 2)  # nobody takes it
    chain.ask("revive", node="b")
    chain.ask("revive", node="b")
    with pytest.raises(Fenced):
        chain.claim("b", cause="it has come back")
        commit(b, staged(b))
    send(a, 3)
    b = Commits(chain.space, chain.wirings["b"], 2)
    assert chain.queued("b", "in") == [3]
    assert take(chain, b, ("out", 30)) == 3
    assert chain.queued("c", "in") == [("INPUT_CLOSED", "", None), ("NODE_RESTARTED", "b", "it has come back"), 30]
    for _ in range(3):
        take(chain, c)
    chain.end("b")
    assert chain.queued("c", "in") == [("INPUT_CLOSED", "", None)]


def test_who_ended_behind_a_failed_node_stays_ended_at_a_resume_once_that_was_revived(chain: Net) -> None:
    chain.begin("a")
    b, c = chain.begin("b"), chain.begin("c")
    chain.end("a", error="broken")
    commit(b, staged(b, ends=True))
    commit(c, staged(c, ends=True))
    chain.ask("revive", node="a")
    assert chain.open(CHAIN, resume=True)["ended"] == ["b", "c"]


def test_who_ends_behind_a_cut_off_node_that_had_come_back_stays_ended_at_a_resume(chain: Net) -> None:
    chain.begin("a")
    b, c = chain.begin("b"), chain.begin("c")
    chain.end("a", error="broken")
    commit(b, staged(b, ends=True))
    chain.ask("revive", node="b")
    commit(c, staged(c, ends=True))
    assert chain.open(CHAIN, resume=True)["ended"] == ["c"]


def test_who_had_ended_before_a_cut_off_node_comes_back_is_live_again_at_a_resume(chain: Net) -> None:
    chain.begin("a")
    b, c = chain.begin("b"), chain.begin("c")
    chain.end("a", error="broken")
    commit(b, staged(b, ends=True))
    commit(c, staged(c, ends=True))
    chain.ask("revive", node="b")
    assert chain.open(CHAIN, resume=True)["ended"] == []


def test_who_was_cut_off_stays_ended_at_a_resume_once_its_sender_has_come_back_and_ended(make: Make) -> None:
    nodes = {**CHAIN, "other": {"outputs": ["out"]}}
    net = make(nodes)
    net.begin("a")
    b, c = net.begin("b"), net.begin("c")
    net.end("other", error="broken too")  # while a node is failed, marks stay
    net.end("a", error="broken")
    commit(b, staged(b, ends=True))
    commit(c, staged(c, ends=True))
    for node in ("a", "b"):
        net.ask("revive", node=node)
    net.end("b")
    assert net.open(nodes, resume=True)["ended"] == ["b", "c"]


def test_what_waits_is_told_of_one_moment_notices_included(chain: Net) -> None:
    a = chain.begin("a")
    send(a, 1, 2)
    chain.end("b", error="broken")
    size = chain.figures("b")["inputs"]["in"]["bytes"]
    assert chain.ask("queues")["nodes"] == {"a": {}, "b": {"in": [2, size, 1]}, "c": {"in": [0, 0, 1]}}


def test_a_restart_is_not_told_to_those_who_have_ended(chain: Net) -> None:
    chain.begin("a")
    b = chain.begin("b")
    commit(b, staged(b, ends=True))
    chain.claim("a", cause="killed")
    assert chain.queued("b", "in") == []


def test_a_node_that_feeds_itself_can_end(make: Make) -> None:
    source = {"source": "a/out", "queue_policy": "drop_oldest"}
    net = make({"a": {"inputs": {"in": source}, "outputs": ["out"]}})
    a = net.begin("a")
    send(a, 1, 2)
    commit(a, staged(a, ("out", 3), ends=True))
    assert net.queued("a", "in") == []
    assert net.figures("a")["inputs"]["in"]["discarded"] == 3


# --- live again -----------------------------------------------------------------------------------------------------


def test_resuming_makes_a_failed_node_live_with_its_queue(chain: Net) -> None:
    a = chain.begin("a")
    send(a, 1)
    chain.end("b", error="broken")
    assert chain.open(CHAIN)["failed"] == ["b"]
    assert chain.open(CHAIN, resume=True)["failed"] == []
    send(a, 2)
    b = chain.begin("b")
    assert [take(chain, b, ("out", 10)) for _ in range(2)] == [1, 2]
    assert chain.queued("c", "in") == [10, 10]  # the notices that nobody took are taken back


def test_resuming_makes_those_live_again_whom_a_failure_cut_off(chain: Net) -> None:
    chain.begin("a")
    b, c = chain.begin("b"), chain.begin("c")
    chain.end("a", error="broken")
    take(chain, b)
    take(chain, b)
    commit(b, staged(b, ("out", 1), ends=True))
    take(chain, c)
    take(chain, c)
    commit(c, staged(c, ends=True))
    assert chain.open(CHAIN)["ended"] == ["b", "c"]
    opened = chain.open(CHAIN, resume=True)
    assert opened["ended"] == opened["failed"] == []
    send(chain.begin("a"), 2)
    assert take(chain, chain.begin("b"), ("out", 3)) == 2
    assert take(chain, chain.begin("c")) == 3


def test_the_end_of_a_sender_waits_behind_the_queue_that_a_failed_node_keeps(chain: Net) -> None:
    a = chain.begin("a")
    send(a, 1)
    chain.end("b", error="broken")
    send(a, 2)
    commit(a, staged(a, ends=True))
    assert chain.queued("b", "in") == [1, 2, ("INPUT_CLOSED", "", None)]
    chain.open(CHAIN, resume=True)
    assert chain.queued("b", "in") == [1, 2, ("INPUT_CLOSED", "", None)]


def test_resuming_leaves_those_ended_who_ended_by_themselves(chain: Net) -> None:
    a = chain.begin("a")
    commit(a, staged(a, ends=True))
    b = chain.begin("b")
    take(chain, b)
    commit(b, staged(b, ends=True))
    chain.end("c", error="broken")
    assert chain.open(CHAIN, resume=True)["ended"] == ["a", "b"]
    assert chain.queued("c", "in") == [("INPUT_CLOSED", "", None)]


# --- what is asked wrongly ------------------------------------------------------------------------------------------


def test_a_node_that_is_not_there_is_named_with_those_that_are(chain: Net) -> None:
    with pytest.raises(StoreRefused, match=r"no node 'x'.*a, b, c"):
        chain.claim("x")


def test_a_claim_tells_that_its_node_had_asked_for_the_end_of_the_run(chain: Net) -> None:
    b = chain.begin("b")
    event = staged(b, ends=True)
    event.also().stops_all = True
    assert commit(b, event) == 1
    assert chain.claim("b", cause="killed before it could say so") == {"ended": True, "stop_all": True}
    chain.end("a")
    assert chain.claim("a") == {"ended": True, "stop_all": False}
    chain.open(CHAIN, resume=True)
    assert chain.claim("b") == {"ended": True, "stop_all": False}
