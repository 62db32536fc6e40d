"""Random kills in a dataflow of dora: a share of the seeds in each test run. `make faults-dora N=300` runs new ones."""

from __future__ import annotations

import pytest
from support.dora_flow import Flow
from support.dora_schedules import play, schedule


@pytest.mark.parametrize("seed", [2, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 11))])
def test_what_operators_of_dora_send_is_exact_whoever_is_killed(seed: int, flow: Flow) -> None:
    play(seed, flow)


def test_a_seed_decides_the_same_each_time() -> None:
    assert schedule(7) == schedule(7)
    assert schedule(7) != schedule(8)
