from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from noderuntime.api.events import input_event
from noderuntime.api.keyed.batches import RecordEvent, records_of

UTC = dt.UTC


def test_the_records_of_a_list_are_its_items() -> None:
    items = [1, "two", {"three": 3}, [4]]
    assert records_of(items) == items
    assert records_of([]) == []


@pytest.mark.parametrize(
    "values", [[1, 2, 3], [0.5, -1.0], [True, False], ["a", "ü"], [b"a", b"bc"], []], ids=lambda values: repr(values)
)
def test_the_records_of_an_array_are_plain_python_values(values: list[Any]) -> None:
    records = records_of(np.array(values))
    assert list(records) == values
    assert [type(item) for item in records] == [type(item) for item in values]


def test_the_rows_of_an_array_are_arrays() -> None:
    records = records_of(np.arange(6).reshape(3, 2))
    assert [row.tolist() for row in records] == [[0, 1], [2, 3], [4, 5]]
    assert all(isinstance(row, np.ndarray) for row in records)


def test_the_records_of_a_structured_array_are_dicts_fields_within_fields_too() -> None:
    inner = np.dtype([("x", "f4"), ("y", "f4")])
    array = np.zeros(2, [("id", "i8"), ("name", "U5"), ("at", inner), ("tail", "i2", (2,))])
    array[1] = (7, "seven", (1.5, 2.5), (3, 4))
    first, second = records_of(array)
    assert second.pop("tail").tolist() == [3, 4]
    assert second == {"id": 7, "name": "seven", "at": {"x": 1.5, "y": 2.5}}
    assert [type(value) for value in second.values()] == [int, str, dict]
    assert first["id"] == 0


TABLE = {
    "id": [1, 2, 3],
    "name": ["a", None, "c"],
    "price": [0.5, 1.5, 2.5],
    "count": [1, None, 3],
    "when": [dt.datetime(2030, 1, day, tzinfo=UTC) for day in (1, 2, 3)],
    "tags": [["x"], [], None],
}


@pytest.mark.parametrize("make", [pa.table, pa.RecordBatch.from_pydict], ids=["table", "record batch"])
def test_the_rows_of_an_arrow_table_are_dicts(make: Any) -> None:
    expected = [dict(zip(TABLE, row, strict=True)) for row in zip(*TABLE.values(), strict=True)]
    table = make(TABLE)
    assert records_of(table) == expected
    assert records_of(table.slice(1, 1)) == expected[1:2]
    assert records_of(table.slice(0, 0)) == []
    assert [type(value) for value in records_of(table)[0].values()] == [int, str, float, int, dt.datetime, list]


def test_the_records_of_an_arrow_array_are_its_values() -> None:
    assert records_of(pa.array([1, 2, 3])) == [1, 2, 3]
    assert records_of(pa.array([1.5, None])) == [1.5, None]
    assert records_of(pa.chunked_array([["a"], ["b", "c"]])) == ["a", "b", "c"]
    assert records_of(pa.chunked_array([[1], [2, 3]])) == [1, 2, 3]
    assert records_of(pa.array([{"x": 1}, {"x": 2}])) == [{"x": 1}, {"x": 2}]


@pytest.mark.parametrize(
    "value", [None, 1, 1.5, "text", b"bytes", {"a": [1]}, np.array(5), pa.scalar(5), dt.datetime(2030, 1, 1)], ids=repr
)
def test_what_is_no_batch_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match="no batch of records"):
        records_of(value)


@pytest.mark.parametrize("make", [pa.Table.from_arrays, pa.RecordBatch.from_arrays])
def test_a_table_with_two_columns_of_one_name_is_refused_instead_of_losing_one(make: Any) -> None:
    with pytest.raises(TypeError, match="two columns named 'a'"):
        records_of(make([pa.array([1]), pa.array([2])], ["a", "a"]))


def test_times_of_an_array_are_times_and_never_bare_integers() -> None:
    exact = np.array(["2020-01-01T00:00:00.000001", "NaT"], "M8[ns]")
    assert records_of(exact) == [dt.datetime(2020, 1, 1, 0, 0, 0, 1), None]
    assert records_of(np.array([1500], "m8[ns]").astype("m8[us]")) == [dt.timedelta(microseconds=1)]
    for finer in (np.array([1], "M8[ns]"), np.array([1], "m8[ns]"), np.array(["20000-01-01"], "M8[s]")):
        assert [type(item) for item in records_of(finer)] == [finer.dtype.type]
        assert records_of(finer)[0] == finer[0]


def test_the_event_of_a_record_is_that_of_its_message_with_the_record_as_value_and_its_index() -> None:
    message = input_event("in", [5, 6], {"unit": "m"}, "a/out", 1_000_000_000, 3, 2)
    event: Any = RecordEvent(message, 6, 1)
    assert dict(event) == {**message, "value": 6, "index": 1}
    assert (event.type, event.id, event.value, event.index, event.uid) == ("INPUT", "in", 6, 1, "a/out#3")
    assert (event.attempt, event.metadata, event.timestamp) == (2, {"unit": "m"}, message.timestamp)
    assert "uid" in event and "error" not in event
    assert "value': 6" in repr(event)
    with pytest.raises(AttributeError, match="error"):
        event.error  # noqa: B018
