"""Processes: their state, their parents and children, how to kill and reap them. Linux only: /proc, pidfds, prctl.

A process is killed through its pidfd, or while it is an unreaped child of ours, so that a pid that now belongs to
another process is never hit. Process groups are killed before their leader is reaped, for the same reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_TIMERSLACK = 29
_PR_SET_CHILD_SUBREAPER = 36
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_libc = ctypes.CDLL(None, use_errno=True)

KILL_ROUND_S = 0.005
TIMER_SLACK_NS = 1000
HEAP_KEPT_BYTES = 16 * 1024 * 1024


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def become_subreaper() -> None:
    """From now on orphans among the descendants become children of this process, not of init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends. If it has ended already, exit now."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def sleep_exactly() -> None:
    """From now on a sleep of this thread, or of one that it starts, is at most a few microseconds too long.

    By default the kernel may add 50 microseconds to each sleep, which makes ticks late.
    """
    _prctl(_PR_SET_TIMERSLACK, TIMER_SLACK_NS)


def keep_heap() -> None:
    """From now on the memory that this process frees stays with it, up to HEAP_KEPT_BYTES.

    Returning the memory of each message of some ten kilobytes to the kernel, and getting it back page by page, would
    cost more than everything else that is done for it. If the C library has no mallopt, nothing changes.
    """
    with contextlib.suppress(AttributeError):
        for option, value in ((_M_TRIM_THRESHOLD, HEAP_KEPT_BYTES), (_M_MMAP_THRESHOLD, HEAP_KEPT_BYTES)):
            _libc.mallopt(option, value)


def set_name(name: str) -> None:
    """Set the name that `ps` and `top` show: the first 15 bytes of `name`."""
    text = ctypes.create_string_buffer(name.encode()[:15])
    _libc.prctl(_PR_SET_NAME, text, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """The part of /proc/PID/stat that we use. `state` is one letter: R S D T t Z X I."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    start_ticks: int

    @property
    def stopped(self) -> bool:
        return self.state == "T"

    @property
    def dead(self) -> bool:
        return self.state in "ZX"


def read_stat(pid: int) -> ProcessStat | None:
    """The state of a process or thread; None if there is none with this id."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    # the name is in parentheses and may contain any character, parentheses too
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessStat(pid, fields[0], int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def process_of_thread(tid: int) -> int | None:
    """The process that a thread belongs to."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{tid}/status").read_text(errors="replace").splitlines():
            if line.startswith("Tgid:"):
                return int(line[5:])
    return None


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process had at its last exec; empty if it cannot be read."""
    with contextlib.suppress(OSError):
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return {
            key.decode(errors="replace"): value.decode(errors="replace")
            for key, found, value in (pair.partition(b"=") for pair in pairs)
            if found
        }
    return {}


def children_of(pid: int) -> list[int]:
    """The children of a process, zombies included."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found.extend(int(child) for child in (task / "children").read_text().split())
    except OSError:
        return found
    if not found and not Path(f"/proc/{pid}/task/{pid}/children").exists():
        # a kernel without CONFIG_PROC_CHILDREN
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                stat = read_stat(int(entry.name))
                if stat is not None and stat.parent == pid:
                    found.append(stat.pid)
    return found


def descendants_of(pid: int) -> list[int]:
    """All descendants of a process, parents before their children."""
    found: list[int] = []
    level = children_of(pid)
    while level:
        found.extend(level)
        level = [child for parent in level for child in children_of(parent)]
    return found


def signal_group(leader: int, number: int) -> None:
    """Signal the process group of an unreaped child. A group that no longer exists is not an error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def signal_process(pidfd: int, number: int) -> None:
    """Signal a process by its pidfd. A process that no longer exists is not an error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(pidfd, number)


def kill_below(pid: int) -> None:
    """SIGKILL a process that was a descendant of this one. If its pid now belongs to another process, do nothing."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if _is_below(pid, os.getpid()):
            signal_process(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)


def _is_below(pid: int, ancestor: int) -> bool:
    """Whether `pid` is a descendant of `ancestor`."""
    while pid > 1:
        stat = read_stat(pid)
        if stat is None:
            return False
        pid = stat.parent
        if pid == ancestor:
            return True
    return False


def kill_descendants(timeout_s: float) -> list[int]:
    """SIGKILL all descendants of this process until none is left; returns those left when the time is over.

    This process must be a subreaper, so that orphans become its children whatever their session. Children are reaped
    on the way; their exit status is lost.
    """
    me = os.getpid()
    deadline_s = time.monotonic() + timeout_s
    while True:
        for pid in descendants_of(me):
            kill_below(pid)
        reap_all()
        left = [pid for pid in descendants_of(me) if not _is_dead(pid)]
        if not left or time.monotonic() > deadline_s:
            return left
        time.sleep(KILL_ROUND_S)


def _is_dead(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is None or stat.dead


def reap_all() -> dict[int, int]:
    """Reap every child that has ended: pid -> exit code, or minus the signal."""
    found: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            found[pid] = os.waitstatus_to_exitcode(status)
    return found


def reap(pid: int) -> int | None:
    """Reap a child if it has ended, after killing the rest of its process group.

    Returns its exit code, or minus the signal; None while it lives. A child that has been reaped already counts as
    killed.
    """
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return -signal.SIGKILL
    if ended is None:
        return None
    signal_group(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
