"""The oracle of the schedules finds what is not exact."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from support.live_flow import Flow, Link, Part
from support.live_nodes import key_of, note
from support.live_oracle import Found, check

FLOW: Flow = {
    "s0": Part("numbers", "s0"),
    "a": Part("keeps", "a", {"in": Link("s0", 20)}),
    "k": Part("keyed", "k", {"in": Link("s0", 20)}),
    "late": Part("keeps", "late", {"in": Link("k", 20, whole=False)}),
    "drops": Part("keeps", "drops", {"drop": Link("a", 2, drop=True)}),
    "c": Part("takes", "c", {"in": Link("a", 20)}),
}
LATE = set(range(40, 100)) - {40, 42}  # two keys joined a little later


def found() -> Found:
    """Of a run in which 100 numbers were sent, and all is exact."""
    seen = {
        "s0": {"": set(range(100))},
        "a": {"in:s0": set(range(100))},
        "k": {"in:s0": set(range(100))},
        "late": {"in:s0>k.ink": LATE},
        "drops": {"drop:s0>a.in": {0, 1, 50, 99}},
        "c": {"in:s0>a.in": set(range(100))},
    }
    full = {"queued": 0, "taken": 100, "dropped": 0, "discarded": 0}
    inputs = {(id, name): dict(full) for id, part in FLOW.items() for name in part.links}
    inputs["drops", "drop"] = {"queued": 0, "taken": 4, "dropped": 96, "discarded": 0}
    events = {"a": 100, "k": 100, "late": len(LATE), "drops": 4}
    return Found(copy.deepcopy(seen), dict(events), inputs, {"s0": 100, "c": 100, **events}, dict(events))


def test_what_is_exact_is_found_exact() -> None:
    check(FLOW, found())


def without(id: str, name: str, n: int) -> Callable[[Found], None]:
    return lambda found: found.seen[id][name].remove(n)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without("a", "in:s0", 5), r"a of in:s0: 1 messages \(5\) did not come"),
        (without("a", "in:s0", 99), r"a of in:s0: 1 messages \(99\) did not come"),
        (without("k", "in:s0", 0), r"k of in:s0: 1 messages \(0\) did not come"),
        (without("late", "in:s0>k.ink", 70), r"late of in:s0>k.ink: 1 messages \(70\) did not come"),
        (without("c", "in:s0>a.in", 99), r"c of in:s0>a.in: 1 messages \(99\) did not come"),
        (without("drops", "drop:s0>a.in", 99), "the newest is 50, not 99"),
        (lambda found: found.seen["a"]["in:s0"].add(100), r"1 messages \(100\) came, but were not sent"),
        (lambda found: found.seen["a"].update({"in:gone": {1, 2, 4}}), r"in:gone, which is no more: 1 messages \(3\)"),
        (lambda found: found.counts.update(k=99), "the shared KVS counts 99 events, its state 100"),
        (lambda found: found.sent.update(a=101), "101 messages are counted, 100 events were handled"),
        (lambda found: found.inputs["a", "in"].update(queued=1), "1 messages are queued"),
        (lambda found: found.inputs["a", "in"].update(dropped=1), "1 messages were dropped"),
        (lambda found: found.inputs["drops", "drop"].update(dropped=95), "of 100 that were sent"),
        (lambda found: found.inputs["drops", "drop"].update(taken=5, dropped=95), "4 messages were handled, 5 taken"),
        (lambda found: found.left.append("a mailbox"), "a mailbox"),
    ],
)
def test_what_is_not_exact_is_found(spoil: Callable[[Found], None], says: str) -> None:
    spoiled = found()
    spoil(spoiled)
    with pytest.raises(AssertionError, match=says):
        check(FLOW, spoiled)


def message(n: int, path: str = "s0") -> dict[str, object]:
    return {"n": n, "path": path, "key": key_of(n), "ballast": ""}


@pytest.mark.parametrize(
    ("path", "numbers", "wrong"),
    [
        ("s0", [0, 1, 2], ""),
        ("s0", [0, 1, 1], "1 came twice"),
        ("s0", [0, 2, 1], "1 came after 2"),
        ("s0>k.ink", [1, 0, 13], ""),
        ("s0>k.ink", [13, 1, 0], "0 came after 13"),
        ("s0>f.inf", [13, 0], ""),
        ("s0>f.inf", [13, 0, 13], "13 came twice"),
        ("s0>c.in*", [0, 1, 1, 0], ""),
    ],
)
def test_a_node_notes_what_is_wrong_with_what_comes(path: str, numbers: list[int], wrong: str) -> None:
    seen: dict[str, list[object]] = {}
    for n in numbers:
        note(seen, "in", message(n, path))
    assert seen[f"in:{path}"][2] == wrong
