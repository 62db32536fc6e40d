"""What a user gets who hands the command something wrong: the real command, in a process of its own."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

CPU_S_MAX = 1.0  # of the processor: a machine that others use too must not fail these tests


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a node that says when it is executed, and a home of its own for runs."""
    monkeypatch.setenv("NODERUNTIME_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("print('executed')\n")
    return tmp_path


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "noderuntime", "run", *arguments]
    environ = {**os.environ, **(env or {})}
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60, env=environ)
    assert "Traceback" not in done.stderr and "bug of noderuntime" not in done.stderr
    return done


def aliases(levels: int) -> str:
    """Each line holds the one before it nine times."""
    names = [f"a{level}" for level in range(levels)]
    lines = [f"a0: &{names[0]} [x, x, x, x, x, x, x, x, x]"]
    for name, before in zip(names[1:], names, strict=False):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    return "\n".join(lines) + f"\nnodes: *{names[-1]}\n"


NODE = "nodes:\n  - id: a\n    path: a.py\n"
WRONG = {  # name -> (text, line:column, what is wrong, what would be right)
    "a syntax error": ("nodes:\n  - id: a\n    path: [a.py\n", "3:11", "`]` is missing", "Close it"),
    "a duplicate key": (f"{NODE}    path: b.py\n", "4:5", "`path` is given twice", "Keep one"),
    "an unknown field": (f"{NODE}    restart_polcy: never\n", "4:5", "`restart_polcy`", "`restart_policy`"),
    "a wrong type": (f"{NODE}    max_restarts: many\n", "4:19", "must be a whole number", ""),
    "a duplicate id": (f"{NODE}  - {{id: a, path: a.py}}\n", "4:10", "a second node with the id 'a'", "of its own"),
    "an invalid id": ("nodes:\n  - {id: a/b, path: a.py}\n", "2:10", "'a/b' may hold only letters", ""),
    "a reserved id": ("nodes:\n  - {id: shared, path: a.py}\n", "2:10", "'shared' is reserved", "Reserved are"),
    "no such node": (f"{NODE}    inputs: {{i: aa/n}}\n    outputs: [n]\n", "4:17", "'aa', which does not", "`a/n`"),
    "no such output": (f"{NODE}    inputs: {{i: a/m}}\n    outputs: [nm]\n", "4:17", "no such output", "`a/nm`"),
    "a cycle": (f"{NODE}    inputs: {{i: a/n}}\n    outputs: [n]\n", "4:17", "a -> a", "queue_policy: drop_oldest"),
    "an unset variable": (f"{NODE}    args: $NOWHERE\n", "4:11", "NOWHERE is not set", "${NOWHERE:-default}"),
    "an alias bomb": (aliases(12), "", "once aliases", "Split the dataflow"),
    "3,000 levels in brackets": (f"nodes: {'[' * 3000}{']' * 3000}\n", "1:71", "levels of nesting", "bracket"),
    "3,000 levels by indentation": (
        "".join(f"{' ' * level}a:\n" for level in range(3000)), "", "", "",
    ),
    "ten megabytes": (f"{NODE}    config: {{x: {'y' * 10_000_000}}}\n", "4:", "1048576 bytes", "Move large data"),
    "a node file that is missing": ("nodes:\n  - {id: a, path: aa.py}\n", "2:19", "does not exist", "'a.py'"),
    "a command that there is not": (
        "nodes:\n  - {id: a, path: no-such-command}\n", "2:19", "no command of that name", "relative to",
    ),
    "nothing": ("", "1:1", "the file is empty", "`nodes:`"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_dataflow_file_is_told_at_its_place_within_a_second_and_runs_nothing(place: Path, name: str) -> None:
    text, where, what, right = WRONG[name]
    (place / "flow.yml").write_text(text)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run("flow.yml")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.match(rf"error: flow\.yml:{where or '[0-9]+:[0-9]+'}", done.stderr)
    assert what in done.stderr and right in done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < CPU_S_MAX


def test_a_missing_file_and_a_folder_are_told_as_what_they_are(place: Path) -> None:
    (place / "flow.yml").write_text(NODE)
    missing = run("flaw.yml")
    assert missing.returncode == 2
    assert missing.stderr == "error: flaw.yml: there is no such file\n  Did you mean 'flow.yml'?\n"
    folder = run(".")
    assert folder.returncode == 2
    assert "this is a folder" in folder.stderr


def test_an_executable_that_may_not_be_executed_is_told_with_the_command_that_helps(place: Path) -> None:
    (place / "tool").write_text("#!/bin/sh\n")
    (place / "flow.yml").write_text("nodes:\n  - {id: a, path: ./tool}\n")
    done = run("flow.yml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: flow.yml:2:19: ") and "chmod +x ./tool" in done.stderr


@pytest.mark.parametrize("home", ["a.py", "/proc/nowhere"])
def test_a_home_that_cannot_be_made_is_told_with_the_variable_to_set(place: Path, home: str) -> None:
    (place / "flow.yml").write_text(NODE)
    done = run("flow.yml", env={"NODERUNTIME_HOME": home})
    assert done.returncode == 2
    assert "cannot be made" in done.stderr and "$NODERUNTIME_HOME" in done.stderr


def test_a_home_may_be_given_relative_to_where_the_command_is_called(place: Path) -> None:
    (place / "nodes").mkdir()
    (place / "nodes" / "a.py").write_text("import noderuntime\nwith noderuntime.Node():\n    print('here')\n")
    (place / "nodes" / "flow.yml").write_text(NODE)
    done = run("nodes/flow.yml", env={"NODERUNTIME_HOME": "home"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("│ here\n")
    assert (place / "home" / "state").is_dir() and not (place / "nodes" / "home").exists()
