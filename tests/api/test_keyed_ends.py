"""The end of the input, and timers that cannot work: for keyed operators; handlers that would never run, for all."""

from __future__ import annotations

from typing import Any

import pytest

from noderuntime import KeyedOperator, Operator, Source, stateful_map
from noderuntime.api.keyed import operator as module
from noderuntime.testing import Harness


class Sessions(KeyedOperator):
    default = int
    ended: list[Any]

    def key_of(self, event: Any) -> Any:
        return event["value"]["user"]

    def time_of(self, event: Any) -> float:
        return float(event["value"]["t"])

    def on_key_event(self, key: Any, event: Any, state: int, ctx: Any) -> int | None:
        return None if event["value"].get("leave") else state + 1

    def on_end(self, key: Any, state: int, ctx: Any) -> None:
        ctx.send_output("rest", [key, state])


class Batches(Sessions):
    batch = True


def clicks(*users: str) -> list[dict[str, Any]]:
    return [{"user": user, "t": at} for at, user in enumerate(users)]


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("crash", [False, True])
def test_at_the_end_of_the_input_on_end_is_called_once_for_each_live_key(batch: bool, crash: bool) -> None:
    h = Harness(Batches if batch else Sessions)
    messages = [*clicks("a", "b", "a", "c"), {"user": "b", "t": 4, "leave": True}]
    for message in [messages] if batch else messages:
        h.send("in", message)
        if crash:
            h.crash()
    h.close_input("in")
    assert h.outputs("rest") == []
    h.stop("ALL_INPUTS_CLOSED")
    assert h.outputs("rest") == [["a", 2], ["c", 1]]
    assert set(h.state) == {"str:a", "str:c", "keyed.time"}


def test_on_end_is_not_called_when_the_run_is_stopped() -> None:
    h = Harness(Sessions)
    h.send("in", clicks("a")[0])
    h.stop("MANUAL")
    assert h.outputs("rest") == []


def test_keys_that_are_over_are_not_live_at_the_end() -> None:
    class Short(Sessions):
        ttl = 2.0

    h = Harness(Short)
    for message in (*clicks("a", "b"), {"user": "c", "t": 3.5}):
        h.send("in", message)
    h.stop("ALL_INPUTS_CLOSED")
    assert h.outputs("rest") == [["c", 1]]


class Reminding(Sessions):
    ttl = 10.0
    after = 100.0

    def on_key_event(self, key: Any, event: Any, state: int, ctx: Any) -> int:
        ctx.set_timer(ctx.now + self.after)
        return state + 1

    def on_timer(self, key: Any, due: float, state: int, ctx: Any) -> int:
        ctx.send_output("due", [key, due, state])
        return state


class ByWallClock(Reminding):
    time_s = 0.0

    def clock(self) -> float:
        return ByWallClock.time_s

    time_of = KeyedOperator.time_of  # type: ignore[assignment]


@pytest.mark.parametrize("crash", [False, True])
def test_a_timer_beyond_the_time_to_live_keeps_its_key_and_fires(crash: bool) -> None:
    h = Harness(Reminding)
    for at, user in ((0, "a"), (50, "b"), (120, "b")):
        h.send("in", {"user": user, "t": at})
        if crash:
            h.crash()
    assert h.outputs("due") == [["a", 100.0, 1]]
    assert "str:a" not in h.state  # forgotten once it has fired


@pytest.mark.parametrize("crash", [False, True])
def test_by_the_wall_clock_too(crash: bool) -> None:
    ByWallClock.time_s = 0.0
    h = Harness(ByWallClock)
    h.send("in", {"user": "a", "t": 0})
    for time_s in (50.0, 99.0):
        ByWallClock.time_s = time_s
        h.tick()
        assert "str:a" in h.state
    if crash:
        h.crash()
    ByWallClock.time_s = 300.0
    h.tick()
    assert h.outputs("due") == [["a", 100.0, 1]]
    assert h.state == {}


@pytest.mark.parametrize("back", [0.0, 5.0])
def test_a_timer_that_sets_itself_to_what_is_past_is_an_error_that_says_so(back: float) -> None:
    class Stuck(Reminding):
        ttl = None

        def on_timer(self, key: Any, due: float, state: int, ctx: Any) -> int:
            ctx.set_timer(due - back)
            return state

    h = Harness(Stuck)
    h.send("in", {"user": "a", "t": 0})
    with pytest.raises(ValueError, match=r"has to be later than due, 100\.0"):
        h.send("in", {"user": "b", "t": 200})
    assert not any(key == "str:b" for key in h.state)


@pytest.mark.parametrize("at", [float("nan"), float("inf"), True, "10"])
def test_a_timer_at_no_time_is_refused(at: Any) -> None:
    class Odd(Sessions):
        def on_key_event(self, key: Any, event: Any, state: int, ctx: Any) -> int:
            ctx.set_timer(at)
            return state

    with pytest.raises(TypeError, match="finite number of seconds"):
        Harness(Odd).send("in", clicks("a")[0])


class Periodic(Reminding):
    ttl = None
    after = 10.0

    def on_timer(self, key: Any, due: float, state: int, ctx: Any) -> int:
        ctx.set_timer(due + 10.0)
        return state + 1


def test_one_timestamp_in_milliseconds_among_seconds_fails_its_message_alone() -> None:
    h = Harness(Periodic)
    h.send("in", {"user": "a", "t": 1_700_000_000})
    with pytest.raises(ValueError, match="milliseconds among seconds"):
        h.send("in", {"user": "a", "t": 1_700_000_000_000})
    h.send("in", {"user": "b", "t": 1_700_000_025})
    h.stop("ALL_INPUTS_CLOSED")
    assert h.outputs("rest") == [["a", 3], ["b", 1]]


def test_a_timer_by_the_wall_clock_catches_up_after_a_pause_over_several_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Often(ByWallClock, Periodic):
        ttl = None

    monkeypatch.setattr(module, "CALLS_MAX_WALL_CLOCK", 3)
    ByWallClock.time_s = 0.0
    h = Harness(Often)
    h.send("in", {"user": "a", "t": 0})
    ByWallClock.time_s = 75.0
    for _ in range(3):
        h.tick()
        h.crash()
    h.stop("ALL_INPUTS_CLOSED")
    assert h.outputs("rest") == [["a", 8]]  # one event, and timers at 10, 20, ... 70


class AsyncEvent(Operator):
    async def on_event(self, event: Any, ctx: Any) -> None:  # type: ignore[override]
        ctx.send_output("out", 1)


class YieldingEvent(Operator):
    def on_event(self, event: Any, ctx: Any) -> Any:
        yield 1


class AsyncYielding(Operator):
    async def on_event(self, event: Any, ctx: Any) -> Any:
        yield 1


class YieldingSource(Source):
    def produce(self, position: Any, ctx: Any) -> Any:
        yield 1


class AsyncKeyed(KeyedOperator):
    async def on_key_event(self, key: Any, event: Any, state: Any, ctx: Any) -> Any:
        return state


class YieldingTimer(KeyedOperator):
    def on_timer(self, key: Any, due: float, state: Any, ctx: Any) -> Any:
        yield 1


class AsyncRestore(Operator):
    async def restore_state(self, state: Any) -> None:  # type: ignore[override]
        pass


LAZY = [
    (AsyncEvent, "on_event is `async def`"),
    (YieldingEvent, "on_event is a generator"),
    (AsyncYielding, "on_event is `async def`"),
    (YieldingSource, "produce is a generator"),
    (AsyncKeyed, "on_key_event is `async def`"),
    (YieldingTimer, "on_timer is a generator"),
    (AsyncRestore, "restore_state is `async def`"),
]


@pytest.mark.parametrize(("operator", "said"), LAZY)
def test_a_handler_whose_call_would_run_nothing_is_refused_at_the_start(operator: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Harness(operator)


def test_so_is_the_function_of_a_stateful_map_when_it_is_made() -> None:
    async def coroutine(key: Any, value: Any, state: Any) -> Any: ...

    def generator(key: Any, value: Any, state: Any) -> Any:
        yield 1

    for function in (coroutine, generator):
        with pytest.raises(TypeError, match=f"stateful_map: {function.__name__} is"):
            stateful_map(function, output="out")
