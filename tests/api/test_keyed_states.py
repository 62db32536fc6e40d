"""Keyed operators that live on are no different from new ones: what they keep in memory is what is committed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noderuntime import KeyedOperator, stateful_map
from noderuntime.api.events import input_event, tick_event
from noderuntime.api.keyed import states
from noderuntime.api.keyed.codecs import key_tag, take_apart, with_due
from noderuntime.testing.harness_keyed import KeyedDict


class World:
    """A private state, and one `ctx` for one event at a time. An event that raises leaves no trace."""

    def __init__(self, committed: dict[str, bytes] | None = None) -> None:
        self.committed: dict[str, bytes] = dict(committed or {})
        self.sent: list[Any] = []
        self.reads = 0
        self.saved: Counter[str] = Counter()
        self._staged: dict[str, bytes | None] = {}
        self._sending: list[Any] = []
        self._open()

    def _open(self) -> None:
        self._index = KeyedDict(self.committed, lambda call: self._staged, lambda: self._staged)
        self.keyed = self

    def handle(self, operator: Any, event: Any) -> str:
        """The name of what it raised, or nothing."""
        self._staged, self._sending = {}, []
        try:
            operator.on_event(event, self)
        except (RuntimeError, TypeError) as error:
            self._open()  # what it has put into the index is gone
            return type(error).__name__
        finally:
            staged, self._staged = self._staged, {}
        merged = {**self.committed, **staged}
        self.committed.clear()
        self.committed.update((key, value) for key, value in merged.items() if value is not None)
        self.sent += self._sending
        return ""

    def save_state(self, key: str, value: bytes) -> None:
        self.saved[key] += 1
        self._staged[key] = bytes(value)

    save = save_state

    def save_all(self, values: dict[str, bytes]) -> None:
        for key, value in values.items():
            self.save_state(key, value)

    def load_state(self, key: str, default: Any = None) -> Any:
        self.reads += 1
        found = self._staged.get(key, self.committed.get(key))
        return default if found is None else found

    load = load_state

    def __getattr__(self, name: str) -> Any:  # place, delete, mark, due, all
        return getattr(self._index, name)

    def send_output(self, output: str, value: Any, metadata: Any = None) -> None:
        self._sending.append((output, value, metadata))


def restored(operator: Callable[[], Any], world: World) -> Any:
    made = operator()
    if world.committed:
        made.restore_state(dict(world.committed))
    return made


NOW = [0.0]


def clock() -> float:
    return NOW[0]


def step(key: Any, record: Any, state: Any) -> Any:
    """Does what the record says: counts, drops, sends nothing, fails, or changes what it was given in place."""
    what = record["do"]
    if type(state) is tuple:  # as returned before, in the same batch; from one message to the next it becomes a list
        state = list(state)
    if what == "fail":
        state.append("half done")
        raise RuntimeError("as it was told")
    if what == "drop":
        return ["dropped", state], None
    if what == "wrong":
        return state
    state.append(record["n"])
    return (None if what == "quiet" else list(state)), (tuple(state) if what == "tuple" else state)


def count(key: Any, record: Any, state: int) -> Any:
    """The same with states that are kept as they are."""
    if record["do"] == "fail":
        raise RuntimeError("as it was told")
    if record["do"] == "drop":
        return -1, None
    return (None if record["do"] == "quiet" else state + 1), state + 1


class Ringing(KeyedOperator):
    """Counts; its timers and the keys that are alive can be seen in what it sends."""

    default = int
    ttl = 7.0

    def key_of(self, event: Any) -> Any:
        return event["value"]["k"]

    def time_of(self, event: Any) -> float:
        return float(event["value"]["t"])

    def on_key_event(self, key: Any, event: Any, state: int, ctx: Any) -> Any:
        what = event["value"]["do"]
        if what == "quiet":
            ctx.set_timer(ctx.now + 2)
        elif what == "tuple":
            ctx.cancel_timer()
        ctx.send_output("live", [key, state, [alive for alive in self.live_keys(ctx) if alive != key]])
        if what == "fail":
            raise RuntimeError("as it was told")
        return None if what == "drop" else state + 1

    def on_timer(self, key: Any, due: float, state: int, ctx: Any) -> Any:
        ctx.send_output("rang", [key, due, state])
        return None if state % 3 == 0 else state + 10


def mapped(function: Any, default: Any, **options: Any) -> Any:
    return stateful_map(
        function, output="out", key=lambda record: record["k"], default=default, clock=clock, **options
    )


OPERATORS = {
    "changed in place": mapped(step, list),
    "kept as they are": mapped(count, int),
    "with a codec": mapped(step, list, codec=json),
    "wall clock": mapped(count, int, ttl=5),
    "event time": mapped(step, list, ttl=5, time=lambda event: event["value"]["t"]),
    "timers": Ringing,
}
KEYS = st.sampled_from([True, 1, 1.0, 0.0, -0.0, "1", None, b"1", "ü" * 200, -5])
WHAT = st.sampled_from(["count"] * 4 + ["quiet", "tuple", "drop"])
RECORDS = st.fixed_dictionaries({"k": KEYS, "do": WHAT, "n": st.integers(0, 9), "t": st.integers(0, 30)})
FAILING = st.fixed_dictionaries(
    {"k": KEYS, "do": st.sampled_from(["count", "fail", "wrong"]), "n": st.just(0), "t": st.integers(0, 30)}
)


def message(value: Any, number: int) -> Any:
    return input_event("in", value, {}, "a/out", 1, number + 1)


@pytest.mark.parametrize("name", OPERATORS)
@settings(max_examples=40)
@given(st.lists(st.tuples(st.one_of(RECORDS, FAILING, st.none()), st.integers(0, 3)), max_size=25))
def test_one_that_lives_on_through_failures_does_what_a_new_one_does(
    name: str, events: list[tuple[Any, int]]
) -> None:
    lasting, renewed = World(), World()
    operator = OPERATORS[name]()
    NOW[0] = 1000.0
    for number, (record, passes) in enumerate(events):
        NOW[0] += passes
        event = tick_event("tick", "timer", 0) if record is None else message(record, number)
        raised = lasting.handle(operator, event)
        assert raised == renewed.handle(restored(OPERATORS[name], renewed), event)
        assert lasting.committed == renewed.committed
        assert repr(lasting.sent) == repr(renewed.sent)


def batched(name: str) -> Any:
    if name == "timers":
        return type("Batched", (Ringing,), {"batch": True})
    made = OPERATORS[name]
    return type("Batched", (made,), {"batch": True})


def without_due(world: World) -> dict[str, bytes]:
    """What is committed, without the times of entries in the index, which are corrected once in an event."""
    return {
        tag: value if tag == states.TIME_KEY else with_due(take_apart(value), None)
        for tag, value in world.committed.items()
    }


def alone(sent: list[Any]) -> list[Any]:
    """What was sent, one by one: batches taken apart."""
    found = []
    for output, value, metadata in sent:
        if output == "out" and "keys" in metadata:
            assert len(value) == len(metadata["keys"]) > 0
            found += [(output, item, {"key": key}) for item, key in zip(value, metadata["keys"], strict=True)]
        else:
            found.append((output, value, metadata))
    return found


@pytest.mark.parametrize("name", OPERATORS)
@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.lists(st.one_of(RECORDS, RECORDS, FAILING), max_size=12), st.integers(0, 3), st.booleans()),
        max_size=6,
    )
)
def test_a_batch_does_what_its_records_do_one_by_one_and_nothing_if_one_of_them_fails(
    name: str, batches: list[tuple[list[Any], int, bool]]
) -> None:
    many, single = World(), World()
    operator = batched(name)()
    NOW[0] = 1000.0
    for number, (records, passes, crash) in enumerate(batches):
        NOW[0] += passes
        if crash:
            operator = restored(batched(name), many)
        committed, sent = dict(many.committed), len(many.sent)
        many.saved.clear()
        raised = many.handle(operator, message(records, number))
        attempt = World(single.committed)
        attempt.sent = list(single.sent)
        each = restored(OPERATORS[name], attempt)
        outcomes = [attempt.handle(each, message(record, number)) for record in records]
        attempt.handle(each, tick_event("tick", "timer", 0))  # the clock goes on in an empty batch too
        if raised:
            assert raised in outcomes
            assert many.committed == committed and len(many.sent) == sent
        else:
            assert not any(outcomes)
            single = attempt
            if name != "timers":  # which saves what it has before it looks for the keys that are alive
                assert all(many.saved[key_tag(record["k"])] <= 1 for record in records)
        assert without_due(many) == without_due(single)
        assert repr(alone(many.sent)) == repr(alone(single.sent))


def test_states_that_cannot_change_are_read_once_and_others_are_decoded_from_memory() -> None:
    for operator, default in ((count, int), (step, list)):
        world = World()
        made = mapped(operator, default)()
        for number in range(50):
            world.handle(made, message({"k": number % 5, "do": "count", "n": 0}, number))
        assert world.reads == 5
        assert world.saved.total() == 50


def test_what_is_kept_in_memory_is_dropped_when_it_has_become_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "CACHE_BYTES_MAX", 20_000)
    world, twin = World(), World()
    lasting: Any = mapped(step, list)()
    for number in range(400):
        event = message({"k": number % 97, "do": "count", "n": number}, number)
        world.handle(lasting, event)
        twin.handle(restored(mapped(step, list), twin), event)
        keyed = lasting._keyed
        assert keyed._size == sum(slot.size + states.SLOT_BYTES for slot in keyed._slots.values())
        assert keyed._size <= 20_000 and len(keyed._slots) <= 50
    assert world.committed == twin.committed


def test_states_of_the_users_own_stand_beside_those_of_the_keys() -> None:
    class Both(KeyedOperator):
        default = int
        ttl = 100.0

        def on_key_event(self, key: Any, event: Any, state: int, ctx: Any) -> int:
            ctx.save_state("my own", b"no MessagePack at all")
            ctx.send_output("live", self.live_keys(ctx))
            return state + 1

    world = World()
    for number in range(3):
        assert world.handle(restored(Both, world), message(1, number)) == ""
    assert [value for _, value, _ in world.sent] == [[], [None], [None]]
