"""What readers see, and when: expiry, moments, order: guarantees 7 to 9."""

from __future__ import annotations

import pytest

from noderuntime.errors import RevisionConflict
from noderuntime.merges import Add, decode
from noderuntime.state.base import State
from noderuntime.testing.state_contract.kit import (
    Fixtures,
    Stores,
    in_threads,
    values,
    wait_until,
)


class Reading(Fixtures):
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

        in_threads(work, 4)
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

        in_threads(work, 4)
        assert stores().get_or("k", b"") == b"40"
