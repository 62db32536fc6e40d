"""guard.py: a small program below a guard, killed in various ways."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from noderuntime.ipc import process

WAIT_S = 30.0

# `main` is what the test puts in; the output of everything goes to the test
PROGRAM = """
import os, signal, subprocess, sys, time
from noderuntime.runtime import guard
def main():
{body}
code = guard.run_guarded(main{options})
print("guard ends with", code, flush=True)
sys.exit(code)
"""


@contextlib.contextmanager
def begin(body: str, options: str = "") -> Iterator[subprocess.Popen[str]]:
    indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=indented, options=options)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        try:
            yield program
        finally:
            program.kill()  # mostly it has ended; a test that failed must not wait for it


def line_of(program: subprocess.Popen[str]) -> list[str]:
    assert program.stdout is not None
    return program.stdout.readline().split()


def wait_dead(*pids: int) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while any((stat := process.read_stat(pid)) is not None and not stat.dead for pid in pids):
        assert time.monotonic() < deadline_s, f"{pids} live on"
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("return 7", 7),
        ("sys.exit(3)", 3),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("raise ValueError('on purpose')", 1),
    ],
)
def test_the_code_of_the_runtime_is_the_code_of_the_guard(body: str, code: int) -> None:
    with begin(body) as program:
        out, _ = program.communicate(timeout=WAIT_S)
    assert program.returncode == code
    assert out == f"guard ends with {code}\n"


def test_the_runtime_is_a_process_group_of_its_own_and_knows_its_guard() -> None:
    with begin("print(os.getpid(), os.getpgrp(), os.getppid(), guard.guard_pid(), flush=True); return 0") as program:
        runtime, group, parent, guard = line_of(program)
        program.communicate(timeout=WAIT_S)
    assert runtime == group
    assert parent == guard == str(program.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on_and_the_guard_stays(number: signal.Signals) -> None:
    # Blocked, and waited for: a handler in Python would be late for a signal that comes just before the wait begins.
    body = f"""
signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}])
print("ready", flush=True)
os._exit(9 if signal.sigwait([{int(number)}]) == {int(number)} else 8)
"""
    with begin(body) as program:
        assert line_of(program) == ["ready"]
        program.send_signal(number)
        out, _ = program.communicate(timeout=WAIT_S)
    assert program.returncode == 9
    assert "guard ends with 9" in out


def test_when_the_runtime_is_killed_all_below_it_die_whatever_session_they_hide_in(tmp_path: Path) -> None:
    body = f"""
for name in ("runtime.sock", "store.sock", "run.json"):
    open({str(tmp_path)!r} + "/" + name, "w").close()
from pathlib import Path
guard.announce(Path({str(tmp_path)!r}), "goodbye, and use --resume")
script = "trap '' TERM HUP INT; setsid sleep 1000 & echo $! $$; while :; do sleep 0.01; done"
child = subprocess.Popen(["sh", "-c", script], start_new_session=True)
os.write(1, b"%d\\n" % os.getpid())  # at once: print may write the line end alone, behind what the shell says
time.sleep(1000)
"""
    with begin(body) as program:
        pids = [int(pid) for _ in range(2) for pid in line_of(program)]
        (runtime,) = (pid for pid in pids if (stat := process.read_stat(pid)) and stat.parent == program.pid)
        began_s = time.monotonic()
        os.kill(runtime, signal.SIGKILL)
        _, errors = program.communicate(timeout=WAIT_S)
        assert time.monotonic() - began_s < 2.0
    assert program.returncode == 137
    assert "goodbye, and use --resume" in errors
    assert len(pids) == 3
    wait_dead(*pids)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_orphans_of_a_run_that_ends_by_itself_are_not_left_behind_either() -> None:
    body = """
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print(child.pid, flush=True)
os._exit(0)
"""
    with begin(body) as program:
        (pid,) = line_of(program)
        program.communicate(timeout=WAIT_S)
    wait_dead(int(pid))


def test_the_runtime_can_see_its_guard_die() -> None:
    body = """
import select
print(os.getpid(), flush=True)
select.select([guard.guard_pidfd()], [], [])
print("orphaned", flush=True)
return 0
"""
    with begin(body) as program:
        line_of(program)
        program.kill()
        assert line_of(program) == ["orphaned"]


def test_that_the_runtime_is_stopped_is_told_and_nothing_else_happens() -> None:
    with begin("print(os.getpid(), flush=True); time.sleep(1000)") as program:
        assert program.stderr is not None
        (runtime,) = (int(pid) for pid in line_of(program))
        os.kill(runtime, signal.SIGSTOP)
        said = program.stderr.readline()
        assert f"(process {runtime}) was stopped" in said and f"`kill -CONT {runtime}`" in said
        os.kill(runtime, signal.SIGCONT)
        assert program.stderr.readline().endswith("goes on\n")
        os.kill(runtime, signal.SIGKILL)
        assert program.wait(WAIT_S) == 137


def test_detached_the_launcher_goes_as_soon_as_the_run_has_started() -> None:
    body = """
print(os.getpid(), os.getppid(), flush=True)
guard.started()
print("nobody reads this", flush=True)
time.sleep(1000)
"""
    with begin(body, ", detach=True") as program:
        runtime, above = (int(pid) for pid in line_of(program))
        assert program.stdout is not None and program.stderr is not None
        out, errors = program.stdout.read(), program.stderr.read()  # communicate() misses what readline has read ahead
    assert (program.returncode, out, errors) == (0, "guard ends with 0\n", "")
    assert os.getsid(above) == above
    os.kill(runtime, signal.SIGKILL)
    wait_dead(runtime, above)


def test_detached_a_run_that_is_not_up_is_code_1_and_goes_on() -> None:
    body = """
assert guard.is_waited_for()
print(os.getpid(), os.getppid(), flush=True)
guard.started(up=False)
assert not guard.is_waited_for()
time.sleep(1000)
"""
    with begin(body, ", detach=True") as program:
        runtime, above = (int(pid) for pid in line_of(program))
        assert program.wait(WAIT_S) == 1
    os.kill(runtime, 0)
    os.kill(runtime, signal.SIGKILL)
    wait_dead(runtime, above)


def test_detached_what_fails_before_the_start_is_the_launcher_s_code() -> None:
    with begin("print('no', file=sys.stderr); return 2", ", detach=True") as program:
        out, errors = program.communicate(timeout=WAIT_S)
    assert (program.returncode, errors) == (2, "no\n")
    assert out == "guard ends with 2\n"


@pytest.mark.parametrize("started", [False, True])
def test_detached_what_stops_the_launcher_before_the_start_stops_the_run_too(started: bool) -> None:
    body = f"""
def stop(number, frame):
    if {started}:
        guard.started()
    sys.exit(130)
signal.signal(signal.SIGINT, stop)
print(os.getpid(), os.getppid(), flush=True)
time.sleep(1000)
"""
    with begin(body, ", detach=True") as program:
        runtime, above = (int(pid) for pid in line_of(program))
        program.send_signal(signal.SIGINT)
        assert program.wait(WAIT_S) == 130
        wait_dead(runtime, above)


def test_detached_a_launcher_that_ignores_a_hangup_does_not_pass_it_on() -> None:
    body = """
print(os.getpid(), os.getppid(), flush=True)
sys.stdin.read(1)
return 0
"""
    indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
    program = PROGRAM.format(body=indented, options=", detach=True")
    line = [sys.executable, "-c", f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{program}"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as launched:
        line_of(launched)
        launched.send_signal(signal.SIGHUP)
        assert launched.communicate("x", WAIT_S)[0] == "guard ends with 0\n"
