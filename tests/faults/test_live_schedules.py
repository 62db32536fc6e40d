"""Random schedules that change a run while anybody is killed: a share of them in each test run.

`make live-schedules N=2000` runs new ones, `make live-schedules N=1 SEED=17` one again.
"""

from __future__ import annotations

import pytest
from support.live_schedules import plan_of, play

QUICK = range(12)
LONG = range(100, 140)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", QUICK)
def test_a_run_that_is_changed_and_killed_is_exact(seed: int) -> None:
    play(seed)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", LONG)
def test_more_runs_that_are_changed_and_killed_are_exact(seed: int) -> None:
    play(seed)


def test_a_seed_decides_the_same_each_time() -> None:
    assert plan_of(7) == plan_of(7)
    assert plan_of(7) != plan_of(8)
