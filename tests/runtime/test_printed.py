"""Which printed lines are log records."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noderuntime.runtime.printed import LEVELS, record_in

WHOLE: dict[str, Any] = {"level": "warn", "message": "m", "timestamp": "2020-01-01T00:00:00Z"}


def record(**fields: Any) -> Any:
    return record_in("a", json.dumps({**WHOLE, **fields}))


def test_a_record_has_level_message_and_time() -> None:
    found = record(target="t", fields={"k": "v"})
    assert (found.node, found.level, found.text, found.time) == ("a", 30, "m", 1577836800.0)
    assert found.fields == {"target": "t", "k": "v"}


@pytest.mark.parametrize("level", LEVELS)
def test_levels_may_be_written_large(level: str) -> None:
    assert record(level=level.upper()).level == record(level=level).level == LEVELS[level]


@pytest.mark.parametrize("fields", [{"target": None}, {"fields": None}, {"extra": 5}, {"node_id": "b"}, {"fields": {}}])
def test_what_may_be_there_too(fields: dict[str, Any]) -> None:
    assert record(**fields).text == "m"


@pytest.mark.parametrize(
    "fields",
    [{"level": "loud"}, {"level": 30}, {"level": None}, {"message": 5}, {"timestamp": 5}, {"timestamp": "soon"},
     {"timestamp": "2020-01-01T00:00:00"}, {"target": 5}, {"fields": {"a": 1}}, {"fields": []}, {"fields": "x"}],
)  # fmt: skip
def test_other_json_is_a_line(fields: dict[str, Any]) -> None:
    assert record(**fields) is None


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_missing_makes_it_a_line(name: str) -> None:
    assert record_in("a", json.dumps({key: value for key, value in WHOLE.items() if key != name})) is None


def test_a_time_with_another_zone() -> None:
    assert record(timestamp="2020-01-01T02:00:00.25+02:00").time == 1577836800.25


@given(st.text() | st.builds(lambda text: "{" + text + "}", st.text()))
def test_whatever_a_node_prints_nothing_is_raised(line: str) -> None:
    record_in("a", line)


@given(st.dictionaries(st.sampled_from(["level", "message", "timestamp", "target", "fields"]),
                       st.none() | st.integers() | st.text() | st.dictionaries(st.text(), st.integers())))  # fmt: skip
def test_whatever_json_a_node_prints_nothing_is_raised(told: dict[str, Any]) -> None:
    record_in("a", json.dumps(told))


def test_brackets_without_end_are_a_line() -> None:
    assert record_in("a", '{"a":' + "[" * 100_000 + "}") is None
