"""Tests that needed a second try: kept with their logs and stacks, counted, and when there are too many the run fails.

A second try lets a busy machine pass, and hides a lost wake-up. So more than 1 of 1,000 tests (one, of fewer) that
needed one fail the session, whatever came of it. Sessions that share a folder, by $NODERUNTIME_RERUNS, are counted
together: those of one CI run. With --reruns only.

In the folder, beside a `tests-PID.json` of each session: NAME/ATTEMPT.txt for each failure, with the traceback, what
the test printed, and the processes that it had at that moment; NAME/ATTEMPT/ with the text files of its folders.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

FOLDER_ENV = "NODERUNTIME_RERUNS"
TESTS_EACH = 1000  # one of so many may need a second try
KEPT = ("*.log", "*.jsonl", "*.json", "*.txt", "*.yml")
KEPT_BYTES_MAX = 4 << 20  # of one file
SHOWN_LINES = 60  # of each, at the end of the session


def allowed(tests: int) -> int:
    """How many of `tests` may need a second try."""
    return max(1, tests // TESTS_EACH)


class Reruns:
    """The plug-in, in the controlling process and in each worker of xdist."""

    def __init__(self, folder: Path, is_worker: bool) -> None:
        self.folder = folder
        self.is_worker = is_worker
        self.tests: set[str] = set()
        self.needed: dict[str, str] = {}  # test -> why its first try failed
        self.attempts: dict[str, int] = {}
        self.all_tests = 0
        self.all_needed: list[str] = []

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["reruns_folder"] = str(self.folder)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            attempt = self.attempts[item.nodeid] = self.attempts.get(item.nodeid, 0) + 1
            place = self.folder / name_of(item.nodeid)
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{attempt}.txt").write_text(f"{text_of(report)}\n{processes()}", errors="replace")
            for value in getattr(item, "funcargs", {}).values():
                if isinstance(value, Path) and value.is_dir():
                    keep_files(value, place / str(attempt))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tests.add(report.nodeid)
        if report.outcome == "rerun":  # type: ignore[comparison-overlap]
            self.needed.setdefault(report.nodeid, text_of(report))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.is_worker:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        found = {"tests": len(self.tests), "needed": sorted(self.needed)}
        (self.folder / f"tests-{os.getpid()}-{time.time_ns()}.json").write_text(json.dumps(found))
        for path in self.folder.glob("tests-*.json"):
            told = json.loads(path.read_text())
            self.all_tests += told["tests"]
            self.all_needed += told["needed"]
        if len(self.all_needed) > allowed(self.all_tests) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for test, why in self.needed.items():
            terminalreporter.section(f"needed a second try: {test}")
            terminalreporter.write_line("\n".join(why.splitlines()[-SHOWN_LINES:]))
        if self.all_needed:
            count, most = len(self.all_needed), allowed(self.all_tests)
            terminalreporter.section(f"{count} of {self.all_tests} tests needed a second try, {most} may")
            terminalreporter.write_line(f"logs and stacks: {self.folder}")
            if count > most:
                terminalreporter.write_line("ERROR: too many; a lost wake-up may be among them", red=True)


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("reruns", None):
        return
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        folder = worker["reruns_folder"]
    else:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        folder = os.environ.get(FOLDER_ENV) or config.rootpath / ".reruns" / f"{stamp}-{os.getpid()}"
    config.pluginmanager.register(Reruns(Path(folder), worker is not None), "noderuntime-reruns")


def name_of(test: str) -> str:
    """A folder's name for a test."""
    return re.sub(r"[^\w.\[\]=-]+", "_", test)[:150]


def text_of(report: pytest.TestReport) -> str:
    """Traceback, and what was printed and logged."""
    sections = [f"---- {title}\n{text}" for title, text in report.sections]
    return "\n".join([f"{report.nodeid}: {report.when}", report.longreprtext, *sections])


def processes() -> str:
    """The processes below this one: what each is, and what it waits for in the kernel."""
    lines = ["---- processes"]
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, OSError):
            command = " ".join(child.cmdline())[:200]
            lines.append(f"{child.pid} of {child.ppid()} {child.status()} {child.name()} {command}")
            for thread in Path(f"/proc/{child.pid}/task").iterdir():
                for fact in ("wchan", "syscall", "stack"):
                    with suppress(OSError):
                        lines.append(f"    {thread.name} {fact}: {(thread / fact).read_text().strip()}")
    return "\n".join(lines)


def keep_files(folder: Path, place: Path) -> None:
    """Copy the text files of a test's folder, before the test tidies it away."""
    for pattern in KEPT:
        for path in folder.rglob(pattern):
            with suppress(OSError):
                if path.is_file() and path.stat().st_size <= KEPT_BYTES_MAX:
                    target = place / path.relative_to(folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target)
