from __future__ import annotations

import json
from typing import Any

import pytest

from noderuntime import KeyedOperator, iterable_source, stateful_map
from noderuntime.testing import Harness

WORDS = ["foo", "bar", "hello", "world", "baz"]


def outputs_under_crashes(operator: Any, output: str, values: list[Any]) -> list[list[Any]]:
    """What comes out undisturbed, and with crashes before and within each event."""
    found = []
    for crashes in (0, 1, 2):
        h = Harness(operator)
        for value in values:
            h.send("in", value, crashes=crashes)
            if crashes:
                h.crash()
        found.append(h.outputs(output))
    return found


# --- the programs of the issue


def test_the_running_sum_of_0_to_100_ends_in_5050() -> None:
    total = stateful_map(lambda key, value, state: (state + value, state + value), output="sum", default=int)
    for found in outputs_under_crashes(total, "sum", list(range(101))):
        assert found == [n * (n + 1) // 2 for n in range(101)]


def test_sums_by_parity_end_in_2500_and_2550() -> None:
    parity = stateful_map(
        lambda key, value, state: (state + value, state + value), output="sum", key=lambda n: n % 2, default=int
    )
    for found in outputs_under_crashes(parity, "sum", list(range(101))):
        assert found == [((i + 1) // 2) ** 2 if i % 2 else (i // 2) * (i // 2 + 1) for i in range(101)]
        assert found[-2:] == [2500, 2550]


def test_a_state_is_dropped_when_the_concatenation_reaches_six_characters() -> None:
    def join(key: int, value: str, state: str) -> tuple[str, str | None]:
        joined = state + value
        return joined, None if len(joined) >= 6 else joined

    operator = stateful_map(join, output="text", key=len, default=str)
    for found in outputs_under_crashes(operator, "text", WORDS):
        assert found == ["foo", "foobar", "hello", "helloworld", "baz"]


class LiveWords(KeyedOperator):
    """Which words came within the last two ticks, a word a tick."""

    ttl = 2.0

    def key_of(self, event: Any) -> Any:
        return event["value"][1]

    def time_of(self, event: Any) -> float:
        return float(event["value"][0])

    def on_key_event(self, key: Any, event: Any, state: Any, ctx: Any) -> Any:
        others = [word for word in self.live_keys(ctx) if word != key]
        ctx.send_output("live", "|".join([*others, key]))
        return True


def test_words_live_for_two_ticks_of_event_time() -> None:
    for found in outputs_under_crashes(LiveWords, "live", [list(item) for item in enumerate(WORDS)]):
        assert found == ["foo", "foo|bar", "foo|bar|hello", "bar|hello|world", "hello|world|baz"]


# --- time to live by event time


def test_by_event_time_a_key_is_forgotten_when_more_than_its_time_to_live_has_been_seen() -> None:
    counts = stateful_map(
        lambda key, value, state: (state + 1, state + 1),
        output="n", key=lambda v: v["k"], default=int, ttl=10, time=lambda event: event["value"]["t"],
    )  # fmt: skip
    values = [{"k": k, "t": t} for k, t in (("a", 0), ("a", 10), ("b", 21), ("a", 5), ("b", 31), ("b", 42))]
    for found in outputs_under_crashes(counts, "n", values):
        assert found == [1, 2, 1, 1, 2, 1]


def test_event_time_does_not_go_back_after_a_crash() -> None:
    """The key that brought the time has been dropped; the next life must still know it."""
    operator = stateful_map(
        lambda key, value, state: (state + 1, None if key == "last" else state + 1),
        output="n", key=lambda v: v["k"], default=int, ttl=3, time=lambda event: event["value"]["t"],
    )  # fmt: skip
    values = [{"k": k, "t": t} for k, t in (("a", 4), ("last", 10), ("a", 5))]
    for found in outputs_under_crashes(operator, "n", values):
        assert found == [1, 1, 1]


# --- codecs


@pytest.mark.parametrize("codec", [json, (json.dumps, json.loads)], ids=["dumps", "functions"])
def test_a_codec_decides_how_states_are_stored(codec: Any) -> None:
    @stateful_map(output="n", default=dict, codec=codec)
    def count(key: None, value: str, state: dict[str, int]) -> Any:
        state = {**state, value: state.get(value, 0) + 1}
        return state[value], state

    for found in outputs_under_crashes(count, "n", ["a", "b", "a"]):
        assert found == [1, 1, 2]


def test_what_is_no_codec_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="codec"):
        stateful_map(output="n", codec="json")


# --- a class of one's own


class Sessions(KeyedOperator):
    """Clicks by user; a session ends when nothing came for 30 seconds of event time."""

    default = int

    def key_of(self, event: Any) -> Any:
        return event["value"]["user"]

    def time_of(self, event: Any) -> float:
        return float(event["value"]["t"])

    def on_key_event(self, key: Any, event: Any, state: int, ctx: Any) -> int:
        ctx.set_timer(ctx.now + 30)
        return state + 1

    def on_timer(self, key: Any, due: float, state: int, ctx: Any) -> None:
        ctx.send_output("session", {"user": key, "clicks": state, "ended": due})


def test_timers_fire_in_order_of_time_and_before_the_event_that_passes_them() -> None:
    clicks = [("a", 0), ("b", 5), ("a", 10), ("c", 36), ("c", 100)]
    values = [{"user": user, "t": t} for user, t in clicks]
    for found in outputs_under_crashes(Sessions, "session", values):
        assert found == [
            {"user": "b", "clicks": 1, "ended": 35.0},
            {"user": "a", "clicks": 2, "ended": 40.0},
            {"user": "c", "clicks": 1, "ended": 66.0},
        ]


def test_a_timer_that_was_cancelled_or_moved_does_not_fire_at_its_old_time() -> None:
    class Reminder(KeyedOperator):
        default = int

        def key_of(self, event: Any) -> Any:
            return event["value"][0]

        def time_of(self, event: Any) -> float:
            return float(event["value"][1])

        def on_key_event(self, key: Any, event: Any, state: int, ctx: Any) -> int:
            what = event["value"][2]
            if what == "cancel":
                ctx.cancel_timer()
            elif what is not None:
                ctx.set_timer(what)
            return state + 1

        def on_timer(self, key: Any, due: float, state: int, ctx: Any) -> int:
            ctx.send_output("rang", [key, due])
            return state

    values = [["a", 0, 5], ["b", 1, 6], ["a", 2, 9], ["b", 3, "cancel"], ["c", 20, None]]
    for found in outputs_under_crashes(Reminder, "rang", values):
        assert found == [["a", 9.0]]


def test_timers_by_the_wall_clock_fire_at_ticks() -> None:
    class Alarm(KeyedOperator):
        default = int
        at = 1000.0

        def clock(self) -> float:
            return type(self).at

        def on_key_event(self, key: Any, event: Any, state: int, ctx: Any) -> int:
            ctx.set_timer(ctx.now + 10)
            return state + 1

        def on_timer(self, key: Any, due: float, state: int, ctx: Any) -> None:
            ctx.send_output("rang", due)

    h = Harness(Alarm)
    h.send("in", 1)
    Alarm.at = 1009.0
    h.tick("tick")
    assert h.outputs("rang") == []
    h.crash()
    Alarm.at = 1010.0
    h.tick("tick")
    assert h.outputs("rang") == [1010.0]
    assert h.state == {}


def test_a_class_may_have_an_init_of_its_own() -> None:
    class Scaled(KeyedOperator):
        default = int

        def __init__(self, ctx: Any) -> None:
            self.by = ctx.config["by"]

        def on_key_event(self, key: Any, event: Any, state: int, ctx: Any) -> int:
            ctx.send_output("n", state + self.by)
            return state + self.by

    h = Harness(Scaled, config={"by": 3})
    h.send("in", 1)
    h.crash()
    h.send("in", 1)
    assert h.outputs("n") == [3, 6]


@pytest.mark.long
def test_a_million_keys_are_restored_and_found_again() -> None:
    count = stateful_map(lambda key, value, state: (state + 1, state + 1), output="n", key=lambda v: v, default=int)
    h = Harness(count)
    h.send("in", 0)
    stored = h.state["int:0"]
    h.state.update({f"int:{key}": stored for key in range(1_000_000)})
    h.crash()
    h.send("in", 999_999)
    assert h.outputs("n")[-1] == 2
    assert len(h.state) == 1_000_000


# --- sources of iterables


def test_an_iterable_goes_on_behind_the_last_item_that_was_committed() -> None:
    @iterable_source(output="n")
    def squares(ctx: Any) -> Any:
        return (number**2 for number in range(ctx.config["count"]))

    for crashes in (0, 1):
        h = Harness(squares, config={"count": 10})
        for _ in range(11):
            h.produce(crashes=crashes)
            h.crash()
        assert h.outputs("n") == [number**2 for number in range(10)]
        assert h.ended


def test_an_iterable_that_has_become_shorter_is_an_error() -> None:
    items = [1, 2, 3]
    h = Harness(iterable_source(lambda: items, output="n"))
    h.produce()
    h.produce()
    items.clear()
    h.crash()
    with pytest.raises(ValueError, match="the same ones"):
        h.produce()
