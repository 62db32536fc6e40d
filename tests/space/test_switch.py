"""A dataflow that changes while its nodes run, in the space: what a commit finds, what drains, what is kept."""

from __future__ import annotations

from typing import Any

import pytest
from support.kit import CHAIN, Make, Net, Nodes, StoreRefused, commit, dataflow_of, send, staged, switch, take

from noderuntime.dataflow import plain
from noderuntime.errors import ChangeRefused, Fenced
from noderuntime.runtime import summary
from noderuntime.runtime.plan import plan, store_nodes
from noderuntime.space import keys, lives, records
from noderuntime.space.commit import Commits


@pytest.fixture
def chain(make: Make) -> Net:
    return make(CHAIN)


def with_d(nodes: Nodes) -> Nodes:
    return {**nodes, "d": {"inputs": {"in": "a/out"}}}


def record(net: Net, node: str) -> records.NodeRecord:
    with net.space.read() as txn:
        return lives.node_record(txn, net.numbers[node]["number"] if node in net.numbers else 0)


def test_the_next_commit_goes_to_the_receivers_of_now(chain: Net) -> None:
    a = chain.begin("a")
    send(a, 1)
    version = switch(chain, with_d(CHAIN))
    send(a, 2, 3)
    assert chain.queued("b", "in") == [1, 2, 3]
    assert chain.queued("d", "in") == [2, 3]
    assert a.wiring.version == record(chain, "a").wiring == version
    send(a, 4)
    assert chain.queued("d", "in") == [2, 3, 4]
    assert chain.figures("a")["outputs"] == {"out": 4}


def test_what_was_staged_before_goes_to_the_receivers_of_now_and_the_handler_does_not_run_again(chain: Net) -> None:
    a = chain.begin("a")
    events = [staged(a, ("out", number)) for number in range(3)]
    switch(chain, with_d(CHAIN))
    assert commit(a, *events) == 3
    assert chain.queued("b", "in") == chain.queued("d", "in") == [0, 1, 2]


def test_a_life_that_begins_later_or_was_welcomed_before_has_the_wiring_of_now(chain: Net) -> None:
    old = chain.wirings["a"]
    switch(chain, with_d(CHAIN))
    late = Commits(chain.space, old, chain.claim("a")["incarnation"])
    send(late, 5)
    assert chain.queued("d", "in") == [5]


def test_a_process_that_was_replaced_commits_nothing(chain: Net) -> None:
    a, b = chain.begin("a"), chain.begin("b")
    send(a, 1)
    switch(chain, CHAIN, renewed=["b"])
    with pytest.raises(Fenced):
        take(chain, b, ("out", 8))
    assert chain.queued("b", "in") == [1] and chain.queued("c", "in") == []
    assert take(chain, chain.begin("b"), ("out", 8)) == 1


def test_a_commit_whose_success_an_exception_hid_is_found_by_its_number_behind_a_change(chain: Net) -> None:
    a = chain.begin("a")
    event = staged(a, ("out", 1))
    real = chain.space.commit

    def hide(txn: Any) -> None:
        real(txn)
        raise KeyboardInterrupt

    a.space.commit = hide  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        commit(a, event)
    a.space.commit = real  # type: ignore[method-assign]
    switch(chain, with_d(CHAIN))
    assert commit(a, event) == 1
    assert chain.queued("b", "in") == [1] and chain.queued("d", "in") == []
    send(a, 2)
    assert chain.queued("b", "in") == [1, 2] and chain.queued("d", "in") == [2]


def test_a_removed_receiver_gets_its_end_behind_its_last_message_and_goes_when_it_has_ended(chain: Net) -> None:
    a, b, c = (chain.begin(node) for node in "abc")
    send(a, 1)
    take(chain, b, ("out", 2))
    numbers = chain.numbers["c"]["number"]
    switch(chain, {"a": CHAIN["a"], "b": {**CHAIN["b"], "outputs": []}})
    take_nothing = staged(b, ("out", 3))
    commit(b, take_nothing)  # there is nobody any more
    with chain.space.read() as txn:
        waiting = list(lives.load(txn))
    assert waiting == ["a", "b", "c"]
    assert list(_queued(chain, c)) == [2, ("INPUT_CLOSED", "", None)]
    assert chain.ask("change_settle", nodes=["c"])["left"] == ["c"]
    for _ in range(2):
        take(chain, c)
    commit(c, staged(c, ends=True))
    settled = chain.ask("change_settle", nodes=["c"])
    assert (settled["gone"], settled["left"]) == (["c"], [])
    with chain.space.read() as txn:
        kept = lives.node_record(txn, numbers)
    assert (kept.status, kept.incarnation) == (records.REMOVED, 1)


def _queued(net: Net, commits: Commits) -> list[Any]:
    from support.kit import shown

    return [shown(record) for _, record in net.messages(commits)]


def test_a_node_that_comes_back_goes_on_counting(chain: Net) -> None:
    chain.begin("a")
    b = chain.begin("b")
    commit(b, staged(b, ("out", 1)), staged(b, ("out", 2)))
    chain.end("b")
    chain.end("c")
    switch(chain, {"a": CHAIN["a"]})
    assert set(chain.ask("change_settle", nodes=["b", "c"])["gone"]) == {"b", "c"}
    switch(chain, CHAIN)
    chain.wirings = plan(chain.dataflow, "run", chain.numbers)
    again = chain.begin("b")
    assert record(chain, "b").incarnation > 1
    assert staged(again, ("out", 3)).outputs[0][2] == 3  # type: ignore[index]


def test_an_input_that_leaves_is_drained_and_goes_from_the_wiring(chain: Net) -> None:
    a, b = chain.begin("a"), chain.begin("b")
    send(a, 1)
    nodes = {"a": {"outputs": ["out", "more"]}, "b": {**CHAIN["b"], "inputs": {"in": "a/more"}}, "c": CHAIN["c"]}
    version = switch(chain, nodes)
    send(a, 2, output="out")  # nobody gets it
    assert chain.ask("change_settle")["left"] == ["b"]
    b.look()
    (leaving,) = b.nodes[0].leaving.values()
    assert leaving.wiring.source == "a/out"
    held = [(key, found) for key, found in _all(chain, b)]
    assert len(held) == 2
    for key, found in held:
        event = staged(b)
        event.ack = key, leaving, found
        commit(b, event)
    settled = chain.ask("change_settle")
    assert settled["inputs"] == {"b": [0]} and settled["left"] == [] and settled["version"] == version + 1
    b.look()
    assert not b.nodes[0].leaving and list(b.inputs) == ["in"]
    with chain.space.read() as txn:
        assert txn.get(keys.queue(chain.numbers["b"]["number"], 0)) is None


def _all(net: Net, commits: Commits) -> list[tuple[bytes, bytes]]:
    from noderuntime.space.mailbox import next_messages

    return next_messages(net.space, [item.mailbox for item in commits.nodes[0].all_inputs()], 100)


def test_a_node_goes_on_counting_what_it_took_when_an_input_has_another_source(chain: Net) -> None:
    a, b, c = (chain.begin(node) for node in "abc")
    for number in range(3):
        send(a, number)
        take(chain, b, ("out", number))
    take(chain, c)
    assert summary.messages(chain.figures("c")) == 1
    switch(chain, {**CHAIN, "c": {"inputs": {"in": "a/out"}}})
    c.look()
    (leaving,) = c.nodes[0].leaving.values()
    for key, found in _all(chain, c):
        event = staged(c)
        event.ack = key, leaving, found
        commit(c, event)
    assert summary.messages(chain.figures("c")) == 3
    assert chain.ask("change_settle")["inputs"] == {"c": [0]}
    assert summary.messages(chain.figures("c")) == 3
    send(a, 3)
    take(chain, c)
    assert summary.messages(chain.figures("c")) == 4


def test_with_discard_what_waits_is_dropped_and_what_is_in_hand_takes_effect_without_an_acknowledgement(
    chain: Net,
) -> None:
    a, b = chain.begin("a"), chain.begin("b")
    send(a, 1, 2)
    in_hand = staged(b, ("out", 9), ack=chain.messages(b)[0])
    nodes = {"a": {"outputs": ["out", "more"]}, "b": {**CHAIN["b"], "inputs": {"in": "a/more"}}, "c": CHAIN["c"]}
    switch(chain, nodes, discard=True)
    assert commit(b, in_hand) == 1
    assert chain.queued("c", "in") == [9]
    assert chain.ask("change_settle")["left"] == []


def test_state_and_dead_letters_are_not_dropped_without_a_word(chain: Net) -> None:
    a, b = chain.begin("a"), chain.begin("b")
    send(a, 1)
    take(chain, b, private={"k": b"v"})
    less = {"a": CHAIN["a"]}
    assert chain.ask("change_losses", nodes=store_nodes(dataflow_of(less, chain.folder)))["losses"] == {
        "b": "1 keys of private state"
    }
    with pytest.raises(StoreRefused, match="1 keys of private state would be lost") as refused:
        switch(chain, less)
    assert refused.value.kind is ChangeRefused
    with pytest.raises(StoreRefused, match="the run has no node 'nobody'"):
        switch(chain, less, drop=["nobody"])
    switch(chain, less, drop=["b"])


def test_the_states_of_keys_are_state_as_well(chain: Net) -> None:
    number = chain.numbers["b"]["number"]
    with chain.space.write() as txn:
        for slot in range(3):
            txn.put(keys.keyed(number, slot, b"int:7"), records.PRIVATE.pack(1) + b"v")
    with pytest.raises(StoreRefused, match="3 keys of private state would be lost"):
        switch(chain, {"a": CHAIN["a"]})


def test_what_still_drains_cannot_come_back(chain: Net) -> None:
    for node in "abc":
        chain.begin(node)
    switch(chain, {"a": CHAIN["a"]})
    with pytest.raises(StoreRefused, match="is still handling what waited for it"):
        switch(chain, CHAIN)


def test_a_switch_that_was_prepared_before_another_change_is_refused(chain: Net) -> None:
    switch(chain, with_d(CHAIN))
    new = dataflow_of(CHAIN, chain.folder)
    arguments = {"ports": {}, "renewed": [], "revived": [], "discard": False, "drop": [], "dataflow": "", "leaving": ""}
    with pytest.raises(StoreRefused, match="was changed meanwhile"):
        chain.ask("change_switch", version=1, nodes=store_nodes(new), file="", fingerprint="", **arguments)


def test_the_record_of_the_dataflow_in_force_says_what_was_applied_and_what_was_begun(chain: Net) -> None:
    assert not chain.ask("in_force")["applied"]
    chain.ask("change_prepare", nodes=store_nodes(chain.dataflow), file="x.yml")
    assert chain.ask("in_force")["changing"] == "x.yml"
    chain.ask("change_undo")
    assert chain.ask("in_force")["changing"] == ""
    switch(chain, with_d(CHAIN))
    found = chain.ask("in_force")
    assert found["applied"] and found["file"] == "new.yml"
    assert plain.from_text(found["dataflow"]) == chain.dataflow


def test_what_a_failure_had_closed_ends_for_a_receiver_that_is_removed_and_stays_so_when_the_sender_comes_back(
    chain: Net,
) -> None:
    a, b = chain.begin("a"), chain.begin("b")
    send(a, 1)
    chain.end("a", "it broke")
    switch(chain, {"a": CHAIN["a"]})
    chain.ask("revive", node="a")
    again = Commits(chain.space, chain.wirings["a"], chain.claim("a", cause="restarted")["incarnation"])
    send(again, 2)
    assert _queued(chain, b) == [
        1, ("NODE_FAILED", "a", "it broke"), ("INPUT_CLOSED", "", "it broke"), ("INPUT_CLOSED", "", None),
    ]  # fmt: skip
