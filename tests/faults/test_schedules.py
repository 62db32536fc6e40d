"""Random schedules: a share of them in each test run. `make faults N=2000` runs new ones."""

from __future__ import annotations

import pytest
from support.schedules import play, schedule


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_random_schedule_is_exact(seed: int) -> None:
    play(seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3, 23))
def test_more_random_schedules_are_exact(seed: int) -> None:
    play(seed)


@pytest.mark.parametrize(
    ("seed", "story"),
    [
        (102, "an error behind a commit in the helper thread: the loop committed the same events again"),
        (3095, "of a group that did not fit, only the first was committed, and the others were taken for done"),
        (105, "a message that was dropped left its attempts behind"),
    ],
)
def test_what_was_wrong_once_is_exact(seed: int, story: str) -> None:
    play(seed)


def test_a_seed_decides_the_same_each_time() -> None:
    assert schedule(7) == schedule(7)
    assert schedule(7) != schedule(8)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 12))])
def test_a_random_schedule_with_operators_that_share_processes_is_exact(seed: int) -> None:
    play(seed, shared=True)
