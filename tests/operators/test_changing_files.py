"""Files that change while they are read: rotated, truncated, replaced, renamed; and text that is odd inside."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from noderuntime.operators import csv_rows, directory, file_lines, json_lines

from noderuntime import Source
from noderuntime.testing import Harness


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def source(module: Any, text: str | bytes | None, **config: Any) -> Harness:
    if text is not None:
        Path("log").write_bytes(text if isinstance(text, bytes) else text.encode())
    return Harness(module.Operator, config={"path": "log", **config}, outputs=[module.Operator.output])


def append(text: str, name: str = "log") -> None:
    with open(name, "a") as file:
        file.write(text)


def rotate(by: str) -> None:
    if by == "renaming":
        Path("log").rename("log.1")
        Path("log").touch()
    else:
        shutil.copy("log", "log.1")
        os.truncate("log", 0)


@pytest.mark.parametrize("life", ["goes on", "ends"])
@pytest.mark.parametrize("by", ["renaming", "copying"])
def test_a_rotated_file_is_read_to_its_end_and_then_the_new_one(by: str, life: str) -> None:
    h = source(file_lines, "one\ntwo\n", follow=True)
    h.produce_all()
    append("three\nfour, without an end")
    if life == "ends":
        h.crash()
    rotate(by)
    h.produce_all()
    append("five\n")
    h.produce_all()
    append("six\n")
    h.produce_all()
    assert h.outputs("line") == ["one", "two", "three", "four, without an end", "five", "six"]
    assert [sent.metadata["line"] for sent in h.sent] == [1, 2, 3, 4, 1, 2]
    assert h.produce() is Source.IDLE


def test_what_is_still_written_to_a_renamed_file_is_read_before_the_new_one() -> None:
    h = source(file_lines, "one\n", follow=True)
    h.produce_all()
    Path("log").rename("log.1")
    h.produce_all()
    Path("log").touch()
    h.produce_all()
    append("two\n", "log.1")  # the writer has not noticed yet
    h.produce_all()
    append("three\n", "log.1")
    append("four\n")
    h.produce_all()
    assert h.outputs("line") == ["one", "two", "three", "four"]


def test_several_rotations_that_nobody_saw_cost_no_line() -> None:
    h = source(file_lines, "0\n1\n", follow=True)
    h.produce_all()
    h.crash()
    append("2\n")
    Path("log").rename("log.1")
    append("3\n4\n")
    Path("log.1").rename("log.2")
    Path("log").rename("log.1")
    append("5\n")
    Path("log.2.gz").write_bytes(b"compressed\n")
    Path("log.lock").write_bytes(b"of others\n")
    h.produce_all()
    assert h.outputs("line") == list("012345")


@pytest.mark.parametrize("seed", range(40))
def test_lines_come_once_whatever_is_rotated_and_crashes(seed: int) -> None:
    chance = random.Random(seed)
    Path("log").touch()
    h = source(file_lines, None, follow=True, batch=chance.choice([1, 2, 100]))
    wanted: list[str] = []
    files = 0
    for _ in range(60):
        step = chance.choice(["write", "write", "rotate", "copy", "read", "read", "crash"])
        if step == "write":
            wanted.append(f"line {len(wanted)} {'x' * chance.randrange(300)}")
            append(wanted[-1] + "\n")
        elif step in ("rotate", "copy") and Path("log").stat().st_size:
            if h.position is None:  # before anything is committed, nothing says where to go on
                h.produce(crashes=chance.randrange(2))
            for number in range(files, 0, -1):
                Path(f"log.{number}").rename(f"log.{number + 1}")
            files += 1
            rotate("renaming" if step == "rotate" else "copying")
        elif step == "read":
            h.produce(crashes=chance.randrange(2))
        elif step == "crash":
            h.crash()
    h.produce_all()
    assert h.outputs("line") == wanted, f"seed {seed}"


def test_a_truncated_file_without_a_copy_is_read_from_its_beginning_and_it_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    h = source(file_lines, "one\ntwo\n", follow=True)
    h.produce_all()
    Path("log").write_text("new, and longer than before\n")
    h.produce_all()
    assert h.outputs("line") == ["one", "two", "new, and longer than before"]
    assert "log was truncated or replaced behind line 2" in caplog.text
    h.crash()
    Path("log").write_text("")
    h.produce_all()
    append("newer\n")
    h.produce_all()
    assert h.outputs("line")[3:] == ["newer"]


def test_a_followed_file_may_come_later_and_be_away_between_two_names() -> None:
    h = source(file_lines, None, follow=True)
    assert h.produce() is Source.IDLE
    append("one\n")
    h.produce_all()
    Path("log").rename("log.1")
    h.crash()
    assert h.produce() is Source.IDLE
    append("two\n")
    h.produce_all()
    assert h.outputs("line") == ["one", "two"]


@pytest.mark.parametrize("text", ["on", "other\nthing\n"])
def test_a_file_that_is_not_followed_and_has_changed_is_a_clear_error(text: str) -> None:
    h = source(file_lines, "one\ntwo\n", batch=1)
    h.produce()
    Path("log").write_text(text)
    with pytest.raises(ValueError, match=r"log has changed: line 1 ended at byte 4.*--fresh"):
        h.produce()


def test_positions_of_earlier_versions_go_on() -> None:
    Path("log").write_text("one\ntwo\n")
    for follow in (False, True):
        h = source(file_lines, None, follow=follow)
        h._transact(lambda h=h: h._lives.ctx.save_state("source.position", b"\x92\x04\x01"))  # [4, 1]
        h.produce_all()
        assert h.outputs("line") == ["two"]


def test_a_pipe_is_no_file_to_read_lines_from() -> None:
    os.mkfifo("log")
    with pytest.raises(ValueError, match="config: path: log: it is not a regular file"):
        source(file_lines, None)


@pytest.mark.parametrize(
    ("module", "text", "wanted"),
    [
        (file_lines, "one\n", ["one"]),
        (json_lines, "[1]\n", [[1]]),
        (csv_rows, "a,b\n1,2\n", [{"a": "1", "b": "2"}]),
    ],
)
def test_a_byte_order_mark_is_passed_over(module: Any, text: str, wanted: list[Any]) -> None:
    h = source(module, b"\xef\xbb\xbf" + text.encode())
    h.produce_all()
    assert h.outputs(module.Operator.output) == wanted


def test_a_field_may_be_as_long_as_a_line() -> None:
    h = source(csv_rows, f"a,b\n1,{'x' * 140_000}\n")
    h.produce_all()
    assert len(h.outputs("row")[0]["b"]) == 140_000


@pytest.mark.parametrize(
    ("delimiter", "text", "wanted"),
    [
        ("\t", "a\tb\n\t\n \n\n1\t2\n", [{"a": "", "b": ""}, {"a": "1", "b": "2"}]),
        (" ", "a b\n \n1 2\n", [{"a": "", "b": ""}, {"a": "1", "b": "2"}]),
        (",", "a\n  \n\nx\n", [{"a": "  "}, {"a": "x"}]),
    ],
)
def test_a_row_of_empty_fields_is_a_row(delimiter: str, text: str, wanted: list[Any]) -> None:
    h = source(csv_rows, text, delimiter=delimiter)
    h.produce_all()
    assert h.outputs("row") == wanted


@pytest.mark.parametrize(
    ("module", "text", "config", "error"),
    [
        (json_lines, f"1\n{2**70}\n", {}, r"^log:2: "),
        (json_lines, f"1\n{'9' * 5000}\n", {}, r"^log:2: "),
        (json_lines, f"1\n{'[' * 100_000}\n", {}, r"^log:2: "),
        (json_lines, '1\n"\\ud800"\n', {}, r"^log:2: "),
        (csv_rows, f"n\n1\n{2**70}\n", {"types": {"n": "int"}}, r"^log:3: "),
        (csv_rows, 'a,"b\n', {}, r"^log:1: "),
    ],
)
def test_a_value_that_cannot_be_sent_is_an_error_with_file_and_line(
    module: Any, text: str, config: dict[str, Any], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        source(module, text, **config).produce_all()


def folder(**config: Any) -> Harness:
    return Harness(directory.Operator, config={"path": "in", "batch": 1, **config})


def test_a_file_of_a_directory_that_is_renamed_goes_on_under_its_new_name() -> None:
    Path("in").mkdir()
    Path("in/a").write_text("1\n2\n3\n")
    h = folder()
    h.produce()
    Path("in/a").rename("in/b")
    h.crash()
    h.produce_all()
    assert h.outputs("line") == ["1", "2", "3"]
    assert [sent.metadata["file"] for sent in h.sent] == ["a", "b", "b"]


def test_a_file_of_a_directory_that_is_taken_away_is_given_up_and_it_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Path("in").mkdir()
    Path("in/a").write_text("1\n2\n")
    Path("in/b").write_text("3\n")
    h = folder()
    h.produce()
    Path("in/a").rename("a")
    h.produce_all()
    assert h.outputs("line") == ["1", "3"]
    assert "in/a is gone: what stood behind its line 1 is not sent" in caplog.text
    Path("a").rename("in/a")  # given up for good: its first line was sent
    h.produce_all()
    assert h.outputs("line") == ["1", "3"]


def test_a_file_of_a_directory_that_is_replaced_is_a_clear_error() -> None:
    Path("in").mkdir()
    Path("in/a").write_text("1\n2\n")
    h = folder()
    h.produce()
    Path("in/a").write_text("another one\n")
    with pytest.raises(ValueError, match="in/a has changed"):
        h.produce()


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"encoding": "utf-9"}, "encoding"),
        ({"encoding": "utf-16"}, "encoding"),
        ({"pattern": 5}, "pattern"),
        ({"pattern": "a/*"}, "pattern"),
        ({"end": 5}, "end"),
        ({"end": "a/b"}, "end"),
        ({"ends": "x"}, "ends"),
    ],
)
def test_a_config_field_of_directory_that_cannot_work_is_named(config: dict[str, Any], named: str) -> None:
    Path("in").mkdir()
    with pytest.raises(ValueError, match=f"^config: {named}: "):
        folder(**config)
