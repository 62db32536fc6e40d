"""The slot of a key is part of the layout of the space: these values never change."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noderuntime.api.keyed.layout import SLOTS
from noderuntime.api.keyed.slots import slot_of

KEPT = {
    None: 61, True: 135, False: 17, 7: 46, -1: 0, 7.5: 69, "7": 88, "": 101, "ann": 150, b"7": 192, 1e300: 94,
}  # fmt: skip


def test_slots_are_what_they_have_always_been() -> None:
    assert {key: slot_of(key) for key in KEPT} == KEPT
    assert [slot_of([1, "a"]), slot_of({"a": 1})] == [98, 101]


EQUAL = [
    [7, 7.0, numpy.int64(7), numpy.float32(7), numpy.uint8(7)],
    [0, 0.0, -0.0],
    [2**63, float(2**63)],
    [(1, 2.0), [1, 2], [1.0, numpy.int32(2)]],
    [{"a": 1, "b": [2.0]}, {"b": [2], "a": 1.0}],
    [{1: "x", 2: "y"}, {2.0: "y", 1.0: "x"}],
    [float("nan"), -float("nan"), numpy.float64("nan")],
    ["a", numpy.str_("a")],
    [True, numpy.bool_(True)],
]


@pytest.mark.parametrize("same", EQUAL, ids=lambda same: repr(same[0]))
def test_values_that_are_equal_have_one_slot(same: list[Any]) -> None:
    assert len({slot_of(value) for value in same}) == 1


def test_values_that_a_key_tells_apart_may_have_different_ones() -> None:
    assert slot_of(True) != slot_of(1)
    assert slot_of("1") != slot_of(1)
    assert slot_of(7.5) != slot_of(7)


def test_what_cannot_be_carried_has_none() -> None:
    for value in (2**64, object(), {(1, 2): 3}):
        with pytest.raises(TypeError):
            slot_of(value)


@given(st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(), st.binary(),
                 st.lists(st.floats(), max_size=3), st.datetimes(timezones=st.just(dt.UTC))))  # fmt: skip
def test_every_key_has_one(key: Any) -> None:
    try:
        assert 0 <= slot_of(key) < SLOTS
    except TypeError:
        assert not _is_utf8(key)  # half a surrogate pair


def _is_utf8(key: Any) -> bool:
    try:
        str(key).encode()
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize("keys", [range(1000), range(0, 16_000, 16), [f"user-{n}" for n in range(1000)]])
@pytest.mark.parametrize("owners", [2, 3, 4, 8])
def test_keys_are_spread_evenly_over_owners_of_equal_parts(keys: Any, owners: int) -> None:
    counts = Counter(slot_of(key) * owners // SLOTS for key in keys)
    assert min(counts.values()) > 0.8 * 1000 / owners
