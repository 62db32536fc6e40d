"""What is saved for a key comes back equal, or is refused when it is saved; equal keys have one state."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter, OrderedDict, defaultdict, namedtuple
from enum import Enum, IntEnum
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from noderuntime import KeyedOperator, OperatorError, Source, stateful_map
from noderuntime.api.keyed.codecs import key_tag, old_tag, pack, unpack_stored
from noderuntime.api.operator import packed_position, position_of
from noderuntime.testing import Harness

Point = namedtuple("Point", "x y")


class Paint(str, Enum):  # noqa: UP042  (the older way to write it, whose str() is "Paint.RED")
    RED = "red"


class Size(IntEnum):
    SMALL = 7


class Alike(str):
    """Equal to a text, and another key of a dict."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return self is other


ZONES = st.timezones() | st.sampled_from([dt.timezone(dt.timedelta(hours=hours)) for hours in (-5, 2)])
ENDS = st.sampled_from([
    dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-5))),
    dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=2))),
    dt.datetime.max,
    dt.datetime.min,
])  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False)
    | st.text()
    | st.text(st.characters(), max_size=3)
    | st.binary()
    | st.datetimes()
    | st.datetimes(timezones=ZONES)
    | ENDS
    | st.sampled_from([
        Paint.RED, Size.SMALL, np.int64(7), np.float32(0.5), np.str_("red"), np.bool_(True), msgpack.ExtType(5, b"x"),
        np.datetime64("2020", "ns"), np.timedelta64(3, "ns"),
        bytearray(b"ab"), memoryview(b"abcd")[::2], dt.date(2020, 1, 1), 1j, Point(1, 2),
    ])
)  # fmt: skip
HASHABLE = SCALARS.filter(lambda value: not isinstance(value, bytearray | memoryview))
NAMES = HASHABLE | st.tuples(HASHABLE, HASHABLE)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(NAMES, inner, max_size=4)
        | st.dictionaries(st.text(max_size=2), inner, max_size=4).map(lambda made: defaultdict(list, made))
    ),
    max_leaves=12,
)


def listed(value: Any) -> Any:
    """Tuples as lists and datetimes in UTC, which they become. (A time that its zone has twice equals no other.)

    An ExtType is a tuple in Python only: MessagePack has it as a type of its own, and it comes back as it was.
    """
    if isinstance(value, msgpack.ExtType):
        return value
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return value.astimezone(dt.UTC)
    if isinstance(value, list | tuple):
        return [listed(item) for item in value]
    return {listed(name): listed(item) for name, item in value.items()} if isinstance(value, dict) else value


def comes_back(value: Any, back: Any) -> bool:
    return bool(listed(back) == listed(value))


@settings(max_examples=400)
@given(VALUES)
@example({(1, 2): 1})
@example([{"deep": [{(1, (2,)): 1}]}])
@example({Alike("red"): 1, "red": 2})
@example({"at": dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-5)))})
@example({dt.datetime(2020, 1, 1): 1, dt.datetime(2020, 1, 1, tzinfo=dt.UTC): 2})
@example(OrderedDict(b=1, a=2))
@example({msgpack.ExtType(5, b"x"): None})
@example(Counter("aab"))
def test_a_value_comes_back_equal_or_is_refused_when_it_is_saved(value: Any) -> None:
    try:
        packed = pack(value)
    except TypeError:
        return
    assert comes_back(value, unpack_stored(packed))


@pytest.mark.parametrize("depth", [50, 98, 110, 400, 510, 520, 2000])
@pytest.mark.parametrize("leaf", [1, (1,), dt.datetime(2020, 1, 1, tzinfo=dt.UTC)])
def test_a_nested_value_comes_back_or_is_refused(depth: int, leaf: Any) -> None:
    value = leaf
    for _ in range(depth):
        value = [value]
    try:
        packed = pack([value, -math.inf, None, "key"])
    except TypeError:
        assert depth > 98
        return
    assert unpack_stored(packed)[0] == listed(value) if depth < 100 else unpack_stored(packed)


@pytest.mark.parametrize(
    "value", [np.arange(3), pa.array([1, None]), pa.table({"x": [1]})], ids=lambda v: type(v).__name__
)
def test_arrays_and_arrow_data_may_stand_anywhere_in_a_state(value: Any) -> None:
    back = unpack_stored(pack({"in": [value, (value,)]}))["in"]
    for each in (back[0], back[1][0]):
        assert type(each) is type(value)
        assert np.array_equal(each, value) if isinstance(value, np.ndarray) else each.equals(value)


def keep(key: Any, value: Any, state: Any) -> tuple[Any, Any]:
    return None, value


class Keeping(KeyedOperator):
    def on_key_event(self, key: Any, event: Any, state: Any, ctx: Any) -> Any:
        return state if event["value"] is None else STATES.pop()


STATES: list[Any] = []


class Keeping60(Keeping):
    ttl = 60.0


@settings(max_examples=150)
@given(VALUES, st.sampled_from([Keeping, Keeping60]))
@example({(1, 2): 1}, Keeping)
@example({"x": dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=2)))}, Keeping60)
def test_a_state_that_was_accepted_is_there_in_the_next_life(value: Any, kind: Any) -> None:
    harness = Harness(kind)
    STATES[:] = [value]
    try:
        harness.send("in", 1)
    except TypeError:
        harness.crash()
        assert harness.state == {}
        return
    harness.crash()
    harness.send("in", None)  # reads it, and saves it anew
    if value is not None:
        (saved,) = [stored for name, stored in harness.state.items() if name.startswith("msgpack:")]
        assert comes_back(value, unpack_stored(saved)[0])


@settings(max_examples=300)
@given(VALUES)
@example((1, 2))
@example({(1, 2): 1})
@example({"at": dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-5)))})
def test_a_position_that_was_accepted_can_be_read_again(value: Any) -> None:
    try:
        packed = packed_position(value)
    except TypeError as error:
        assert "produce returned" in str(error)
        return
    assert packed is not None
    assert comes_back(value, position_of({"source.position": packed}))


def test_a_source_whose_position_cannot_be_read_again_fails_when_it_returns_it() -> None:
    class Bad(Source):
        def produce(self, position: Any, ctx: Any) -> Any:
            ctx.send_output("out", 1)
            return {(1, 2): 3}

    harness = Harness(Bad)
    with pytest.raises(OperatorError, match=r"tuple"):
        harness.produce()
    assert harness.outputs("out") == []


# --- keys -----------------------------------------------------------------------------------------------------------

SAME_KEYS = [
    (7, [np.int64(7), np.uint8(7), Size.SMALL]),
    ("red", [Paint.RED, np.str_("red"), Alike("red")]),
    (0.5, [np.float32(0.5), np.float64(0.5)]),
    (True, [np.bool_(True)]),
    (b"ab", [bytearray(b"ab"), memoryview(b"ab"), np.bytes_(b"ab"), memoryview(b"a-b-")[::2]]),
    ((7, "red"), [[7, "red"], (np.int64(7), Paint.RED), Point(Size.SMALL, np.str_("red")), [7, Alike("red")]]),
    ({"a": 7}, [{Alike("a"): np.int64(7)}, OrderedDict(a=Size.SMALL)]),
    (dt.datetime(2020, 1, 1, tzinfo=dt.UTC), [dt.datetime(2020, 1, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))]),
]


@pytest.mark.parametrize(("key", "others"), SAME_KEYS, ids=lambda item: repr(item)[:30])
@pytest.mark.parametrize("ttl", [None, 60.0])
@pytest.mark.parametrize("batch", [False, True])
def test_a_key_in_several_kinds_has_one_state(key: Any, others: list[Any], ttl: float | None, batch: bool) -> None:
    kinds = [key, *others, key]

    @stateful_map(output="out", key=lambda index: kinds[index], default=int, ttl=ttl, batch=batch)
    def count(key: Any, value: Any, state: int) -> tuple[int, int]:
        return state + 1, state + 1

    harness = Harness(count)
    indexes = list(range(len(kinds)))
    if batch:
        harness.send("in", indexes)
        assert harness.outputs("out") == [[index + 1 for index in indexes]]
    else:
        for index in indexes:
            harness.send("in", index)
            if index % 2:
                harness.crash()
        assert harness.outputs("out") == [index + 1 for index in indexes]


@given(st.sampled_from([True, 1, 1.0, "1", b"1", None, (1,), (True,), (1.0,), ("1",), (b"1",), {"1": 1}]), st.data())
def test_keys_of_different_kinds_have_different_tags(key: Any, data: st.DataObject) -> None:
    other = data.draw(
        st.sampled_from([True, 1, 1.0, "1", b"1", None, (1,), (True,), (1.0,), ("1",), (b"1",), {"1": 1}])
    )
    assert (key_tag(key) == key_tag(other)) is (repr(key) == repr(other))


def test_tags_of_exact_keys_are_those_of_earlier_versions() -> None:
    for key in (
        None,
        b"x",
        (1, "a"),
        [True],
        {"b": 1, "a": 2},
        dt.datetime(2020, 1, 1),
        dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    ):
        assert key_tag(key) == old_tag(key)
    assert key_tag("x") == "str:x" and key_tag(7) == "int:7" and key_tag(True) == "bool:True"


def test_a_state_that_an_earlier_version_saved_under_a_numpy_key_is_found_and_moved() -> None:
    @stateful_map(output="out", key=np.int64, default=int, ttl=60.0)
    def count(key: Any, value: Any, state: int) -> tuple[int, int]:
        return state + 1, state + 1

    old = old_tag(np.int64(7))
    assert old is not None and old != key_tag(np.int64(7))
    now = dt.datetime.now(dt.UTC).timestamp()
    harness = Harness(count, state={old: msgpack.packb([41, now, None, 7])})
    harness.send("in", 7)
    harness.crash()
    harness.send("in", 7)
    assert harness.outputs("out") == [42, 43]
    assert set(harness.state) == {"int:7"}


@pytest.mark.parametrize(
    "key", ["\ud800", ("\ud800",), {"\ud800": 1}, 2**70, (2**70,), object(), {(1, 2): 1}],
    ids=lambda key: type(key).__name__,
)
def test_a_key_that_cannot_be_saved_is_a_type_error_of_any_kind(key: Any) -> None:
    @stateful_map(output="out", key=lambda _: key, default=int)
    def count(key: Any, value: Any, state: int) -> tuple[int, int]:
        return state + 1, state + 1

    with pytest.raises(TypeError):
        Harness(count).send("in", 1)
