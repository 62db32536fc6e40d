"""Runs that are changed again and again while processes are killed; each follows from its seed.

A failing one is repeated with `APPLY_SEED=N pytest tests/faults/test_apply_schedules.py -k replayed`.
"""

from __future__ import annotations

import os

import pytest
from support.live_schedule import Schedule
from support.stage import Stage


def play(seed: int, steps: int = 6) -> None:
    with Stage() as stage:
        Schedule(seed, stage).run(steps)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(3))
def test_changed_and_killed(seed: int) -> None:
    play(seed)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(100, 140))
def test_changed_and_killed_more_often(seed: int) -> None:
    play(seed, 10)


@pytest.mark.skipif("APPLY_SEED" not in os.environ, reason="no schedule was named")
@pytest.mark.timeout(300)
def test_replayed() -> None:
    play(int(os.environ["APPLY_SEED"]), int(os.environ.get("APPLY_STEPS", "6")))
