"""The conformance suite of State: what each kind must pass. Floor 5.

In a test module of the package that brings a kind:

    from noderuntime.testing.state_contract import StateContract

    class TestMine(StateContract):
        @pytest.fixture
        def configs(self, tmp_path):
            return lambda name: {"path": str(tmp_path / name)}     # the config of a store of that name

        kind = MyState

`configs(name)` gives the config of a store: the same one for the same name, an empty one for a new name; further fields
(`history`, `ttl`) are added by the suite. A store may be opened several times at once. Each test's name begins with the
number of the guarantee (noderuntime.state.base) that it holds the kind to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from noderuntime.errors import HistoryLost, KeyTooLong, RevisionConflict, StoreError, ValueTooLarge
from noderuntime.merges import Add, Max, Merge, Min, Union, decode
from noderuntime.state.base import Diff, Entry, State, Update

Configs = Callable[[str], dict[str, Any]]
Stores = Callable[..., State]

SOON_S = 30.0  # how long the suite waits for what must happen


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds; fail when it does not within SOON_S seconds."""
    deadline = time.monotonic() + SOON_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        pause.wait(0.002)


def sync(one: State, other: State) -> None:
    """Let two stores take over each other's changes."""
    other.apply(Diff.from_bytes(one.diff(other).to_bytes()))
    one.apply(Diff.from_bytes(other.diff(one).to_bytes()))


def values(state: State) -> dict[str, bytes]:
    return {key: entry.value for key, entry in state.get_root().items()}


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


class StateContract:
    """Derive from it, name the kind, and give a fixture `configs`."""

    kind: type[State]

    @pytest.fixture
    def stores(self, configs: Configs) -> Iterator[Stores]:
        """Opens stores by name, and closes them afterwards."""
        opened: list[State] = []

        def make(name: str = "one", **fields: Any) -> State:
            state = self.kind.open({**configs(name), **fields})
            opened.append(state)
            state.init()
            return state

        yield make
        for state in opened:
            state.close()

    @pytest.fixture
    def state(self, stores: Stores) -> State:
        return stores()

    # --- 1: open ----------------------------------------------------------------------------------------------------

    def test_1_a_field_that_nobody_knows_is_refused_by_name(self, configs: Configs) -> None:
        with pytest.raises(StoreError, match="colour"):
            self.kind.open({**configs("one"), "colour": "red"})

    def test_1_init_and_close_may_be_called_twice(self, stores: Stores) -> None:
        state = stores()
        state.set("k", b"v")
        state.init()
        assert state.get_or("k", b"") == b"v"
        state.close()
        state.close()

    def test_1_a_closed_store_says_so(self, stores: Stores) -> None:
        state = stores()
        state.close()
        for call in (lambda: state.get("k"), lambda: state.set("k", b"v"), state.version, state.get_root):
            with pytest.raises(StoreError):
                call()

    def test_1_what_was_written_is_there_when_it_is_opened_again(self, stores: Stores) -> None:
        first = stores()
        first.set("k", b"v")
        version = first.version()
        other = stores()
        first.close()
        assert (values(other), other.version()) == ({"k": b"v"}, version)

    # --- 2: values --------------------------------------------------------------------------------------------------

    def test_2_what_was_set_is_what_is_got(self, state: State) -> None:
        for value in (b"", b"\0", bytes(range(256)), b"x" * 1_000_000, "grün".encode()):
            state.set("k", value)
            entry = state.get("k")
            assert entry is not None
            assert entry.value == value

    def test_2_a_key_may_be_any_text_of_508_bytes(self, state: State) -> None:
        wanted = {"": b"0", "a/b": b"1", "ü\n\0*?[x]{}": b"2", "x" * 508: b"3", "é" * 254: b"4"}
        for key, value in wanted.items():
            state.set(key, value)
        assert values(state) == wanted
        assert list(state.get_root()) == sorted(wanted, key=str.encode)

    def test_2_a_key_that_is_too_long_is_refused(self, state: State) -> None:
        for call in (
            lambda: state.set("é" * 255, b""),
            lambda: state.get("é" * 255),
            lambda: state.delete("é" * 255),
            lambda: state.merge("é" * 255, Add(1)),
        ):
            with pytest.raises(KeyTooLong):
                call()

    def test_2_a_value_that_is_too_large_is_refused(self, state: State) -> None:
        with pytest.raises(ValueTooLarge):
            state.set("k", b"x" * 1_000_001)
        assert state.get("k") is None

    @pytest.mark.parametrize("value", ["text", 1, None, [1], 1.5])
    def test_2_what_is_not_bytes_is_a_type_error(self, state: State, value: Any) -> None:
        with pytest.raises(TypeError):
            state.set("k", value)

    @pytest.mark.parametrize("key", [b"bytes", 1, None])
    def test_2_a_key_that_is_no_text_is_a_type_error(self, state: State, key: Any) -> None:
        with pytest.raises(TypeError):
            state.set(key, b"")

    def test_2_a_buffer_is_copied_at_the_call(self, state: State) -> None:
        buffer = bytearray(b"before")
        state.set("k", buffer)  # type: ignore[arg-type]
        buffer[:] = b"later!"
        assert state.get_or("k", b"") == b"before"

    def test_2_what_is_not_there_has_a_default(self, state: State) -> None:
        assert state.get("k") is None
        assert state.get_or("k", b"default") == b"default"

    # --- 3: revision ------------------------------------------------------------------------------------------------

    def test_3_revisions_rise_over_all_keys_and_kinds_of_change(self, state: State) -> None:
        found = [state.set("a", b"1"), state.set("b", b"1"), state.merge("n", Add(1)), state.set("a", b"2")]
        state.delete("a")
        found.append(state.set("a", b"3"))
        assert found == sorted(set(found))
        assert found[0] > 0
        entry = state.get("a")
        assert entry is not None
        assert entry.revision == found[-1]

    # --- 4: expect --------------------------------------------------------------------------------------------------

    def test_4_expect_writes_only_over_the_revision_it_names(self, state: State) -> None:
        revision = state.set("k", b"1", expect=0)
        assert state.set("k", b"2", expect=revision) > revision
        with pytest.raises(RevisionConflict) as refused:
            state.set("k", b"3", expect=revision)
        assert (refused.value.key, refused.value.expected) == ("k", revision)
        with pytest.raises(RevisionConflict):
            state.set("k", b"3", expect=0)
        assert state.get_or("k", b"") == b"2"

    def test_4_a_deleted_key_is_expected_as_no_key(self, state: State) -> None:
        revision = state.set("k", b"1")
        state.delete("k")
        with pytest.raises(RevisionConflict):
            state.set("k", b"2", expect=revision)
        state.set("k", b"3", expect=0)

    def test_4_of_writers_with_one_expectation_one_wins(self, stores: Stores) -> None:
        first = stores()
        revision = first.set("k", b"start")
        won: list[int] = []

        def write(number: int) -> None:
            state = stores()
            try:
                state.set("k", b"%d" % number, expect=revision)
                won.append(number)
            except RevisionConflict:
                pass

        _in_threads(write, 8)
        assert len(won) == 1
        assert first.get_or("k", b"") == b"%d" % won[0]

    # --- 5: delete --------------------------------------------------------------------------------------------------

    def test_5_delete_says_whether_there_was_a_key(self, state: State) -> None:
        state.set("k", b"v")
        assert state.delete("k") is True
        assert state.delete("k") is False
        assert state.delete("never") is False
        assert state.get("k") is None

    def test_5_a_deletion_stays_in_force_for_as_long_as_the_history(self, stores: Stores) -> None:
        state = stores("short", history=4)
        state.set("k", b"v")
        state.delete("k")
        assert "k" in state.cells()
        for number in range(8):
            state.set("other", b"%d" % number)
        assert "k" not in state.cells()

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

        _in_threads(work, 4)
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

    # --- 7: expiry --------------------------------------------------------------------------------------------------

    def test_7_an_expired_key_is_returned_by_no_call(self, stores: Stores) -> None:
        state = stores()
        state.set("stays", b"v")
        without = state.version()
        state.set("k", b"v", ttl=0.05)
        state.merge("n", Add(1))
        state.set("n", b"\x01", ttl=0.05)
        wait_until(lambda: state.get("k") is None and state.get("n") is None)
        assert state.get_or("k", b"default") == b"default"
        assert set(state.get_root()) == {"stays"}
        with state.snapshot() as view:
            assert view.get("k") is None
            assert set(view.get_root()) == {"stays"}
        diff = state.diff(without)
        assert (set(diff.changed), set(diff.deleted)) == (set(), {"k", "n"})
        state.set("k", b"new", expect=0)
        state.merge("n", Add(5))
        assert decode(state.get_or("n", b"")) == 5

    def test_7_purging_turns_the_expired_into_deletions(self, state: State) -> None:
        for number in range(5):
            state.set(f"k{number}", b"v", ttl=0.01)
        wait_until(lambda: not state.get_root())
        before = state.version()
        while state.purge(2):
            pass
        assert state.version() == before
        assert {key for key in state.cells() if key.startswith("k")} == {f"k{number}" for number in range(5)}

    def test_7_there_is_a_default_time_to_live(self, stores: Stores) -> None:
        state = stores("mortal", ttl=500)
        state.set("k", b"v")
        state.merge("n", Add(1))
        state.set("own", b"v", ttl=5000)
        left = {key: entry.ttl for key, entry in state.get_root().items()}
        assert all(ttl is not None for ttl in left.values())
        assert left["k"] <= 500  # type: ignore[operator]
        assert left["n"] <= 500  # type: ignore[operator]
        assert left["own"] > 500  # type: ignore[operator]

    @pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
    def test_7_a_time_to_live_is_above_0(self, state: State, ttl: float) -> None:
        with pytest.raises(ValueError, match="ttl"):
            state.set("k", b"v", ttl=ttl)

    # --- 8: moment --------------------------------------------------------------------------------------------------

    def test_8_a_snapshot_sees_one_moment(self, stores: Stores) -> None:
        state, writer = stores(), stores()
        state.set("a", b"1")
        state.set("b", b"1")
        with state.snapshot() as view:
            first = view.get("a")
            writer.set("a", b"2")
            writer.delete("b")
            writer.set("c", b"2")
            assert first is not None
            assert view.get("a") == first
            assert view.get_or("b", b"") == b"1"
            assert set(view.get_root()) == {"a", "b"}
            assert view.get("c") is None
        assert values(state) == {"a": b"2", "c": b"2"}

    # --- 9: order ---------------------------------------------------------------------------------------------------

    def test_9_a_write_is_seen_by_everybody_when_it_has_returned(self, stores: Stores) -> None:
        writer, reader = stores(), stores()
        for number in range(20):
            revision = writer.set("k", b"%d" % number)
            entry = reader.get("k")
            assert entry is not None
            assert (entry.value, entry.revision) == (b"%d" % number, revision)

    def test_9_threads_share_one_store(self, state: State) -> None:
        def work(number: int) -> None:
            for turn in range(20):
                key = f"{number}/{turn % 3}"
                state.set(key, b"%d" % turn)
                assert state.get_or(key, b"") == b"%d" % turn
                state.merge("n", Add(1))

        _in_threads(work, 4)
        assert decode(state.get_or("n", b"")) == 80

    def test_9_a_counter_by_expect_loses_nothing(self, stores: Stores) -> None:
        def work(number: int) -> None:
            state = stores()
            for _ in range(10):
                while True:
                    entry = state.get("k")
                    value, revision = (int(entry.value), entry.revision) if entry else (0, 0)
                    try:
                        state.set("k", b"%d" % (value + 1), expect=revision)
                        break
                    except RevisionConflict:
                        continue

        _in_threads(work, 4)
        assert stores().get_or("k", b"") == b"40"

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

    # --- 13: watch --------------------------------------------------------------------------------------------------

    def test_13_a_watch_sees_changes_from_then_on_in_order(self, stores: Stores) -> None:
        state, writer = stores(), stores()
        state.set("w/old", b"1")
        with state.watch("w/") as watch:
            revisions = [writer.set("w/a", b"1"), writer.set("x/other", b"1") and writer.set("w/b", b"2")]
            writer.delete("w/old")
            found = [watch.next(SOON_S) for _ in range(3)]
        assert [update and (update.key, update.value) for update in found] == [
            ("w/a", b"1"),
            ("w/b", b"2"),
            ("w/old", None),
        ]
        assert [update.revision for update in found[:2] if update] == revisions

    def test_13_several_changes_of_a_key_end_with_the_newest(self, stores: Stores) -> None:
        state, writer = stores(), stores()
        with state.watch() as watch:
            last = [writer.set("k", b"%d" % number) for number in range(50)][-1]
            found: list[Update] = []
            while not found or found[-1].revision != last:
                update = watch.next(SOON_S)
                assert update is not None
                found.append(update)
        assert found[-1].value == b"49"
        assert [update.revision for update in found] == sorted({update.revision for update in found})

    def test_13_a_watch_that_waits_is_woken(self, stores: Stores) -> None:
        state, writer = stores(), stores()
        with state.watch("k") as watch:
            found: list[Update | None] = []
            thread = threading.Thread(target=lambda: found.append(watch.next(SOON_S)))
            thread.start()
            writer.set("k", b"v")
            thread.join()
        assert [update and update.value for update in found] == [b"v"]

    def test_13_nothing_new_is_none(self, state: State) -> None:
        with state.watch("k") as watch:
            state.set("other", b"v")
            assert watch.next(0.01) is None

    def test_13_closing_a_watch_wakes_who_waits(self, state: State) -> None:
        watch = state.watch("k")
        found: list[list[Update]] = []
        thread = threading.Thread(target=lambda: found.append(list(watch)))
        thread.start()
        watch.close()
        watch.close()
        thread.join()
        assert found == [[]]

    def test_13_expiry_comes_as_a_deletion(self, state: State) -> None:
        state.set("k", b"v", ttl=0.02)
        with state.watch("k") as watch:
            wait_until(lambda: state.get("k") is None)
            state.purge()
            update = watch.next(SOON_S)
        assert update is not None
        assert (update.key, update.value) == ("k", None)

    def test_13_what_is_applied_is_seen_by_watches(self, stores: Stores) -> None:
        one, two = stores("one"), stores("two")
        one.set("k", b"v")
        with two.watch("k") as watch:
            two.apply(one.diff(two))
            update = watch.next(SOON_S)
        assert update is not None
        assert update.value == b"v"

    def test_13_a_watch_outlives_a_history_that_is_too_short(self, stores: Stores) -> None:
        state = stores("short", history=4)
        with state.watch() as watch:
            for number in range(40):
                state.set(f"k{number % 10}", b"%d" % number)
            found: dict[str, bytes | None] = {}
            revisions = []
            while len(found) < 10:
                update = watch.next(SOON_S)
                assert update is not None
                found[update.key] = update.value
                revisions.append(update.revision)
        assert found == {f"k{number % 10}": b"%d" % number for number in range(30, 40)}
        assert revisions == sorted(revisions)


def _in_threads(work: Callable[[int], None], count: int) -> None:
    """Run `work(0)` .. `work(count - 1)` at once; the first exception comes out."""
    failed: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


__all__ = ["Merge", "StateContract", "sync", "values", "wait_until"]
