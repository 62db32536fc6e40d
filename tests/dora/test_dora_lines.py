"""The helpers that send what nodes print and log: which lines, in which form, each of them once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from noderuntime.api.events import notice, tick_event
from noderuntime.api.operator import Status
from noderuntime.dora import lines
from noderuntime.dora.lines import AllLogs, NodeLines
from noderuntime.ipc.rundir import ENV_DORA, ENV_RUN_DIR, older_log
from noderuntime.runtime.logs import END_MARK

TICK = tick_event("tick", "timer/millis/25", 0)


def config_of(stdout: str, logs: str, level: int = 0) -> dict[str, Any]:
    """What a helper of the node `a` is told."""
    nodes = {"a": {"node": "A", "level": level}}
    return {"node": "a", "process": "a", "nodes": nodes, "stdout": stdout, "logs": logs}


class Ctx:
    """What a helper uses of the runtime."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.sent: list[tuple[str, str]] = []
        self.saved: dict[str, bytes] = {}

    def send_output(self, output: str, value: Any, metadata: Any = None) -> None:
        assert str(value.type) == "string" and len(value) == 1
        self.sent.append((output, value[0].as_py()))

    def save_state(self, key: str, value: bytes) -> None:
        self.saved[key] = value


class World:
    """A run with log files, and a helper of one kind."""

    def __init__(self, folder: Path, kind: Any, config: dict[str, Any]) -> None:
        self.folder, self.kind, self.config = folder, kind, config
        self.begin()

    def begin(self, state: dict[str, bytes] | None = None) -> None:
        self.ctx: Any = Ctx(self.config)
        self.helper = self.kind(self.ctx)
        if state:
            self.helper.restore_state(state)

    def write(self, text: str, node: str = "a", stream: str = "stdout", **more: Any) -> None:
        told = {"time": 1.5, "node": node, "stream": stream, "text": text, "level": 20, "fields": {}, **more}
        with (self.folder / "logs" / f"{node}.jsonl").open("a") as file:
            file.write(json.dumps(told) + "\n")

    def tick(self) -> list[tuple[str, str]]:
        """What the next tick sends."""
        before = len(self.ctx.sent)
        self.status = self.helper.on_event(TICK, self.ctx)
        return self.ctx.sent[before:]

    def end(self, node: str = "a") -> None:
        """As the runtime does, when the process of a node is over."""
        with (self.folder / "logs" / f"{node}.jsonl").open("ab") as file:
            file.write(END_MARK)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "logs").mkdir()
    (tmp_path / "run.json").write_text(json.dumps({"log_dir": str(tmp_path / "logs")}))
    (tmp_path / "dora.json").write_text(json.dumps({"dataflow_id": "id"}))
    monkeypatch.setenv(ENV_RUN_DIR, str(tmp_path))
    monkeypatch.setenv(ENV_DORA, str(tmp_path / "dora.json"))
    return tmp_path


@pytest.fixture
def world(run: Path) -> World:
    return World(run, NodeLines, config_of("o", ""))


def test_each_line_goes_out_once_with_its_newline(world: World) -> None:
    assert world.tick() == []
    world.write("one")
    world.write("two", stream="stderr")
    assert world.tick() == [("o", "one\n"), ("o", "two\n")]
    assert world.tick() == []
    world.write("three")
    assert world.tick() == [("o", "three\n")]


def test_a_life_continues_where_the_last_one_committed(world: World) -> None:
    world.write("one")
    world.tick()
    saved = {**world.ctx.saved}
    world.write("two")
    world.tick()  # sent, and not committed
    world.begin(saved)
    assert world.tick() == [("o", "two\n")]


def test_another_run_begins_its_files_anew(world: World) -> None:
    world.write("one")
    world.tick()
    saved = {key: value.replace(b"/logs", b"/earlier") for key, value in world.ctx.saved.items()}
    world.begin(saved)
    assert world.tick() == [("o", "one\n")]


def test_half_a_line_waits_for_its_end(world: World) -> None:
    file = world.folder / "logs" / "a.jsonl"
    world.write("one")
    whole = file.read_text()
    file.write_text(whole + whole[:20])
    assert world.tick() == [("o", "one\n")]
    file.write_text(whole + whole)
    assert world.tick() == [("o", "one\n")]


def test_a_file_that_was_put_aside_is_read_to_its_end(world: World) -> None:
    file = world.folder / "logs" / "a.jsonl"
    world.write("one")
    world.tick()
    world.write("two")
    file.rename(older_log(file))
    world.write("three")
    assert world.tick() + world.tick() == [("o", "two\n"), ("o", "three\n")]


def test_a_lot_is_sent_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BATCH_BYTES", 300)
    for number in range(10):
        world.write(str(number))
    world.write("x" * 5000)
    found: list[tuple[str, str]] = []
    for _ in range(20):
        found += world.tick()
    assert found == [*(("o", f"{number}\n") for number in range(10)), ("o", "x" * 5000 + "\n")]


def test_a_record_that_was_printed_goes_out_as_it_was_printed(world: World) -> None:
    world.write("m", stream="log", level=30, line='{"level": "warn"}')
    world.write("not printed", stream="log", level=30)
    assert world.tick() == [("o", '{"level": "warn"}\n')]


def test_records_are_json_as_dora_has_it(run: Path) -> None:
    world = World(run, NodeLines, config_of("", "l"))
    world.write("plain")
    world.write("careful", stream="log", level=30, fields={"target": "t", "k": "v", "logger": "x"})
    plain, careful = (json.loads(text) for _, text in world.tick())
    assert plain == {
        "build_id": None, "dataflow_id": "id", "node_id": "A", "daemon_id": None, "level": "stdout", "target": None,
        "module_path": None, "file": None, "line": None, "message": "plain", "timestamp": "1970-01-01T00:00:01.500000Z",
        "fields": None,
    }  # fmt: skip
    assert (careful["level"], careful["target"], careful["fields"]) == ("WARN", "t", {"k": "v"})


@pytest.mark.parametrize(
    ("level", "name"),
    [(5, "TRACE"), (10, "DEBUG"), (20, "INFO"), (25, "INFO"), (30, "WARN"), (40, "ERROR"), (50, "ERROR")],
)
def test_names_of_levels(run: Path, level: int, name: str) -> None:
    world = World(run, NodeLines, config_of("", "l"))
    world.write("m", stream="log", level=level)
    assert [json.loads(text)["level"] for _, text in world.tick()] == [name]


def test_what_is_below_the_level_of_its_node_is_no_record(run: Path) -> None:
    world = World(run, NodeLines, config_of("o", "l", 30))
    world.write("plain")
    world.write("fine", stream="log", level=20)
    world.write("careful", stream="log", level=30)
    sent = world.tick()
    assert [text for output, text in sent if output == "o"] == ["plain\n"]
    assert [json.loads(text)["message"] for output, text in sent if output == "l"] == ["careful"]


def test_logs_go_to_those_who_want_their_level_and_node_and_are_another_node(run: Path) -> None:
    outputs = {
        "all-to-C": {"level": "", "node": "", "reader": "C"},
        "warn-to-C": {"level": "warn", "node": "", "reader": "C"},
        "b-to-C": {"level": "", "node": "B", "reader": "C"},
        "all-to-B": {"level": "", "node": "", "reader": "B"},
    }
    nodes = {"a": {"node": "A", "level": 0}, "b": {"node": "B", "level": 30}}
    world = World(run, AllLogs, {"nodes": nodes, "outputs": outputs})
    world.write("plain")
    world.write("careful", stream="log", level=30)
    world.write("dropped", node="b")
    world.write("bad", node="b", stream="log", level=40)
    sent: dict[str, list[str]] = {}
    for output, text in world.tick():
        sent.setdefault(output, []).append(json.loads(text)["message"])
    assert sent == {
        "all-to-C": ["plain", "careful", "bad"], "warn-to-C": ["careful", "bad"], "b-to-C": ["bad"],
        "all-to-B": ["plain", "careful"],
    }  # fmt: skip


def test_what_a_shared_process_prints_is_in_the_file_of_its_first_operator(run: Path) -> None:
    nodes = {"b": {"node": "M", "level": 0}, "a": {"node": "M", "level": 0}}
    world = World(run, NodeLines, {"node": "b", "process": "a", "nodes": nodes, "stdout": "o", "logs": "l"})
    world.write("printed", node="a")
    world.write("of another", node="a", stream="log")
    world.write("of its own", node="b", stream="log")
    sent = world.tick()
    assert [text for output, text in sent if output == "o"] == ["printed\n"]
    assert [json.loads(text)["message"] for output, text in sent if output == "l"] == ["of its own"]


def test_a_helper_ends_behind_the_last_line_of_its_node(world: World) -> None:
    world.write("one")
    world.helper.on_event(notice("INPUT_CLOSED", "end-0"), world.ctx)
    assert world.tick() == [] and world.status is Status.CONTINUE
    world.write("two")
    world.end()
    found = world.tick()
    while world.status is Status.CONTINUE:
        found += world.tick()
    assert found == [("o", "two\n")]


def test_a_life_that_begins_behind_the_last_line_ends_too(world: World) -> None:
    world.write("one")
    world.end()
    world.tick()
    world.begin({**world.ctx.saved})
    for _ in range(2):
        assert world.tick() == []
    assert world.status is Status.STOP


def test_an_operator_of_a_shared_process_waits_for_the_end_of_that(run: Path) -> None:
    nodes = {"b": {"node": "M", "level": 0}, "a": {"node": "M", "level": 0}}
    world = World(run, NodeLines, {"node": "b", "process": "a", "nodes": nodes, "stdout": "o", "logs": ""})
    for _ in range(3):
        assert world.tick() == [] and world.status is Status.CONTINUE
    world.end("a")
    world.tick()
    world.tick()
    assert world.status is Status.STOP
