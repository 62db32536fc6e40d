"""The event transaction."""

from __future__ import annotations

import time
from typing import Any

import lmdb
import pytest
from support.kit import CHAIN, MB, Make, Net, Nodes, commit, send, staged, take

from noderuntime.errors import Fenced, ValueTooLarge
from noderuntime.merges import Add, Union
from noderuntime.space import records
from noderuntime.space.commit import Commits
from noderuntime.space.kvs import SharedWrite
from noderuntime.space.writer import Inapplicable, MessageGone


@pytest.fixture
def chain(make: Make) -> Net:
    return make(CHAIN)


def to(size: int = 1000, queue_bytes: int | str = "64MB", policy: str = "backpressure") -> Nodes:
    """a sends to b."""
    source = {"source": "a/out", "queue_size": size, "queue_bytes": queue_bytes, "queue_policy": policy}
    return {"a": {"outputs": ["out"]}, "b": {"inputs": {"in": source}, "outputs": ["back"]}}


# --- one event, one transaction -------------------------------------------------------------------------------------


def test_an_event_takes_effect_as_a_whole(chain: Net) -> None:
    a, b = chain.begin("a"), chain.begin("b")
    assert send(a, 7) == 1
    assert take(chain, b, ("out", 8), private={"k": b"v"}, shared=[SharedWrite(b"s", b"w")]) == 7
    assert chain.queued("b", "in") == []
    assert chain.queued("c", "in") == [8]
    assert chain.private("b") == {"k": b"v"}
    assert chain.shared() == {"s": b"w"}


def test_messages_keep_their_order_within_a_group_and_an_event(chain: Net) -> None:
    a = chain.begin("a")
    commit(a, staged(a, ("out", 1), ("out", 2)), staged(a, ("out", 3)))
    send(a, 4)
    assert chain.queued("b", "in") == [1, 2, 3, 4]


@pytest.mark.parametrize("step_s", [-3600, 3600])
@pytest.mark.parametrize("value", [b"bytes", [1, 2]])
def test_messages_are_stamped_by_the_clock_of_the_space_as_ticks_are(
    chain: Net, monkeypatch: pytest.MonkeyPatch, step_s: int, value: Any
) -> None:
    a = chain.begin("a")
    present_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: present_ns + step_s * 10**9)  # the wall clock was set meanwhile
    before_ns = chain.space.now_ns()
    event = staged(a, ("out", value))
    after_ns = chain.space.now_ns()
    assert event.outputs is not None
    assert before_ns <= records.decode_message(event.outputs[0][1])[4] <= after_ns


def test_inputs_are_merged_in_the_order_of_their_commits(make: Make) -> None:
    net = make({"a": {"outputs": ["o"]}, "b": {"outputs": ["o"]}, "c": {"inputs": {"x": "a/o", "y": "b/o"}}})
    a, b, c = net.begin("a"), net.begin("b"), net.begin("c")
    for value, sender in enumerate([a, b, b, a, b]):
        send(sender, value, output="o")
    assert [take(net, c) for _ in range(5)] == [0, 1, 2, 3, 4]


def test_every_receiver_of_an_output_gets_the_message(make: Make) -> None:
    net = make({"a": {"outputs": ["o"]}, "b": {"inputs": {"x": "a/o", "y": "a/o"}}, "c": {"inputs": {"x": "a/o"}}})
    send(net.begin("a"), 1, output="o")
    assert net.queued("b", "x") == net.queued("b", "y") == net.queued("c", "x") == [1]


def test_the_last_state_of_a_key_in_a_group_wins_and_none_deletes_it(chain: Net) -> None:
    b = chain.begin("b")
    commit(b, staged(b, private={"k": b"1", "gone": b"x"}), staged(b, private={"k": b"2", "gone": None}))
    assert chain.private("b") == {"k": b"2"}


def test_merges_apply_to_what_is_there_at_the_commit(chain: Net) -> None:
    a, b = chain.begin("a"), chain.begin("b")
    for commits in (a, b, a):
        commit(commits, staged(commits, shared=[SharedWrite(b"n", merge=Add(2)), SharedWrite(b"n", merge=Add(1))]))
    assert chain.shared() == {"n": bytes([9])}


def test_a_merge_that_cannot_work_leaves_nothing_of_the_group(chain: Net) -> None:
    a = chain.begin("a")
    with pytest.raises(Inapplicable):
        commit(
            a, staged(a, ("out", 1)), staged(a, shared=[SharedWrite(b"n", b"\xa1x"), SharedWrite(b"n", merge=Add(1))])
        )
    assert chain.queued("b", "in") == [] and chain.shared() == {}


def test_a_merge_may_not_make_a_value_larger_than_values_may_be(chain: Net) -> None:
    a = chain.begin("a")
    with pytest.raises(Inapplicable):
        commit(a, staged(a, shared=[SharedWrite(b"n", merge=Union({b"x" * 1_000_000}))]))
    assert chain.shared() == {}


def test_output_numbers_go_on_in_the_next_life(chain: Net) -> None:
    send(chain.begin("a"), 1, 2)
    a = chain.begin("a")
    assert a.outputs["out"].sent == 2
    send(a, 3)
    assert chain.figures("a")["outputs"] == {"out": 3}


# --- whose life it is -----------------------------------------------------------------------------------------------


def test_a_replaced_life_can_commit_nothing(chain: Net) -> None:
    old = chain.begin("a")
    chain.begin("a")
    with pytest.raises(Fenced):
        send(old, 1)
    assert chain.queued("b", "in") == []


def test_a_life_that_is_not_the_present_one_cannot_begin(chain: Net) -> None:
    chain.begin("a")
    with pytest.raises(Fenced):
        Commits(chain.space, chain.wirings["a"], 7)


class Interrupt(BaseException):
    """What a signal handler may raise anywhere."""


def test_a_commit_that_was_made_but_not_noted_is_not_made_twice(chain: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    a = chain.begin("a")
    begin = chain.space.begin

    class Interrupted:
        def __init__(self) -> None:
            self.txn = begin()

        def __getattr__(self, name: str) -> object:
            return getattr(self.txn, name)

        def commit(self) -> None:
            self.txn.commit()
            raise Interrupt

    group = [staged(a, ("out", 1)), staged(a, ("out", 2))]
    monkeypatch.setattr(chain.space, "begin", Interrupted)
    with pytest.raises(Interrupt):
        commit(a, *group)
    monkeypatch.undo()
    assert commit(a, *group) == 2
    assert a.rings == {chain.wirings["b"].number}  # nobody was rung then
    send(a, 3)
    assert chain.queued("b", "in") == [1, 2, 3]


def test_a_commit_that_the_caller_did_not_note_is_not_made_twice(chain: Net) -> None:
    a = chain.begin("a")
    group = [staged(a, ("out", 1)), staged(a, ("out", 2))]
    assert commit(a, *group) == 2
    group.append(staged(a, ("out", 3)))
    assert commit(a, *group) == 2
    assert commit(a, group[2]) == 1
    assert chain.queued("b", "in") == [1, 2, 3]


def test_committing_nothing_does_nothing(chain: Net) -> None:
    a = chain.begin("a")
    before = chain.space.last_sequence()
    assert commit(a) == 0 and a.waits_for == ""
    assert chain.space.last_sequence() == before


def test_a_commit_that_was_not_made_is_made_by_the_next_call(chain: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    a = chain.begin("a")

    def interrupt() -> None:
        raise Interrupt

    event = staged(a, ("out", 1))
    monkeypatch.setattr(chain.space, "has_waiters", interrupt)
    with pytest.raises(Interrupt):
        commit(a, event)
    monkeypatch.undo()
    assert chain.queued("b", "in") == []
    assert commit(a, event) == 1
    assert chain.queued("b", "in") == [1]


def test_a_group_that_did_not_fit_is_committed_in_parts_and_whole(
    chain: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts leave the node record behind that the whole would have left: that is no sign of being done."""
    a, b = chain.begin("a"), chain.begin("b")
    assert commit(a, staged(a, ("out", 1)), staged(a, ("out", 2))) == 2
    acks = [staged(b, ack=message) for message in chain.messages(b)]

    def full() -> None:
        raise lmdb.MapFullError("no room")

    monkeypatch.setattr(chain.space, "has_waiters", full)
    assert commit(b, *acks) == 0
    monkeypatch.undo()
    assert commit(b, *acks) == 1
    assert commit(b, acks[1]) == 1
    assert chain.queued("b", "in") == []


@pytest.mark.parametrize(
    ("crowded", "later_ns", "gives_way"), [(True, 0, True), (True, 10**6, False), (False, 0, False)]
)
def test_a_writer_that_comes_back_at_once_lets_those_in_who_wait_and_else_goes_on(
    crowded: bool, later_ns: int, gives_way: bool, chain: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    now_ns = [10**9]
    monkeypatch.setattr("noderuntime.space.environment.time.sleep", slept.append)
    monkeypatch.setattr("noderuntime.space.environment.time.monotonic_ns", lambda: now_ns[0])
    a = chain.begin("a")
    monkeypatch.setattr(chain.space, "has_waiters", lambda: crowded)
    assert commit(a, staged(a, ("out", 1))) == 1
    assert not slept
    now_ns[0] += later_ns
    crowded = False
    assert commit(a, staged(a, ("out", 2))) == 1
    assert bool(slept) is gives_way
    assert commit(a, staged(a, ("out", 3))) == 1
    assert len(slept) == gives_way


def test_what_joins_a_group_while_it_waits_for_the_lock_is_not_taken_for_committed(
    chain: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = chain.begin("a")
    group = [staged(a, ("out", 1)), staged(a, ("out", 2))]
    begin = chain.space.begin

    def wait_and_begin() -> Any:
        group.append(staged(a, ("out", 3)))  # as the handler's thread does when the helper commits
        return begin()

    monkeypatch.setattr(chain.space, "begin", wait_and_begin)
    done = a.commit(group, chain.space.now_ns())
    monkeypatch.undo()
    assert chain.queued("b", "in") == [1, 2, 3][:done]
    assert commit(a, *group[done:]) == 3 - done
    assert chain.queued("b", "in") == [1, 2, 3]


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_full_queue_admits_nothing_and_the_same_event_later(make: Make) -> None:
    net = make(to(size=2))
    a, b = net.begin("a"), net.begin("b")
    assert send(a, 1, 2) == 2
    event = staged(a, ("out", 3), private={"k": b"v"}, shared=[SharedWrite(b"s", b"w")])
    assert commit(a, event) == 0
    assert a.waits_for == "a receiver whose queue is full"
    assert net.private("a") == {} and net.shared() == {}
    take(net, b)
    assert commit(a, event) == 1
    assert a.waits_for == ""
    assert net.queued("b", "in") == [2, 3] and net.private("a") == {"k": b"v"}


def test_of_a_group_as_much_is_committed_as_there_is_room_for(make: Make) -> None:
    net = make(to(size=3))
    a = net.begin("a")
    group = [staged(a, ("out", value), private={"n": bytes([value])}) for value in range(5)]
    assert commit(a, *group) == 3
    assert a.waits_for
    assert net.queued("b", "in") == [0, 1, 2] and net.private("a") == {"n": bytes([2])}
    assert net.figures("a")["outputs"] == {"out": 3}


def test_one_event_may_overshoot_the_limit(make: Make) -> None:
    net = make(to(size=2))
    a = net.begin("a")
    assert commit(a, staged(a, *(("out", value) for value in range(10)))) == 1
    assert commit(a, staged(a, ("out", 10))) == 0
    assert len(net.queued("b", "in")) == 10


def test_an_event_waits_for_all_of_its_receivers(make: Make) -> None:
    fast = {"source": "a/o", "queue_size": 100}
    net = make(
        {
            "a": {"outputs": ["o", "p"]},
            "b": {"inputs": {"x": fast}},
            "c": {"inputs": {"x": {"source": "a/p", "queue_size": 1}}},
        }
    )
    a = net.begin("a")
    send(a, 1, output="p")
    assert commit(a, staged(a, ("o", 2), ("p", 3))) == 0
    assert net.queued("b", "x") == []


def test_bytes_limit_a_queue_as_well(make: Make) -> None:
    net = make(to(queue_bytes=1000))
    a = net.begin("a")
    assert send(a, *[b"x" * 400] * 5) == 3  # 848 bytes are below the limit, so that one more was admitted


def test_two_large_messages_fit_where_no_limit_in_bytes_was_given(make: Make) -> None:
    nodes = {"a": {"outputs": ["out"]}, "b": {"inputs": {"in": "a/out"}}}
    net = make(nodes, 16 * MB)
    assert all(receiver.messages_min == 2 for receiver in net.begin("a").outputs["out"].receivers)


def test_bytes_do_not_count_before_there_are_messages_min_messages(make: Make) -> None:
    large = bytes(60_000)
    default = make({"a": {"outputs": ["out"]}, "b": {"inputs": {"in": "a/out"}}}, 16 * MB)
    a = default.begin("a")
    for receiver in a.outputs["out"].receivers:
        receiver.size_bytes = 1000
    assert send(a, large, large, large) == 2
    given = make(to(queue_bytes=1000), 16 * MB)
    assert send(given.begin("a"), large, large, large) == 1


def test_drop_oldest_keeps_the_newest_and_counts(make: Make) -> None:
    net = make(to(size=3, policy="drop_oldest"))
    a = net.begin("a")
    assert send(a, *range(10)) == 10
    assert net.queued("b", "in") == [7, 8, 9]
    assert net.figures("b")["inputs"]["in"]["dropped"] == 7


def test_drop_oldest_by_bytes_keeps_at_least_one(make: Make) -> None:
    net = make(to(queue_bytes=500, policy="drop_oldest"))
    a = net.begin("a")
    send(a, b"a" * 200, b"b" * 200, b"c" * 200, b"d" * 9000)
    assert net.queued("b", "in") == [b"d" * 9000]


def test_drop_oldest_passes_over_notices(make: Make) -> None:
    net = make(to(size=1, policy="drop_oldest"))
    send(net.begin("a"), 1)
    net.claim("a", cause="it was killed")
    send(Commits(net.space, net.wirings["a"], 2), 2, 3)
    assert net.queued("b", "in") == [("NODE_RESTARTED", "a", "it was killed"), 3]


def test_notices_ignore_capacity(make: Make) -> None:
    net = make(to(size=1))
    a = net.begin("a")
    send(a, 1)
    net.end("a", error="broken")
    assert net.queued("b", "in") == [1, ("NODE_FAILED", "a", "broken"), ("INPUT_CLOSED", "", "broken")]
    assert net.queue("b", "in")[records.QUEUED] == 1


def test_a_message_that_was_dropped_in_hand_is_counted_as_taken(make: Make) -> None:
    net = make(to(size=1, policy="drop_oldest"))
    a, b = net.begin("a"), net.begin("b")
    send(a, 1)
    in_hand = net.messages(b, 1)[0]
    send(a, 2)
    assert commit(b, staged(b, ack=in_hand)) == 1
    figures = net.figures("b")["inputs"]["in"]
    assert (figures["queued"], figures["taken"], figures["dropped"]) == (1, 1, 0)


def test_a_message_that_has_gone_from_a_queue_that_drops_nothing_undoes_the_commit(make: Make) -> None:
    net = make({"a": {"outputs": ["out"]}, "b": {"inputs": {"in": "a/out"}, "outputs": ["out"]}})
    a, b = net.begin("a"), net.begin("b")
    send(a, 1, 2, 3)
    first, second, third = net.messages(b)
    net.steal("b", "in", 1)
    before = net.queue("b", "in")
    for group in ([second], [first, second, third]):
        with pytest.raises(MessageGone, match="'in'"):
            commit(b, *(staged(b, ack=message, private={"k": b"v"}) for message in group))
    assert net.queue("b", "in") == before and net.private("b") == {}
    assert net.messages(b) == [first, third]


def test_a_message_or_an_event_that_the_space_could_hardly_hold_is_refused(make: Make) -> None:
    net = make(CHAIN, 1 * MB)
    a = net.begin("a")
    with pytest.raises(ValueTooLarge, match="a message to 'out'"):
        staged(a, ("out", b"x" * (MB // 8 + 1)))
    with pytest.raises(ValueTooLarge, match="what one event sends"):
        staged(a, *[("out", b"x" * 60_000)] * 5)
    assert a.outputs["out"].sent == 4


# --- who is rung ----------------------------------------------------------------------------------------------------


def test_a_receiver_is_rung_only_when_its_queue_was_empty(chain: Net) -> None:
    a, b = chain.begin("a"), chain.begin("b")
    send(a, 1)
    assert a.rings == {b.node}
    send(a, 2)
    assert a.rings == set()
    take(chain, b)
    take(chain, b)
    send(a, 3)
    assert a.rings == {b.node}


def test_an_eager_receiver_is_rung_each_time(chain: Net) -> None:
    a, b = chain.begin("a"), chain.begin("b")
    b.be_eager()
    for value in range(3):
        send(a, value)
        assert a.rings == {b.node}


def test_a_sender_is_rung_when_its_receiver_has_drained_to_half(make: Make) -> None:
    net = make(to(size=4))
    a, b = net.begin("a"), net.begin("b")
    send(a, *range(4))
    rings = []
    for _ in range(4):
        take(net, b)
        rings.append(a.node in b.rings)
    assert rings == [False, True, False, False]


def test_a_sender_is_rung_when_a_queue_of_one_is_empty(make: Make) -> None:
    net = make(to(size=1))
    a, b = net.begin("a"), net.begin("b")
    send(a, 1)
    take(net, b)
    assert b.rings == {a.node}


# --- endings --------------------------------------------------------------------------------------------------------


def test_the_last_event_closes_outputs_behind_what_it_sent(chain: Net) -> None:
    a = chain.begin("a")
    assert commit(a, staged(a, ("out", 1), ends=True)) == 1
    assert chain.queued("b", "in") == [1, ("INPUT_CLOSED", "", None)]
    assert chain.figures("a")["status"] == "ended"


def test_a_node_that_ends_discards_what_waits_and_what_comes(chain: Net) -> None:
    a, b = chain.begin("a"), chain.begin("b")
    send(a, *range(2000)[:900])
    commit(b, staged(b, ack=chain.messages(b, 1)[0], ends=True))
    assert b.rings == {a.node, chain.wirings["c"].number}
    assert chain.queued("b", "in") == []
    send(a, 900, 901)
    figures = chain.figures("b")["inputs"]["in"]
    assert figures == {"queued": 0, "bytes": 0, "taken": 1, "dropped": 0, "discarded": 901, "dead": 0}


def test_a_full_queue_whose_receiver_ended_blocks_nobody(make: Make) -> None:
    net = make(to(size=1))
    a, b = net.begin("a"), net.begin("b")
    send(a, 1)
    assert send(a, 2) == 0
    commit(b, staged(b, ends=True))
    assert send(a, 2) == 1


# --- counters -------------------------------------------------------------------------------------------------------


def test_cells_are_committed_with_their_event_and_found_in_the_next_life(make: Make) -> None:
    nodes = {"a": {"inputs": {"t": "timer/secs/1"}, "outputs": ["o"]}, "b": {"inputs": {"in": "a/o"}}}
    net = make(nodes)
    a = net.begin("a")
    counter = a.inputs["t"].counter
    commit(a, staged(a, ("o", 1), counters={counter: 41}), staged(a, counters={counter: 42}))
    again = net.begin("a")
    assert again.counters[counter] == 42 and again.outputs["o"].sent == 1


def test_a_new_output_does_not_move_the_cells_of_inputs(make: Make) -> None:
    net = make({"a": {"inputs": {"t": "timer/secs/1"}, "outputs": ["o"]}, "b": {"inputs": {"in": "a/o"}}})
    a = net.begin("a")
    commit(a, staged(a, ("o", 1), counters={a.inputs["t"].counter: 99}))
    net.open(
        {"a": {"inputs": {"t": "timer/secs/1"}, "outputs": ["p", "o"]}, "b": {"inputs": {"in": "a/o"}}}, resume=True
    )
    again = net.begin("a")
    assert again.counters[again.inputs["t"].counter] == 99
    assert (again.outputs["o"].sent, again.outputs["p"].sent) == (1, 0)
