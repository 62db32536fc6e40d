"""Which nodes wait for nodes that failed, when a run is over, and which cycle has nothing left."""

from __future__ import annotations

import pytest

from noderuntime.runtime.stuck import Doing, Place, endless, judge, told

ENDED, FAILED, BUSY = Place(Doing.ENDED), Place(Doing.FAILED), Place(Doing.BUSY)


def waits(*senders: str, acts: bool = False, queued: bool = False) -> Place:
    return Place(Doing.WAITING, acts, queued, senders)


def full(*receivers: str, senders: tuple[str, ...] = (), acts: bool = True) -> Place:
    return Place(Doing.FULL, acts, False, senders, receivers)


def cramped(*holders: str) -> Place:
    return Place(Doing.CRAMPED, True, full=holders)


# what each row is about: the nodes -> the stuck ones and whom they wait for, whether the run is over, which cycle opens
TABLE = {
    "nothing failed, nothing is left": ({"a": ENDED, "b": waits("a")}, {"b": ()}, False, ""),
    "a sender has no room at a failed node": ({"a": full("b"), "b": FAILED}, {"a": ("b",)}, True, ""),
    "a sender has room again": ({"a": BUSY, "b": FAILED}, {}, False, ""),
    "a receiver of a failed node, all handled": ({"a": FAILED, "b": waits("a")}, {"b": ("a",)}, True, ""),
    "it has something left to handle": ({"a": FAILED, "b": waits("a", queued=True)}, {}, False, ""),
    "it has a timer, or is a program": ({"a": FAILED, "b": waits("a", acts=True)}, {}, False, ""),
    "a Source that is idle": ({"s": waits(acts=True), "f": FAILED}, {}, False, ""),
    "a Source that is idle, and sends to nobody who failed": (
        {"s": waits(acts=True), "f": FAILED, "b": waits("f")}, {"b": ("f",)}, False, "",
    ),
    "held up through others": (
        {"a": full("b"), "b": full("c", senders=("a",)), "c": FAILED}, {"a": ("b",), "b": ("c",)}, True, "",
    ),
    "cut off through others": (
        {"a": FAILED, "b": waits("a"), "c": waits("b")}, {"b": ("a",), "c": ("b",)}, True, "",
    ),
    "one of two senders lives": (
        {"a": FAILED, "t": waits(acts=True), "c": waits("a", "t")}, {}, False, "",
    ),
    "one of two senders has ended": (
        {"a": FAILED, "e": ENDED, "c": waits("a", "e")}, {"c": ("a",)}, True, "",
    ),
    "one of two full receivers lives: the failed one holds the sender up all the same": (
        {"a": full("b", "c"), "b": FAILED, "c": BUSY}, {"a": ("b",)}, False, "",
    ),
    "the only full receiver lives": ({"a": full("c"), "b": FAILED, "c": BUSY}, {}, False, ""),
    "no room in the space, and nothing is queued": ({"a": cramped(), "f": FAILED}, {}, False, ""),
    "the space is full of what a failed node keeps": ({"a": cramped("f"), "f": FAILED}, {"a": ("f",)}, True, ""),
    "the space is full of what a live node has to handle, too": (
        {"a": cramped("f", "b"), "f": FAILED, "b": BUSY}, {}, False, "",
    ),
    "two that failed": (
        {"a": full("b"), "b": FAILED, "c": FAILED, "d": waits("c")}, {"a": ("b",), "d": ("c",)}, True, "",
    ),
    "only failed and ended nodes: there is nobody to stop": ({"a": ENDED, "b": FAILED}, {}, False, ""),
    "a cycle behind a failed node": (
        {"f": FAILED, "a": waits("f", "b"), "b": waits("a")}, {"a": ("f", "b"), "b": ("a",)}, True, "",
    ),
    "a cycle in which one failed": (
        {"s": full("a"), "a": full("b", senders=("s", "b")), "b": FAILED}, {"s": ("a",), "a": ("b",)}, True, "",
    ),
    "a cycle that a Source still feeds": (
        {"s": waits(acts=True), "a": waits("s", "b"), "b": waits("a")}, {}, False, "",
    ),
    "a cycle whose Source has ended": (
        {"s": ENDED, "a": waits("s", "b"), "b": waits("a")}, {"a": ("b",), "b": ("a",)}, False, "a",
    ),
    "a cycle in which something waits": (
        {"s": ENDED, "a": waits("s", "b"), "b": waits("a", queued=True)}, {}, False, "",
    ),
    "a cycle with a timer": (
        {"s": ENDED, "a": waits("s", "b", acts=True), "b": waits("a")}, {}, False, "",
    ),
    "what is behind a cycle ends behind it": (
        {"z": waits("a"), "s": ENDED, "b": waits("a"), "a": waits("s", "b")},
        {"z": ("a",), "b": ("a",), "a": ("b",)}, False, "b",
    ),
    "of two cycles, the first one ends first": (
        {"c": waits("d", "a"), "d": waits("c"), "a": waits("b"), "b": waits("a")},
        {"c": ("d", "a"), "d": ("c",), "a": ("b",), "b": ("a",)}, False, "c",
    ),
    "a node that feeds itself": ({"s": ENDED, "a": waits("s", "a")}, {"a": ("a",)}, False, "a"),
    "a finished cycle ends, whatever else goes on": (
        {"t": waits(acts=True), "s": ENDED, "a": waits("s", "b"), "b": waits("a")},
        {"a": ("b",), "b": ("a",)}, False, "a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_the_table_of_verdicts(case: str) -> None:
    places, stuck, over, opens = TABLE[case]
    verdict = judge(places)
    assert (verdict.stuck, verdict.over, verdict.opens) == (stuck, over, opens)


def test_the_order_of_the_file_decides_nothing_but_which_cycle_opens_first() -> None:
    for places, stuck, over, _ in TABLE.values():
        backwards = judge(dict(reversed(places.items())))
        assert (backwards.stuck, backwards.over) == (stuck, over)


def test_what_never_ends_by_itself_when_the_sources_stop() -> None:
    places = {
        "s": BUSY, "a": waits("s", "b"), "b": waits("a"), "behind": waits("b"), "f": FAILED, "cut": waits("f"),
        "off": waits("cut"), "plain": waits("s"), "gone": ENDED,
    }  # fmt: skip
    assert endless(places) == {"a", "b", "cut", "off"}


def test_it_is_said_who_waits_for_whom_and_what_keeps_the_run_going() -> None:
    places = {"a": full("b"), "b": FAILED, "c": waits("b"), "d": waits("c"), "t": waits(acts=True), "e": ENDED}
    assert told(judge(places), places) == (
        "a waits for room in the queue of b (failed); c waits for messages of b (failed); d waits for messages of c. "
        "The run continues for: t"
    )


def test_it_is_said_of_what_the_space_is_full() -> None:
    places = {"a": cramped("b"), "b": FAILED}
    assert told(judge(places), places) == "a waits for room in the space, which is full of messages for b (failed)"
