"""`logs`: what the nodes of a run printed and logged, from the JSON lines that the runtime keeps per node."""

from __future__ import annotations

import contextlib
import datetime as dt
import heapq
import json
import logging
import os
import sys
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from noderuntime.cli import output
from noderuntime.cli.choose import LoggedRun, choose_logs
from noderuntime.cli.console import Prefixes, log_text
from noderuntime.cli.output import UsageError
from noderuntime.cli.text import harmless, is_frame
from noderuntime.dataflow.identifiers import node_of
from noderuntime.ipc.rundir import older_log
from noderuntime.runtime.observer import LogRecord

POLL_S = 0.1
RUNTIME_LOG = "runtime.log"  # what the runtime itself had to say, in the same form

_GONE = (FileNotFoundError, NotADirectoryError)  # a folder that is removed meanwhile, or something else in its place

Record = dict[str, Any]


def logs(options: Namespace) -> int:
    """Carry out `logs`."""
    if len(options.names) > 2:
        raise UsageError(f"at most RUN and NODE, not {len(options.names)} names", "noderuntime logs")
    run, node = choose_logs(options.names, options.given_run)
    run.check()
    if options.runtime and node:
        raise UsageError(f"--runtime shows what the runtime decided, not the node {node!r}", "noderuntime logs")
    tail = Tail(run.log_dir, node)
    timestamps = options.timestamps or options.runtime
    show: Callable[[Record], None] = output.result_json if options.json else _Pretty(run, timestamps)
    wanted = partial(_is_wanted, options)
    last: int | None = options.tail
    while True:
        # looked at before reading: once it has ended, nothing more is written
        ended = not (options.follow and run.is_running())
        found: Iterable[Record] = filter(wanted, tail.records())
        if last is not None:
            found, last = deque(found, last), None
        for record in found:
            show(record)
        sys.stdout.flush()
        if ended:
            return output.OK
        time.sleep(POLL_S)


def _is_wanted(options: Namespace, record: Record) -> bool:
    """Whether a record is to be shown: since then; of the runtime's decisions the lesser ones only with --runtime."""
    if options.since is not None and _time(record) < options.since:
        return False
    of_runtime = not record.get("node")
    if options.runtime:
        return of_runtime
    level = record.get("level")
    return not (of_runtime and isinstance(level, int) and level < logging.INFO)


class Tail:
    """The records of one run, or of one of its nodes, in the order of their times; again: those that are
    new."""

    def __init__(self, folder: Path, node: str = "") -> None:
        self._folder = folder
        self._node = node
        self._files: dict[Path, LogFile] = {}

    def records(self) -> Iterator[Record]:
        for path in [*sorted(self._folder.glob("*.jsonl")), self._folder / RUNTIME_LOG]:
            if path not in self._files:
                self._files[path] = LogFile(path)
        found = heapq.merge(*(file.records() for file in self._files.values()), key=_time)
        return (record for record in found if not self._node or self._is_of(str(record.get("node", ""))))

    def _is_of(self, node: str) -> bool:
        """A node is all its replicas; one of them can be named, too."""
        return self._node in (node, node_of(node))


class LogFile:
    """One file of JSON lines and the older one before it. Each reading starts where the last one ended, and passes over
    what is not a record."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0  # of the file that was read last
        self._at = 0

    def records(self) -> Iterator[Record]:
        """The complete lines from here on, to the present end."""
        with contextlib.ExitStack() as opened:
            try:
                file = opened.enter_context(self._path.open("rb"))
            except _GONE:
                if not self._path.parent.is_dir():
                    self._inode = self._at = 0  # what is made there anew may get the number of what was there
                return
            inode, size = os.fstat(file.fileno()).st_ino, os.fstat(file.fileno()).st_size
            if inode == self._inode and size < self._at:
                self._at = 0
            if inode != self._inode:  # the first reading, or the file that we read has become the older one
                with contextlib.suppress(*_GONE):
                    older = opened.enter_context(older_log(self._path).open("rb"))
                    before = os.fstat(older.fileno()).st_ino
                    if before != inode:
                        yield from self._read_on(older, self._at if before == self._inode else 0)
                self._inode, self._at = inode, 0
            yield from self._read_on(file, self._at)

    def _read_on(self, file: BinaryIO, at: int) -> Iterator[Record]:
        file.seek(at)
        self._at = at
        for line in file:
            if not line.endswith(b"\n"):  # still being written
                return
            self._at += len(line)
            if (record := parse(line)) is not None:
                yield record


def parse(line: bytes) -> Record | None:
    """One line of a log file; None when it is not a record, as after a full disk."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("text"), str) else None


def _time(record: Record) -> float:
    at = record.get("time")
    return at if isinstance(at, int | float) else 0.0


class _Pretty:
    """Records as the console of the run shows them; frames are left out: they are pictures, not lines."""

    def __init__(self, run: LoggedRun, timestamps: bool) -> None:
        self._timestamps = timestamps
        self._prefixes = Prefixes(run.nodes())
        self._coloured = output.wants_colour(sys.stdout)
        self._terminal = sys.stdout.isatty()

    def __call__(self, record: Record) -> None:
        text, node = record["text"], str(record.get("node", ""))
        if is_frame(text):
            return
        if record.get("stream") == "log":
            text = log_text(_log_record(record, node), self._coloured)
        prefix = self._prefixes.of(node, self._coloured)
        if self._timestamps:
            prefix = f"{_shown_time(_time(record))} {prefix}"
        for line in text.split("\n"):
            output.result(prefix + (harmless(line) if self._terminal else line))


def _shown_time(at_s: float) -> str:
    """A time as RFC 3339 has it, in UTC, with milliseconds."""
    try:
        return dt.datetime.fromtimestamp(at_s, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # no time of ours
        return f"{at_s:.3f}"


def _log_record(record: Record, node: str) -> LogRecord:
    level, fields = record.get("level"), record.get("fields")
    return LogRecord(
        _time(record),
        node,
        level if isinstance(level, int) else logging.INFO,
        record["text"],
        fields if isinstance(fields, dict) else {},
    )
