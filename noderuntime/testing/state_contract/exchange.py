"""Versions, diffs, and taking them over: guarantees 10 to 12."""

from __future__ import annotations

import pytest

from noderuntime.errors import HistoryLost, KeyTooLong
from noderuntime.merges import Add, Union, decode
from noderuntime.state.base import Diff, State
from noderuntime.testing.state_contract.kit import (
    Fixtures,
    Stores,
    sync,
    values,
)


class Exchange(Fixtures):
    # --- 10: version ------------------------------------------------------------------------------------------------

    def test_10_equal_contents_have_equal_versions_however_they_came_about(self, stores: Stores) -> None:
        one, two = stores("one"), stores("two")
        assert one.version() == two.version()
        one.set("a", b"1")
        one.set("b", b"2")
        two.set("b", b"0")
        two.set("b", b"2")
        assert one.version() != two.version()
        two.set("a", b"1")
        assert one.version() == two.version()

    def test_10_a_deletion_in_force_is_part_of_the_contents(self, stores: Stores) -> None:
        one, two = stores("one"), stores("two")
        one.set("a", b"1")
        one.delete("a")
        assert one.version() != two.version()
        two.set("a", b"2")
        two.delete("a")
        assert one.version() == two.version()

    def test_10_keys_and_values_are_told_apart(self, stores: Stores) -> None:
        one, two = stores("one"), stores("two")
        one.set("ab", b"c")
        two.set("a", b"bc")
        assert one.version() != two.version()
        one.set("a", b"bc")
        two.set("ab", b"c")
        assert one.version() == two.version()

    def test_10_reading_and_writing_the_same_again_change_no_version(self, state: State) -> None:
        state.set("a", b"1")
        version = state.version()
        state.get_root()
        state.set("a", b"1")
        state.delete("never")
        assert state.version() == version

    def test_10_a_merged_value_counts_as_the_value_that_is_read(self, stores: Stores) -> None:
        one, two = stores("one"), stores("two")
        one.merge("n", Add(2))
        one.merge("n", Add(3))
        two.set("n", b"\x05")
        assert one.version() == two.version()

    # --- 11: diff ---------------------------------------------------------------------------------------------------

    def test_11_a_diff_has_the_newest_of_what_changed(self, state: State) -> None:
        state.set("same", b"1")
        state.set("gone", b"1")
        state.set("k", b"1")
        version = state.version()
        state.set("k", b"2")
        last = state.set("k", b"3")
        state.delete("gone")
        state.set("new", b"1")
        diff = state.diff(version)
        assert {key: entry.value for key, entry in diff.changed.items()} == {"k": b"3", "new": b"1"}
        assert diff.changed["k"].revision == last
        assert diff.deleted == {"gone"}
        assert diff.version == state.version()
        assert not state.diff(diff.version)

    def test_11_an_empty_store_is_a_version_too(self, stores: Stores) -> None:
        empty = stores("empty").version()
        state = stores()
        state.set("k", b"v")
        assert set(state.diff(empty).changed) == {"k"}

    def test_11_the_latest_moment_with_that_version_counts(self, state: State) -> None:
        state.set("k", b"1")
        version = state.version()
        state.set("other", b"1")
        state.set("k", b"2")
        state.set("k", b"1")
        state.delete("other")
        with_deletion = state.version()
        state.set("last", b"1")
        assert set(state.diff(with_deletion).changed) == {"last"}
        assert set(state.diff(version).changed) == {"k", "last"}

    def test_11_a_version_that_history_does_not_reach_is_lost(self, stores: Stores) -> None:
        state = stores("short", history=4)
        state.set("k", b"start")
        old = state.version()
        for number in range(10):
            state.set("k", b"%d" % number)
        recent = state.version()
        state.set("k", b"end")
        assert set(state.diff(recent).changed) == {"k"}
        with pytest.raises(HistoryLost) as lost:
            state.diff(old)
        assert lost.value.since == old

    @pytest.mark.parametrize("version", ["", "nonsense", "0" * 31, "f" * 32, "-" + "1" * 31])
    def test_11_an_unknown_version_is_lost(self, state: State, version: str) -> None:
        state.set("k", b"v")
        with pytest.raises(HistoryLost):
            state.diff(version)

    def test_11_a_diff_against_another_store_has_what_differs(self, stores: Stores) -> None:
        one, two = stores("one"), stores("two")
        one.set("both", b"1")
        two.apply(one.diff(two))
        one.set("mine", b"1")
        one.delete("both")
        diff = one.diff(two)
        assert (set(diff.changed), set(diff.deleted)) == ({"mine"}, {"both"})

    # --- 12: apply --------------------------------------------------------------------------------------------------

    def test_12_stores_that_applied_each_others_diffs_are_equal(self, stores: Stores) -> None:
        one, two = stores("one"), stores("two")
        one.set("a", b"1")
        two.set("b", b"2")
        one.merge("n", Add(1))
        two.merge("n", Add(2))
        one.merge("all", Union({1}))
        two.merge("all", Union({2}))
        sync(one, two)
        assert values(one) == values(two)
        assert one.version() == two.version()
        assert {key: decode(value) for key, value in values(one).items() if key in ("n", "all")} == {
            "n": 3,
            "all": [1, 2],
        }
        before = one.version()
        sync(one, two)
        assert one.version() == two.version() == before

    def test_12_the_later_of_two_writers_wins_at_both_sides(self, stores: Stores) -> None:
        one, two = stores("one"), stores("two")
        one.set("k", b"early")
        two.set("k", b"late")
        two.set("gone", b"early")
        one.set("gone", b"late")
        one.delete("gone")
        sync(one, two)
        assert values(one) == values(two) == {"k": b"late"}

    def test_12_who_has_seen_a_value_writes_after_it(self, stores: Stores) -> None:
        one, two = stores("one"), stores("two")
        for turn in range(5):
            one.set("k", b"one %d" % turn)
            sync(one, two)
            assert two.get_or("k", b"") == b"one %d" % turn
            two.set("k", b"two %d" % turn)
            sync(one, two)
            assert one.get_or("k", b"") == b"two %d" % turn

    def test_12_applying_a_diff_again_changes_nothing(self, stores: Stores) -> None:
        one, two = stores("one"), stores("two")
        one.set("a", b"1")
        one.merge("n", Add(7))
        diff = one.diff(two)
        assert two.apply(diff) == ["a", "n"]
        assert two.apply(diff) == []
        assert decode(two.get_or("n", b"")) == 7

    def test_12_three_stores_agree_in_whatever_order_they_hear(self, stores: Stores) -> None:
        three = [stores(name) for name in ("one", "two", "three")]
        for number, state in enumerate(three):
            state.set("k", b"%d" % number)
            state.merge("n", Add(number + 1))
            state.set(f"own{number}", b"v", ttl=1000)
        three[1].delete("k")
        empty = "0" * 32
        diffs = [state.diff(empty) for state in three]
        for number, state in enumerate(three):
            for turn in (1, 2, 1):
                state.apply(diffs[(number + turn) % 3])
        assert len({state.version() for state in three}) == 1
        assert decode(three[0].get_or("n", b"")) == 6

    def test_12_a_diff_crosses_the_network_as_bytes(self, stores: Stores) -> None:
        one, two = stores("one"), stores("two")
        one.set("a", b"1", ttl=1000)
        two.apply(Diff.from_bytes(one.diff(two).to_bytes()))
        entry = two.get("a")
        assert entry is not None
        assert entry.ttl is not None

    def test_12_writers_of_one_moment_do_not_diverge(self, stores: Stores) -> None:
        one, two = stores("one"), stores("two")
        for turn in range(50):
            one.set("k", b"one %d" % turn)
            two.set("k", b"two %d" % turn)
        sync(one, two)
        assert values(one) == values(two)
        assert one.version() == two.version()

    def test_12_a_diff_that_does_not_fit_is_applied_not_at_all(self, stores: Stores) -> None:
        one, two = stores("one"), stores("two")
        one.set("a", b"1")
        good = one.diff(two)
        bad = Diff({}, frozenset(), good.version, {**good.cells, "x" * 509: good.cells["a"]})
        with pytest.raises(KeyTooLong):
            two.apply(bad)
        assert values(two) == {}
