from __future__ import annotations

import select
from collections.abc import Iterator

import pytest

from noderuntime.node.timerfd import OneShotTimer

HOUR_NS = 3_600_000_000_000


@pytest.fixture
def timer() -> Iterator[OneShotTimer]:
    timer = OneShotTimer(HOUR_NS)
    yield timer
    timer.close()


def went_off(timer: OneShotTimer, within_s: float) -> bool:
    return bool(select.select([timer.fd], [], [], within_s)[0])


def test_a_timer_goes_off_once_when_its_time_has_come(timer: OneShotTimer) -> None:
    timer.set_in(1000)
    assert went_off(timer, 10)
    timer.wait()
    assert not went_off(timer, 0)


def test_a_timer_that_went_off_unseen_is_taken_back_by_clearing_it_and_by_setting_it_anew(timer: OneShotTimer) -> None:
    for take_back in (timer.clear, timer.set):
        timer.set_in(0)
        assert went_off(timer, 10)
        take_back()
        assert not went_off(timer, 0.02)
