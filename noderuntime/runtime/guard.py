"""The guard: the parent process of a run, which makes sure that no process of the run outlives the runtime.

    launched process = guard (child subreaper)
        runtime (own process group, own subreaper)
            fork server, store, operators, custom nodes

The guard forwards signals and exits with the runtime's code. When the runtime is killed, its descendants become
children of the guard, whatever their session. The guard kills them until none is left, and removes the sockets; the
space stays. When the guard is killed, the runtime ends the run (it watches `guard_pidfd`).

The fork happens before ZeroMQ is imported, while this process has one thread. The runtime has its own process group,
so that Ctrl-C reaches it only once, through the guard. Detached, the guard is the leader of a new session, and the
launched process waits until the run has started, so that its errors still reach the terminal.

The guard does not touch a stopped runtime (SIGSTOP), but says so on the terminal: no other process would notice.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from noderuntime.ipc import process
from noderuntime.ipc.rundir import RunDir

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
KILL_S = 10.0
_STARTED, _NOT_UP = b"s", b"n"


@dataclass(slots=True)
class _Link:
    """The runtime's connection to its guard."""

    pid: int
    pidfd: int
    notes: int  # a pipe: JSON lines for the guard
    launcher: int  # a pipe: one byte when the run has started; -1 in the foreground


_link: _Link | None = None


def guard_pid() -> int:
    """The pid of this process's guard; 0 if there is none."""
    return _link.pid if _link is not None else 0


def guard_pidfd() -> int:
    """A descriptor that is readable once the guard has died; -1 if there is none."""
    return _link.pidfd if _link is not None else -1


def announce(run_dir: Path, farewell: str) -> None:
    """Tell the guard where the run's folder is, and what to print if the runtime is killed."""
    if _link is not None:
        note = json.dumps({"run_dir": str(run_dir), "farewell": farewell})
        with contextlib.suppress(OSError):
            os.write(_link.notes, note.encode() + b"\n")


def is_waited_for() -> bool:
    """Whether a launched process waits for `started`."""
    return _link is not None and _link.launcher >= 0


def started(up: bool = True) -> None:
    """The run has started, and is `up` or has nodes that are not ready. Detached: let the launched process go, and the
    terminal with it."""
    if _link is None or _link.launcher < 0:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    _let_terminal_go()
    with contextlib.suppress(OSError):
        os.write(_link.notes, b'{"started": true}\n')
        os.write(_link.launcher, _STARTED if up else _NOT_UP)
    os.close(_link.launcher)
    _link.launcher = -1


def run_guarded(main: Callable[[], int], *, detach: bool = False) -> int:
    """Call `main` in a process below a guard, which this process becomes. Returns its exit code.

    Killed by a signal: 128 + its number. With `detach` this process returns as soon as `main` has called
    `started` (then 0, or 1 when it is not up), or has ended before (then its code), and the guard is another one, in a
    session of its own. What stops this process until then (Ctrl-C) stops the run, and this process waits for its end.
    Call it while this process has one thread and no ZeroMQ.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if not detach:
        return _guard(main, -1)
    ours, theirs = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # until there is a process to pass them on to
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(ours)
            os.setsid()
            code = _guard(main, theirs)
        finally:
            _leave(code)
    os.close(theirs)
    return _launched(ours, pid)


def _launched(told: int, guard: int) -> int:
    """The exit code of the launched process: it ends when `told` says that the run has started, or with the run.

    FORWARDED must be blocked when this is called; signals that arrived in the meantime are passed on, too.
    """
    pidfd = os.pidfd_open(guard)
    passed = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed.append(number)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)

    # ignored signals (`nohup`) stay ignored
    heard = [number for number in FORWARDED if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in heard}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    try:
        said = os.read(told, 1)
        if said and not passed:
            return 0 if said == _STARTED else 1
        _, status = os.waitpid(guard, 0)
        return _exit_code(status)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(told)
        os.close(pidfd)


def _guard(main: Callable[[], int], launcher: int) -> int:
    process.become_subreaper()
    guard = os.getpid()
    guard_fd = os.pidfd_open(guard)
    notes, told = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    runtime = os.fork()
    if runtime == 0:
        _be_runtime(main, _Link(guard, guard_fd, told, launcher), notes)
    os.close(told)
    os.close(guard_fd)
    if launcher >= 0:
        os.close(launcher)
    with contextlib.suppress(OSError):
        os.setpgid(runtime, runtime)  # both processes do it: either may be first
    os.set_blocking(notes, False)
    # Handlers do nothing: the descriptor tells. A handler in Python would wait until a blocking call has returned,
    # and the signal that came just before that call would be passed on when the next one comes.
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _noted) for number in (*FORWARDED, signal.SIGCHLD)}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    try:
        return _watch(runtime, notes, woken, launcher >= 0)
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        for fd in (notes, woken, wake):
            os.close(fd)


def _noted(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor tells `_watch`."""


def _be_runtime(main: Callable[[], int], link: _Link, notes: int) -> NoReturn:
    global _link
    code = 1
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        os.close(notes)
        _link = link
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _leave(code)


def _leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code & 0xFF)


def _watch(runtime: int, notes: int, woken: int, detached: bool) -> int:
    """Pass signals on until the runtime has ended; then kill what is left of the run."""
    said = b""
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    poll.register(notes, select.POLLIN)
    while (status := _reap(runtime)) is None:
        for fd, _ in poll.poll():
            news = _read_all(fd)
            if fd == woken:
                for number in news:
                    if number in FORWARDED:
                        os.kill(runtime, number)  # not reaped yet: it is still the runtime, alive or not
            elif news:
                said += news
            else:
                poll.unregister(notes)  # no process can write to it any more
        if detached and b'"started"' in said:
            detached = False
            _let_terminal_go()
    said += _read_all(notes)
    left = process.kill_descendants(KILL_S)
    if left:
        print(f"noderuntime: these processes cannot be killed: {left}", file=sys.stderr)
    if os.WIFSIGNALED(status):
        _bury(said)
    return _exit_code(status)


def _reap(runtime: int) -> int | None:
    """The status of the runtime once it has ended, else None. Reaps orphans that have ended on the way.

    If the runtime was stopped, this only says so: it may be on purpose.
    """
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
            if pid == runtime:
                _tell_stopped(runtime, os.WIFSTOPPED(status))
        elif pid in (0, runtime):
            return status if pid else None


def _tell_stopped(runtime: int, stopped: bool) -> None:
    text = (
        f"was stopped: nodes that die are not restarted meanwhile; `kill -CONT {runtime}` lets it go on"
        if stopped
        else "goes on"
    )
    with contextlib.suppress(OSError):
        print(f"noderuntime: the runtime (process {runtime}) {text}", file=sys.stderr, flush=True)


def _let_terminal_go() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)


def _read_all(fd: int) -> bytes:
    found = b""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(fd, 65536):
            found += part
    return found


def _bury(said: bytes) -> None:
    """The runtime was killed: remove its sockets, and say how to continue."""
    for line in said.splitlines():
        with contextlib.suppress(ValueError):
            note = json.loads(line)
            if "run_dir" in note:
                run_dir = RunDir(Path(note["run_dir"]))
                for path in (run_dir.runtime_socket, run_dir.store_socket):
                    path.unlink(missing_ok=True)
                print(note["farewell"], file=sys.stderr)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
