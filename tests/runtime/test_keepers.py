"""keepers.py: how long the runtime is patient with a store or a fork server that dies. The rest is in e2e/."""

from __future__ import annotations

import signal

from noderuntime.runtime.keepers import PAUSE_S, Patience, cause_of


def test_kills_from_outside_are_forgiven_for_ever() -> None:
    patience = Patience()
    assert {patience.wait_s(-signal.SIGKILL, 0.0) for _ in range(1000)} == {PAUSE_S}


def test_a_helper_that_dies_by_itself_again_and_again_is_given_up() -> None:
    patience = Patience()
    waits = [patience.wait_s(1, 0.0) for _ in range(7)]
    assert waits == [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, None]


def test_so_is_one_that_hangs_each_time() -> None:
    patience = Patience()
    for _ in range(6):
        patience.killed_by_us = True
        assert patience.wait_s(-signal.SIGKILL, 0.0) is not None
    patience.killed_by_us = True
    assert patience.wait_s(-signal.SIGKILL, 0.0) is None


def test_each_one_that_hangs_gives_the_next_one_more_time_until_one_has_done_some_work() -> None:
    patience = Patience()
    stretches = []
    for _ in range(5):
        stretches.append(patience.stretch)
        patience.killed_by_us = True
        patience.wait_s(-signal.SIGKILL, 0.0)
    assert stretches == [1, 2, 4, 8, 8]
    patience.wait_s(-signal.SIGKILL, 0.0)
    patience.reset()
    assert patience.stretch == 1


def test_what_it_has_done_resets_the_count() -> None:
    patience = Patience()
    for _ in range(100):
        assert patience.wait_s(None, 0.0) == 0.0
        patience.reset()


def test_the_cause_of_a_death_names_the_disk_that_is_full() -> None:
    assert cause_of(1) == "exit code 1"
    assert cause_of(-signal.SIGKILL) == "SIGKILL"
    assert "no room is left for the space" in cause_of(-signal.SIGBUS)
    assert "$NODERUNTIME_HOME" in cause_of(-signal.SIGBUS)
