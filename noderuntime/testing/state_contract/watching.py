"""Watches: guarantee 13."""

from __future__ import annotations

import threading

from noderuntime.state.base import State, Update
from noderuntime.testing.state_contract.kit import (
    SOON_S,
    Fixtures,
    Stores,
    wait_until,
)


class Watching(Fixtures):
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
