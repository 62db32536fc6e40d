"""file_lines, csv_rows, json_lines; file_sink, sqlite_sink."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noderuntime.operators import csv_rows, file_lines, file_sink, json_lines, sqlite_sink

from noderuntime import Source
from noderuntime.testing import Harness


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def source(module: Any, text: str | bytes, **config: Any) -> Harness:
    Path("input.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return Harness(module.Operator, config={"path": "input.txt", **config}, outputs=[module.Operator.output])


def test_lines_come_in_order_with_their_place_and_without_their_ends() -> None:
    h = source(file_lines, "one\r\ntwo\n\nfour")
    h.produce_all()
    assert h.outputs("line") == ["one", "two", "", "four"]
    assert h.sent[3].metadata == {"file": "input.txt", "line": 4}
    assert h.ended


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_lines_come_once_whatever_crashes(batch: int) -> None:
    text = [f"line {number} ä" for number in range(20)]
    h = source(file_lines, "\n".join(text), batch=batch)
    while not h.ended:
        h.produce(crashes=1)
        h.crash()
    assert h.outputs("line") == text


def test_a_followed_file_is_read_as_it_grows_and_only_whole_lines_are_sent() -> None:
    h = source(file_lines, "one\ntw", follow=True)
    h.produce_all()
    assert h.outputs("line") == ["one"]
    with open("input.txt", "a") as file:
        file.write("o\nthree\n")
    h.crash()
    h.produce_all()
    assert h.produce() is Source.IDLE
    assert h.outputs("line") == ["one", "two", "three"]


def test_bytes_that_are_no_text_are_an_error_with_their_place() -> None:
    h = source(file_lines, b"good\n\xff\xfe\n", batch=1)
    h.produce()
    with pytest.raises(ValueError, match=r"input\.txt:2: not utf-8"):
        h.produce()


def test_another_encoding_can_be_named() -> None:
    h = source(file_lines, b"\xe4\n", encoding="latin-1")
    h.produce_all()
    assert h.outputs("line") == ["ä"]


def test_json_lines_are_values_and_empty_lines_are_none() -> None:
    h = source(json_lines, '{"a": 1}\n\n[2, null]\n"x"', batch=2)
    while not h.ended:
        h.produce(crashes=1)
        h.crash()
    assert h.outputs("value") == [{"a": 1}, [2, None], "x"]
    assert [sent.metadata["line"] for sent in h.sent] == [1, 3, 4]


def test_a_line_that_is_no_json_is_an_error_with_file_line_and_column() -> None:
    h = source(json_lines, '1\n{"a" 2}\n')
    with pytest.raises(ValueError, match=r"input\.txt:2:6: no JSON: "):
        h.produce_all()
    assert h.sent == []


def test_a_line_that_is_nested_without_end_is_an_error_with_its_file_and_line() -> None:
    h = source(json_lines, "1\n" + "[" * 500_000 + "\n")
    with pytest.raises(ValueError, match=r"input\.txt:2: no JSON that can be read: nested too deeply"):
        h.produce_all()


TYPES = {"n": "int", "x": "float", "ok": "bool"}


@pytest.mark.parametrize("batch", [1, 100])
def test_csv_rows_are_converted_and_survive_crashes_also_inside_quotes(batch: int) -> None:
    text = 'n,x,ok,text\n1,0.5,yes,"a, b"\n\n2,,no,"two\nlines"\n3,1e3,TRUE,\n'
    h = source(csv_rows, text, types=TYPES, batch=batch)
    while not h.ended:
        h.produce(crashes=1)
        h.crash()
    assert h.outputs("row") == [
        {"n": 1, "x": 0.5, "ok": True, "text": "a, b"},
        {"n": 2, "x": None, "ok": False, "text": "two\nlines"},
        {"n": 3, "x": 1000.0, "ok": True, "text": ""},
    ]
    assert [sent.metadata["line"] for sent in h.sent] == [2, 4, 6]


def test_a_csv_file_may_have_another_delimiter() -> None:
    h = source(csv_rows, "a;b\n1;2\n", delimiter=";")
    h.produce_all()
    assert h.outputs("row") == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ("1,2,yes\n1,2\n", r"input\.txt:3: 2 fields, where the header has 3"),
        ("1,2,yes,4\n", r"input\.txt:2: 4 fields, where the header has 3"),
        ("x,2,yes\n", r"input\.txt:2: column n: 'x' is no int"),
        ("1,2,maybe\n", r"input\.txt:2: column ok: 'maybe' is no bool"),
        ('1,2,"yes\n', r"input\.txt:2: ."),
    ],
)
def test_a_bad_row_is_an_error_with_file_line_and_column(rows: str, error: str) -> None:
    h = source(csv_rows, "n,x,ok\n" + rows, types=TYPES)
    with pytest.raises(ValueError, match=error):
        h.produce_all()


@pytest.mark.parametrize("header", ["", "a,a\n"])
def test_a_csv_file_without_a_header_is_an_error(header: str) -> None:
    with pytest.raises(ValueError, match=r"input\.txt:1: .* is no header"):
        source(csv_rows, header)


def test_a_file_sink_writes_each_message_once_whatever_crashes() -> None:
    h = Harness(file_sink.Operator, config={"path": "out.txt"})
    for value in ("one", "two ä", {"n": 3}, 4, None, [5]):
        h.send("in", value, crashes=2)
        h.crash()
    assert Path("out.txt").read_text() == 'one\ntwo ä\n{"n": 3}\n4\nnull\n[5]\n'


def test_a_file_sink_cuts_off_what_a_crash_left_behind() -> None:
    h = Harness(file_sink.Operator, config={"path": "out.txt"})
    h.send("in", "one")
    with open("out.txt", "a") as file:
        file.write("tw")  # a write that was interrupted, and whose event comes again
    h.crash()
    h.send("in", "two")
    assert Path("out.txt").read_text() == "one\ntwo\n"


def test_a_new_run_begins_its_file_anew_and_a_resumed_one_goes_on() -> None:
    first = Harness(file_sink.Operator, config={"path": "out.txt"})
    first.send("in", "old")
    Harness(file_sink.Operator, config={"path": "out.txt"}, state=first.state).send("in", "resumed")
    assert Path("out.txt").read_text() == "old\nresumed\n"
    Harness(file_sink.Operator, config={"path": "out.txt"}).send("in", "new")
    assert Path("out.txt").read_text() == "new\n"


def test_a_file_that_was_shortened_by_others_is_a_clear_error() -> None:
    h = Harness(file_sink.Operator, config={"path": "out.txt"})
    h.send("in", "one")
    Path("out.txt").write_text("")
    h.crash()
    with pytest.raises(ValueError, match=r"out\.txt has 0 bytes, but 4 were written"):
        h.send("in", "two")


def test_a_file_sink_can_write_all_as_json() -> None:
    h = Harness(file_sink.Operator, config={"path": "out.txt", "format": "json"})
    h.send("in", "two\nlines")
    h.send("in", np.arange(3))
    h.send("in", dt.datetime(2024, 1, 2, tzinfo=dt.UTC))
    lines = [json.loads(line) for line in Path("out.txt").read_text().splitlines()]
    assert lines == ["two\nlines", [0, 1, 2], "2024-01-02T00:00:00+00:00"]


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect("out.db")) as connection:
        yield connection


def rows(database: sqlite3.Connection, columns: str = "uid, value") -> list[Any]:
    return database.execute(f"SELECT {columns} FROM messages ORDER BY source, number").fetchall()


def sqlite_harness(**options: Any) -> Harness:
    return Harness(sqlite_sink.Operator, config={"path": "out.db"}, **options)


def test_a_sqlite_sink_has_a_row_for_each_message_whatever_crashes(database: sqlite3.Connection) -> None:
    h = sqlite_harness()
    for value in (1, {"a": "ä"}, None):
        h.send("in", value, {"k": 1}, crashes=2)
        h.crash()
    h.stop()
    assert rows(database) == [("test/in#1", "1"), ("test/in#2", '{"a": "ä"}'), ("test/in#3", "null")]
    assert rows(database, "source, number, metadata")[0] == ("test/in", 1, '{"k": 1}')


def test_a_resumed_run_removes_the_rows_that_its_state_has_not_seen(database: sqlite3.Connection) -> None:
    h = sqlite_harness()
    h.send("in", "a")
    snapshot = dict(h.state)
    h.send("in", "b")
    h.stop()
    sqlite_harness(state=snapshot).stop()
    assert rows(database) == [("test/in#1", '"a"')]


def test_a_path_where_nothing_can_be_opened_is_named() -> None:
    for module in (file_sink, sqlite_sink, file_lines):
        with pytest.raises(ValueError, match="config: path: nowhere/x: "):
            Harness(module.Operator, config={"path": "nowhere/x"})


@pytest.mark.parametrize(
    ("operator", "config", "named"),
    [
        (file_lines, {}, "path"),
        (file_lines, {"path": "in", "follow": 1}, "follow"),
        (file_lines, {"path": "in", "batch": 0}, "batch"),
        (file_lines, {"path": "in", "encoding": "utf-9"}, "encoding"),
        (file_lines, {"path": "in", "encoding": "utf-16"}, "encoding"),
        (file_lines, {"path": "in", "lines": 1}, "lines"),
        (csv_rows, {"path": "in", "follow": True}, "follow"),
        (csv_rows, {"path": "in", "delimiter": ", "}, "delimiter"),
        (csv_rows, {"path": "in", "types": ["int"]}, "types"),
        (csv_rows, {"path": "in", "types": {"b": "int"}}, "types: b"),
        (csv_rows, {"path": "in", "types": {"a": "number"}}, "types: a"),
        (file_sink, {}, "path"),
        (file_sink, {"path": "out", "format": "xml"}, "format"),
        (file_sink, {"path": "out", "mode": "a"}, "mode"),
        (sqlite_sink, {}, "path"),
        (sqlite_sink, {"path": "out", "table": "a; drop"}, "table"),
        (sqlite_sink, {"path": "out", "tables": "a"}, "tables"),
    ],
)
def test_a_config_field_that_cannot_work_is_named(operator: Any, config: Any, named: str) -> None:
    Path("in").write_text("a\n")
    with pytest.raises(ValueError, match=f"config: {named}: "):
        Harness(operator.Operator, config=config)


def test_a_file_sink_on_another_machine_goes_on_in_a_new_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "out.txt"
    h = Harness(file_sink.Operator, config={"path": str(path)})
    h.send("in", "one")
    path.unlink()
    h.crash()
    h.send("in", "two")
    h.send("in", "three")
    assert path.read_text() == "two\nthree\n"
    assert "are elsewhere" in caplog.text


def test_a_sqlite_sink_removes_what_a_lost_history_has_left_even_before_its_first_commit(tmp_path: Path) -> None:
    config = {"path": str(tmp_path / "out.db")}
    first = Harness(sqlite_sink.Operator, config=config)
    for value in ("a", "b", "c"):
        first.send("in", value)
    # from a snapshot taken before anything had arrived
    again = Harness(sqlite_sink.Operator, config=config, run_id=first.run_id)
    again.send("in", "A")
    with closing(sqlite3.connect(config["path"])) as database:
        assert database.execute("SELECT number, value FROM messages").fetchall() == [(1, '"A"')]
