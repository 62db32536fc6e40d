"""Runs in places that are small, deep or oddly named, and what is told at their end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = """
from noderuntime import Source

class Operator(Source):
    def produce(self, position, ctx):
        number = position or 0
        if number == ctx.config["messages"]:
            return Source.END
        ctx.send_output("n", bytes(ctx.config["bytes"]))
        return number + 1
"""
COUNTER = """
class Operator:
    count = 0

    def restore_state(self, state):
        self.count = int(state["count"])

    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            self.count += 1
            ctx.save_state("count", b"%d" % self.count)
        elif event["type"] == "STOP":
            print("counted", self.count)
"""


def write(folder: Path, messages: int, size: int, pairs: int = 1) -> None:
    (folder / "source.py").write_text(SOURCE)
    (folder / "counter.py").write_text(COUNTER)
    lines = ["nodes:"]
    for pair in range(pairs):
        config = f"{{messages: {messages}, bytes: {size}}}"
        lines.append(f"  - {{id: s{pair}, operator: {{python: source.py, outputs: [n]}}, config: {config}}}")
        lines.append(f"  - {{id: c{pair}, operator: {{python: counter.py, inputs: {{n: s{pair}/n}}}}}}")
    (folder / "flow.yml").write_text("\n".join(lines))


def run(folder: Path, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "noderuntime", "run", str(folder / "flow.yml"), *options]
    environ = {**os.environ, "NODERUNTIME_HOME": str(home)}
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=90, env=environ)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 64 MB, as containers have it in /dev/shm; where none may be mounted, any folder has to do."""
    place = tmp_path / "small"
    place.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    mounted = subprocess.run(line, capture_output=True, check=False).returncode == 0
    yield place
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


def test_operators_that_end_after_a_backlog_say_nothing_but_their_lines(tmp_path: Path) -> None:
    write(tmp_path, messages=2000, size=10, pairs=6)
    done = run(tmp_path, tmp_path / "home")
    assert done.returncode == 0
    assert sorted(line.split("│ ")[1] for line in done.stdout.splitlines()) == ["counted 2000"] * 6
    assert len(done.stderr.splitlines()) == 13, done.stderr  # the table


def test_the_table_counts_messages_that_were_taken_or_sent_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, messages=0, size=1)
    rows = [line.split() for line in run(tmp_path, tmp_path / "home").stderr.splitlines()]
    assert rows[1:] == [["s0", "finished", "0", "0"], ["c0", "finished", "0", "0"]]


@pytest.mark.parametrize("name", ["-two words; ünïcode/../a|b$c", ".hidden", "n" * 300])
def test_a_run_may_have_any_name(tmp_path: Path, name: str) -> None:
    write(tmp_path, messages=3, size=1)
    done = run(tmp_path, tmp_path / "home", f"--name={name}")
    assert done.returncode == 0, done.stderr
    assert "counted 3" in done.stdout
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_dir()] == ["home"]


@pytest.mark.parametrize("folder", ['a folder\'s naïve "name"', "/".join(["deep" * 25] * 8)])
def test_folders_of_any_name_and_length_work(tmp_path: Path, folder: str) -> None:
    place = tmp_path / folder
    place.mkdir(parents=True)
    write(place, messages=3, size=1)
    done = run(place, place / "home")
    assert done.returncode == 0, done.stderr
    assert "counted 3" in done.stdout


def test_five_times_as_much_as_a_small_shared_memory_holds_flows_through_it(tmp_path: Path, small: Path) -> None:
    write(tmp_path, messages=320, size=1_000_000)
    done = run(tmp_path, small / "home")
    assert done.returncode == 0, done.stderr
    assert "counted 320" in done.stdout
    assert not any((small / "home" / "runs").iterdir())


def test_folders_and_homes_whose_names_are_not_utf_8_work(tmp_path: Path) -> None:
    folder, home = tmp_path / os.fsdecode(b"caf\xe9"), tmp_path / os.fsdecode(b"h\xf6me")
    folder.mkdir()
    write(folder, 10, 100_000)
    done = run(folder, home)
    assert done.returncode == 0 and "counted 10" in done.stdout, done.stderr
    assert not list((home / "runs").iterdir())
    done = run(folder, home, "--resume")
    assert done.returncode == 0 and "nothing is left to do" in done.stderr, done.stderr
    environ = {**os.environ, "NODERUNTIME_HOME": str(home)}
    for command in (["state", "get", "--run", "flow", "c0", "count"], ["snapshot", "verify", "--run", "flow"]):
        line = [sys.executable, "-m", "noderuntime", *command]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60, env=environ)
        assert done.returncode == 0, done.stderr
