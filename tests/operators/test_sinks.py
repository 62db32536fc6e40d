"""file_sink and sqlite_sink know their own rows and lines, and write every value in one form."""

from __future__ import annotations

import datetime as dt
import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from noderuntime.operators import file_sink, sqlite_sink

from noderuntime.testing import Harness

SIX_COLUMNS = "uid TEXT PRIMARY KEY, source TEXT, number INTEGER, sent TEXT, metadata TEXT, value TEXT"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect("out.db", isolation_level=None)) as connection:
        yield connection


def sqlite(config: dict[str, Any] | None = None, **options: Any) -> Harness:
    return Harness(sqlite_sink.Operator, config={"path": "out.db", **(config or {})}, **options)


def file(config: dict[str, Any] | None = None, **options: Any) -> Harness:
    return Harness(file_sink.Operator, config={"path": "out.txt", **(config or {})}, **options)


def send_number(h: Harness, number: int, value: Any, input: str = "in") -> None:
    """A message of a number of its own: as a replayed dead letter, or as one output that feeds two inputs, comes."""
    h._lives.numbers[f"test/{input}"] = number - 1
    h.send(input, value)


def values(database: sqlite3.Connection) -> list[Any]:
    return [json.loads(value) for (value,) in database.execute("SELECT value FROM messages ORDER BY rowid")]


def test_a_replayed_message_takes_no_row_away(database: sqlite3.Connection) -> None:
    h = sqlite()
    for number in (1, 2, 4, 5, 6):
        send_number(h, number, number)
    send_number(h, 3, 3)  # it had become a dead letter, and comes behind the others
    h.crash()
    h.stop()
    assert sorted(values(database)) == [1, 2, 3, 4, 5, 6]


def test_the_same_uid_by_two_inputs_is_two_rows(database: sqlite3.Connection) -> None:
    h = sqlite()
    source = "numbers/n"
    for number in range(1, 11):
        for input in ("a", "b"):
            event = {
                "type": "INPUT", "id": input, "value": number, "metadata": {}, "source": source,
                "uid": f"{source}#{number}", "timestamp": dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "attempt": 1,
            }  # fmt: skip
            h._deliver(lambda attempt, event=event: event, crashes=1)  # type: ignore[misc]
    assert database.execute("SELECT count(*), count(DISTINCT uid) FROM messages").fetchone() == (20, 10)
    assert database.execute("SELECT DISTINCT input FROM messages ORDER BY 1").fetchall() == [("a",), ("b",)]


def test_a_new_run_keeps_the_rows_of_earlier_ones(database: sqlite3.Connection) -> None:
    for _ in range(2):
        h = sqlite()
        h.send("in", "x", crashes=1)
        h.send("in", "y")
        h.stop()
    assert values(database) == ["x", "y", "x", "y"]
    assert database.execute("SELECT count(DISTINCT run) FROM messages").fetchone() == (2,)


def test_a_new_run_removes_earlier_rows_of_its_own_node_when_told_to(database: sqlite3.Connection) -> None:
    sqlite(node_id="other").send("in", "of another node")
    sqlite(node_id="sink").send("in", "old")
    h = sqlite({"keep": False}, node_id="sink")
    h.stop()
    assert values(database) == ["of another node", "old"]  # a run in which nothing came has nothing to replace it
    h = sqlite({"keep": False}, node_id="sink")
    h.send("in", "new", crashes=1)
    h.send("in", "newer")
    h.crash()
    h.stop()
    assert values(database) == ["of another node", "new", "newer"]


def test_what_was_written_and_not_committed_is_removed_also_before_the_first_commit(
    database: sqlite3.Connection,
) -> None:
    first = sqlite()
    for value in ("a", "b", "c"):
        first.send("in", value)
    sqlite().send("in", "of another run")
    again = sqlite(run_id=first.run_id)  # from a snapshot that was taken before anything had arrived
    again.send("in", "A")
    assert sorted(values(database)) == ["A", "of another run"]


def test_a_resumed_run_removes_only_rows_of_its_own(database: sqlite3.Connection) -> None:
    first = sqlite()
    first.send("in", "a")
    snapshot = dict(first.state)
    first.send("in", "lost")
    second = sqlite()
    for value in ("b", "c", "d"):
        second.send("in", value)
    sqlite(state=snapshot).stop()
    assert sorted(values(database)) == ["a", "b", "c", "d"]


def test_a_table_of_an_earlier_version_is_extended_with_all_that_belongs_to_it(
    database: sqlite3.Connection,
) -> None:
    database.execute(f"CREATE TABLE messages ({SIX_COLUMNS})")
    database.execute("CREATE INDEX mine ON messages (sent)")
    database.execute("CREATE VIEW texts AS SELECT value FROM messages")
    database.execute(
        "CREATE TRIGGER no_three BEFORE INSERT ON messages WHEN NEW.value = '3' BEGIN SELECT RAISE(ABORT, 'no 3'); END"
    )
    for number in (1, 2):
        row = (f"test/in#{number}", number, '"old"')
        database.execute("INSERT INTO messages VALUES (?, 'test/in', ?, '', '{}', ?)", row)
    h = sqlite()
    h.send("in", "new")
    with pytest.raises(sqlite3.IntegrityError, match="no 3"):
        h.send("in", 3)
    assert [value for (value,) in database.execute("SELECT value FROM texts")] == ['"old"', '"old"', '"new"']
    names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    assert {"mine", "no_three", "texts"} <= names and "messages__extended" not in names


def test_a_run_of_an_earlier_version_goes_on_without_loss_and_without_a_second_row(
    database: sqlite3.Connection,
) -> None:
    database.execute(f"CREATE TABLE messages ({SIX_COLUMNS})")
    for number in (1, 2, 3, 4):
        row = (f"test/in#{number}", number, json.dumps(number))
        database.execute("INSERT INTO messages VALUES (?, 'test/in', ?, '', '{}', ?)", row)
    # a replayed letter had lowered the mark from 3; the fourth was written and not committed
    h = sqlite(state={"test/in": b"2"})
    send_number(h, 4, 4)
    send_number(h, 5, 5)
    h.crash()
    h.stop()
    assert sorted(values(database)) == [1, 2, 3, 4, 5]


def test_a_table_of_others_is_refused_and_left_alone(database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE messages (id INTEGER)")
    with pytest.raises(ValueError, match=r"config: table: 'messages' is there already, with other columns \(id\)"):
        sqlite()
    assert database.execute("SELECT sql FROM sqlite_master").fetchall() == [("CREATE TABLE messages (id INTEGER)",)]


def test_a_new_run_of_a_file_sink_keeps_the_file_when_told_to() -> None:
    for _ in range(2):
        h = file({"keep": True})
        h.send("in", "x", crashes=2)
        h.send("in", "y", crashes=1)
        h.crash()
    assert Path("out.txt").read_text() == "x\ny\nx\ny\n"


def test_a_line_that_an_earlier_run_has_left_unfinished_stays_one_of_its_own() -> None:
    Path("out.txt").write_text("whole\nhal")
    h = file({"keep": True})
    h.send("in", "new", crashes=1)
    assert Path("out.txt").read_text() == "whole\nhal\nnew\n"


def test_a_run_that_begins_a_file_anew_says_so(caplog: pytest.LogCaptureFixture) -> None:
    file().send("in", "old")
    file().send("in", "new")
    assert Path("out.txt").read_text() == "new\n"
    assert "out.txt begins anew: 4 bytes are removed" in caplog.text


def test_a_file_that_another_run_has_begun_anew_is_refused_and_left_alone() -> None:
    first = file()
    first.send("in", "first")
    file().send("in", "other, and longer")
    with pytest.raises(ValueError, match=r"out\.txt is not the file that this run has written"):
        file(state=first.state)
    assert Path("out.txt").read_text() == "other, and longer\n"


def test_the_state_of_an_earlier_version_is_read() -> None:
    Path("out.txt").write_text("one\ntw")
    h = file(state={"length": b"4"})
    h.send("in", "two")
    assert Path("out.txt").read_text() == "one\ntwo\n"


@pytest.mark.parametrize("text", ["two\nlines", "two\r\nlines", "one\n", "\n", "\r"])
def test_a_text_with_line_ends_takes_one_line(text: str) -> None:
    h = file()
    h.send("in", text)
    h.send("in", "next")
    first, second = Path("out.txt").read_text().splitlines()
    assert (json.loads(first), second) == (text, "next")


TABLE = pa.table({"n": [1, None], "at": [dt.datetime(2024, 1, 2), None], "d": [dt.date(2024, 1, 2), None]})
FORMS = [
    (math.nan, None),
    ([1.5, math.inf, {"a": -math.inf, "b": [math.nan]}], [1.5, None, {"a": None, "b": [None]}]),
    (np.array([1.0, np.nan]), [1.0, None]),
    (b"\x00\xff", "00ff"),
    (bytearray(b"\x00\xff"), "00ff"),
    (memoryview(b"\x00\xff"), "00ff"),
    ({"inside": [bytearray(b"\x01")]}, {"inside": ["01"]}),
    (dt.datetime(2024, 1, 2, tzinfo=dt.UTC), "2024-01-02T00:00:00+00:00"),
    (np.arange(4, dtype="int16").reshape(2, 2), [[0, 1], [2, 3]]),
    (pa.array([1, None]), [1, None]),
    (TABLE, [{"n": 1, "at": "2024-01-02T00:00:00", "d": "2024-01-02"}, {"n": None, "at": None, "d": None}]),
    ("ä", "ä"),
]


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize(("value", "wanted"), FORMS, ids=lambda value: type(value).__name__)
def test_both_sinks_write_a_value_as_the_same_json(value: Any, wanted: Any, database: sqlite3.Connection) -> None:
    for h in (file({"format": "json"}), sqlite()):
        h.send("in", value, {"m": math.nan})
    ((stored, metadata),) = database.execute("SELECT value, metadata FROM messages")
    assert stored == Path("out.txt").read_text().rstrip("\n")
    assert json.loads(stored, parse_constant=refuse) == wanted
    assert json.loads(metadata, parse_constant=refuse) == {"m": None}
    assert database.execute("SELECT json_valid(value) FROM messages").fetchone() == (1,)
