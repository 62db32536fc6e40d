"""logs: the lines of all nodes in the order of their times, followed while the run lives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_world import World

import noderuntime.logs
from noderuntime.cli import logs, main
from noderuntime.cli.logs import Tail

Capture = pytest.CaptureFixture[str]


def test_lines_of_all_nodes_come_in_the_order_of_their_times(world: World, capsys: Capture) -> None:
    run = world.run("flow")
    run.log("a", {"time": 1.0, "text": "one"}, {"time": 3.0, "text": "three"})
    run.log("bb", {"time": 2.0, "text": "two"})
    assert main(["logs", "flow"]) == 0
    assert [line.split(" │ ") for line in capsys.readouterr().out.splitlines()] == [
        ["a          ", "one"],
        ["bb         ", "two"],
        ["a          ", "three"],
    ]


def test_a_name_that_is_no_run_is_a_node_of_the_only_one(world: World, capsys: Capture) -> None:
    run = world.run("flow")
    run.log("a", {"time": 1.0, "text": "one"})
    run.log("b", {"time": 2.0, "text": "two"})
    assert main(["logs", "b"]) == 0
    assert capsys.readouterr().out.endswith("│ two\n")
    assert main(["logs", "flow", "a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "one"


def test_the_logs_of_a_run_that_has_ended_can_still_be_read(world: World, capsys: Capture) -> None:
    logs_dir = world.home / "state" / "old" / "logs"
    for stamp, text in (("2026-01-01", "first"), ("2026-01-02", "second")):
        (logs_dir / stamp).mkdir(parents=True)
        (logs_dir / stamp / "a.jsonl").write_text(json.dumps({"time": 1, "node": "a", "text": text}) + "\n")
    assert main(["logs", "old"]) == 0
    assert capsys.readouterr().out.endswith("│ second\n")
    assert main(["logs"]) == 0
    assert capsys.readouterr().out.endswith("│ second\n")
    assert main(["logs", "nothing"]) == 3


def test_log_records_show_level_and_fields_and_frames_are_left_out(world: World, capsys: Capture) -> None:
    run = world.run("flow")
    run.log(
        "a",
        {"time": 1.0, "stream": "log", "level": 30, "text": "careful", "fields": {"n": 3}},
        {"time": 2.0, "text": "\x1b[2Jpicture"},
        {"time": 3.0, "stream": "log", "level": 40, "text": "bad", "fields": {}},
    )
    assert main(["logs"]) == 0
    assert [line.split(" │ ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "WARNING careful  n=3",
        "ERROR bad",
    ]


def test_what_the_runtime_said_stands_between_the_lines_of_the_nodes(world: World, capsys: Capture) -> None:
    run = world.run("flow")
    run.log("a", {"time": 1.0, "text": "one"}, {"time": 3.0, "text": "three"})
    told = {"time": 2.0, "node": "", "stream": "log", "text": "a restarted", "level": 20, "fields": {}}
    (run.logs / "runtime.log").write_text(json.dumps(told) + "\n")
    assert main(["logs"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "noderuntime │ INFO a restarted"
    assert main(["logs", "flow", "a"]) == 0
    assert "restarted" not in capsys.readouterr().out


def test_lines_that_are_no_records_are_passed_over(world: World, capsys: Capture) -> None:
    run = world.run("flow")
    (run.logs / "a.jsonl").write_bytes(b'\xff\n{"time": 1}\n[]\n{"node": "a", "text": "good"}\n{"te')
    assert main(["logs"]) == 0
    assert capsys.readouterr().out.endswith("│ good\n")


def test_a_tail_reads_over_the_moment_in_which_a_large_file_becomes_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noderuntime.logs, "FILE_BYTES_MAX", 1000)
    written = noderuntime.logs.RunLogs(tmp_path)
    tail, seen = Tail(tmp_path), []
    for number in range(100):
        written.write("a", "stdout", f"{number}")
        written.flush()
        if number % 7 == 0:
            seen += [int(record["text"]) for record in tail.records()]
    written.close()
    seen += [int(record["text"]) for record in tail.records()]
    assert seen == list(range(100))
    whole = [int(record["text"]) for record in Tail(tmp_path).records()]
    assert whole == list(range(100 - len(whole), 100))


def test_a_tail_gives_each_record_once_and_a_half_written_line_when_it_is_whole(tmp_path: Path) -> None:
    tail = Tail(tmp_path)
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\n{"text": ')
    assert [record["text"] for record in tail.records()] == ["one"]
    with file.open("a") as more:
        more.write('"two"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "new node"}\n')
    assert [record["text"] for record in tail.records()] == ["two", "new node"]
    assert list(tail.records()) == []


def test_following_ends_with_the_run_and_shows_its_last_lines(
    world: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = world.run("flow")
    run.log("a", {"time": 1.0, "text": "one"})
    turns: list[float] = []

    def later(seconds: float) -> None:
        turns.append(seconds)
        run.log("a", {"time": 2.0, "text": f"turn {len(turns)}"})
        if len(turns) == 2:
            run.end()

    monkeypatch.setattr(logs.time, "sleep", later)
    assert main(["logs", "-f"]) == 0
    shown = [line.split(" │ ")[1] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["one", "turn 1", "turn 2"]
