from __future__ import annotations

import select
from collections.abc import Iterator

import pytest

from noderuntime.node.timerfd import OneShotTimer

HOUR_NS = 3_600_000_000_000


@pytest.fixture
def alarm() -> Iterator[OneShotTimer]:
    alarm = OneShotTimer(HOUR_NS)
    yield alarm
    alarm.close()


def went_off(alarm: OneShotTimer, within_s: float) -> bool:
    return bool(select.select([alarm.fd], [], [], within_s)[0])


def test_an_alarm_goes_off_once_when_its_time_has_come(alarm: OneShotTimer) -> None:
    alarm.set_in(1000)
    assert went_off(alarm, 10)
    alarm.wait()
    assert not went_off(alarm, 0)


def test_an_alarm_that_went_off_unseen_is_taken_back_by_clearing_it_and_by_setting_it_anew(alarm: OneShotTimer) -> None:
    for take_back in (alarm.clear, alarm.set):
        alarm.set_in(0)
        assert went_off(alarm, 10)
        take_back()
        assert not went_off(alarm, 0.02)
