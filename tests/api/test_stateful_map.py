from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from noderuntime import stateful_map
from noderuntime.api.keyed.codecs import key_tag
from noderuntime.testing import Harness


@stateful_map(output="sum", key=lambda v: v % 2 == 0, default=int)
def parity_sums(key: bool, value: int, state: int) -> tuple[int, int]:
    """Sums of the even and of the odd numbers."""
    state += value
    return state, state


def counting(**options: Any) -> Any:
    """An operator that counts the messages of each key."""
    options.setdefault("key", lambda value: value)
    return stateful_map(lambda key, value, state: (state + 1, state + 1), output="n", default=int, **options)


def test_each_key_has_a_state_of_its_own() -> None:
    h = Harness(parity_sums)
    for number in range(6):
        h.send("n", number)
    assert h.outputs("sum") == [0, 1, 2, 4, 6, 9]


def test_the_key_travels_in_the_metadata() -> None:
    h = Harness(parity_sums)
    h.send("n", 4)
    h.send("n", 5)
    assert [sent.metadata for sent in h.sent] == [{"key": True}, {"key": False}]


def test_the_state_outlives_crashes_anywhere() -> None:
    h = Harness(parity_sums)
    for number in range(6):
        h.send("n", number, crashes=number % 3)
        h.crash()
    assert h.outputs("sum") == [0, 1, 2, 4, 6, 9]


def test_without_a_key_there_is_one_state_for_all() -> None:
    h = Harness(counting(key=None))
    for value in ("a", "b"):
        h.send("in", value)
    assert h.outputs("n") == [1, 2]
    assert [sent.metadata for sent in h.sent] == [{"key": None}, {"key": None}]


def test_equal_keys_of_different_types_are_different_keys() -> None:
    keys = [True, 1, "1", 1.0, b"1", None, [1], [True], [1.0], ["1"], "True", "int:1", {"a": 1}, {"a": True}]
    assert len({key_tag(key) for key in keys}) == len(keys)
    h = Harness(counting())
    for key in keys:
        h.send("in", key)
    assert h.outputs("n") == [1] * len(keys)


def test_dicts_with_the_same_content_are_one_key_in_any_order() -> None:
    assert key_tag({"a": 1, "b": [{"c": 1, "d": 2}]}) == key_tag({"b": [{"d": 2, "c": 1}], "a": 1})


def test_a_tuple_may_be_a_key_and_travels_as_a_list() -> None:
    h = Harness(counting(key=lambda value: (value["x"], value["y"])))
    for y in (1, 1, 2):
        h.send("in", {"x": 0, "y": y})
    assert h.outputs("n") == [1, 2, 1]
    assert h.sent[0].metadata == {"key": [0, 1]}


def test_a_long_key_is_no_error_and_stays_distinct() -> None:
    h = Harness(counting())
    for key in ("k" * 5000, "k" * 5001, "k" * 5000, "ü" * 300):
        h.send("in", key)
    assert h.outputs("n") == [1, 1, 2, 1]
    assert all(len(key.encode()) <= 508 for key in h.state)


def test_short_keys_stay_readable_in_the_private_state() -> None:
    h = Harness(counting())
    for key in ("left", 7, True, 0.5):
        h.send("in", key)
    assert list(h.state) == ["str:left", "int:7", "bool:True", "float:0.5"]


def test_a_key_that_cannot_be_saved_is_a_type_error() -> None:
    h = Harness(counting(key=lambda value: {value}))
    with pytest.raises(TypeError, match="set"):
        h.send("in", 1)


def test_a_new_state_of_none_drops_the_key() -> None:
    once = stateful_map(
        lambda key, value, state: (state, None if value == "stop" else state + 1),
        output="n", key=len, default=int,
    )  # fmt: skip
    h = Harness(once)
    for value in ("abcd", "efgh", "stop", "ijkl"):
        h.send("in", value)
    assert h.outputs("n") == [0, 1, 2, 0]
    h.send("in", "stop")
    assert h.state == {}


def test_a_message_of_none_sends_nothing() -> None:
    third = stateful_map(
        lambda key, value, state: (value if state == 2 else None, (state + 1) % 3),
        output="third",
        default=int,
    )
    h = Harness(third)
    for value in range(7):
        h.send("in", value)
    assert h.outputs("third") == [2, 5]


def test_states_may_hold_arrays_and_datetimes_and_look_the_same_with_and_without_a_crash() -> None:
    seen: list[Any] = []

    @stateful_map(output="mean", default=lambda: {"sum": np.zeros(2), "n": 0})
    def mean(key: None, value: Any, state: Any) -> Any:
        seen.append(type(state["n"]))
        total, count = state["sum"] + value, state["n"] + 1
        return total / count, {"sum": total, "n": count, "pair": (count, count)}

    h = Harness(mean)
    h.send("in", np.array([1.0, 2.0]))
    h.crash()
    h.send("in", np.array([3.0, 4.0]))
    assert [message.tolist() for message in h.outputs("mean")] == [[1, 2], [2, 3]]
    assert seen == [int, int]


def test_a_default_that_is_no_callable_is_copied_for_each_key() -> None:
    @stateful_map(output="seen", key=lambda value: value[0], default=[])
    def collect(key: str, value: str, state: list[str]) -> Any:
        state.append(value)
        return state, state

    h = Harness(collect)
    for value in ("ax", "bx", "ay"):
        h.send("in", value)
    assert h.outputs("seen") == [["ax"], ["bx"], ["ax", "ay"]]


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_key_is_forgotten_its_time_to_live_after_its_last_event() -> None:
    clock = Clock()
    h = Harness(counting(ttl=10, clock=clock))
    for at_s in (0, 9, 18, 28, 30):
        clock.now_s = 1000.0 + at_s
        h.send("in", "a")
    assert h.outputs("n") == [1, 2, 3, 1, 2]


def test_expired_keys_are_purged_by_other_events_and_by_ticks_also_after_a_crash() -> None:
    clock = Clock()
    h = Harness(counting(ttl=10, clock=clock))
    h.send("in", "a")
    h.crash()
    clock.now_s += 5
    h.send("in", "b")
    clock.now_s += 5
    h.send("in", "c")
    assert sorted(h.state) == ["str:b", "str:c"]
    clock.now_s += 10
    h.crash()
    h.tick("tick")
    assert h.state == {}
    assert len(h.sent) == 3


def test_without_a_time_to_live_nothing_is_forgotten() -> None:
    clock = Clock()
    h = Harness(counting(clock=clock))
    h.send("in", "a")
    clock.now_s += 1e9
    h.send("in", "a")
    assert h.outputs("n") == [1, 2]


def test_what_is_no_pair_is_a_clear_error() -> None:
    h = Harness(stateful_map(lambda key, value, state: value, output="n"))
    with pytest.raises(TypeError, match=r"returns \(message, new state\)"):
        h.send("in", 1)


def test_it_is_a_decorator_and_a_plain_call_and_keeps_the_function() -> None:
    assert parity_sums.function(True, 2, 3) == (5, 5)
    assert parity_sums.__name__ == "parity_sums"
    assert parity_sums.__doc__ == "Sums of the even and of the odd numbers."
    called = stateful_map(parity_sums.function, output="sum", default=int)
    h = Harness(called)
    h.send("n", 3)
    assert h.outputs("sum") == [3]


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"output": ""}, TypeError, "output"),
        ({"output": "n", "key": "name"}, TypeError, "key"),
        ({"output": "n", "ttl": "10s"}, TypeError, "ttl"),
        ({"output": "n", "ttl": 0}, ValueError, "ttl"),
    ],
)
def test_arguments_that_cannot_work_are_named(options: Any, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        stateful_map(**options)
