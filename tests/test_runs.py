"""runs.py: the table of the contract, in a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from noderuntime import runs
from noderuntime.homes import RunRefused
from noderuntime.rundir import RunDir
from noderuntime.runs import Held, RunFile


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"NODERUNTIME_HOME": str(tmp_path / "home")}


def begin(environ: dict[str, str], name: str = "flow", *, resume: bool = False, fresh: bool = False) -> Held:
    held = runs.hold(name, environ, resume=resume, fresh=fresh, size_bytes=1_000_000, file="flow.yml")
    file(name, epoch=held.epoch).write(held.run_dir)
    return held


def file(name: str = "flow", epoch: int = 1, boot: str | None = None) -> RunFile:
    return RunFile(name, os.getpid(), 0, "/x/flow.yml", 1.0, runs.boot_id() if boot is None else boot, "/logs", epoch)


def interrupted(environ: dict[str, str], name: str = "flow") -> RunDir:
    held = begin(environ, name)
    held.run_dir.space.mkdir()
    held.release()
    return held.run_dir


def test_a_run_is_running_while_it_is_held_and_interrupted_after(environ: dict[str, str]) -> None:
    held = begin(environ)
    assert [(run.name, run.state) for run in runs.list_runs(environ)] == [("flow", "running")]
    held.release()
    found = runs.find_run("flow", environ)
    assert found is not None and found.state == "interrupted" and found.trusted
    assert runs.find_run("other", environ) is None


def test_a_run_that_ended_leaves_nothing(environ: dict[str, str]) -> None:
    held = begin(environ)
    held.remove()
    assert runs.list_runs(environ) == []
    assert not held.run_dir.root.exists()


@pytest.mark.parametrize(("resume", "fresh"), [(False, False), (True, False), (False, True)])
def test_two_runs_of_one_name_are_refused_whatever_is_asked(
    environ: dict[str, str], resume: bool, fresh: bool
) -> None:
    held = begin(environ)
    with pytest.raises(RunRefused, match=f"is running already .process {os.getpid()}.") as caught:
        begin(environ, resume=resume, fresh=fresh)
    assert "noderuntime stop flow" in caught.value.hint
    held.remove()


def test_a_plain_run_of_an_interrupted_name_is_refused_and_told_the_ways_out(environ: dict[str, str]) -> None:
    run_dir = interrupted(environ)
    with pytest.raises(RunRefused) as caught:
        begin(environ)
    for way in ("--resume", "--fresh", "noderuntime clean flow"):
        assert way in str(caught.value)
    assert run_dir.space.exists()


def test_the_ways_out_can_be_copied_into_a_shell(environ: dict[str, str]) -> None:
    interrupted(environ, "my run")
    with pytest.raises(RunRefused, match=r"`noderuntime run flow\.yml --name 'my run' --resume` .*clean 'my run'`"):
        begin(environ, "my run")


def test_resume_keeps_the_space_and_raises_the_epoch(environ: dict[str, str]) -> None:
    run_dir = interrupted(environ)
    held = begin(environ, resume=True)
    assert (held.fresh, held.epoch, held.notice) == (False, 2, "")
    assert run_dir.space.exists()
    held.release()


def test_fresh_throws_the_space_away(environ: dict[str, str]) -> None:
    run_dir = interrupted(environ)
    held = begin(environ, fresh=True)
    assert (held.fresh, held.epoch) == (True, 1)
    assert not run_dir.space.exists()
    held.release()


def test_resume_with_nothing_there_leaves_it_to_the_snapshots_to_say_so(environ: dict[str, str]) -> None:
    held = begin(environ, resume=True)
    assert held.fresh
    assert held.notice == ""
    held.remove()


@pytest.mark.parametrize("resume", [True, False])
def test_a_space_from_before_a_restart_of_the_machine_is_not_trusted(environ: dict[str, str], resume: bool) -> None:
    run_dir = interrupted(environ)
    file(boot="another").write(run_dir)
    held = begin(environ, resume=resume)
    assert held.fresh
    assert "the machine was restarted" in held.notice
    assert not run_dir.space.exists()
    held.remove()


def test_clean_removes_interrupted_runs_only(environ: dict[str, str]) -> None:
    run_dir = interrupted(environ)
    held = begin(environ, "live")
    states = {run.name: runs.clean(run) for run in runs.list_runs(environ)}
    assert states == {"flow": True, "live": False}
    assert not run_dir.root.exists()
    held.remove()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1, "name": "x"}', "\x00"])
def test_a_run_file_that_cannot_be_understood_is_no_run(environ: dict[str, str], text: str) -> None:
    run_dir = interrupted(environ)
    run_dir.run_file.write_text(text)
    assert runs.list_runs(environ) == []
    held = begin(environ)
    assert held.fresh
    held.remove()


def test_names_of_any_length_and_kind_work(environ: dict[str, str]) -> None:
    for name in ("x" * 500, "../../etc", "a b", "ünï", ".hidden"):
        held = begin(environ, name)
        found = runs.find_run(name, environ)
        assert found is not None and found.name == name
        assert held.run_dir.root.parent == Path(environ["NODERUNTIME_HOME"]) / "runs"
        held.remove()


def test_folders_are_for_their_owner_only(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "home" / "runs").mkdir(parents=True, mode=0o755)
    held = begin(environ)
    for folder in (held.run_dir.root, held.run_dir.root.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    held.remove()


def test_a_home_that_is_no_folder_of_ours_is_refused(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "runs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunRefused, match="belongs to somebody else"):
        begin(environ)


def test_a_lock_dies_with_its_process(environ: dict[str, str]) -> None:
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_runs import begin
begin({environ!r})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    found = runs.find_run("flow", environ)
    assert found is not None and found.state == "interrupted"


# ---- logs


def test_the_logs_of_the_last_ten_runs_are_kept_over_all_names(environ: dict[str, str], tmp_path: Path) -> None:
    state = tmp_path / "home" / "state"
    for number in range(12):
        (state / f"run{number % 3}" / "logs" / f"20200101-0000{number:02}-1").mkdir(parents=True)
    new = runs.new_log_folder("run9", environ)
    kept = sorted(folder.name for folder in state.glob("*/logs/*"))
    assert kept == [*(f"20200101-0000{number:02}-1" for number in range(3, 12)), new.name]
    assert runs.log_folders("run9", environ) == [new]


def test_logs_of_a_run_that_lives_are_never_removed(environ: dict[str, str], tmp_path: Path) -> None:
    logs = tmp_path / "home" / "state" / "live" / "logs" / "20000101-000000-1"
    logs.mkdir(parents=True)
    held = begin(environ, "live")
    plain = json.loads(held.run_dir.run_file.read_text())
    held.run_dir.run_file.write_text(json.dumps({**plain, "log_dir": str(logs)}))
    for number in range(12):
        (tmp_path / "home" / "state" / "other" / "logs" / f"20200101-0000{number:02}-1").mkdir(parents=True)
    runs.new_log_folder("other", environ)
    assert logs.exists()
    held.remove()
