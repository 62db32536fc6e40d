"""Metadata as dora takes it: what goes through, what becomes text, what is refused."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import types
import uuid
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noderuntime.api import values
from noderuntime.dora import metadata

SENT = dt.datetime(2026, 5, 6, 7, 8, 9, 123456, dt.UTC)
Pair = namedtuple("Pair", "a b")


class Number(enum.IntEnum):
    THREE = 3


class Text(str, enum.Enum):  # noqa: UP042
    X = "x"


class Sub(str): ...


class SubInt(int): ...


class SubFloat(float): ...


class Index:
    def __index__(self) -> int:
        return 5

    def __float__(self) -> float:
        return 5.5

    def __repr__(self) -> str:
        return "Index()"




def through(given: Any) -> Any:
    """As it arrives, and what was warned of."""
    warned: list[str] = []
    sent = metadata.outgoing(given, warned.append)
    return metadata.incoming(values.unpack(values.pack(sent)), SENT), warned


def received(value: Any) -> Any:
    told, warned = through({"k": value})
    assert not warned
    return told["k"]


KEPT = [
    (1, 1), (-(2**63), -(2**63)), (2**63 - 1, 2**63 - 1), (True, True), (2.5, 2.5), (2.0, 2.0), ("a", "a"), ("", ""),
    ("a\0b", "a\0b"), (math.inf, math.inf), (Number.THREE, 3), (Text.X, "x"), (Sub("r"), "r"), (SubInt(9), 9),
    (SubFloat(2.5), 2.5), (np.float64(1.5), 1.5), ([1, 2], [1, 2]), ((1, 2), [1, 2]), ([1.5], [1.5]), (["a"], ["a"]),
    ([], []), ((), []), ([2.5, 1], [2.5, 1.0]), ([1.5, 2**70], [1.5, float(2**70)]), ([1, True], [1, 1]),
    ([1, Number.THREE], [1, 3]), (["a", Text.X], ["a", "x"]), (["a", Sub("z")], ["a", "z"]), ([1, Index()], [1, 5]),
    ([1.0, Index()], [1.0, 5.5]), (Pair(1, 2), [1, 2]), ([1, np.int64(2)], [1, 2]), ([1.0, np.float32(2)], [1.0, 2.0]),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), KEPT, ids=repr)
def test_numbers_texts_and_flat_lists_of_them_go_through(value: Any, expected: Any) -> None:
    got = received(value)
    assert got == expected
    assert type(got) is type(expected)
    if isinstance(got, list):
        assert [type(item) for item in got] == [type(item) for item in expected]


def test_nan_goes_through() -> None:
    assert math.isnan(received(math.nan))


TEXT = [
    None, {"a": 1}, {}, {"parameters": {"a": 1}}, b"ab", bytearray(b"a"), [True, False], [True, 2], (True,), [None],
    [[1]], [{}], [()], {1}, range(3), np.int64(3), np.float32(1.5), np.bool_(True), np.array([1, 2]), 1j,
    [np.float64(2)], [np.int64(1)], [Number.THREE], [Text.X], [Sub("q")], [SubInt(4)], [SubFloat(1.0)],
    dt.date(2026, 1, 2), dt.time(1, 2), dt.timedelta(1), [SENT], uuid.UUID(int=1), decimal.Decimal("1.50"), frozenset(),
]  # fmt: skip


@pytest.mark.parametrize("value", TEXT, ids=repr)
def test_anything_else_becomes_its_text_with_a_warning(value: Any) -> None:
    told, warned = through({"k": value})
    assert told["k"] == str(value)
    assert warned == [f"unsupported metadata value type for key `k`; coercing to its string representation: {value}"]


REFUSED = [
    (2**63, OverflowError, "Python int too large to convert to C long"),
    (-(2**63) - 1, OverflowError, "Python int too large to convert to C long"),
    ([2**70], OverflowError, "Python int too large to convert to C long"),
    ([1, 2.5], TypeError, "'float' object cannot be interpreted as an integer"),
    ([1, "a"], TypeError, "'str' object cannot be interpreted as an integer"),
    ([1, None], TypeError, "'NoneType' object cannot be interpreted as an integer"),
    ([2.5, "x"], TypeError, "must be real number, not str"),
    ([2.5, "1"], TypeError, "must be real number, not str"),
    ([2.5, None], TypeError, "must be real number, not NoneType"),
    (["a", 1], TypeError, "'int' object is not an instance of 'str'"),
    (["a", None], TypeError, "'None' is not an instance of 'str'"),
    ("\ud800", UnicodeEncodeError, "'utf-8' codec can't encode"),
    (["a", "\ud800"], UnicodeEncodeError, "'utf-8' codec can't encode"),
]


@pytest.mark.parametrize(("value", "error", "text"), REFUSED, ids=repr)
def test_what_dora_refuses_is_refused_with_the_same_words(value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        through({"k": value})
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("given", [5, "x", [1], types.MappingProxyType({"a": 1})], ids=repr)
def test_metadata_is_a_dict(given: Any) -> None:
    with pytest.raises(TypeError, match=f"'{type(given).__name__}' object is not an instance of 'dict'"):
        through(given)


@pytest.mark.parametrize("key", [1, None, b"a", "\ud800"], ids=repr)
def test_keys_are_text(key: Any) -> None:
    with pytest.raises(RuntimeError, match=r"^Parsing metadata keys"):
        through({key: 1})


def test_a_key_that_is_a_member_of_an_enum_is_its_text() -> None:
    assert through(OrderedDict({Text.X: 1, Sub("k"): 2, "": 3}))[0] == {"timestamp": SENT, "x": 1, "k": 2, "": 3}


def test_no_metadata_is_the_time_of_sending_alone() -> None:
    assert through(None) == ({"timestamp": SENT}, [])
    assert through({}) == ({"timestamp": SENT}, [])


@pytest.mark.parametrize("given", [5, "then", dt.datetime(2020, 1, 1, tzinfo=dt.UTC)], ids=repr)
def test_a_timestamp_of_the_sender_wins(given: Any) -> None:
    assert through({"timestamp": given})[0] == {"timestamp": given}


def test_handed_on_metadata_keep_the_time_of_the_first_sender() -> None:
    first = metadata.incoming({"a": 1}, SENT)
    assert through(first)[0] == {"timestamp": SENT, "a": 1}


def test_the_dict_of_the_caller_is_not_changed() -> None:
    given = {"a": (1, 2), "b": None}
    through(given)
    assert given == {"a": (1, 2), "b": None}


@given(st.datetimes(timezones=st.timezones()))
def test_a_datetime_keeps_its_moment_to_the_microsecond(value: dt.datetime) -> None:
    try:
        expected = value.astimezone(dt.UTC)
    except OverflowError:
        with pytest.raises(ValueError, match="has no UTC form"):
            received(value)
        return
    got = received(value)
    assert got == expected
    assert got.tzinfo is dt.UTC


@given(st.datetimes(min_value=dt.datetime(1971, 1, 2), max_value=dt.datetime(9998, 1, 1)))
def test_a_datetime_without_a_zone_is_local_time(value: dt.datetime) -> None:
    assert received(value) == value.astimezone(dt.UTC)
