"""Records that cross a socket: what fits arrives typed, everything else is a ProtocolError that says what is wrong."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

import pytest
from support import absurd

from noderuntime.errors import ProtocolError
from noderuntime.ipc import change_records, state_records, store_records
from noderuntime.ipc.typed import decode


class Place(NamedTuple):
    input: int
    sequence: int


class Item(TypedDict):
    id: str
    bytes: int
    packed: NotRequired[bool]


@dataclass(frozen=True, slots=True)
class Asked:
    key: str
    value: bytes
    ttl: float | None = None
    limit: int = 7
    places: list[Place] = field(default_factory=list)
    items: dict[str, Item] = field(default_factory=dict)
    how: Literal["add", "max"] = "add"
    amount: object = None


def test_a_map_becomes_a_record_with_its_defaults() -> None:
    assert decode(Asked, {"key": "k", "value": b"v"}, "arguments") == Asked("k", b"v", None, 7, [], {}, "add", None)


def test_arrays_become_named_tuples_and_maps_stay_maps() -> None:
    made = decode(
        Asked,
        {"key": "k", "value": b"", "places": [[1, 2]], "items": {"a": {"id": "x", "bytes": 3}}, "amount": [1, {}]},
        "arguments",
    )
    assert made.places == [Place(1, 2)] and made.places[0].sequence == 2
    assert made.items == {"a": {"id": "x", "bytes": 3}}
    assert made.amount == [1, {}]


def test_nil_for_a_field_that_may_be_left_out_leaves_it_out() -> None:
    assert decode(Asked, {"key": "k", "value": b"", "limit": None, "places": None}, "arguments") == Asked("k", b"")


def test_a_whole_number_is_a_number_and_a_boolean_is_neither() -> None:
    assert decode(Asked, {"key": "k", "value": b"", "ttl": 3}, "arguments").ttl == 3
    for name in ("ttl", "limit"):
        with pytest.raises(ProtocolError):
            decode(Asked, {"key": "k", "value": b"", name: True}, "arguments")


def test_keys_that_a_newer_peer_sends_are_passed_over_and_kept_in_maps() -> None:
    made = decode(Asked, {"key": "k", "value": b"", "new": 1, "items": {"a": {"id": "", "bytes": 0, "new": 1}}}, "x")
    assert made.items["a"] == {"id": "", "bytes": 0, "new": 1}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "arguments: key is missing"),
        ({"key": 5, "value": b""}, "arguments: key is a whole number, not text"),
        ({"key": "k", "value": "text"}, "arguments: value is text, not binary"),
        ({"key": None, "value": b""}, "arguments: key is nil, not text"),
        ({"key": "k", "value": b"", "ttl": "1"}, "arguments: ttl is text, not a number or nil"),
        ({"key": "k", "value": b"", "limit": 1.5}, "arguments: limit is a number, not a whole number"),
        ({"key": "k", "value": b"", "places": {}}, "arguments: places is a map, not an array"),
        ({"key": "k", "value": b"", "places": [[1, 2], [1]]}, "arguments: places[1] has 1 items, not 2"),
        ({"key": "k", "value": b"", "places": [[1, b""]]}, "arguments: places[0][1] is binary, not a whole number"),
        ({"key": "k", "value": b"", "items": {5: {}}}, "arguments: a key of items is a whole number, not text"),
        ({"key": "k", "value": b"", "items": {"a": {"id": ""}}}, "arguments: items.a.bytes is missing"),
        ({"key": "k", "value": b"", "how": "sub"}, "arguments: how is 'sub', not one of 'add', 'max'"),
        ({"key": "k", "value": b"", "how": []}, "arguments: how is an array, not one of 'add', 'max'"),
        ([], "arguments is an array, not a map"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_type(given: Any, text: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        decode(Asked, given, "arguments")
    assert str(refused.value) == text


def test_a_long_key_or_word_is_cut_in_the_text() -> None:
    for given in ({"how": "x" * 10**6}, {"items": {"x" * 10**6: 5}}):
        with pytest.raises(ProtocolError) as refused:
            decode(Asked, {"key": "k", "value": b"", **given}, "arguments")
        assert len(str(refused.value)) < 300


KINDS = [
    kind
    for module in (change_records, state_records, store_records)
    for kind in vars(module).values()
    if isinstance(kind, type) and kind.__module__ == module.__name__
]


def test_any_map_decodes_or_is_a_protocol_error() -> None:
    chance = random.Random(absurd.seed())
    assert len(KINDS) > 30
    for kind in KINDS:
        for _ in range(50):
            given = absurd.of(chance, dict)
            for name in kind.__annotations__:
                given[name] = absurd.of(chance, chance.choice([str, int, bytes, list, dict, float]))
            with contextlib.suppress(ProtocolError):
                decode(kind, given, "arguments")
