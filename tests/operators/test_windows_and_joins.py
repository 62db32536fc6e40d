"""window, throttle, join."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest
from noderuntime.operators import join, throttle, window

from noderuntime.testing import Harness


def windows(h: Harness) -> list[list[Any]]:
    return [sent["values"] for sent in h.outputs("window")]


def counted(config: dict[str, Any], messages: int, crashing: bool = False) -> list[list[Any]]:
    h = Harness(window.Operator, config=config, outputs=["window"])
    for number in range(1, messages + 1):
        h.send("n", number, crashes=crashing)
        if crashing:
            h.crash()
    h.stop("ALL_INPUTS_CLOSED")
    return windows(h)


@pytest.mark.parametrize("crashing", [False, True])
@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"count": 3}, [[1, 2, 3], [4, 5, 6], [7]]),
        ({"count": 3, "every": 1}, [[1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6], [5, 6, 7]]),
        ({"count": 3, "every": 2}, [[1, 2, 3], [3, 4, 5], [5, 6, 7]]),
        ({"count": 2, "every": 4}, [[1, 2], [5, 6]]),
        ({"count": 10}, [[1, 2, 3, 4, 5, 6, 7]]),
    ],
)
def test_windows_by_count(config: dict[str, Any], found: list[list[int]], crashing: bool) -> None:
    assert counted(config, 7, crashing) == found


def test_a_window_by_count_tells_the_numbers_of_its_values() -> None:
    h = Harness(window.Operator, config={"count": 2})
    for value in "abcd":
        h.send("in", value)
    assert h.outputs("window")[1] == {"values": ["c", "d"], "start": 3, "end": 4}


def timed(config: dict[str, Any], at_s: list[float], crashing: bool = False) -> Harness:
    """Sends each second as its own value."""
    h = Harness(window.Operator, config=config, outputs=["window"])
    passed_s = 0.0
    for second in at_s:
        h.advance(second - passed_s)
        passed_s = second
        h.send("n", second, crashes=crashing)
        if crashing:
            h.crash()
    return h


@pytest.mark.parametrize("crashing", [False, True])
def test_tumbling_windows_by_time_hold_what_was_sent_in_them(crashing: bool) -> None:
    h = timed({"time": "10s"}, [0, 3, 9.5, 10, 41], crashing)
    assert windows(h) == [[0, 3, 9.5], [10]]
    h.stop("ALL_INPUTS_CLOSED")
    assert windows(h) == [[0, 3, 9.5], [10], [41]]


@pytest.mark.parametrize("crashing", [False, True])
def test_sliding_windows_by_time_overlap(crashing: bool) -> None:
    h = timed({"time": "10s", "every": "5s"}, [0, 6, 12, 30], crashing)
    assert windows(h) == [[0], [0, 6], [6, 12], [12]]
    h.stop("ALL_INPUTS_CLOSED")
    assert windows(h)[4:] == [[30], [30]]


def test_windows_by_time_may_leave_gaps() -> None:
    h = timed({"time": 2, "every": 10}, [1, 5, 9, 11, 30])
    assert windows(h) == [[1], [11]]


def test_a_window_by_time_tells_its_bounds() -> None:
    h = timed({"time": "10s"}, [0, 3])
    begin = h.now - dt.timedelta(seconds=3)
    h.advance(10)
    h.tick()
    (sent,) = h.outputs("window")
    assert (sent["start"], sent["end"]) == (begin, begin + dt.timedelta(seconds=10))


def test_a_tick_sends_a_window_that_is_over_without_another_message() -> None:
    h = timed({"time": "10s"}, [0, 3])
    h.advance(6.9)
    h.tick()
    assert windows(h) == []
    h.advance(0.1)
    h.tick()
    h.tick()
    assert windows(h) == [[0, 3]]


def test_what_a_window_no_longer_needs_leaves_the_private_state() -> None:
    h = Harness(window.Operator, config={"count": 3, "every": 1})
    for number in range(50):
        h.send("n", number)
    assert len(h.state) == 3  # two values that the next window needs, and the progress


def passing(h: Harness) -> list[Any]:
    return h.outputs("out")


@pytest.mark.parametrize("crashing", [False, True])
def test_a_throttle_lets_one_message_pass_in_each_stretch_of_time(crashing: bool) -> None:
    h = Harness(throttle.Operator, config={"every": "1s"}, outputs=["out"])
    for tenth in range(25):
        h.send("in", tenth, {"k": tenth}, crashes=crashing)
        if crashing:
            h.crash()
        h.advance(0.1)
    assert passing(h) == [0, 10, 20]
    assert h.sent[1].metadata == {"k": 10, "input": "in"}


def test_each_input_is_throttled_by_itself() -> None:
    h = Harness(throttle.Operator, config={"every": 1})
    for name in ("a", "b", "a", "b"):
        h.send(name, name)
    assert passing(h) == ["a", "b"]


def test_the_newest_message_can_be_held_back_for_a_tick() -> None:
    h = Harness(throttle.Operator, config={"every": 1, "latest": True})
    for value in (1, 2, 3):
        h.send("in", value)
    h.crash()
    h.tick()
    assert passing(h) == [1]
    h.advance(1)
    h.tick()
    h.tick()
    assert passing(h) == [1, 3]


def test_what_is_held_back_is_not_lost_when_the_inputs_end() -> None:
    h = Harness(throttle.Operator, config={"every": 1, "latest": True})
    h.send("in", 1)
    h.send("in", 2)
    h.stop("ALL_INPUTS_CLOSED")
    assert passing(h) == [1, 2]


def test_a_join_sends_the_latest_of_all_once_all_have_arrived() -> None:
    h = Harness(join.Operator, config={"inputs": ["a", "b"]}, outputs=["joined"])
    for name, value in (("a", 1), ("a", 2), ("b", 3), ("other", 9), ("a", 4)):
        h.send(name, value, crashes=1)
        h.crash()
    assert h.outputs("joined") == [{"a": 2, "b": 3}, {"a": 4, "b": 3}]


def test_a_join_may_wait_for_its_trigger() -> None:
    h = Harness(join.Operator, config={"inputs": ["a", "b"], "trigger": "b"})
    for name, value in (("b", 1), ("a", 2), ("a", 3), ("b", 4)):
        h.send(name, value)
    assert h.outputs("joined") == [{"a": 3, "b": 4}]


@pytest.mark.parametrize(
    ("operator", "config", "named"),
    [
        (window, {}, "count"),
        (window, {"count": 1, "time": 1}, "count"),
        (window, {"count": 0}, "count"),
        (window, {"count": True}, "count"),
        (window, {"count": 3, "every": "1s"}, "every"),
        (window, {"time": "10"}, "time"),
        (window, {"time": "0s"}, "time"),
        (window, {"time": "1s", "every": -1}, "every"),
        (window, {"count": 1, "size": 3}, "size"),
        (throttle, {}, "every"),
        (throttle, {"every": 0}, "every"),
        (throttle, {"every": "soon"}, "every"),
        (throttle, {"every": 1, "latest": "yes"}, "latest"),
        (throttle, {"every": 1, "period": 2}, "period"),
        (join, {}, "inputs"),
        (join, {"inputs": "a"}, "inputs"),
        (join, {"inputs": ["a", "a"]}, "inputs"),
        (join, {"inputs": ["a"], "trigger": "b"}, "trigger"),
        (join, {"inputs": ["a"], "max": 1}, "max"),
    ],
)
def test_a_config_field_that_cannot_work_is_named(operator: Any, config: Any, named: str) -> None:
    with pytest.raises(ValueError, match=f"config: {named}: "):
        Harness(operator.Operator, config=config)


# --- any value ---

PLAIN = [
    dt.datetime(2020, 1, 2),
    dt.datetime(2020, 1, 2, tzinfo=dt.UTC),
    {"at": [dt.datetime.max]},
    b"x",
    None,
    2**64 - 1,
]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
@pytest.mark.parametrize("crash", [False, True])
def test_every_plain_value_goes_through_unchanged_datetimes_without_a_zone_too(value: Any, crash: bool) -> None:
    for operator, config, output in (
        (window.Operator, {"count": 2}, "window"),
        (window.Operator, {"time": "10s"}, "window"),
        (join.Operator, {"inputs": ["a", "b"]}, "joined"),
        (throttle.Operator, {"every": "10s", "latest": True}, "out"),
    ):
        h = Harness(operator, config=config)
        for input in ("a", "b", "a"):
            h.send(input, value, {"made": dt.datetime(2020, 1, 2)})
            if crash:
                h.crash()
        h.stop("ALL_INPUTS_CLOSED")
        found = {
            "window": [item for sent in h.outputs(output) for item in (sent["values"] if output == "window" else [])],
            "joined": [item for sent in h.outputs(output) for item in (sent.values() if output == "joined" else [])],
            "out": h.outputs(output),
        }[output]
        assert len(found) >= 3 and all(item == value for item in found)


@pytest.mark.parametrize(("operator", "config"), [(window.Operator, {"count": 2}), (join.Operator, {"inputs": ["a"]})])
def test_an_array_is_refused_by_what_would_send_it_in_a_list(operator: Any, config: Any) -> None:
    with pytest.raises(TypeError, match="ndarray"):
        Harness(operator, config=config).send("a", np.arange(3))
