"""runs.py: the table of the contract, in a home of its own."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from support import as_user

from noderuntime.errors import NotRunning
from noderuntime.ipc import homes, runs
from noderuntime.ipc.homes import RunRefused
from noderuntime.ipc.rundir import RunDir, letters_file
from noderuntime.ipc.runs import Held, RunFile
from noderuntime.node import joining


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
    with pytest.raises(RunRefused, match="belongs to another user"):
        begin(environ)


def test_a_lock_dies_with_its_process(environ: dict[str, str]) -> None:
    code = f"""
import os, signal, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parent.parent)]!r}
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
    new = runs.new_log_folder(state / "run9", environ)
    kept = sorted(folder.name for folder in state.glob("*/logs/*"))
    assert kept == [*(f"20200101-0000{number:02}-1" for number in range(3, 12)), new.name]
    assert runs.log_folders("run9", environ) == [new]


def test_dead_letters_outlive_the_logs_of_other_runs(environ: dict[str, str], tmp_path: Path) -> None:
    logs = tmp_path / "home" / "state" / "flow" / "logs" / "20000101-000000-1"
    logs.mkdir(parents=True)
    letters_file(logs).write_text("[{}]")
    for number in range(12):
        runs.new_log_folder(logs.parent.parent.parent / f"other{number}", environ)
    assert runs.log_folders("flow", environ) == [logs]
    letters_file(logs).unlink()
    runs.new_log_folder(logs.parent.parent.parent / "other", environ)
    assert runs.log_folders("flow", environ) == []


def test_logs_of_a_run_that_lives_are_never_removed(environ: dict[str, str], tmp_path: Path) -> None:
    logs = tmp_path / "home" / "state" / "live" / "logs" / "20000101-000000-1"
    logs.mkdir(parents=True)
    held = begin(environ, "live")
    plain = json.loads(held.run_dir.run_file.read_text())
    held.run_dir.run_file.write_text(json.dumps({**plain, "log_dir": str(logs)}))
    for number in range(12):
        (tmp_path / "home" / "state" / "other" / "logs" / f"20200101-0000{number:02}-1").mkdir(parents=True)
    runs.new_log_folder(logs.parent.parent.parent / "other", environ)
    assert logs.exists()
    held.remove()


# ---- who looks is not in the way


def test_looking_takes_no_lock(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(environ)

    def refuse(*arguments: object) -> None:
        raise AssertionError("a lock was taken")

    monkeypatch.setattr(runs.fcntl, "flock", refuse)
    assert [run.state for run in runs.list_runs(environ)] == ["interrupted"]
    found = runs.find_run("flow", environ)
    assert found is not None and found.state == "interrupted"


def test_a_run_can_be_resumed_while_others_look_at_it(environ: dict[str, str]) -> None:
    run_dir = interrupted(environ)
    looking = """
import os, sys
from noderuntime.ipc import runs
print("looking", flush=True)
while os.getppid() == int(sys.argv[1]):
    runs.list_runs(os.environ)
"""
    command = [sys.executable, "-c", looking, str(os.getpid())]
    lookers = [
        subprocess.Popen(command, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for looker in lookers:
            assert looker.stdout is not None and looker.stdout.readline() == "looking\n"
        for _ in range(300):
            held = begin(environ, resume=True)
            assert held.run_dir.root == run_dir.root
            held.release()
    finally:
        for looker in lookers:
            looker.kill()
            looker.wait()
            assert looker.stdout is not None
            looker.stdout.close()


def test_a_start_waits_for_a_command_that_has_the_lock_for_a_moment(environ: dict[str, str]) -> None:
    run_dir = interrupted(environ)
    command = """
import fcntl, sys
lock = open(sys.argv[1], "r+")
fcntl.flock(lock, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", command, str(run_dir.lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "locked\n"
        assert [run.state for run in runs.list_runs(environ)] == ["interrupted"]  # no runtime has it
        with pytest.raises(RunRefused, match="another command uses the run 'flow' just now"):
            begin(environ, resume=True)
        threading.Timer(0.1, other.stdin.close).start()
        begin(environ, resume=True).release()


# ---- other users


@as_user.needs_root
def test_folders_of_another_user_are_no_runs(tmp_path: Path) -> None:
    shared = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        shared.chmod(0o777)
        environ = {"NODERUNTIME_HOME": str(shared)}
        made = "held = runs.hold('flow', os.environ, resume=False, fresh=False, size_bytes=10**6)\n"
        made += "runs.RunFile('flow', 1, 0, 'f', 1.0, runs.boot_id(), '/logs', 1).write(held.run_dir)\n"
        made += "for path in (held.run_dir.root.parent, held.run_dir.root): path.chmod(0o755)\n"
        made += "print([run.name for run in runs.list_runs(os.environ)])"
        assert as_user.run_as(as_user.OTHER_USER, made, environ) == "['flow']\n"
        assert (shared / "runs/flow/run.json").exists()
        assert runs.list_runs(environ) == [] and runs.find_run("flow", environ) is None
        assert runs.clean_remains(environ) == []
        join = "try: node.Node('n', run='flow')\nexcept Exception as error: print(error)"
        assert "there is no run 'flow'" in as_user.run_as(0, join, environ)
    finally:
        shutil.rmtree(shared)


def test_a_run_in_a_folder_that_others_may_write_to_is_not_taken(environ: dict[str, str]) -> None:
    run_dir = interrupted(environ)
    run_dir.root.chmod(0o777)
    assert runs.find_run("flow", environ) is None
    run_dir.root.chmod(0o700)
    run_dir.root.parent.chmod(0o770)
    assert runs.list_runs(environ) == []


@as_user.needs_root
def test_without_home_the_password_database_says_where_state_is(tmp_path: Path) -> None:
    show = "print(rundir.state_home(os.environ))"
    nobody = pwd.getpwnam("nobody")
    assert as_user.run_as(nobody.pw_uid, show, {}) == f"{nobody.pw_dir}/.local/state/noderuntime\n"
    assert as_user.run_as(nobody.pw_uid, show, {"HOME": ""}) == f"{nobody.pw_dir}/.local/state/noderuntime\n"
    assert as_user.run_as(nobody.pw_uid, show, {"HOME": "/h"}) == "/h/.local/state/noderuntime\n"
    none = "try: rundir.state_home(os.environ)\nexcept Exception as error: print(error)"
    assert "Set $NODERUNTIME_HOME to a folder" in as_user.run_as(as_user.OTHER_USER, none, {})


def test_a_dynamic_node_finds_a_run_whose_space_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    monkeypatch.setattr(homes, "home", lambda environ, uid: tmp_path / "shm")
    monkeypatch.setattr(homes, "is_memory", lambda folder: True)
    held = runs.hold("flow", environ, resume=False, fresh=False, size_bytes=10**15)
    assert held.run_dir.root.is_relative_to(tmp_path / "state")
    file().write(held.run_dir)
    monkeypatch.setattr(joining.os, "environ", environ)
    assert joining.find_run("n", "flow") == (held.run_dir, "n", True)
    held.release()
    with pytest.raises(NotRunning, match="the run 'flow' was interrupted"):
        joining.find_run("n", "flow")
