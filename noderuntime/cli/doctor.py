"""`doctor`: this machine and this installation, and what they mean for runs here. It starts nothing."""

from __future__ import annotations

import contextlib
import os
import platform
import pwd
import re
import resource
import statistics
import sys
import textwrap
import time
from argparse import Namespace
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from noderuntime import __version__
from noderuntime.cli import output
from noderuntime.cli.doctor_checks import Check, Home, Installation, Limits, Machine, Verdict, checks, installed
from noderuntime.ipc import entrypoints, homes, process
from noderuntime.ipc.cgroups import cpu_limit, memory_limit_bytes
from noderuntime.ipc.homes import RunRefused

COLOURS = {Verdict.OK: output.GREEN, Verdict.NOTE: output.YELLOW, Verdict.PROBLEM: output.RED}
FIRST_USER = 1000  # of people; lower ones are the system's
WIDTH = 100
SLEEP_S = 0.001
SLEEPS = 30
LOOKS = 10_000


def doctor(options: Namespace) -> int:
    """Print every check; exit code 1 if one of them says that no run can work here."""
    installation = _installation()
    found = [*installed(installation), *checks(_machine())]
    if options.json:
        told = [{**asdict(check), "verdict": check.verdict.value} for check in found]
        output.result_json({"version": __version__, "compiled": installation.compiled, "checks": told})
    else:
        _print(found)
    problems = [check.name for check in found if check.verdict is Verdict.PROBLEM]
    if problems:
        output.complain(f"no run can work here until this is changed: {', '.join(problems)}")
    return output.FAILED if problems else output.OK


def _print(found: list[Check]) -> None:
    names = max(len(check.name) for check in found)
    indent = " " * 9
    for check in found:
        verdict = output.paint(f"{check.verdict.value:<7}", COLOURS[check.verdict], sys.stdout)
        output.result(f"{verdict}  {check.name:<{names}}  {check.value}")
        width = min(output.columns(sys.stdout) or WIDTH, WIDTH)
        output.result(textwrap.fill(check.meaning, width, initial_indent=indent, subsequent_indent=indent))


def _installation() -> Installation:
    extras: dict[str, dict[str, str | None]] | None = {}
    try:
        required = metadata.requires("noderuntime") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        required, extras = [], None
    for requirement in required:
        parts = re.match(r"([A-Za-z0-9._-]+).*;.*\bextra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        if parts is not None and extras is not None:
            name, extra = parts.groups()
            with contextlib.suppress(metadata.PackageNotFoundError):
                extras.setdefault(extra, {})[name] = None
                extras[extra][name] = metadata.version(name)
    return Installation(__version__, entrypoints.is_compiled(), platform.python_version(), extras)


def _machine() -> Machine:
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        kernel=platform.release(),
        cores=len(os.sched_getaffinity(0)),
        cpu_limit=cpu_limit(),
        memory_bytes=memory_bytes,
        memory_limit_bytes=memory_limit_bytes(),
        swap_bytes=_swap_bytes(),
        home=_home(),
        clears_at_logout=_clears_at_logout(),
        limits=Limits(*(_limit(which) for which in (
            resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_AS,
        ))),
        clock=_text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        clock_ns=_clock_ns(),
        late_s=_late_s(),
        has_pidfd=_has_pidfd(),
    )  # fmt: skip


def _home() -> Home:
    try:
        folder, space_bytes, notice = homes.choose_home(os.environ, None)
    except RunRefused as refused:
        return Home(str(homes.homes(os.environ)[0]), "", 0, 0, 0, "", str(refused))
    room = os.statvfs(folder)
    return Home(
        folder=str(folder),
        system=homes.file_system(folder),
        bytes=room.f_blocks * room.f_frsize,
        free_bytes=room.f_bavail * room.f_frsize,
        space_bytes=space_bytes,
        notice=notice,
        refused="",
    )


def _limit(which: int) -> int | None:
    """The hard limit, up to which a run raises its own; of processes and sizes the one that holds already."""
    soft, hard = resource.getrlimit(which)
    limit = hard if which == resource.RLIMIT_NOFILE else soft
    return None if limit == resource.RLIM_INFINITY else limit


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _swap_bytes() -> int:
    lines = _text("/proc/swaps").splitlines()[1:]
    return sum(int(line.split()[2]) * 1024 for line in lines)


def _clears_at_logout(root: Path = Path("/"), uid: int | None = None) -> bool:
    """Whether systemd-logind removes what this user has on shared memory when the last session ends (logind.conf(5)).

    It does so unless RemoveIPC=no, or the user lingers, or is a user of the system.
    """
    uid = os.getuid() if uid is None else uid
    if uid < FIRST_USER or not (root / "run/systemd/users").is_dir():
        return False
    with contextlib.suppress(KeyError):
        if (root / "var/lib/systemd/linger" / pwd.getpwuid(uid).pw_name).exists():
            return False
    files = [root / "etc/systemd/logind.conf"]
    for folder in ("usr/lib", "run", "etc"):
        files += sorted((root / folder / "systemd/logind.conf.d").glob("*.conf"))
    value = "yes"
    for file in files:
        for line in _text(str(file)).splitlines():
            key, _, said = line.partition("=")
            if key.strip() == "RemoveIPC" and said.strip():
                value = said.strip().lower()
    return value not in {"no", "false", "0", "off", "n", "f"}


def _clock_ns() -> float:
    """What one look at the clock costs."""
    now_ns = time.monotonic_ns
    begin_ns = now_ns()
    for _ in range(LOOKS):
        now_ns()
    return (now_ns() - begin_ns) / LOOKS


def _late_s() -> float:
    """How much later than asked a process of a run wakes up from a sleep: the median of some."""
    process.sleep_exactly()
    late = []
    for _ in range(SLEEPS):
        begin_s = time.monotonic()
        time.sleep(SLEEP_S)
        late.append(time.monotonic() - begin_s - SLEEP_S)
    return statistics.median(late)


def _has_pidfd() -> bool:
    """Whether the kernel, and what a container lets through of it, has pidfd_open(2)."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True
