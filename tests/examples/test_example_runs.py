"""The example dataflows, run through the real command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from noderuntime import dataflows

FOLDER = Path(dataflows.__path__[0])
SECONDS_MAX = 60


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "NODERUNTIME_HOME": str(tmp_path), "NO_COLOR": "1"}


@contextmanager
def running(env: dict[str, str], name: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "noderuntime", "run", str(FOLDER / f"{name}.yml"), *options]
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(SECONDS_MAX)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def lines_of(env: dict[str, str], name: str, node: str, *options: str) -> list[str]:
    """What `node` printed in a run of the dataflow `name`, which has to end well."""
    with running(env, name, *options) as process:
        out, err = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0, out + err
    return of_node(node, out)


def lines_until(env: dict[str, str], name: str, node: str, count: int) -> list[str]:
    """What `node` prints in a run that is stopped when these are `count` lines; those at its end included."""
    with running(env, name) as process:
        assert process.stdout is not None and process.stderr is not None
        lines: list[str] = []
        while len(lines) < count and (line := process.stdout.readline()):
            lines += of_node(node, line)
        process.send_signal(signal.SIGTERM)
        out, err = process.stdout.read(), process.stderr.read()
        assert process.wait(SECONDS_MAX) == 128 + signal.SIGTERM, err
    return lines + of_node(node, out)


def of_node(node: str, out: str) -> list[str]:
    return [line.partition("│ ")[2] for line in out.splitlines() if line.partition("│")[0].strip() == node]


def test_the_running_sum_of_0_to_100_ends_in_5050(env: dict[str, str]) -> None:
    lines = lines_of(env, "running_sum", "show")
    assert lines[0] == "sum: 45"
    assert lines[-1] == "sum: 5050"


def test_even_and_odd_numbers_end_in_their_sums(env: dict[str, str]) -> None:
    lines = lines_of(env, "parity_sums", "show")
    assert len(lines) == 21
    assert {lines[-1], lines[-2]} == {"sum of 'even': 110", "sum of 'odd': 100"}


def test_the_words_of_the_text_that_comes_along_are_counted(env: dict[str, str]) -> None:
    lines = lines_of(env, "word_count", "top")
    assert lines[0].split()[:2] == ["the", "29"]
    assert lines[-1].endswith("different ones")


def test_the_words_of_a_given_text_are_counted(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("to be or not to be\nthat is the question\n")
    lines = lines_of(env, "word_count", "top", "--env", f"FILE={tmp_path / 'mine.txt'}")
    assert [line.split()[:2] for line in lines[:2]] == [["be", "2"], ["to", "2"]]
    assert lines[-1] == "10 words, 8 different ones"


def test_the_ball_before_the_camera_is_followed(env: dict[str, str]) -> None:
    lines = lines_until(env, "camera", "show", 2)
    assert re.fullmatch(r"track: \{'x': \d+, 'y': \d+, 'speed': \d+, 'frames': 30\}", lines[0])


def test_this_machine_is_shown_as_lines_and_at_the_end_as_a_table(env: dict[str, str]) -> None:
    lines = lines_until(env, "host_metrics", "table", 2)
    assert re.match(r"cpu +\d+\.\d % \(mean \d+\.\d, max \d+\.\d\) \| memory \d+\.\d %", lines[0])
    assert any(line.startswith("memory ") for line in lines)


def test_a_dynamic_node_joins_from_outside_and_its_end_ends_the_run(env: dict[str, str]) -> None:
    with running(env, "dynamic") as process:
        assert process.stderr is not None and process.stdout is not None
        for line in process.stderr:
            if "keyboard" in line:
                break
        command = [sys.executable, str(FOLDER / "dynamic_node.py"), "hello", "world", "hello"]
        joined = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SECONDS_MAX)
        assert joined.returncode == 0, joined.stderr
        out = process.stdout.read()
        process.stderr.read()
        assert process.wait(SECONDS_MAX) == 0
    assert of_node("show", out) == ["count of 'hello': 1", "count of 'world': 1", "count of 'hello': 2"]
