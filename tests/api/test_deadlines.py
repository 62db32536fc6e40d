from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noderuntime.api.keyed import deadlines
from noderuntime.api.keyed.deadlines import Deadlines, Place

SLOT = {tag: at * 83 % 256 for at, tag in enumerate("abcdefgh")} | {"h": 0}  # "a" and "h" share a slot


class Entries:
    """An index of one queue: {tag: (due, slot)}."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[float, int]] = {}
        self.reads = self.read = 0

    def due(self, queue: int, after: Sequence[tuple[int, Place]], limit: int) -> list[list[Place]]:
        by_slot: dict[int, list[Place]] = {}
        for tag, (due, slot) in self.held.items():
            by_slot.setdefault(slot, []).append((due, tag))
        found = [sorted(entry for entry in by_slot.get(slot, ()) if entry > place)[:limit] for slot, place in after]
        self.reads += 1
        self.read += sum(map(len, found))
        return found

    def first(self, until: float) -> tuple[float, str, int] | None:
        return min(((due, tag, slot) for tag, (due, slot) in self.held.items() if due <= until), default=None)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from("abcdefgh"), st.integers(0, 9)),
        st.tuples(st.just("discard"), st.sampled_from("abcdefgh"), st.just(0)),
        st.tuples(st.just("take"), st.just("a"), st.integers(0, 9)),
        st.tuples(st.just("forget"), st.just("a"), st.just(0)),
    ),
    max_size=60,
)


@pytest.mark.parametrize("chunk", [1, 2, 64])
@given(STEPS)
def test_the_earliest_comes_first_however_little_of_the_index_is_in_memory(
    chunk: int, steps: list[tuple[str, str, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deadlines, "FIRST_READ", min(chunk, 4))
        patch.setattr(deadlines, "READ", chunk)
        patch.setattr(deadlines, "HELD_MAX", 2 * chunk)
        index, held = Entries(), Deadlines(0)
        for what, tag, at in steps:
            if what == "set":
                index.held[tag] = float(at), SLOT[tag]
                held.set(tag, float(at), SLOT[tag])
            elif what == "discard":
                index.held.pop(tag, None)
                held.discard(tag)
            elif what == "forget":
                held.forget()
            elif (first := index.first(at)) is not None:
                assert held.first(at, index) == first
                del index.held[first[1]]
                held.discard(first[1])
            assert held.first(at, index) == index.first(at)


def test_of_many_entries_a_new_life_reads_a_few() -> None:
    index = Entries()
    for number in range(100_000):
        index.held[str(number)] = float(number), number % 256
    held = Deadlines(0)
    assert held.first(1000.0, index) == (0.0, "0", 0)
    assert (index.reads, index.read) == (1, 256 * deadlines.FIRST_READ)
    assert held.first(-1.0, index) is None


def test_what_memory_holds_is_bounded_however_many_are_set_and_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "HELD_MAX", 2000)
    index, held = Entries(), Deadlines(0)
    for number in range(20_000):
        tag, due = str(number), float(number * 7919 % 5000)
        index.held[tag] = due, number % 256
        held.set(tag, due, number % 256)
        assert len(held._at) <= 2001
    taken = []
    while (first := held.first(40.0, index)) is not None:
        taken.append(first)
        del index.held[first[1]]
        held.discard(first[1])
        assert len(held._at) <= 2000 + 256 * deadlines.READ
    assert len(taken) == len(set(taken)) == 4 * 41
    assert taken == sorted(taken)


def test_times_that_are_moved_again_and_again_do_not_fill_the_memory() -> None:
    index, held = Entries(), Deadlines(0)
    held.first(0.0, index)
    for number in range(20 * deadlines.SPARE):
        for tag, due in (("a", -number), ("b", number), ("c", number % 7)):
            index.held[tag] = float(due), 1
            held.set(tag, float(due), 1)
    assert len(held._heap) <= 2 * 3 + deadlines.SPARE + 1
    assert held.first(0.0, index) == (1.0 - 20 * deadlines.SPARE, "a", 1)
