"""logs.py: JSON lines per node; a full disk stops nothing."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from noderuntime.runtime import logs
from noderuntime.runtime.logs import RunLog, RunLogs
from noderuntime.runtime.observer import LogRecord, SummaryRow


class Told:
    """An Observer that remembers."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, ...]] = []

    def waiting(self, nodes: Sequence[str]) -> None:
        self.all.append(("waiting", nodes))

    def started(self) -> None:
        self.all.append(("started",))

    def line(self, node: str, stream: str, text: str) -> None:
        self.all.append(("line", node, stream, text))

    def log(self, record: LogRecord) -> None:
        self.all.append(("log", record))

    def status(self, text: str, level: int = 20) -> None:
        self.all.append(("status", text))

    def crash(self, node: str, where: str, error: str, trace: str) -> None:
        self.all.append(("crash", node, where, error, trace))

    def summary(self, rows: Sequence[SummaryRow]) -> None:
        self.all.append(("summary", rows))


def kept(folder: Path, node: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{node}.jsonl").read_text().splitlines()]


def test_one_json_object_a_line_per_node(tmp_path: Path) -> None:
    written = RunLogs(tmp_path)
    written.write("a", "stdout", "one\ttab", at_s=5.5)
    written.write("b", "log", "two", level=30, fields={"n": 1, "odd": {1, 2} & {2}})
    written.close()
    assert kept(tmp_path, "a") == [
        {"time": 5.5, "node": "a", "stream": "stdout", "text": "one\ttab", "level": 20, "fields": {}}
    ]
    (record,) = kept(tmp_path, "b")
    assert (record["level"], record["fields"]) == (30, {"n": 1, "odd": "{2}"})


def test_a_large_log_becomes_the_older_one_and_the_one_before_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 1000)
    written = RunLogs(tmp_path)
    for number in range(30):
        written.write("a", "stdout", f"{number}")
        written.write("", "log", f"{number}")
        written.flush()
    written.close()
    for name in ("a.jsonl", "runtime.log"):
        text = "".join((tmp_path / f"{name}{end}").read_text() for end in (".1", ""))
        lines = [json.loads(line)["text"] for line in text.splitlines()]
        assert lines == [str(number) for number in range(30 - len(lines), 30)]
        assert 10 <= len(lines) < 30
        assert all((tmp_path / f"{name}{end}").stat().st_size <= 1000 for end in ("", ".1"))
    assert len(list(tmp_path.iterdir())) == 4


def test_any_text_can_be_kept(tmp_path: Path) -> None:
    written = RunLogs(tmp_path)
    for text in ("\ud800 lone surrogate", "\x00\n\r\x1b", "ünï ☃", ""):
        written.write("a", "stdout", text)
    written.close()
    assert [record["text"] for record in kept(tmp_path, "a")] == ["? lone surrogate", "\x00\n\r\x1b", "ünï ☃", ""]


def test_lines_that_a_full_disk_refuses_are_counted_and_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [100.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now_s[0])
    (tmp_path / "a.jsonl").symlink_to("/dev/full")
    written = RunLogs(tmp_path)
    for _ in range(3):
        written.write("a", "stdout", "x")
    written.flush()
    assert (written.lost, written.problem) == (3, "No space left on device")
    written.write("b", "stdout", "at once")
    written.flush()
    assert written.lost == 4, "the disk was full a moment ago"
    now_s[0] += 2.0
    written.write("b", "stdout", "later")
    written.close()
    assert [record["text"] for record in kept(tmp_path, "b")] == ["later"]


def test_a_disk_that_becomes_full_within_a_line_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = RunLogs(tmp_path)
    for text in ("one", "two"):
        written.write("a", "stdout", text)
    whole = os.write
    monkeypatch.setattr(logs.os, "write", lambda fd, data: whole(fd, data[: len(data) - 5]))
    written.flush()
    assert written.lost == 2
    assert [record["text"] for record in kept(tmp_path, "a")] == ["one"]
    monkeypatch.undo()
    written.close()


def test_descriptors_that_ran_out_are_a_lost_line_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(logs.os, "open", refuse)
    written = RunLogs(tmp_path)
    written.write("a", "stdout", "x")
    written.close()
    assert (written.lost, written.problem) == (1, "Too many open files")


def test_notes_are_told_and_kept_and_pictures_only_told(tmp_path: Path) -> None:
    told = Told()
    notes = RunLog(told, RunLogs(tmp_path))
    notes.line("a", "stdout", "text")
    notes.line("a", "stdout", "\x1b[2Jpicture")
    notes.record(LogRecord(1.0, "a", 40, "trouble", {"x": 1}))
    notes.crash("a", "init", "ValueError: x", "trace")
    notes.tell("about the run")
    notes.close()
    assert [what[0] for what in told.all] == ["line", "line", "log", "crash", "status"]
    assert [record["text"] for record in kept(tmp_path, "a")] == ["text", "trouble", "init: ValueError: x\ntrace"]
    assert "about the run" in (tmp_path / "runtime.log").read_text()


def test_a_full_disk_is_reported_once_and_counted_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to("/dev/full")
    told = Told()
    notes = RunLog(told, RunLogs(tmp_path))
    for _ in range(3):
        notes.line("a", "stdout", "x")
        notes.flush()
    notes.close()
    texts = [what[1] for what in told.all if what[0] == "status"]
    assert len(texts) == 2
    assert "the run continues without" in texts[0]
    assert texts[1] == "3 lines of logs were lost (No space left on device)"
