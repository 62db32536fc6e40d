"""The real command where nobody takes what it prints, or where its standard descriptors and signals are unusual."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.harness import processes_of, wait_until

from noderuntime.ipc import runs

COMMAND = [sys.executable, "-m", "noderuntime", "run", "flow.yml"]
LOUD = """
class Operator:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            print("x" * 10_000, flush=True)
"""
QUIET = """
from noderuntime import Node
with Node() as node:
    print("said", flush=True)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("NODERUNTIME_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TEST_RUN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loud.py").write_text(LOUD)
    (tmp_path / "quiet.py").write_text(QUIET)
    yield tmp_path
    try:
        wait_until(lambda: not processes_of(tmp_path / "home"), "the end of all processes")
    finally:
        for pid in processes_of(tmp_path / "home"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def loud(place: Path) -> None:
    (place / "flow.yml").write_text(
        "nodes:\n  - id: loud\n    operator: {python: loud.py, inputs: {t: timer/millis/1}}\n"
    )


def has_printed(place: Path) -> bool:
    """Whether a node has printed more than fits into a pipe."""
    return sum(path.stat().st_size for path in (place / "home").glob("state/flow/logs/*/*.jsonl")) > 150_000


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "stop", "--stop-after"])
@pytest.mark.parametrize("form", ["pretty", "json"])
def test_a_run_whose_output_nobody_takes_can_be_stopped(place: Path, how: str, form: str) -> None:
    loud(place)
    options = ["--log-format", form, *(["--stop-after", "1s"] if how == "--stop-after" else [])]
    with subprocess.Popen([*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        wait_until(lambda: has_printed(place), "a full pipe")
        match how:
            case "stop":
                stop = [sys.executable, "-m", "noderuntime", "stop", "flow"]
                assert subprocess.run(stop, timeout=30, check=False).returncode == 0
            case "SIGINT" | "SIGTERM":
                process.send_signal(signal.Signals[how])
        assert process.wait(30) == {"SIGINT": 130, "SIGTERM": 143}.get(how, 0)
        assert b"stdout is not being read" in process.stderr.read()
        assert runs.list_runs(os.environ) == []


def test_a_run_whose_errors_nobody_takes_either_ends_without_a_word(place: Path) -> None:
    loud(place)
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        wait_until(lambda: has_printed(place), "a full pipe")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143


def test_a_finished_run_waits_for_its_reader_until_a_signal_comes(place: Path) -> None:
    (place / "quiet.py").write_text(QUIET.replace('"said"', '"x" * 200_000'))
    (place / "flow.yml").write_text("nodes: [{id: quiet, path: quiet.py}]\n")
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        wait_until(lambda: has_printed(place) and runs.list_runs(os.environ) == [], "the end of the run")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (143, 0)  # 0: the signal came while the runtime was still letting go
        assert b"killed" not in process.stderr.read()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("options", ["", "-d", "--log-format json"])
def test_closed_standard_descriptors_are_no_obstacle(place: Path, closed: str, options: str) -> None:
    (place / "flow.yml").write_text("nodes: [{id: quiet, path: quiet.py}]\n")
    line = f"exec {' '.join(COMMAND)} {options} {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: runs.list_runs(os.environ) == [], "the end of the run")
    (log,) = (place / "home/state/flow/logs").glob("*/quiet.jsonl")
    assert '"said"' in log.read_text()
    if ">&-" not in closed.split() and not options:
        assert "quiet" in done.stdout


@pytest.mark.parametrize("options", ["", "-d"])
def test_a_parent_that_ignores_its_children_is_no_obstacle(place: Path, options: str) -> None:
    (place / "flow.yml").write_text("nodes: [{id: quiet, path: quiet.py}]\n")
    code = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    line = [sys.executable, "-c", code, *COMMAND, *options.split()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: runs.list_runs(os.environ) == [], "the end of the run")
    assert "fork server" not in done.stderr and "forkserver" not in done.stderr
    told = "".join(path.read_text() for path in (place / "home/state/flow/logs").glob("*/*.jsonl"))
    assert "fork server" not in told, told
