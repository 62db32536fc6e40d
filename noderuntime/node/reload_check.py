"""Checks in a separate process whether an operator's code, as it is on disk now, can be imported.

Code that cannot be imported must not replace running code. The process has the environment and the folder of the
operator, and is killed if the import takes longer than CHECK_S_MAX. Its stdout is discarded.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Final, NamedTuple

from noderuntime.errors import OperatorError
from noderuntime.ipc import entrypoints
from noderuntime.node.user_code import load_code

CHECK_S_MAX: Final = 60
TRACE_BYTES_MAX: Final = 100_000


class Verdict(NamedTuple):
    """`error` in one line, and the traceback; both empty when the code imports."""

    imports: bool
    error: str = ""
    trace: str = ""


class Reloads:
    """The check that a reload asked for, if any. If asked again while it runs, it runs once more afterwards."""

    def __init__(self, codes: Sequence[dict[str, str]], poller: select.poll) -> None:
        self._codes = codes
        self._poller = poller  # watches the pidfd of the trial
        self._trial: _Trial | None = None
        self._again = False

    def ask(self) -> None:
        """Start a trial, or another one after the running one."""
        if self._trial is not None:
            self._again = True
            return
        self._again = False
        self._trial = _Trial(self._codes)
        self._poller.register(self._trial.pidfd, select.POLLIN)

    def take_verdict(self) -> Verdict | None:
        """To be called when the descriptor is readable. None: `ask` was called again, so another trial runs now."""
        trial = self._trial
        if trial is None:
            return None
        self._poller.unregister(trial.pidfd)
        self._trial = None
        verdict = trial.result()
        if self._again:
            self.ask()
            return None
        return verdict

    def close(self) -> None:
        """Kill the running trial, if any."""
        if self._trial is not None:
            self._trial.kill()


class _Trial:
    """One process that imports the code of the operators. Its `pidfd` is readable once it has ended; then `result` is
    called, once.
    """

    def __init__(self, codes: Sequence[dict[str, str]]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (not a pipe: it is read only at the end)
        self._process = subprocess.Popen(
            entrypoints.command(entrypoints.RELOAD_CHECK, json.dumps(codes)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
        )
        self.pidfd = os.pidfd_open(self._process.pid)

    def kill(self) -> None:
        """Kill the process and discard its result."""
        self._process.kill()
        self.result()

    def result(self) -> Verdict:
        code = self._process.wait()
        os.close(self.pidfd)
        with self._said:
            # only the end of its stderr: the module may have printed a lot before it failed
            self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - TRACE_BYTES_MAX))
            trace = self._said.read().decode(errors="replace").strip()
        if code == 0:
            return Verdict(True)
        if code == -signal.SIGALRM:
            return Verdict(False, f"the import took longer than {CHECK_S_MAX} s", trace)
        last_line = trace.splitlines()[-1] if trace else f"the import ended its process (exit code {code})"
        return Verdict(False, last_line, trace)


def main() -> int:
    """argv: the codes of the operators, as JSON."""
    signal.alarm(CHECK_S_MAX)
    try:
        for code in json.loads(sys.argv[1]):
            load_code(code)
    except OperatorError as error:
        print(error.trace or error.error, file=sys.stderr)
        return 1
    return 0
