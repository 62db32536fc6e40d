from __future__ import annotations

import itertools
import random
from typing import Any

import msgpack
import pytest

from noderuntime import merges
from noderuntime.merges import Add, Max, Merge, Min, Union

SEED = 7


def after(*steps: Merge) -> bytes:
    value: bytes | None = None
    for step in steps:
        value = step.apply(value)
    assert value is not None
    return value


def test_add_counts_a_missing_key_as_zero_and_sums() -> None:
    assert merges.decode(Add(3).apply(None)) == 3
    assert merges.decode(after(Add(3), Add(-5), Add(2.5))) == 0.5


def test_max_and_min_keep_the_extreme() -> None:
    assert merges.decode(after(Max(3), Max(7), Max(5))) == 7
    assert merges.decode(after(Min(3), Min(-7), Min(5))) == -7


def test_union_stores_a_sorted_list_without_repetition() -> None:
    assert merges.decode(after(Union({"b", "a"}), Union({"c", "a"}))) == ["a", "b", "c"]


def test_union_tells_equal_elements_of_different_types_apart() -> None:
    found = merges.decode(after(Union({1}), Union({True}), Union({1.0}), Union({"1"}), Union({None})))
    assert [(type(item), item) for item in found] == [
        (type(None), None), (bool, True), (int, 1), (float, 1.0), (str, "1"),
    ]  # fmt: skip


def test_the_stored_bytes_are_one_messagepack_value() -> None:
    assert Add(3).apply(None) == msgpack.packb(3)
    assert Union({2, 1}).apply(None) == msgpack.packb([1, 2])


def _amounts(generator: random.Random) -> list[int]:
    return [generator.randrange(-(10**6), 10**6) for _ in range(5)]


@pytest.mark.parametrize("kind", [Add, Max, Min])
def test_number_merges_give_the_same_bytes_in_any_order(kind: Any) -> None:
    generator = random.Random(SEED)
    for _ in range(20):
        steps = [kind(amount) for amount in _amounts(generator)]
        assert len({after(*order) for order in itertools.permutations(steps)}) == 1


@pytest.mark.parametrize(
    "steps",
    [
        [Max(1), Max(1.0), Max(0.5)],
        [Min(1), Min(1.0), Min(2)],
        [Max(0.0), Max(-0.0)],
        [Union({0.0}), Union({-0.0}), Union({0})],
        [Union({"b", 1}), Union({True, "a"}), Union({b"x", None})],
    ],
)
def test_order_does_not_show_in_the_bytes_even_where_python_calls_values_equal(steps: list[Merge]) -> None:
    assert len({after(*order) for order in itertools.permutations(steps)}) == 1


@pytest.mark.parametrize("step", [Max(4), Min(4), Union({4})])
def test_applying_an_idempotent_merge_twice_is_applying_it_once(step: Merge) -> None:
    assert step.apply(step.apply(None)) == step.apply(None)


@pytest.mark.parametrize("wrong", ["1", None, True, [1], float("nan"), 2**64, 1j])
@pytest.mark.parametrize("kind", [Add, Max, Min])
def test_a_number_merge_refuses_what_is_no_number_when_it_is_made(kind: Any, wrong: object) -> None:
    with pytest.raises(TypeError, match=kind.__name__):
        kind(wrong)


@pytest.mark.parametrize("wrong", ["abc", [1], 5, {1: 2}, {(1, 2)}, {float("nan")}, {2**70}])
def test_union_refuses_what_is_no_set_of_plain_elements_when_it_is_made(wrong: Any) -> None:
    with pytest.raises(TypeError, match="Union"):
        Union(wrong)


@pytest.mark.parametrize("step", [Add(1), Max(1), Min(1), Union({1})])
@pytest.mark.parametrize("stored", [b"hello", b"", msgpack.packb("text"), msgpack.packb({"a": 1})])
def test_a_stored_value_of_another_kind_is_a_type_error(step: Merge, stored: bytes) -> None:
    with pytest.raises(TypeError):
        step.apply(stored)


def test_a_sum_that_leaves_64_bits_is_an_error_and_not_a_wrong_sum() -> None:
    with pytest.raises(TypeError, match="64 bits"):
        after(Add(2**63), Add(2**63))


def test_numpy_numbers_count_as_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    assert merges.decode(after(Add(numpy.int32(2)), Add(numpy.float64(0.5)))) == 2.5


def test_decoding_what_no_merge_has_stored_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="not MessagePack"):
        merges.decode(b"\xc1")
