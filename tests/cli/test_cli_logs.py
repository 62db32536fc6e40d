"""logs: the lines of all nodes in the order of their times, followed while the run lives."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from support.cli_world import World

import noderuntime.runtime.logs
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
    monkeypatch.setattr(noderuntime.runtime.logs, "FILE_BYTES_MAX", 1000)
    written = noderuntime.runtime.logs.RunLogs(tmp_path)
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


def test_a_node_that_is_not_there_is_a_usage_error_with_the_nearest_name(world: World, capsys: Capture) -> None:
    run = world.run("flow")
    run.log("camera", {"time": 1.0, "text": "one"})
    assert main(["logs", "flow", "camrea"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "the run 'flow' has no node 'camrea'; did you mean 'camera'?" in said.err
    assert main(["logs", "--run", "flow", "zzz"]) == 2
    assert "its nodes are: camera" in capsys.readouterr().err
    assert main(["logs", "camrea"]) == 3
    assert "Did you mean 'camera'?" in capsys.readouterr().err


def test_a_word_that_is_a_run_and_a_node_is_refused_and_the_option_decides(world: World, capsys: Capture) -> None:
    run = world.run("flow")
    run.log("flow", {"time": 1.0, "text": "of the node"})
    run.log("other", {"time": 2.0, "text": "of another"})
    assert main(["logs", "flow"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "`logs --run flow`" in said.err and "`logs --run flow flow`" in said.err
    assert main(["logs", "--run", "flow"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["logs", "--run", "flow", "flow"]) == 0
    assert main(["logs", "flow", "flow"]) == 0
    assert [line.split(" │ ")[1] for line in capsys.readouterr().out.splitlines()] == ["of the node"] * 2


def shown(capsys: Capture) -> list[str]:
    return [line.partition(" │ ")[2] for line in capsys.readouterr().out.splitlines()]


def test_tail_gives_the_last_records_over_all_nodes(world: World, capsys: Capture) -> None:
    run = world.run("flow")
    run.log("a", *({"time": float(at), "text": f"a{at}"} for at in range(0, 10, 2)))
    run.log("b", *({"time": float(at), "text": f"b{at}"} for at in range(1, 10, 2)))
    assert main(["logs", "--tail", "3"]) == 0
    assert shown(capsys) == ["b7", "a8", "b9"]
    assert main(["logs", "--tail", "0"]) == 0
    assert main(["logs", "--tail", "-1"]) == 2
    assert shown(capsys) == []
    assert main(["logs", "flow", "a", "--tail", "99"]) == 0
    assert shown(capsys) == ["a0", "a2", "a4", "a6", "a8"]


def test_since_takes_a_duration_or_a_time(
    world: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = world.run("flow")
    run.log("a", {"time": 1_000_000_000.0, "text": "old"}, {"time": 1_000_000_060.5, "text": "new"})
    assert main(["logs", "--since", "2001-09-09T01:47:00Z"]) == 0
    assert shown(capsys) == ["new"]
    monkeypatch.setattr(time, "time", lambda: 1_000_000_070.0)
    assert main(["logs", "--since", "10s"]) == 0
    assert shown(capsys) == ["new"]
    assert main(["logs", "--since", "2m"]) == 0
    assert shown(capsys) == ["old", "new"]
    assert main(["logs", "--since", "yesterday"]) == 2


def test_timestamps_begin_the_line(world: World, capsys: Capture) -> None:
    run = world.run("flow")
    run.log("a", {"time": 1_000_000_000.25, "text": "one\ntwo"})
    assert main(["logs", "--timestamps"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2001-09-09T01:46:40.250Z a           │ one", "2001-09-09T01:46:40.250Z a           │ two",
    ]  # fmt: skip


def test_runtime_shows_what_the_runtime_decided_with_times(world: World, capsys: Capture) -> None:
    run = world.run("flow")
    run.log("a", {"time": 1.0, "text": "one"})
    told = {"node": "", "stream": "log", "fields": {}}
    lines = [
        {**told, "time": 1.0, "level": 10, "text": "a is running (BecameReady)"},
        {**told, "time": 2.0, "level": 20, "text": "a died"},
    ]
    (run.logs / "runtime.log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["logs", "--runtime"]) == 0
    assert [line.split(" noderuntime │ ") for line in capsys.readouterr().out.splitlines()] == [
        ["1970-01-01T00:00:01.000Z", "DEBUG a is running (BecameReady)"], ["1970-01-01T00:00:02.000Z", "INFO a died"],
    ]  # fmt: skip
    assert main(["logs"]) == 0
    assert shown(capsys) == ["one", "INFO a died"]
    assert main(["logs", "--runtime", "flow", "a"]) == 2


def test_logs_of_a_running_run_that_were_removed_are_said_to_be(world: World, capsys: Capture) -> None:
    run = world.run("flow")
    run.log("a", {"time": 1.0, "text": "one"})
    shutil.rmtree(run.logs)
    for words in (["flow"], ["--run", "flow", "a"], ["flow", "a"], []):
        assert main(["logs", *words]) == 1
        assert "were removed" in capsys.readouterr().err
    assert main(["logs", "flo"]) == 3
    assert "Did you mean 'flow'?" in capsys.readouterr().err


def test_followed_logs_go_on_when_their_folder_is_replaced_by_a_file_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    tail = Tail(folder)

    def write(text: str) -> None:
        folder.mkdir(exist_ok=True)
        with (folder / "a.jsonl").open("a") as file:
            file.write(json.dumps({"time": 1, "node": "a", "text": text}) + "\n")

    write("one")
    assert [record["text"] for record in tail.records()] == ["one"]
    shutil.rmtree(folder)
    assert list(tail.records()) == []
    folder.write_text("")
    assert list(tail.records()) == []
    folder.unlink()
    write("two")
    assert [record["text"] for record in tail.records()] == ["two"]
