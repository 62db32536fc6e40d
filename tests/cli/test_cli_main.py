"""How the command ends: exit codes, one clear text on stderr, never a traceback of ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli_world import World

from noderuntime.cli import main, output, ps
from noderuntime.errors import DataflowError, NotRunning, StoreFull


def raising(error: BaseException) -> object:
    def command(options: object) -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataflowError("bad", file="a.yml", line=3, column=1), 2),
        (NotRunning("no run 'x'"), 3),
        (StoreFull(10, 10), 1),
        (output.CommandError("no"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_kind_of_error_has_its_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ps, "ps", raising(error))
    assert main(["ps"]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    if not isinstance(error, KeyboardInterrupt):
        assert said.err.startswith(f"error: {error}")


def test_a_bug_of_ours_says_so_and_where_its_traceback_went(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("NODERUNTIME_HOME", str(tmp_path))
    monkeypatch.setattr(ps, "ps", raising(ZeroDivisionError("oops")))
    assert main(["ps"]) == output.INTERNAL
    said = capsys.readouterr().err
    assert "this is a bug of noderuntime, not yours: ZeroDivisionError: oops" in said
    assert "Traceback" not in said
    (report,) = (tmp_path / "state" / "errors").iterdir()
    assert str(report) in said
    assert "Traceback" in report.read_text()
    assert "noderuntime ps" in report.read_text()


def test_a_full_disk_is_no_bug_of_ours(world: World, tmp_path: Path) -> None:
    line = f"{sys.executable} -m noderuntime ps -a --json > /dev/full"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


def test_names_that_the_locale_cannot_say_are_escaped(world: World) -> None:
    world.run("größe")
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    line = [sys.executable, "-m", "noderuntime", "ps"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=env)
    assert r"gr\xf6\xdfe" in done.stdout


def test_no_arguments_show_the_help_and_are_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr()
    assert "validate" in said.err and said.out == ""


def test_bad_usage_names_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 2
    assert "See `noderuntime run --help`" in capsys.readouterr().err


def test_help_and_version_are_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "usage: noderuntime" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("noderuntime 0.")


@pytest.mark.parametrize("command", [["-m", "noderuntime"], ["-c", "import noderuntime.__main__ as m; m.main()"]])
def test_ctrl_c_while_modules_are_imported_ends_it_without_a_traceback(command: list[str], tmp_path: Path) -> None:
    interrupts = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(30)"
    (tmp_path / "json.py").write_text(interrupts)  # imported by the first of the command's modules
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, *command, "ps"], capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_ctrl_c_when_the_command_is_over_leaves_its_exit_code() -> None:
    program = """
import atexit, os, signal, sys, time
import noderuntime.__main__ as command
@atexit.register
def late():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
sys.argv = ["noderuntime", "logs", "nowhere"]
sys.exit(command.main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == output.NO_SUCH_RUN and "Traceback" not in done.stderr
