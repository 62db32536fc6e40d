from __future__ import annotations

import os
from pathlib import Path

import pytest
from noderuntime.operators.directory import Operator

from noderuntime.testing import Harness


def directory(folder: Path, **config: object) -> Harness:
    return Harness(Operator, config={"path": str(folder), **config})


def test_files_are_sent_line_by_line_in_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("3\n4")
    (tmp_path / "a.txt").write_text("1\n2\n")
    h = directory(tmp_path, batch=1)
    h.produce_all()
    assert h.outputs("line") == ["1", "2", "3", "4"]
    assert [sent.metadata["line"] for sent in h.sent] == [1, 2, 1, 2]
    assert not h.ended


def test_each_line_is_sent_once_whenever_it_crashes_and_whenever_files_come(tmp_path: Path) -> None:
    h = directory(tmp_path, batch=2, end="END")
    wanted = []
    for number in range(5):
        lines = [f"{number}.{line}" for line in range(number + 2)]
        (tmp_path / f".{number}").write_text("\n".join(lines) + "\n")
        (tmp_path / f".{number}").rename(tmp_path / f"{number}.txt")
        wanted += lines
        for _ in range(3):
            h.produce(crashes=1)
            h.crash()
    (tmp_path / "END").touch()
    h.produce_all()
    assert h.outputs("line") == wanted
    assert h.ended


def test_other_names_than_those_of_the_pattern_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("no\n")
    (tmp_path / "a.log").write_text("yes\n")
    (tmp_path / ".b.log").write_text("not yet\n")
    h = directory(tmp_path, pattern="*.log")
    h.produce_all()
    assert h.outputs("line") == ["yes"]


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        directory(tmp_path / "nowhere")


def test_names_that_are_not_utf_8_are_read_once_too_and_shown_with_escapes(tmp_path: Path) -> None:
    for name in (b"\xe9.txt", b"\\xe9.txt", b"a" * 250 + b"\xff.tx", "é.txt".encode()):
        (tmp_path / os.fsdecode(name)).write_text(f"one of {len(name)}\ntwo\nthree\n")
    h = directory(tmp_path, batch=2)
    for _ in range(12):
        h.produce(crashes=1)
        h.crash()
    h.produce_all()
    shown = [sent.metadata["file"] for sent in h.sent[::3]]
    assert shown == ["\\xe9.txt", "a" * 250 + "\\xff.tx", "é.txt", "\\xe9.txt"]
    assert [sent.metadata["line"] for sent in h.sent] == [1, 2, 3] * 4
