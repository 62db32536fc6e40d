"""doctor: what it makes of the facts of a machine, and how it finds them on this one."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noderuntime import __version__
from noderuntime.cli import doctor, main
from noderuntime.cli.doctor_checks import Check, Home, Installation, Limits, Machine, Verdict, checks, installed
from noderuntime.ipc import entrypoints

GB = 1_000_000_000
OK, NOTE, PROBLEM = Verdict.OK, Verdict.NOTE, Verdict.PROBLEM
HOME = Home("/dev/shm/noderuntime-1000", "tmpfs", 8 * GB, 7 * GB, GB, "", "")
LIMITS = Limits(files=1_048_576, processes=None, file_bytes=None, address_bytes=None)
GOOD = Machine(
    kernel="6.1.0", cores=8, cpu_limit=None, memory_bytes=16 * GB, memory_limit_bytes=None, swap_bytes=0, home=HOME,
    clears_at_logout=False, limits=LIMITS, clock="tsc", clock_ns=40.0, late_s=60e-6, has_pidfd=True,
)  # fmt: skip


def found(machine: Machine) -> dict[str, Check]:
    return {check.name: check for check in checks(machine)}


def test_a_machine_without_limits_is_good() -> None:
    assert {check.verdict for check in checks(GOOD)} == {OK}


def limits(**changed: int) -> dict[str, Limits]:
    return {"limits": replace(LIMITS, **changed)}


def home(**changed: Any) -> dict[str, Home]:
    return {"home": replace(HOME, **changed)}


@pytest.mark.parametrize(
    ("changed", "name", "verdict", "says"),
    [
        ({"has_pidfd": False}, "kernel", PROBLEM, "pidfd_open"),
        ({"cores": 1}, "cores", NOTE, "switch of processes"),
        ({"cpu_limit": 1.5}, "cores", NOTE, "are stopped until the next one"),
        ({"cpu_limit": 8.0}, "cores", OK, "8 of them"),
        (home(refused="/x belongs to another user\n  Remove it."), "runs", PROBLEM, "another user Remove it."),
        (home(system="ext4", notice="No room."), "runs", NOTE, "may wait for the disk. No room."),
        (home(space_bytes=10**9 // 5), "space", NOTE, "1,000 MB"),
        (home(space_bytes=10**6), "space", PROBLEM, "NODERUNTIME_HOME"),
        ({"clears_at_logout": True}, "runs", NOTE, "enable-linger"),
        ({"memory_limit_bytes": 2 * GB}, "memory", NOTE, "counts against this limit"),
        ({"swap_bytes": GB}, "memory", OK, "swapped out"),
        (limits(files=1024), "open files", OK, "a run of 68 nodes"),
        (limits(files=256), "open files", NOTE, "more than 13 nodes is refused"),
        (limits(files=40), "open files", PROBLEM, "more than 0 nodes is refused"),
        (limits(processes=40), "processes", NOTE, "ulimit -u"),
        (limits(file_bytes=10**6), "file size", PROBLEM, "ulimit -f unlimited"),
        (limits(address_bytes=10**9), "address space", NOTE, "ulimit -v unlimited"),
        ({"clock": "hpet", "clock_ns": 1500.0}, "clock", NOTE, "the kernel has to be asked"),
        ({"late_s": 0.004}, "sleeps", NOTE, "coarse timers"),
    ],
)
def test_each_fact_is_judged_and_told_what_it_means(
    changed: dict[str, Any], name: str, verdict: Verdict, says: str
) -> None:
    machine = replace(GOOD, **changed)
    check = found(machine)[name]
    assert (check.verdict, says in check.meaning) == (verdict, True), check
    others = {other.name: other for other in checks(machine) if other.name != name}
    assert {other.verdict for other in others.values()} == {OK}


def test_the_build_and_missing_extras_are_told() -> None:
    extras = {"arrow": {"pyarrow": "20.0"}, "s3": {"obstore": None}, "test": {"pytest": None}}
    told = {check.name: check for check in installed(Installation("1.2", False, "3.12.1", extras))}
    assert list(told) == ["build", "Python", "extra arrow", "extra s3"]
    assert told["build"].value == "1.2, interpreted"
    assert told["build"].verdict is NOTE
    assert told["extra arrow"].value == "pyarrow 20.0"
    assert "pip install 'noderuntime[s3]'" in told["extra s3"].meaning
    assert installed(Installation("1.2", True, "3.12.1", {}))[0].verdict is OK
    assert "not known" in installed(Installation("1.2", True, "3.12.1", None))[-1].value


def test_it_tells_of_this_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("NODERUNTIME_HOME", str(tmp_path))
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["version"], told["compiled"]) == (__version__, entrypoints.is_compiled())
    values = {check["name"]: check["value"] for check in told["checks"]}
    assert values["cores"].startswith(str(len(os.sched_getaffinity(0))))
    assert values["runs"].startswith(str(tmp_path))
    assert {check["verdict"] for check in told["checks"]} <= {"ok", "note"}
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for check in told["checks"]:
        assert check["name"] in shown


def test_what_keeps_every_run_from_working_is_exit_code_1(tmp_path: Path) -> None:
    def cramped() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = subprocess.run(
        [sys.executable, "-m", "noderuntime", "doctor"], env={**os.environ, "NODERUNTIME_HOME": str(tmp_path)},
        preexec_fn=cramped, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "problem  file size" in done.stdout
    assert done.stderr == "error: no run can work here until this is changed: file size\n"


def test_a_place_that_cannot_be_made_is_a_problem(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NODERUNTIME_HOME", str(tmp_path / "file"))
    assert main(["doctor"]) == 1
    assert "cannot be made" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("files", "uid", "clears"),
    [
        ({}, 1000, False),  # no logind
        ({"run/systemd/users/1000": ""}, 1000, True),
        ({"run/systemd/users/1000": ""}, 0, False),
        ({"run/systemd/users/1000": "", "etc/systemd/logind.conf": "#RemoveIPC=no\n[Login]\n"}, 1000, True),
        ({"run/systemd/users/1000": "", "etc/systemd/logind.conf": "[Login]\nRemoveIPC = no\n"}, 1000, False),
        ({"run/systemd/users/1000": "", "etc/systemd/logind.conf": "RemoveIPC=no",
          "usr/lib/systemd/logind.conf.d/10.conf": "RemoveIPC=yes"}, 1000, True),
    ],
)  # fmt: skip
def test_what_logind_removes_is_read_as_it_reads_it(
    tmp_path: Path, files: dict[str, str], uid: int, clears: bool
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert doctor._clears_at_logout(tmp_path, uid) is clears
