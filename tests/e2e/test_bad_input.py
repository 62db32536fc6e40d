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


OPERATOR = "nodes:\n  - {id: a, operator: {python: a.py%s, inputs: {t: timer/secs/1}}}\n"
SINKS = "\n".join(
    f"  - {{id: {name}, operator: {{module: noderuntime.operators.file_sink, inputs: {{t: timer/secs/1}}}}, "
    "config: {path: out.txt}}"
    for name in "ab"
)
UNFIT = {  # name -> (the file, what is told)
    "no such class": (OPERATOR % ":Wrong", "a.py has no 'Wrong'"),
    "no such module": (OPERATOR.replace("python: a.py%s", "module: nowhere_at_all"), "no module 'nowhere_at_all'"),
    "a node's syntax": ("nodes:\n  - {id: a, path: broken.py}\n", "broken.py:1"),
    "an unknown kind of State": (f"{NODE}state: {{kind: sqlte}}\n", "no kind 'sqlte'. Did you mean 'sqlite'?"),
    "the config of an operator of ours": (f"nodes:\n{SINKS}".replace("path:", "paht:"), "paht"),
    "two sinks of one file": (f"nodes:\n{SINKS}", "is the file of node 'a' already"),
}


@pytest.mark.parametrize("options", [[], ["-d"], ["--resume"]])
@pytest.mark.parametrize("name", UNFIT)
def test_what_validate_refuses_does_not_begin_to_run(place: Path, name: str, options: list[str]) -> None:
    text, what = UNFIT[name]
    (place / "flow.yml").write_text(text)
    (place / "broken.py").write_text("print(\n")
    done = run("flow.yml", *options)
    assert done.returncode == 2 and what in done.stderr and "executed" not in done.stdout, done.stderr
    assert done.stderr.startswith("error: flow.yml:") and "restarting" not in done.stderr
    assert not (place / "out.txt").exists()


NUMBERS = """
from noderuntime import Source
class Operator(Source):
    def produce(self, position, ctx):
        n = position or 0
        if n == 20:
            return Source.END
        ctx.send_output("n", n)
        return n + 1
"""
GOOD = """
class Operator:
    seen = []
    def on_event(self, event, ctx):
        if event.type == "INPUT":
            self.seen.append(event.value)
        elif event.type == "STOP":
            print(self.seen == list(range(20)))
"""
WRONG_OPERATORS = {  # name -> (body of the class, what is told)
    "unready": ("def __init__(self): raise ValueError('no camera')", "failed in init: ValueError: no camera"),
    "talks": ("def on_event(self, event, ctx): return 'banana'", "on_event returned 'banana'; return Status.CONTINUE"),
    "misses": ("def on_event(self, event, ctx): ctx.send_output('mm', 1)", "no output 'mm'; its outputs are: m."),
    "odd": ("def on_event(self, event, ctx): ctx.send_output('m', {1, 2})", "TypeError: "),
    "wordy": ("def on_event(self, event, ctx): ctx.save_state('k' * 600, b'')", "has 600 bytes as UTF-8; the limit is"),
    "greedy": ("def on_event(self, event, ctx): ctx.kvs_write('k', bytes(2_000_000))", "the limit is 1000000"),
}


def test_operators_that_are_wrong_in_different_ways_are_told_apart_and_the_others_lose_nothing(place: Path) -> None:
    (place / "numbers_source.py").write_text(NUMBERS)
    (place / "good.py").write_text(GOOD)
    flow = "nodes:\n  - {id: src, operator: {python: numbers_source.py, outputs: [n]}}\n"
    flow += "  - {id: good, operator: {python: good.py, inputs: {n: src/n}}}\n"
    for name, (body, _) in WRONG_OPERATORS.items():
        rest = "" if "on_event" in body else "    def on_event(self, event, ctx): pass\n"
        (place / f"{name}.py").write_text(f"class Operator:\n    {body}\n{rest}")
        flow += (
            f"  - id: {name}\n    restart_policy: never\n"
            f"    operator: {{python: {name}.py, inputs: {{n: src/n}}, outputs: [m]}}\n"
        )
    (place / "flow.yml").write_text(flow)
    line = [sys.executable, "-m", "noderuntime", "run", "flow.yml"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stdout == "good        │ True\n"
    for name, (_, told) in WRONG_OPERATORS.items():
        said = [text for text in done.stderr.splitlines() if text.startswith(f"{name} ") and told in text]
        assert said, (name, done.stderr)
    assert not re.search(r'File "[^"]*/noderuntime/', done.stderr), "frames of ours"
