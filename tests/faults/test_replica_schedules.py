"""Random schedules for replicas: each message once, per key in order, whatever is killed and however many there are."""

from __future__ import annotations

import pytest
from support.replica_schedules import play, schedule


@pytest.mark.parametrize("seed", [*range(1, 5), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(5, 40))])
def test_a_random_schedule_with_replicas_is_exact(seed: int) -> None:
    play(seed)


def test_a_seed_decides_the_same_each_time() -> None:
    assert schedule(7) == schedule(7)
    assert schedule(7) != schedule(8)
