"""Starts the children of tests by forking, in milliseconds, from an interpreter that has imported what they need.

A line of JSON on stdin starts one: {"env", "cwd", "output", "run"}; `run` is "operator" or the path of a program.
Lines on stdout: "PID started", and "PID ended STATUS" with the exit code or minus the signal.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import sys
import warnings
from typing import Any

import noderuntime.node.custom_node  # noqa: F401
from noderuntime.node import operator_main


def main() -> Any:
    while True:
        readable, _, _ = select.select([0], [], [], 0.01)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            say(f"{pid} ended {os.waitstatus_to_exitcode(status)}")
        if not readable:
            continue
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(0, 1)
            if not byte:
                return None
            line += byte
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            return begin(request)
        say(f"{pid} started")


def begin(request: dict[str, Any]) -> Any:
    """In the child: become what was asked for, and end as such a program ends."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    if request["run"] == "operator":
        code = operator_main.main()
        sys.stdout.flush()
        os._exit(code)
    # Python warns of a fork beside threads since 3.12, and what the programs print is compared
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
    sys.argv = [request["run"]]
    runpy.run_path(request["run"], run_name="__main__")


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


if __name__ == "__main__":
    main()
