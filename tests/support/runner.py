"""Run a dataflow below a guard, and print what the observer is told as JSON lines. For the tests; no console."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from noderuntime.dataflow.files import load
from noderuntime.errors import NodeRuntimeError
from noderuntime.runtime import guard
from noderuntime.runtime.observer import LogRecord, RunOptions, SummaryRow


class Printer:
    """An Observer that writes each call as [name, argument, ...]."""

    congested = False

    def _say(self, *what: Any) -> None:
        left = memoryview((json.dumps(what, default=str) + "\n").encode())
        while left:  # a signal may cut a write to a full pipe short
            left = left[os.write(1, left) :]

    def waiting(self, nodes: Sequence[str]) -> None:
        self._say("waiting", list(nodes))

    def started(self) -> None:
        self._say("started", os.getpid(), guard.guard_pid())

    def line(self, node: str, stream: str, text: str) -> None:
        self._say("line", node, stream, text)

    def log(self, record: LogRecord) -> None:
        self._say("log", record.node, record.text)

    def status(self, text: str, level: int = 20) -> None:
        self._say("status", text)

    def crash(self, node: str, where: str, error: str, trace: str) -> None:
        self._say("crash", node, where, error, trace)

    def report(self, lines: Sequence[str], facts: Mapping[str, Any]) -> None:
        self._say("report", list(lines), dict(facts))

    def summary(self, rows: Sequence[SummaryRow]) -> None:
        self._say("summary", [asdict(row) for row in rows])


def main() -> int:
    file, options = sys.argv[1], json.loads(sys.argv[2])
    detach = options.pop("detach", False)
    dataflow = load(file)

    def work() -> int:
        from noderuntime.cli.preflight import problems
        from noderuntime.runtime import runtime

        try:
            name = options.pop("name", Path(file).stem)
            run_options = RunOptions(name=name, environ=os.environ, problems=problems, **options)
            return runtime.run(dataflow, run_options, Printer())
        except NodeRuntimeError as error:
            print(error, file=sys.stderr)
            return 2

    return guard.run_guarded(work, detach=detach)


if __name__ == "__main__":
    sys.exit(main())
