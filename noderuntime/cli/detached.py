"""`run -d`: a run without a terminal, and a parent that waits until it is up.

The parent learns it through a pipe that only the runtime writes to. What the run's own processes still have
to say (its nodes' lines go to the log files anyway) goes to a file in the state directory, which the parent
shows when the start fails.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from noderuntime.cli import answered, output
from noderuntime.identifiers import directory_name
from noderuntime.observer import LogRecord, SummaryRow
from noderuntime.rundir import state_home

_UP = b"up"


class Detached:
    """The Observer of a run that nobody watches: it reports the start, and keeps quiet afterwards."""

    terminal = ""

    def __init__(self, report: int) -> None:
        self._report = report

    def waiting(self, nodes: Sequence[str]) -> None:
        """Nobody is there to be told."""

    def started(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._report, _UP)

    def line(self, node: str, stream: str, text: str) -> None:
        """It is in the log files."""

    def log(self, record: LogRecord) -> None:
        """It is in the log files."""

    def status(self, text: str) -> None:
        """It is in the log files."""

    def crash(self, node: str, where: str, error: str, trace: str) -> None:
        """It is in the log files."""

    def summary(self, rows: Sequence[SummaryRow]) -> None:
        """It is in the log files."""


def detach(name: str, work: Callable[[Detached], int]) -> int:
    """Run `work` in a session of its own, and return once the run is up (its name is printed then) or has
    ended."""
    said = _output_file(name)
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = output.INTERNAL
        try:
            os.setsid()
            os.close(reader)
            with contextlib.suppress(OSError), open(os.devnull, "rb") as nothing:
                os.dup2(nothing.fileno(), 0)
            os.dup2(said, 1)
            os.dup2(said, 2)
            code = answered(lambda: work(Detached(writer)), sys.argv[1:])
            sys.stdout.flush()
        finally:
            os._exit(code)
    os.close(writer)
    try:
        with open(reader, "rb") as pipe:
            up = pipe.read(len(_UP)) == _UP
        if up:
            output.result(name)
            return output.OK
        _, status = os.waitpid(child, 0)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        raise
    os.lseek(said, 0, os.SEEK_SET)
    with open(said, errors="replace") as file:
        output.tell(file.read().rstrip("\n"))
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _output_file(name: str) -> int:
    folder = state_home(os.environ) / directory_name(name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path: Path = folder / "detached.txt"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC, 0o600)
