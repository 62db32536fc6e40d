"""The kind of a value, as its entry says it: guarantee 15."""

from __future__ import annotations

import pytest

from noderuntime.merges import Add, Max, Union, decode
from noderuntime.state.base import Diff, State
from noderuntime.testing.state_contract.kit import Fixtures, Stores, sync, wait_until
from noderuntime.testing.state_contract.merging import Append


def marks(state: State) -> dict[str, bool]:
    return {key: entry.packed for key, entry in state.get_root().items()}


class Marking(Fixtures):
    # --- 15: kind ---------------------------------------------------------------------------------------------------

    def test_15_what_was_merged_is_marked_and_what_was_set_is_not(self, state: State) -> None:
        state.merge("n", Add(1))
        state.merge("ids", Union({"a"}))
        state.set("text", b"5")
        assert marks(state) == {"ids": True, "n": True, "text": False}

    def test_15_setting_takes_the_mark_away_and_set_packed_gives_it(self, state: State) -> None:
        state.merge("n", Add(1))
        state.set("n", b"\x05")
        assert marks(state) == {"n": False}
        revision = state.set_packed("n", b"\x05")
        entry = state.get("n")
        assert entry is not None
        assert (entry.packed, entry.value, entry.revision) == (True, b"\x05", revision)
        state.delete("n")
        state.set("n", b"\x05")
        assert marks(state) == {"n": False}

    def test_15_a_counter_that_was_set_goes_on_from_there(self, state: State) -> None:
        state.merge("n", Add(51))
        state.set_packed("n", b"\x00")
        state.merge("n", Add(3))
        assert decode(state.get_or("n", b"")) == 3
        assert marks(state) == {"n": True}

    def test_15_a_merge_of_another_kind_keeps_the_mark(self, state: State) -> None:
        state.merge("n", Add(1))
        state.merge("n", Max(7))
        assert decode(state.get_or("n", b"")) == 7
        assert marks(state) == {"n": True}

    def test_15_a_merge_of_the_users_own_leaves_it_to_the_user(self, state: State) -> None:
        state.merge("k", Append(b"text"))
        assert marks(state) == {"k": False}

    def test_15_set_packed_expects_and_expires_as_set_does(self, state: State) -> None:
        revision = state.set_packed("k", b"\x01", expect=0)
        state.set_packed("k", b"\x02", ttl=0.05, expect=revision)
        wait_until(lambda: state.get("k") is None)
        state.merge("k", Add(4))
        assert decode(state.get_or("k", b"")) == 4

    @pytest.mark.parametrize("size", [0, 5000])
    def test_15_the_mark_is_there_when_the_store_is_opened_again(self, stores: Stores, size: int) -> None:
        first = stores()
        first.set_packed("k", b"\xc4\x00" if not size else b"\xc5\x13\x88" + bytes(size))
        other = stores()
        first.close()
        assert marks(other) == {"k": True}

    def test_15_the_mark_travels_and_both_sides_agree(self, stores: Stores) -> None:
        one, two = stores("one"), stores("two")
        one.set_packed("k", b"\x01")
        one.merge("n", Add(1))
        two.set("k", b"text")
        two.set_packed("j", b"\x02")
        sync(one, two)
        assert one.version() == two.version()
        assert marks(one) == marks(two) == {"j": True, "k": False, "n": True}
        diff = one.diff("0" * 32)
        assert {key: entry.packed for key, entry in diff.changed.items()} == marks(one)
        assert Diff.from_bytes(diff.to_bytes()).cells == diff.cells

    def test_15_the_mark_is_no_part_of_the_version(self, stores: Stores) -> None:
        one, two = stores("one"), stores("two")
        one.set("k", b"\x05")
        two.set_packed("k", b"\x05")
        assert one.version() == two.version()

    @pytest.mark.parametrize("key", ["\udc80", "a\ud800b"])
    def test_2_half_a_pair_of_surrogates_is_no_key(self, state: State, key: str) -> None:
        for call in (
            lambda: state.set(key, b""), lambda: state.set_packed(key, b""), lambda: state.get(key),
            lambda: state.delete(key), lambda: state.merge(key, Add(1)), lambda: state.get_or(key, b""),
        ):  # fmt: skip
            with pytest.raises(TypeError, match="a key is text that UTF-8 can hold"):
                call()
