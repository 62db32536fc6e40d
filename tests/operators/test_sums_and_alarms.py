"""running_sum, running_statistics, threshold_alarm."""

from __future__ import annotations

import random
import statistics
from typing import Any

import msgpack
import pytest
from noderuntime.operators import running_statistics, running_sum, threshold_alarm

from noderuntime import merges
from noderuntime.testing import Harness

SEED = 11


def test_the_running_sum_of_0_to_100_is_5050_whatever_crashes() -> None:
    h = Harness(running_sum.Operator, outputs=["sum"])
    for number in range(101):
        h.send("n", number, crashes=number % 17 == 0)
        if number % 10 == 0:
            h.crash()
    assert h.outputs("sum")[-1] == 5050
    assert len(h.outputs("sum")) == 101


def test_the_running_sum_may_start_elsewhere_and_keeps_large_and_broken_numbers_exact() -> None:
    h = Harness(running_sum.Operator, config={"start": 2**60})
    h.send("n", 1)
    h.crash()
    h.send("n", 2)
    assert h.outputs("sum") == [2**60 + 1, 2**60 + 3]
    h = Harness(running_sum.Operator)
    h.send("n", 0.1)
    h.crash()
    h.send("n", 0.2)
    assert h.outputs("sum") == [0.1, 0.1 + 0.2]


def test_running_statistics_agree_with_the_textbook_across_crashes() -> None:
    generator = random.Random(SEED)
    numbers = [1e9 + generator.gauss(0, 1) for _ in range(200)]
    h = Harness(running_statistics.Operator, config={"alpha": 0.5})
    for place, number in enumerate(numbers):
        h.send("load", number, crashes=place % 31 == 0)
        if place % 7 == 0:
            h.crash()
    found = h.outputs("statistics")[-1]["load"]
    assert found["count"] == 200
    assert found["mean"] == pytest.approx(statistics.fmean(numbers), rel=1e-12)
    assert found["variance"] == pytest.approx(statistics.variance(numbers), rel=1e-6)
    assert (found["min"], found["max"], found["last"]) == (min(numbers), max(numbers), numbers[-1])
    average = numbers[0]
    for number in numbers[1:]:
        average += 0.5 * (number - average)
    assert found["ewma"] == pytest.approx(average, rel=1e-12)


def test_one_value_has_no_variance() -> None:
    h = Harness(running_statistics.Operator)
    h.send("load", 3)
    assert h.outputs("statistics") == [
        {"load": {"count": 1, "last": 3, "mean": 3, "min": 3, "max": 3, "ewma": 3, "variance": 0}}
    ]


def test_each_metric_of_a_message_has_statistics_and_a_saved_state_of_its_own() -> None:
    h = Harness(running_statistics.Operator)
    h.send("sample", {"cpu": 10, "memory": 50})
    h.send("sample", {"cpu": 20})
    h.send("sample", 7, {"metric": "disk"})
    assert [sorted(sent) for sent in h.outputs("statistics")] == [["cpu", "memory"], ["cpu"], ["disk"]]
    assert h.outputs("statistics")[1]["cpu"]["mean"] == 15
    assert sorted(h.state) == ["cpu", "disk", "memory"]
    assert len(h.state["cpu"]) == 56


def test_what_is_no_finite_number_is_left_out() -> None:
    h = Harness(running_statistics.Operator)
    h.send("sample", {"a": float("nan"), "b": float("inf"), "c": 1})
    h.send("sample", {"a": float("nan")})
    assert [sorted(sent) for sent in h.outputs("statistics")] == [["c"]]


def alarms(h: Harness) -> list[tuple[str, bool, float]]:
    return [(alarm["metric"], alarm["active"], alarm["value"]) for alarm in h.outputs("alarm")]


def alarm_harness(**config: Any) -> Harness:
    config.setdefault("levels", {"cpu*": {"raise": 90, "clear": 80}, "free": {"raise": 5, "clear": 10}})
    return Harness(threshold_alarm.Operator, config=config, outputs=["alarm"])


def test_an_alarm_is_raised_at_one_level_and_cleared_past_the_other() -> None:
    h = alarm_harness()
    for value in (50, 89, 90, 95, 85, 80, 79, 85, 91):
        h.send("cpu0", value, crashes=1)
        h.crash()
    assert alarms(h) == [("cpu0", True, 90), ("cpu0", False, 79), ("cpu0", True, 91)]


def test_a_raise_level_below_the_clear_level_is_an_alarm_for_low_values() -> None:
    h = alarm_harness()
    for value in (20, 6, 5, 7, 10, 11):
        h.send("in", {"free": value})
    assert alarms(h) == [("free", True, 5), ("free", False, 11)]


def test_equal_levels_do_not_flutter() -> None:
    h = alarm_harness(levels={"x": {"raise": 5, "clear": 5}})
    for value in (5, 5, 4, 5):
        h.send("x", value)
    assert alarms(h) == [("x", True, 5), ("x", False, 4), ("x", True, 5)]


def test_active_alarms_stand_in_the_shared_kvs_for_everybody() -> None:
    h = alarm_harness()
    h.send("in", {"cpu0": 99, "cpu1": 99, "other": 99})
    assert sorted(h.kvs) == ["alarm/cpu0", "alarm/cpu1", "alarms_raised"]
    saved = msgpack.unpackb(h.kvs["alarm/cpu0"])
    assert saved == {"value": 99, "level": 90, "since": h.now.isoformat()}
    h.send("in", {"cpu0": 1})
    assert sorted(h.kvs) == ["alarm/cpu1", "alarms_raised"]
    assert merges.decode(h.kvs["alarms_raised"]) == 2


def test_an_alarm_that_another_node_has_cleared_is_raised_again() -> None:
    h = alarm_harness()
    h.send("cpu0", 99)
    del h.kvs["alarm/cpu0"]
    h.send("cpu0", 99)
    assert len(h.outputs("alarm")) == 2


def test_a_field_of_statistics_can_be_watched() -> None:
    h = alarm_harness(field="ewma")
    h.send("in", {"cpu0": {"last": 100, "ewma": 50}, "cpu1": {"last": 0, "ewma": 95}})
    assert alarms(h) == [("cpu1", True, 95)]


@pytest.mark.parametrize("operator", [running_sum, running_statistics, threshold_alarm])
def test_an_unknown_config_field_is_named(operator: Any) -> None:
    config = {"levels": {"x": {"raise": 1, "clear": 0}}} if operator is threshold_alarm else {}
    with pytest.raises(ValueError, match="config: strat: unknown field"):
        Harness(operator.Operator, config={**config, "strat": 1})


@pytest.mark.parametrize(
    ("operator", "config", "named"),
    [
        (running_sum, {"start": "0"}, "start"),
        (running_sum, {"start": True}, "start"),
        (running_statistics, {"alpha": 0}, "alpha"),
        (running_statistics, {"alpha": 1.5}, "alpha"),
        (running_statistics, {"alpha": "x"}, "alpha"),
        (threshold_alarm, {}, "levels"),
        (threshold_alarm, {"levels": {"cpu": 90}}, "levels: cpu"),
        (threshold_alarm, {"levels": {"cpu": {"raise": 90}}}, "levels: cpu"),
        (threshold_alarm, {"levels": {"cpu": {"raise": 90, "clear": "x"}}}, "levels: cpu: clear"),
        (threshold_alarm, {"levels": {"cpu": {"raise": 9, "clear": 1}}, "field": 3}, "field"),
    ],
)
def test_a_config_field_that_cannot_work_is_named(operator: Any, config: Any, named: str) -> None:
    with pytest.raises(ValueError, match=f"config: {named}: "):
        Harness(operator.Operator, config=config)
