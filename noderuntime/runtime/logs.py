"""What nodes print and log, kept as JSON lines: one file per node; and passed to the observer.

    {"time": 1700000000.123, "node": "a", "stream": "stdout", "text": "...", "level": 20, "fields": {}}

`stream` is stdout, stderr or log; `level` is Python's logging level. A disk that is full, or descriptors that
ran out, do not stop a run: lines that cannot be written are counted, and the run continues. Nor does a run that goes on
for months fill a disk: a file that has reached FILE_BYTES_MAX becomes the older one (`NODE.jsonl.1`), in place of the
one that was there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from noderuntime.dataflow.identifiers import shown_id
from noderuntime.dataflow.model import NodeSpec
from noderuntime.ipc.boundary import TRACE_CHARACTERS_MAX, Boundary, cut, plain
from noderuntime.ipc.protocol import Log
from noderuntime.ipc.rundir import older_log
from noderuntime.runtime.observer import LogRecord, Observer, SummaryRow

RETRY_S = 1.0
FILE_BYTES_MAX = 64_000_000  # of one node there are at most two files
TIME_S_MAX = 253_402_300_800.0  # the year 10000, which no calendar here can show
LEVEL_MAX = 1_000
END_MARK = b'{"end": true}\n'
FRAME = "\x1b[2J"  # a line that begins so paints a picture on a terminal: nothing to keep


class RunLogs:
    """The log files of one run, in `folder`. `lost` counts lines that could not be written, `problem` says why.

    The node "" is the runtime itself; its own lines are in `runtime.log`. Each node that is expected has a file from
    the beginning: `logs` knows by them which nodes there are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._nodes: set[str] = set()
        self.lost = 0
        self.problem = ""
        self._files: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._waiting: dict[str, list[bytes]] = {}
        self._retry_s = 0.0

    def expect(self, nodes: Iterable[str]) -> None:
        """There are these nodes from now on."""
        self._nodes.update(nodes)
        self._touch()

    def write(
        self,
        node: str,
        stream: str,
        text: str,
        *,
        at_s: float | None = None,
        level: int = 20,
        fields: Mapping[str, Any] | None = None,
        line: str | None = None,
    ) -> None:
        """Keep one line, until `flush`. `at_s`: seconds since the epoch, default now. `line`: how it was printed, if it
        is a record of the log all the same.
        """
        record = {
            "time": round(time.time() if at_s is None else at_s, 6),
            "node": node,
            "stream": stream,
            "text": text,
            "level": level,
            "fields": plain(fields) if fields else {},
        }
        if line is not None:
            record["line"] = line
        data = json.dumps(record, ensure_ascii=False).encode(errors="replace") + b"\n"
        self._waiting.setdefault(node, []).append(data)

    def mark_end(self, node: str) -> None:
        """Say, to whoever reads the file of this node as it grows, that no more comes. It is not a record."""
        self._waiting.setdefault(node, []).append(END_MARK)

    def flush(self) -> None:
        """Write what waits. Never raises; while the disk is full it tries again only now and then."""
        waiting, self._waiting = self._waiting, {}
        now_s = time.monotonic()
        for node, lines in waiting.items():
            if now_s < self._retry_s:
                self.lost += len(lines)
                continue
            try:
                self._append(node, b"".join(lines))
            except Exception as error:
                self.lost += len(lines)
                self.problem = getattr(error, "strerror", None) or type(error).__name__
                self._retry_s = now_s + RETRY_S

    def _path(self, node: str) -> Path:
        return self.folder / (f"{node}.jsonl" if node else "runtime.log")

    def _append(self, node: str, data: bytes) -> None:
        if self._sizes.get(node, 0) and self._sizes[node] + len(data) > FILE_BYTES_MAX:
            self._rotate(node)
        fd = self._files.get(node)
        if fd is not None and not os.fstat(fd).st_nlink:  # tidied away: what is written there is lost to everyone
            self._forget(node)
            fd = None
        if fd is None:
            fd = self._files[node] = self._open(node)
            self._sizes[node] = os.fstat(fd).st_size
        written = os.write(fd, data)
        self._sizes[node] += written
        if written < len(data):
            # the disk became full in the middle of a line: leave no half line for the readers
            kept = data[:written].rfind(b"\n") + 1
            size = os.fstat(fd).st_size
            os.ftruncate(fd, size - written + kept)
            self._sizes[node] -= written - kept
            raise OSError(28, "No space left on device")

    def _rotate(self, node: str) -> None:
        """The file becomes the older one. Where it cannot be renamed it is written on."""
        try:
            self._path(node).rename(older_log(self._path(node)))
        except FileNotFoundError:
            pass  # another one is made
        except OSError:
            return
        self._forget(node)

    def _forget(self, node: str) -> None:
        self._sizes.pop(node, None)
        os.close(self._files.pop(node))

    def _touch(self) -> None:
        for node in self._nodes:
            with contextlib.suppress(OSError):
                self._path(node).touch(mode=0o600)

    def _open(self, node: str) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(self._path(node), flags, 0o600)
        except FileNotFoundError:  # the folder was tidied away
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._touch()
            return os.open(self._path(node), flags, 0o600)

    def close(self) -> None:
        self.flush()
        while self._files:
            os.close(self._files.popitem()[1])


class RunLog:
    """Tells the observer, and keeps it in the logs. Neither may end the run: what one of them raises is counted."""

    def __init__(self, observer: Observer, logs: RunLogs) -> None:
        self._names: dict[str, str] = {}  # what lines of a node are marked with, where it is not the id
        self.observer = observer
        self.logs = logs
        self._lost = 0
        self._boundary = Boundary(self._keep)

    def follow(self, nodes: Iterable[NodeSpec]) -> None:
        """These are the nodes from now on."""
        self._names = {spec.id: shown_id(spec.id, spec.replicas) for spec in nodes}
        self.logs.expect(self._names.values())

    def line(self, node: str, stream: str, text: str) -> None:
        """A node printed."""
        node = self._names.get(node, node)
        self._show(self.observer.line, node, stream, text)
        if not text.startswith(FRAME):
            self._keep(text, node, stream)

    def helper_line(self, helper: str, text: str) -> None:
        """The store or the fork server printed, which they only do when something is wrong."""
        self.tell(f"{helper}: {text}")

    def record(self, record: LogRecord, line: str | None = None) -> None:
        """A node logged; `line`: by printing that."""
        record = replace(record, node=self._names.get(record.node, record.node))
        self._show(self.observer.log, record)
        self._keep(record.text, record.node, at_s=record.time, level=record.level, fields=record.fields, line=line)

    def ended(self, node: str) -> None:
        """Nothing more will come from a node."""
        self.logs.mark_end(node)

    def keep_line(self, node: str, stream: str, text: str) -> None:
        """A node printed what is not to be shown."""
        self._keep(text, node, stream)

    def tell(self, text: str, level: int = logging.INFO) -> None:
        """The runtime has something to say. `level` as in `logging`."""
        self._show(self.observer.status, text, level)
        self._keep(text, level=level)

    def warn(self, text: str) -> None:
        """Something went wrong, and the run continues."""
        self.tell(text, logging.WARNING)

    def keep(self, text: str) -> None:
        """What the runtime has decided, for `logs --runtime` alone."""
        self._keep(text, level=logging.DEBUG)

    def summary(self, rows: Sequence[SummaryRow], lines: Sequence[str]) -> None:
        """The run is over: what became of its nodes, as rows and as lines."""
        self._show(self.observer.summary, rows)
        self._keep("\n".join(lines), stream="summary", fields={"nodes": [asdict(row) for row in rows]})

    def report(self, lines: Sequence[str], facts: Mapping[str, Any]) -> None:
        """What a run under --chaos came to."""
        self._show(self.observer.report, lines, facts)
        for line in lines:
            self._keep(line)

    def crash(self, node: str, where: str, error: str, trace: str) -> None:
        """User code of a node failed."""
        node = self._names.get(node, node)
        self._show(self.observer.crash, node, where, error, trace)
        self._keep(f"{where}: {error}\n{trace}".rstrip(), node, level=40, fields={"where": where})

    def waiting(self, nodes: Sequence[str]) -> None:
        """These nodes are not ready yet."""
        self._show(self.observer.waiting, nodes)

    def flush(self) -> None:
        """Write the logs; say so when that does not work."""
        self.logs.flush()
        if self.logs.lost and not self._lost:
            self._lost = self.logs.lost
            text = f"logs cannot be written to {self.logs.folder} ({self.logs.problem}): the run continues without"
            self._show(self.observer.status, text)

    def close(self) -> None:
        self.logs.close()
        if self.logs.lost:
            self._show(self.observer.status, f"{self.logs.lost} lines of logs were lost ({self.logs.problem})")

    def _show(self, tell: Callable[..., None], *args: Any) -> None:
        self._boundary.call("showing what happens", tell, *args)

    def _keep(self, text: str, node: str = "", stream: str = "log", **more: Any) -> None:
        self.logs.write(node, stream, text, **more)


def record_of(node: str, log: Log) -> LogRecord:
    """A record as it can be shown and kept, whatever a node in whatever language has put into it. Pure."""
    at_s = log.time if 0 <= log.time < TIME_S_MAX else 0.0
    level = min(max(log.level, 0), LEVEL_MAX)
    return LogRecord(at_s, node, level, cut(log.text, TRACE_CHARACTERS_MAX), plain(log.fields))
