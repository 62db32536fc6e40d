"""A changed dataflow over a kept space: what matches stays, what does not is dropped by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from noderuntime.errors import ResumeRefused
from noderuntime.space import keys, lives, records
from noderuntime.space.environment import Space, create, open_space, scan
from noderuntime.space.mailbox import queue_of
from noderuntime.space.reconcile import adapt, reconcile, refuse_losses, rename

A: dict[str, Any] = {"id": "a", "kind": "operator", "inputs": [], "outputs": ["x"]}
B: dict[str, Any] = {"id": "b", "kind": "operator", "inputs": [["in", "a/x"], ["tick", ""]], "outputs": ["y"]}


COUNTERS = [0] * 6
COUNTERS[records.output_counter(0)] = 42
COUNTERS[records.input_counter(1)] = 99


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    space = create(tmp_path / "space", 1 << 22, "boot")
    with space.write() as txn:
        lives.register(txn, [A, B])
        # b: 42 messages of its output, tick 99 of its timer
        txn.put(keys.node(0), records.NodeRecord(1, records.LIVE, 5, [7]).pack())
        txn.put(keys.node(1), records.NodeRecord(1, records.LIVE, 5, COUNTERS).pack())
        txn.put(keys.private_prefix(1) + b"total", records.PRIVATE.pack(1) + b"5")
        txn.put(keys.message(1, 0, 3, 0), records.encode_message("m", None, 1, 0)[0])
        txn.put(keys.queue(1, 0), records.pack_queue([1, 30, 6, 0, 0, 0, 0, 0]))
        txn.put(keys.dead(1, 2, 0, 0), b"letter")
    yield space
    space.close()


def change(space: Space, *wanted: dict[str, Any]) -> tuple[list[str], lives.Registry]:
    with space.write() as txn:
        old = lives.load(txn)
        dropped = reconcile(txn, list(wanted))
        registry = lives.register(txn, list(wanted))
        adapt(txn, old, registry)
    return dropped, registry


def counters(space: Space, number: int) -> list[int]:
    with space.read() as txn:
        return records.NodeRecord.parse(txn.get(keys.node(number))).counters


def test_a_kept_space_says_where_its_shared_state_is(tmp_path: Path) -> None:
    folder, config = tmp_path / "kept", {"kind": "sqlite", "config": {"path": "shared.db"}, "folder": "/flows"}
    first = create(folder, 1 << 22, "boot")
    assert first.external is None
    with first.write() as txn:
        txn.put(b"Moutside", msgpack.packb(config))  # as earlier versions wrote it
    first.close()
    again = open_space(folder)
    assert again.external == config
    again.close()


def test_the_same_dataflow_loses_nothing(space: Space) -> None:
    with space.read() as txn:
        before = dict(scan(txn, b""))
    dropped, _ = change(space, A, B)
    with space.read() as txn:
        assert dict(scan(txn, b"")) == before
    assert dropped == []


def test_a_node_that_is_gone_takes_all_it_had_and_each_of_it_is_named(space: Space) -> None:
    dropped, _ = change(space, A)
    assert dropped == [
        "node 'b' is no longer in the dataflow: dropped 1 keys of private state, 1 queued messages, 1 dead letters"
    ]
    with space.read() as txn:
        kinds = {bytes(key[:1]) for key, _ in scan(txn, b"")}
        assert not kinds & {b"p", b"m", b"q", b"d"}
        record = lives.node_record(txn, 1)
        assert (record.status, record.incarnation, record.counters[0]) == (records.REMOVED, 1, 42)


def test_a_node_with_replicas_is_named_once_whichever_of_them_has_something_to_lose(tmp_path: Path) -> None:
    space = create(tmp_path / "replicas", 1 << 22, "boot")
    replicas = [{**B, "id": id} for id in ("b", "b[1]")]
    with space.write() as txn:
        registry = lives.register(txn, [A, *replicas])
        number = registry["b[1]"].number
        txn.put(keys.message(number, 0, 3, 0), records.encode_message("m", None, 1, 0)[0])
    with space.read() as txn:
        with pytest.raises(ResumeRefused, match=r"node 'b' is no longer .* 1 queued messages") as refused:
            refuse_losses(txn, [A], [])
        assert "`--drop b` gives it up" in refused.value.hint
        refuse_losses(txn, [A], ["b"])
        with pytest.raises(ResumeRefused, match="no node 'c'") as unknown:
            refuse_losses(txn, [A], ["c"])
        assert unknown.value.hint == "It had: a, b."
    space.close()


def test_a_node_that_comes_later_does_not_find_the_state_of_one_that_is_gone(space: Space) -> None:
    change(space, A)
    other = {"id": "c", "kind": "operator", "inputs": [["in", "a/x"]], "outputs": []}
    _, registry = change(space, A, other)
    with space.read() as txn:
        assert lives.private_state(txn, registry["c"], 99) == {}


def test_an_input_with_another_source_starts_empty_and_its_messages_are_named(space: Space) -> None:
    other = {"id": "c", "kind": "operator", "inputs": [], "outputs": ["x"]}
    rewired = {**B, "inputs": [["in", "c/x"], ["tick", ""]]}
    dropped, registry = change(space, A, other, rewired)
    assert dropped == ["input 'in' of node 'b' is gone or has another source: dropped 1 queued messages"]
    number, _ = registry["b"].inputs["in"]
    with space.read() as txn:
        assert queue_of(txn, keys.queue(1, number)) == [0] * 8
        assert lives.private_state(txn, registry["b"], 99) == {"total": b"5"}


def test_timers_and_timeouts_keep_their_counters_when_outputs_are_added(space: Space) -> None:
    _, registry = change(space, A, {**B, "outputs": ["y", "z", "w"]})
    assert registry["b"].outputs == {"y": 0, "z": 1, "w": 2}
    assert counters(space, 1) == COUNTERS


def test_an_output_that_is_taken_away_and_given_back_goes_on_counting_so_that_no_uid_comes_twice(space: Space) -> None:
    change(space, {**A, "outputs": []}, {**B, "inputs": [["tick", ""]]})
    change(space, A, B)
    assert counters(space, 0)[:1] == [7]


def test_a_new_input_from_a_node_that_has_ended_is_closed_from_the_start(space: Space) -> None:
    with space.write() as txn:
        registry = lives.load(txn)
        lives.end(txn, space, registry, [registry["a"]], failed=None)
    late = {"id": "late", "kind": "operator", "inputs": [["in", "a/x"]], "outputs": []}
    _, registry = change(space, A, B, late)
    with space.read() as txn:
        queue = queue_of(txn, keys.queue(registry["late"].number, 0))
    assert queue[records.FLAGS] & records.SOURCE_ENDED


def test_a_new_space_has_nothing_to_drop(tmp_path: Path) -> None:
    space = create(tmp_path / "new", 1 << 22, "boot")
    dropped, registry = change(space, A, B)
    assert dropped == []
    assert set(registry) == {"a", "b"}
    space.close()


C: dict[str, Any] = {**B, "id": "c"}


def test_a_node_that_is_gone_and_has_something_is_refused_and_named(space: Space) -> None:
    with space.write() as txn:
        with pytest.raises(ResumeRefused, match=r"1 keys of .*, 1 queued messages, 1 dead letters") as refused:
            refuse_losses(txn, [A, C], [])
        assert "--rename b=c" in refused.value.hint
        assert "--drop b" in refused.value.hint
        refuse_losses(txn, [A, C], ["b"])
        refuse_losses(txn, [B], [])  # a has nothing to lose


@pytest.mark.parametrize(("drop", "told"), [("a", "still in"), ("z", "no node 'z'")])
def test_what_cannot_be_given_up_is_refused(space: Space, drop: str, told: str) -> None:
    with space.write() as txn, pytest.raises(ResumeRefused, match=told):
        refuse_losses(txn, [A, B], [drop])


def test_a_renamed_node_keeps_its_number_and_with_it_all_it_has(space: Space) -> None:
    sender = {**A, "id": "new"}
    receiver = {**B, "id": "c", "inputs": [["in", "new/x"], ["tick", ""]]}
    with space.write() as txn:
        txn.put(keys.dead(1, 2, 0, 0), msgpack.packb({"input": "in", "uid": "a/x#4"}))
        held = {key: value for key, value in scan(txn, b"") if key[:1] in b"pmqn"}
        rename(txn, [sender, receiver], {"a": "new", "b": "c"})
        refuse_losses(txn, [sender, receiver], [])
        assert reconcile(txn, [sender, receiver]) == []
        registry = lives.register(txn, [sender, receiver])
        assert {id: node_entry.number for id, node_entry in registry.items()} == {"new": 0, "c": 1}
        assert registry["c"].inputs["in"] == (0, "new/x")
        assert {key: value for key, value in scan(txn, b"") if key in held} == held
        assert msgpack.unpackb(txn.get(keys.dead(1, 2, 0, 0)))["uid"] == "new/x#4"
        other = lives.register(txn, [sender, receiver, A])
        assert other["a"].number == 2
    assert counters(space, 2) == [7]  # uids of the id go on


def test_a_node_takes_the_id_of_one_that_is_long_gone_and_not_its_number(space: Space) -> None:
    with space.write() as txn:
        txn.put(keys.node(1), records.NodeRecord(1, records.LIVE, 5, []).pack())
        reconcile(txn, [A])
        lives.register(txn, [A])
        rename(txn, [B], {"a": "b"})
        registry = lives.register(txn, [{**A, "id": "b"}])
        assert registry["b"].number == 0
        assert lives.register(txn, [{**A, "id": "b"}, {**A, "id": "d"}])["d"].number == 3


def test_an_id_under_which_another_node_has_sent_is_not_given_to_a_node(space: Space) -> None:
    change(space, A)
    with space.write() as txn, pytest.raises(ResumeRefused, match="another node 'b' has sent messages"):
        rename(txn, [B], {"a": "b"})


def test_a_node_gets_back_the_id_that_it_had_unless_another_one_had_it_meanwhile(space: Space) -> None:
    new = {**A, "id": "new"}
    with space.write() as txn:
        txn.delete(keys.dead(1, 2, 0, 0))
        rename(txn, [new, B], {"a": "new"})
        rename(txn, [A, B], {"new": "a"})
        assert {id: entry.number for id, entry in lives.load(txn).items()} == {"a": 0, "b": 1}
        rename(txn, [new, B], {"a": "new"})
        other = lives.register(txn, [new, B, A])["a"]
        lives.claim(txn, space, lives.load(txn), {"a": 3}, cause="", counts=False, hands=[], trace="")
        lives.register(txn, [new, B])
        with pytest.raises(ResumeRefused, match="another node 'a' has sent messages"):
            rename(txn, [A, B], {"new": "a"})
    assert other.number not in (0, 1)


def test_an_input_number_is_never_given_twice_whatever_is_renamed(space: Space) -> None:
    other = {**A, "id": "old", "outputs": ["x"]}
    with space.write() as txn:
        txn.delete(keys.dead(1, 2, 0, 0))
        lives.register(txn, [A, other, {**B, "inputs": [["in", "old/x"], ["tick", ""]]}])  # in from a/x: 0, old/x: 2
        lives.register(txn, [A, B])
        reconcile(txn, [A, B])
        rename(txn, [other, B], {"a": "old"})
        two = {**B, "inputs": [["in", "old/x"], ["tick", ""], ["more", "old/x"]]}
        registry = lives.register(txn, [other, two])
    assert registry["b"].inputs == {"in": (0, "old/x"), "tick": (1, ""), "more": (3, "old/x")}


@pytest.mark.parametrize(
    ("names", "told"),
    [({"z": "c"}, "no node 'z'"), ({"a": "c"}, "still in"), ({"b": "z"}, "no node 'z'"), ({"b": "a"}, "already")],
)
def test_a_rename_that_does_not_fit_is_refused(space: Space, names: dict[str, str], told: str) -> None:
    with space.write() as txn, pytest.raises(ResumeRefused, match=told):
        rename(txn, [A, C], names)
