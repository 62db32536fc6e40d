"""Helpers of a dora dataflow: operators that send what nodes print and log, as messages.

The runtime keeps each line and record in the log file of its node (runtime/logs.py). A helper looks at these files
some dozen times a second and sends what is new; how far it has come is its private state, committed with what it sent,
so a helper that is killed neither loses nor repeats a line. It has an input from each node that it serves, over which
nothing is ever sent, and which closes with the node. That ends the helper of logs; one that sends the lines of a node
goes on to the mark that the runtime puts behind the last of them.

A line printed is a text with its newline. A record, and a line where logs are asked for, is JSON as dora has it: level,
message, timestamp, node_id, target, fields, dataflow_id.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow

from noderuntime.api.events import Event
from noderuntime.api.operator import Context, Status
from noderuntime.dora.sources import LEVELS
from noderuntime.ipc.rundir import ENV_DORA, ENV_RUN_DIR, RunDir, older_log

BATCH_BYTES: Final = 1 << 20
_PLACE: Final = "place"
_NAMES: Final = ((40, "ERROR"), (30, "WARN"), (20, "INFO"), (10, "DEBUG"), (0, "TRACE"))


class _Helper:
    """`config["nodes"]`: our node -> the node of the dora file that it belongs to, and its min_log_level."""

    def __init__(self, ctx: Context) -> None:
        self._nodes: Mapping[str, Mapping[str, Any]] = ctx.config["nodes"]
        run_dir = Path(os.environ[ENV_RUN_DIR])
        self._folder = Path(json.loads(RunDir(run_dir).run_file.read_text())["log_dir"])
        self._dataflow_id: str = json.loads(Path(os.environ[ENV_DORA]).read_text())["dataflow_id"]
        self._logs = {node: _LogFile(self._folder / f"{node}.jsonl") for node in self._nodes}

    def restore_state(self, state: dict[str, bytes]) -> None:
        """Continue where the last life was, unless the run was resumed: then there are new files."""
        place = json.loads(state[_PLACE])
        if place["folder"] == str(self._folder):
            for node, log in self._logs.items():
                log.inode, log.offset = place["logs"].get(node, (0, 0))

    def on_event(self, event: Event, ctx: Context) -> Status:
        """A tick, or the end of a node: send what is new."""
        sent = False
        for node, log in self._logs.items():
            for line in log.new_lines():
                self._send(node, line, ctx)
                sent = True
        if sent:
            logs = {node: (log.inode, log.offset) for node, log in self._logs.items()}
            ctx.save_state(_PLACE, json.dumps({"folder": str(self._folder), "logs": logs}).encode())
        return Status.STOP if self._is_over() else Status.CONTINUE

    def _is_over(self) -> bool:
        return False

    def _send(self, node: str, line: Mapping[str, Any], ctx: Context) -> None:
        raise NotImplementedError

    def _level(self, line: Mapping[str, Any]) -> int:
        return line["level"] if line["stream"] == "log" else LEVELS["stdout"]

    def _record(self, node: str, line: Mapping[str, Any]) -> Any:
        """A line of a log file as dora tells of it."""
        fields = {name: value for name, value in line["fields"].items() if name not in ("target", "logger")}
        name = "stdout"
        if line["stream"] == "log":
            name = next((name for least, name in _NAMES if line["level"] >= least), "TRACE")
        told = {
            "build_id": None,
            "dataflow_id": self._dataflow_id,
            "node_id": self._nodes[node]["node"],
            "daemon_id": None,
            "level": name,
            "target": line["fields"].get("target"),
            "module_path": None,
            "file": None,
            "line": None,
            "message": line["text"],
            "timestamp": dt.datetime.fromtimestamp(line["time"], dt.UTC).isoformat().replace("+00:00", "Z"),
            "fields": fields or None,
        }
        return text_array(json.dumps(told, ensure_ascii=False))


class NodeLines(_Helper):
    """`send_stdout_as` and `send_logs_as` of one node: `config["stdout"]` and `config["logs"]` are outputs, or "".

    `config["node"]` is the node. An operator that shares a process may have another file, with what that prints.
    """

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._own: str = ctx.config["node"]
        self._process: str = ctx.config["process"]
        self._at_end = False
        self._stdout: str = ctx.config["stdout"]
        self._records: str = ctx.config["logs"]

    def _is_over(self) -> bool:
        """Whether the end was read twice: what had come until the first time has been read from all files then."""
        before, self._at_end = self._at_end, self._logs[self._process].ended
        return before and self._at_end

    def _send(self, node: str, line: Mapping[str, Any], ctx: Context) -> None:
        printed = line["text"] if line["stream"] != "log" else line.get("line")
        if self._stdout and printed is not None:
            ctx.send_output(self._stdout, text_array(f"{printed}\n"))
        if self._records and node == self._own and self._level(line) >= self._nodes[node]["level"]:
            ctx.send_output(self._records, self._record(node, line))


class AllLogs(_Helper):
    """`dora/logs[/LEVEL[/NODE]]`: `config["outputs"]` has for each output its level and node, "" are all, and who reads
    it: what a node prints about its logs does not come back to it.
    """

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._outputs: Mapping[str, Mapping[str, str]] = ctx.config["outputs"]

    def _send(self, node: str, line: Mapping[str, Any], ctx: Context) -> None:
        level, facts = self._level(line), self._nodes[node]
        if level < facts["level"]:
            return
        record: Any = None  # the same for all
        for output, wanted in self._outputs.items():
            least = LEVELS[wanted["level"]] if wanted["level"] else 0
            if level >= least and wanted["node"] in ("", facts["node"]) and facts["node"] != wanted["reader"]:
                record = self._record(node, line) if record is None else record
                ctx.send_output(output, record)


def text_array(text: str) -> Any:
    """One text, as dora sends it."""
    return pyarrow.array([text], pyarrow.string())


class _LogFile:
    """One log file, read as it grows. When it has become large it is renamed, and another one begins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.inode = 0  # of the file in which `offset` is; 0: none was seen
        self.offset = 0
        self.ended = False  # its end was read

    def new_lines(self) -> Iterator[Mapping[str, Any]]:
        """The lines that were not returned yet, at most about BATCH_BYTES of them."""
        now, size = _inode_and_size(self._path)
        if now == self.inode and size <= self.offset:
            return
        if self.inode and now != self.inode:
            older = older_log(self._path)
            if _inode_and_size(older)[0] == self.inode:
                found = self._read(older)
                if found:
                    yield from found
                    return
            self.offset = 0
        self.inode = now
        if now:
            yield from self._read(self._path)

    def _read(self, path: Path) -> list[Mapping[str, Any]]:
        try:
            with path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(BATCH_BYTES)
                end = data.rfind(b"\n") + 1
                while not end and len(data) and len(more := file.read(BATCH_BYTES)):
                    data += more
                    end = data.rfind(b"\n") + 1
        except OSError:
            return []
        found = []
        for line in data[:end].splitlines(keepends=True):
            told = json.loads(line)
            if "end" in told:  # not passed: the next life has to read it, too
                self.ended = True
                break
            self.offset += len(line)
            found.append(told)
        return found


def _inode_and_size(path: Path) -> tuple[int, int]:
    """(0, 0) when there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_ino, status.st_size
