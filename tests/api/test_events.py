"""What handlers and loops are given."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noderuntime.api.events import Event, input_event, kvs_update, notice, tick_event, utc

EVENTS: dict[str, tuple[Event, dict[str, Any]]] = {
    "INPUT": (
        input_event("n", 5, {"unit": "m"}, "a/out", 1_700_000_000_123_456_789, 3, 2),
        {
            "type": "INPUT",
            "id": "n",
            "value": 5,
            "metadata": {"unit": "m"},
            "source": "a/out",
            "timestamp": dt.datetime(2023, 11, 14, 22, 13, 20, 123456, dt.UTC),
            "uid": "a/out#3",
            "attempt": 2,
        },
    ),
    "tick": (
        tick_event("t", "timer/secs/1", 1_000_000_000),
        {
            "type": "INPUT",
            "id": "t",
            "value": None,
            "metadata": {"due": dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC)},
            "source": "timer/secs/1",
            "timestamp": dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC),
            "attempt": 1,
        },
    ),
    "INPUT_CLOSED": (notice("INPUT_CLOSED", "n"), {"type": "INPUT_CLOSED", "id": "n"}),
    "STOP": (notice("STOP", "MANUAL"), {"type": "STOP", "id": "MANUAL"}),
    "NODE_FAILED": (notice("NODE_FAILED", "a", "why"), {"type": "NODE_FAILED", "id": "a", "error": "why"}),
    "NODE_RESTARTED": (notice("NODE_RESTARTED", "a", ""), {"type": "NODE_RESTARTED", "id": "a", "error": ""}),
    "KVS_UPDATE": (kvs_update("k", None, 4), {"type": "KVS_UPDATE", "id": "k", "value": None, "revision": 4}),
}

ATTRIBUTES = ("type", "id", "value", "metadata", "source", "timestamp", "uid", "attempt", "error", "revision")


@pytest.fixture(params=EVENTS, ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[Event, dict[str, Any]]:
    return EVENTS[request.param]


def test_an_event_is_a_mapping_of_what_belongs_to_its_type(pair: tuple[Event, dict[str, Any]]) -> None:
    event, expected = pair
    assert isinstance(event, Mapping)
    assert dict(event) == expected
    assert len(event) == len(expected)
    assert event == expected


def test_an_event_answers_to_attributes_and_to_nothing_else(pair: tuple[Event, dict[str, Any]]) -> None:
    event, expected = pair
    for name in ATTRIBUTES:
        if name in expected:
            assert getattr(event, name) == expected[name] == event.get(name)
        else:
            assert name not in event
            assert not hasattr(event, name)
            with pytest.raises(KeyError):
                event[name]


def test_an_event_cannot_be_changed(pair: tuple[Event, dict[str, Any]]) -> None:
    event, _ = pair
    with pytest.raises(TypeError):
        event["id"] = "x"  # type: ignore[index]
    with pytest.raises(AttributeError):
        event.id = "x"
    with pytest.raises(AttributeError):
        event.anything = "x"  # type: ignore[attr-defined]


def test_an_event_shows_itself_in_one_short_line(pair: tuple[Event, dict[str, Any]]) -> None:
    event, expected = pair
    assert repr(event).startswith(f"Event(type={expected['type']!r}, id=")
    long = input_event("n", "x" * 10_000, {}, "a/out", 0, 1)
    assert len(repr(long)) < 500


@given(st.integers(0, 8_500_000_000 * 10**9))
def test_moments_are_exact_to_the_microsecond(ns: int) -> None:
    moment = utc(ns)
    assert (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1) == ns // 1000
