"""What a tap says that it has missed, as it follows from the frames of the tap server."""

from __future__ import annotations

from noderuntime import Tap
from noderuntime.api.events import REPLICA_SHIFT


def event(number: int) -> list[object]:
    return ["event", "a/n", number, 1, b"", b"", 5, 0]


def test_gaps_in_the_numbers_are_missed_and_what_was_before_the_tap_is_not() -> None:
    tap = Tap("r", "a/n")
    tap._take(["topics", {"a/n": [7]}], b"")
    tap._take(event(8), b"")
    assert tap.missed == 0
    tap._take(event(11), b"")
    assert tap.missed == 2
    tap._take(["topics", {"a/n": [13]}], b"")  # of another server
    assert tap.missed == 4
    tap._take(["end", {"a/n": [14]}], b"")
    assert tap.missed == 5 and tap.topics == ["a/n"]


def test_each_replica_of_a_node_counts_for_itself() -> None:
    one = 1 << REPLICA_SHIFT
    tap = Tap("r", "a/n")
    tap._take(["topics", {"a/n": [7, one]}], b"")
    for number in (8, one + 1, 9, one + 2):
        tap._take(event(number), b"")
    assert tap.missed == 0
    tap._take(event(one + 5), b"")
    assert tap.missed == 2
