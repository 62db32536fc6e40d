"""Merges: guarantee 6."""

from __future__ import annotations

import pytest

from noderuntime.errors import ValueTooLarge
from noderuntime.merges import Add, Max, Min, Union, decode
from noderuntime.state.base import Entry, State
from noderuntime.testing.state_contract.kit import (
    Fixtures,
    Stores,
    in_threads,
    values,
    wait_until,
)


class Append:
    """A merge that no kind of State knows."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def apply(self, current: bytes | None) -> bytes:
        return (current or b"") + self.text


def _merged_later(state: State, before: Entry | None) -> bool:
    """Merge once more; whether the entry says that it is a later one."""
    state.merge("n", Add(1))
    entry = state.get("n")
    assert entry is not None
    assert before is not None
    return entry.timestamp > before.timestamp



class Merging(Fixtures):
    # --- 6: merge ---------------------------------------------------------------------------------------------------

    def test_6_merges_combine_with_what_is_there(self, state: State) -> None:
        state.merge("sum", Add(3))
        state.merge("sum", Add(-5))
        state.merge("top", Max(3))
        state.merge("top", Max(2))
        state.merge("low", Min(3.5))
        state.merge("low", Min(-1))
        state.merge("all", Union({"b"}))
        state.merge("all", Union({"a", "b"}))
        found = {key: decode(value) for key, value in values(state).items()}
        assert found == {"sum": -2, "top": 3, "low": -1, "all": ["a", "b"]}

    def test_6_a_merge_goes_on_from_a_value_that_was_set(self, state: State) -> None:
        state.set("n", b"\x05")
        state.merge("n", Add(2))
        state.merge("n", Add(2**40))
        assert decode(state.get_or("n", b"")) == 2**40 + 7
        state.merge("n", Max(2**50))
        state.merge("n", Add(1))
        assert decode(state.get_or("n", b"")) == 2**50 + 1

    @pytest.mark.parametrize("start", [2**53 + 1, 2**62 + 1, 2**63 - 1, -(2**53) - 1])
    def test_6_large_whole_numbers_add_exactly(self, state: State, start: int) -> None:
        state.merge("n", Add(start))
        state.merge("n", Add(2))
        assert decode(state.get_or("n", b"")) == start + 2
        state.merge("n", Max(start + 3))
        state.merge("n", Max(float(start)))
        assert decode(state.get_or("n", b"")) == start + 3

    def test_6_a_sum_that_64_bits_do_not_hold_is_refused_and_changes_nothing(self, state: State) -> None:
        state.merge("n", Add(2**63))
        version = state.version()
        with pytest.raises(TypeError, match="64 bits"):
            state.merge("n", Add(2**63))
        assert decode(state.get_or("n", b"")) == 2**63
        assert state.version() == version

    def test_6_a_merged_value_that_gets_too_large_is_refused_and_changes_nothing(self, state: State) -> None:
        state.merge("all", Union({b"x" * 600_000}))
        with pytest.raises(ValueTooLarge):
            state.merge("all", Union({b"y" * 600_000}))
        assert decode(state.get_or("all", b"")) == [b"x" * 600_000]

    def test_6_sets_hold_elements_of_every_kind_in_one_order(self, state: State) -> None:
        elements = [None, False, True, -5, 7, 2**60, -0.5, 7.0, "", "Z", "a", "é", b"", b"\xff"]
        for element in reversed(elements):
            state.merge("all", Union({element}))
        found = decode(state.get_or("all", b""))
        assert [(type(item), item) for item in found] == [(type(item), item) for item in elements]

    def test_6_a_merge_of_a_kind_of_ones_own_is_applied_too(self, state: State) -> None:
        state.merge("text", Append(b"one"))
        state.merge("text", Append(b"two"))
        assert state.get_or("text", b"") == b"onetwo"

    def test_6_an_entry_tells_when_it_was_merged_into_and_in_which_store(self, state: State) -> None:
        state.merge("n", Add(1))
        state.set("other", b"")
        first, other = state.get("n"), state.get("other")
        wait_until(lambda: _merged_later(state, first))
        last = state.get("n")
        assert other is not None
        assert last is not None
        assert last.origin.partition("/")[0] == other.origin.partition("/")[0]
        assert abs((last.timestamp - other.timestamp).total_seconds()) < 1000

    def test_6_a_value_that_cannot_be_merged_stays(self, state: State) -> None:
        state.set("k", b"\xa3abc")
        for merge in (Add(1), Union({1})):
            with pytest.raises(TypeError):
                state.merge("k", merge)
        assert state.get_or("k", b"") == b"\xa3abc"

    def test_6_no_merge_of_many_writers_is_lost(self, stores: Stores) -> None:
        def work(number: int) -> None:
            state = stores()
            for turn in range(25):
                state.merge("sum", Add(1))
                state.merge("top", Max(number * 100 + turn))
                state.merge("all", Union({number * 100 + turn}))

        in_threads(work, 4)
        found = {key: decode(value) for key, value in values(stores()).items()}
        assert found["sum"] == 100
        assert found["top"] == 324
        assert len(found["all"]) == 100

    def test_6_a_time_to_live_goes_on(self, state: State) -> None:
        state.set("n", b"\x01", ttl=1000)
        state.merge("n", Add(1))
        entry = state.get("n")
        assert entry is not None
        assert entry.ttl is not None
        assert 0 < entry.ttl <= 1000
