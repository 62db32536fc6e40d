"""Taps in the space: they come and go between two commits of a sender, and hold nobody up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from support.kit import CHAIN, MB, Make, Net, Nodes, commit, send, shown, staged, take

from noderuntime.space import keys, lives, records, segments, taps
from noderuntime.space.environment import scan
from noderuntime.space.lives import NodeEntry
from noderuntime.space.mailbox import messages, queue_of
from noderuntime.space.segments import read_segment
from noderuntime.space.staging import Staged
from noderuntime.space.taps import Topic


@pytest.fixture
def net(make: Make) -> Net:
    return make(CHAIN)


def tap(net: Net, *come: str, go: Iterable[str] = (), groups: dict[int, list[int]] | None = None) -> dict[str, Any]:
    """Change the taps; by topic the input number of its mailbox and what was sent before."""
    with net.space.write() as txn:
        known = taps.topics(txn)
        gone = [(known[name].node, known[name].output) for name in go]
        return taps.change(txn, [known[name] for name in come], gone, groups or {})


def waiting(net: Net, input: int) -> list[Any]:
    with net.space.read() as txn:
        return [shown(record) for _, record in taps.waiting(txn, input, 100_000)]


def left(net: Net) -> list[bytes]:
    """All records of taps but the count of their changes."""
    with net.space.read() as txn:
        prefixes = (keys.TAPPED_PREFIX, keys.mailbox(keys.TAPS, 0)[:3], keys.queue(keys.TAPS, 0)[:3])
        return [key for prefix in prefixes for key, _ in scan(txn, prefix)]


def test_topics_are_all_outputs_by_name(net: Net) -> None:
    with net.space.read() as txn:
        assert taps.topics(txn) == {"a/out": Topic("a/out", 0, 0, "a/out"), "b/out": Topic("b/out", 1, 0, "b/out")}


def test_a_running_sender_finds_a_tap_at_its_next_commit(net: Net) -> None:
    a = net.begin("a")
    assert send(a, 1, 2) == 2
    found = tap(net, "a/out")
    assert found["a/out"] == (0, 2)
    assert send(a, 3) == 1 and keys.TAPS in a.rings
    assert send(a, *range(4, 50)) == 46 and keys.TAPS not in a.rings, "its queue is not empty: it will look"
    assert waiting(net, 0) == [*range(3, 50)]
    assert net.queued("b", "in") == [*range(1, 50)]


def test_nothing_is_put_any_more_when_a_tap_has_gone(net: Net) -> None:
    a = net.begin("a")
    tap(net, "a/out")
    assert send(a, 1) == 1
    event = staged(a, ("out", 2))  # staged while the tap was there
    tap(net, go=["a/out"])
    assert left(net) == []
    assert commit(a, event) == 1 and send(a, *range(3, 40)) == 37
    assert left(net) == []
    assert net.queued("b", "in") == [*range(1, 40)]


def test_a_new_replica_has_the_taps_of_its_node_from_its_first_message_on(net: Net) -> None:
    tap(net, "a/out")
    with net.space.write() as txn:
        before = lives.load(txn)
        new = NodeEntry("a[1]", 40, {}, {"out": 0, "more": 1})
        taps.extend(txn, before, {**before, "a[1]": new, "b[1]": NodeEntry("b[1]", 41, {}, {"out": 0})})
        assert taps.present(txn) == {(0, 0): 0, (40, 0): 1}
        taps.extend(txn, before, {**before, "a[1]": new})
        assert taps.present(txn) == {(0, 0): 0, (40, 0): 1}


def test_what_is_due_for_keys_of_an_operator_is_no_tap(net: Net) -> None:
    due = keys.due_queue(0, 7, 0) + keys.due_entry(5.0, b"int:7")
    with net.space.write() as txn:
        txn.put(due, b"")
    tap(net, "a/out")
    with net.space.write() as txn:
        assert taps.clear(txn) == 1
        assert txn.get(due) == b"" and not taps.present(txn)


def test_the_mailbox_of_one_tap_never_gets_what_an_earlier_tap_would_have_got(net: Net) -> None:
    a, b = net.begin("a"), net.begin("b")
    tap(net, "a/out")
    send(a, "old")
    stale = staged(a, ("out", "late"))
    assert tap(net, "b/out", go=["a/out"]) == {"b/out": (0, 0)}, "the number is free again"
    assert commit(a, stale) == 1
    take(net, b, ("out", "b's"))
    assert waiting(net, 0) == ["b's"]


def test_two_outputs_are_tapped_apart_and_a_second_tap_of_one_changes_nothing(net: Net) -> None:
    a, b = net.begin("a"), net.begin("b")
    first = tap(net, "a/out", "b/out")
    assert {input for input, _ in first.values()} == {0, 1}
    send(a, "x")
    before = a.wiring.version
    assert tap(net, "a/out")["a/out"][0] == first["a/out"][0]
    send(a, "y")
    assert a.wiring.version == before
    take(net, b, ("out", "z"))
    assert waiting(net, first["a/out"][0]) == ["x", "y"] and waiting(net, first["b/out"][0]) == ["z"]


def test_a_tap_that_nobody_reads_drops_its_oldest_and_never_makes_the_sender_wait(make: Make) -> None:
    net = make({"a": {"outputs": ["out"]}}, 64 * MB)
    a = net.begin("a")
    tap(net, "a/out")
    for number in range(40):
        assert send(a, *(bytes([number]) * 40_000 for _ in range(10))) == 10 and not a.waits_for
    with net.space.read() as txn:
        queue = queue_of(txn, keys.queue(keys.TAPS, 0))
    assert 7_500_000 < queue[records.BYTES] <= taps.TAP_BYTES
    assert queue[records.QUEUED] + queue[records.DROPPED] == 400
    with net.space.read() as txn:
        assert shown([*messages(txn, keys.mailbox(keys.TAPS, 0))][-1][1]) == bytes([39]) * 40_000
    tap(net, go=["a/out"])
    assert left(net) == []


def test_large_bodies_are_referred_to_for_as_long_as_they_wait(make: Make) -> None:
    net = make({"a": {"outputs": ["out"]}}, 512 * MB)
    (net.folder / "segments").mkdir()
    a = net.begin("a")

    def referenced() -> int:
        with net.space.read() as txn:
            return sum(count for *_, count in segments.referenced(txn))

    tap(net, "a/out")
    for number in range(12):
        assert send(a, np.full(1_000_000, number, np.uint8)) == 1
    assert referenced() == 7, "8 MB, what is before the body included"
    with net.space.read() as txn:
        found = taps.waiting(txn, 0, 3)
    copies = [read_segment(net.folder / "segments", records.reference_of(record)) for _, record in found]
    assert [copy[0] for copy in copies] == [5, 6, 7]
    assert send(a, np.full(1_000_000, 12, np.uint8)) == 1  # one of those is dropped meanwhile
    with net.space.write() as txn:
        assert taps.take(txn, 0, found) == [False, True, True]
    assert referenced() == 5
    assert send(a, np.zeros(20_000_000, np.uint8)) == 1
    assert referenced() == 1, "a message that is larger than the mailbox lies there alone"
    tap(net, go=["a/out"])
    assert referenced() == 0


def test_a_new_life_of_a_sender_has_the_taps_from_its_beginning(net: Net) -> None:
    tap(net, "a/out")
    a = net.begin("a")
    send(a, 1)
    net.claim("a", cause="killed")
    again = net.begin("a")
    send(again, 2)
    assert waiting(net, 0) == [1, 2]


def test_an_end_of_the_sender_is_not_told_to_a_tap(net: Net) -> None:
    a = net.begin("a")
    tap(net, "a/out")
    commit(a, staged(a, ("out", "last"), ends=True))
    assert net.queued("b", "in") == ["last", ("INPUT_CLOSED", "", None)]
    assert waiting(net, 0) == ["last"]


def test_the_store_removes_what_a_tap_server_has_left(net: Net) -> None:
    a = net.begin("a")
    tap(net, "a/out", "b/out")
    send(a, 1)
    net.ask("taps_clear")
    assert left(net) == []
    send(a, 2)
    assert left(net) == []
    assert net.queued("b", "in") == [1, 2]


def test_a_run_that_is_resumed_has_no_taps(net: Net) -> None:
    a = net.begin("a")
    tap(net, "a/out")
    send(a, 1)
    net.open(CHAIN, resume=True)
    assert left(net) == []
    again = net.begin("a")
    send(again, 2)
    assert left(net) == []
    assert net.queued("b", "in")[0] == 1 and net.queued("b", "in")[-1] == 2


def test_taps_are_not_among_the_figures(net: Net) -> None:
    before = net.ask("figures")["nodes"].keys()
    tap(net, "a/out")
    assert net.ask("figures")["nodes"].keys() == before == net.ask("queues")["nodes"].keys()


# --- operators that share a process ---------------------------------------------------------------------------------


def operator(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"process": "p", "operator": {"python": "op.py", "inputs": inputs, "outputs": ["out"]}}


SHARED: Nodes = {
    "a": {"outputs": ["out"]},
    "x": operator({"in": "a/out"}),
    "y": operator({"in": "x/out"}),
    "c": {"inputs": {"in": "y/out"}},
}


def test_operators_that_share_a_process_get_a_tap_without_a_new_life(make: Make) -> None:
    net = make(SHARED)
    p = net.begin("x")
    x, y = p.nodes
    inside = [to.mailbox for to in x.outputs["out"].receivers]

    def pass_on(number: int) -> Staged:
        inner = x.outputs["out"].without(inside)  # to nobody, as long as nobody looks
        event = Staged()
        event.inside = [y.inputs["in"]]
        inner.sent = number - 1
        if inner.copies:
            inner.stage(event, number, None, net.space)  # type: ignore[arg-type]
        event.numbers = {x.outputs["out"].counter: number}
        y.outputs["out"].stage(event, number, None, net.space)  # type: ignore[arg-type]
        return event

    def between_events() -> None:
        for ports in p.nodes:
            ports.join()

    assert commit(p, pass_on(1)) == 1
    both = [net.numbers[id]["number"] for id in ("x", "y")]
    groups = dict.fromkeys(both, both)
    found = tap(net, "x/out", groups=groups)
    assert found == {"x/out": (0, 1)}
    assert commit(p, pass_on(2)) == 1  # it finds the tap too late to send to it what it had staged
    between_events()
    assert commit(p, *map(pass_on, range(3, 30))) == 27
    assert waiting(net, 0) == [*range(3, 30)]
    late = pass_on(30)
    tap(net, "y/out", go=["x/out"], groups=groups)
    assert commit(p, late) == 1
    assert waiting(net, 0) == [], "of the one output, whose tap has gone, or of the other, which was staged before"
    between_events()
    assert commit(p, pass_on(31)) == 1
    assert waiting(net, 0) == [31], "of the other output, under the same number"
    assert net.queued("c", "in") == [*range(1, 32)]
    assert net.figures("x")["incarnation"] == 1
