"""Opening a store, values, revisions, compare-and-set, deleting: guarantees 1 to 5."""

from __future__ import annotations

from typing import Any

import pytest

from noderuntime.errors import KeyTooLong, RevisionConflict, StoreError, ValueTooLarge
from noderuntime.merges import Add
from noderuntime.state.base import State
from noderuntime.testing.state_contract.kit import (
    Configs,
    Fixtures,
    Stores,
    in_threads,
    values,
)


class Writing(Fixtures):
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

        in_threads(write, 8)
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
