"""Whether an operator's code, as it is on disk now, imports: tried in a process of its own. Floor 4.

What does not import must not replace what runs. The process has the environment and the folder of the operator, and is
given CHECK_S_MAX; what it prints on stdout is thrown away.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from noderuntime.errors import OperatorError
from noderuntime.usercode import load

CHECK_S_MAX = 30.0
TRACE_BYTES_MAX = 100_000
_CODE = "import sys; sys.path.append(sys.argv.pop(1)); from noderuntime.codecheck import main; sys.exit(main())"


class CodeCheck:
    """One trial under way. `fd` becomes readable when it is over."""

    def __init__(self, code: dict[str, str]) -> None:
        root = str(Path(__file__).parent.parent)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  a pipe could fill, and nobody reads it meanwhile
        self._process = subprocess.Popen(
            # -P: a file of the user's called queue.py must not become our queue
            [sys.executable, "-P", "-c", _CODE, root, json.dumps(code)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            start_new_session=True,
        )
        self.fd = os.pidfd_open(self._process.pid)
        self._until_s = time.monotonic() + CHECK_S_MAX

    @property
    def is_over(self) -> bool:
        """Whether `result` can be called. A trial that takes too long is ended."""
        if self._process.poll() is not None:
            return True
        if time.monotonic() > self._until_s:
            os.killpg(self._process.pid, signal.SIGKILL)
        return False

    def result(self) -> tuple[str, str] | None:
        """None when the code imports; else the error and the traceback. Call it once."""
        code = self._process.wait()
        self._said.seek(0)
        trace = self._said.read(TRACE_BYTES_MAX).decode(errors="replace").strip()
        self._said.close()
        os.close(self.fd)
        if code == 0:
            return None
        if time.monotonic() > self._until_s:
            return f"the import took longer than {CHECK_S_MAX:g} s", trace
        last = trace.splitlines()[-1] if trace else f"the import ended its process (exit code {code})"
        return last, trace


def main() -> int:
    """argv: the code, as JSON."""
    code = json.loads(sys.argv[1])
    try:
        load(code["path"], code["module"], code["name"])
    except OperatorError as error:
        print(error.trace or error.error, file=sys.stderr)
        return 1
    return 0
