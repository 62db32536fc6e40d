"""Whether an operator's code, as it is on disk now, imports: tried in a process of its own.

What does not import must not replace what runs. The process has the environment and the folder of the operator, and is
ended when the import takes longer than CHECK_S_MAX; what it prints on stdout is thrown away.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile

from noderuntime.errors import OperatorError
from noderuntime.ipc import entrypoints
from noderuntime.node.user_code import load

CHECK_S_MAX = 60
TRACE_BYTES_MAX = 100_000


class CodeCheck:
    """One trial under way. Its `pidfd` is readable once it has ended; then `result` is called, once."""

    def __init__(self, code: dict[str, str]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (no pipe: nobody reads it before the end)
        self._process = subprocess.Popen(
            entrypoints.command(entrypoints.RELOAD_CHECK, json.dumps(code)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
        )
        self.pidfd = os.pidfd_open(self._process.pid)

    def kill(self) -> None:
        """End it; nobody wants to know any more."""
        self._process.kill()
        self.result()

    def result(self) -> tuple[str, str] | None:
        """None when the code imports; else the error, one line, and the traceback."""
        code = self._process.wait()
        os.close(self.pidfd)
        with self._said:
            # the end of what it said: the module may have printed a lot before it failed
            self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - TRACE_BYTES_MAX))
            trace = self._said.read().decode(errors="replace").strip()
        if code == 0:
            return None
        if code == -signal.SIGALRM:
            return f"the import took longer than {CHECK_S_MAX} s", trace
        return trace.splitlines()[-1] if trace else f"the import ended its process (exit code {code})", trace


def main() -> int:
    """argv: the code, as JSON."""
    signal.alarm(CHECK_S_MAX)
    code = json.loads(sys.argv[1])
    try:
        load(code["path"], code["module"], code["name"])
    except OperatorError as error:
        print(error.trace or error.error, file=sys.stderr)
        return 1
    return 0
