"""What nodes print and log, kept as JSON lines: one file per node; and told to whoever watches. Floor 3.

    {"time": 1700000000.123, "node": "a", "stream": "stdout", "text": "...", "level": 20, "fields": {}}

`stream` is stdout, stderr or log; `level` is Python's logging level. A disk that is full, or descriptors that
ran out, do not stop a run: lines that cannot be written are counted, and the run goes on. Nor does a run that goes on
for months fill a disk: a file that has reached FILE_BYTES_MAX becomes the older one (`NODE.jsonl.1`), in place of the
one that was there.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noderuntime.observer import LogRecord, Observer
from noderuntime.rundir import older_log

RETRY_S = 1.0
FILE_BYTES_MAX = 64_000_000  # of one node there are at most two files
FRAME = "\x1b[2J"  # a line that begins so paints a picture on a terminal: nothing to keep


class RunLogs:
    """The log files of one run, in `folder`. `lost` counts lines that could not be written, `problem` says why.

    The node "" is the runtime itself; what it has to say stands in `runtime.log`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lost = 0
        self.problem = ""
        self._files: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._waiting: dict[str, list[bytes]] = {}
        self._retry_s = 0.0

    def write(
        self,
        node: str,
        stream: str,
        text: str,
        *,
        at_s: float | None = None,
        level: int = 20,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep one line, until `flush`. `at_s`: seconds since the epoch, default now."""
        record = {
            "time": round(time.time() if at_s is None else at_s, 6),
            "node": node,
            "stream": stream,
            "text": text,
            "level": level,
            "fields": fields or {},
        }
        line = json.dumps(record, default=repr, ensure_ascii=False).encode(errors="replace") + b"\n"
        self._waiting.setdefault(node, []).append(line)

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
            except OSError as error:
                self.lost += len(lines)
                self.problem = error.strerror or type(error).__name__
                self._retry_s = now_s + RETRY_S

    def _path(self, node: str) -> Path:
        return self.folder / (f"{node}.jsonl" if node else "runtime.log")

    def _append(self, node: str, data: bytes) -> None:
        if self._sizes.get(node, 0) and self._sizes[node] + len(data) > FILE_BYTES_MAX:
            os.close(self._files.pop(node))
            self._path(node).rename(older_log(self._path(node)))
        fd = self._files.get(node)
        if fd is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            fd = self._files[node] = os.open(self._path(node), flags, 0o600)
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

    def close(self) -> None:
        self.flush()
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()


class Notes:
    """Tells the observer, and keeps it in the logs."""

    def __init__(self, observer: Observer, logs: RunLogs) -> None:
        self.observer = observer
        self.logs = logs
        self._lost = 0

    def line(self, node: str, stream: str, text: str) -> None:
        """A node printed."""
        self.observer.line(node, stream, text)
        if not text.startswith(FRAME):
            self.logs.write(node, stream, text)

    def helper_line(self, helper: str, text: str) -> None:
        """The store or the nursery printed, which they only do when something is wrong."""
        self.tell(f"{helper}: {text}")

    def record(self, record: LogRecord) -> None:
        """A node logged."""
        self.observer.log(record)
        self.logs.write(
            record.node, "log", record.text, at_s=record.time, level=record.level, fields=record.fields
        )

    def tell(self, text: str, level: int = logging.INFO) -> None:
        """The runtime has something to say. `level` as in `logging`."""
        self.observer.status(text, level)
        self.logs.write("", "log", text, level=level)

    def report(self, lines: Sequence[str], facts: Mapping[str, Any]) -> None:
        """What a run under --chaos came to."""
        self.observer.report(lines, facts)
        for line in lines:
            self.logs.write("", "log", line)

    def crash(self, node: str, where: str, error: str, trace: str) -> None:
        """User code of a node failed."""
        self.observer.crash(node, where, error, trace)
        self.logs.write(node, "log", f"{where}: {error}\n{trace}".rstrip(), level=40, fields={"where": where})

    def flush(self) -> None:
        """Write the logs; say so when that does not work."""
        self.logs.flush()
        if self.logs.lost and not self._lost:
            self._lost = self.logs.lost
            self.observer.status(
                f"logs cannot be written to {self.logs.folder} ({self.logs.problem}): the run goes on without"
            )

    def close(self) -> None:
        self.logs.close()
        if self.logs.lost:
            self.observer.status(f"{self.logs.lost} lines of logs were lost ({self.logs.problem})")
