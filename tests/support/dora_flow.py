"""A folder with a dataflow of dora, run by the real command."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from support.harness import MARK, is_alive, processes_of, wait_until

from noderuntime.errors import NodeRuntimeError
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import VERSION, Answer, Ask, Edge
from noderuntime.ipc.rundir import RunDir
from noderuntime.ipc.runs import RunFile

WITHIN_S = 60.0

SEND = """
import os, time
import pyarrow as pa
from dora import Node
node = Node()
for number in range(int(os.environ.get("COUNT", "5"))):
    node.send_output("v", pa.array([number]))
    time.sleep(float(os.environ.get("PAUSE", "0")))
"""
# what comes in, one JSON line for each event
RECORD = """
import json, os
from dora import Node
node = Node()
with open(os.environ["OUT"], "a", buffering=1) as out:
    print(json.dumps({"up": True}), file=out)
    for event in node:
        told = {"type": event["type"], "id": event.get("id")}
        if "value" in event and event["type"] == "INPUT":
            told["value"] = event["value"].to_pylist()
        print(json.dumps(told), file=out)
    print(json.dumps({"over": True}), file=out)
"""


class Flow:
    """A folder with a dataflow of dora, and a NODERUNTIME_HOME of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.started: list[subprocess.Popen[str]] = []
        self.write("send.py", SEND)
        self.write("record.py", RECORD)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))

    def environ(self, **env: str) -> dict[str, str]:
        return {**os.environ, "NODERUNTIME_HOME": str(self.home), MARK: str(self.home), "OUT": "out", **env}

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "noderuntime", *arguments]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(line, cwd=self.folder, env=self.environ(**env), **pipes)
        self.started.append(process)
        return process

    def run(self, dataflow: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `dataflow` to its end."""
        self.write("d.yml", dataflow)
        process = self.start("run", "--dora", "d.yml", *arguments, **env)
        out, err = process.communicate(timeout=WITHIN_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def runtime(self) -> int:
        """The pid of the runtime of the run `d`; 0 if it is none now."""
        file = RunFile.read(self._run_dir)
        return file.pid if file is not None and is_alive(file.pid) else 0  # that of before a kill is not

    def node(self, id: str) -> int:
        """The pid of a node of the run `d`, or of its operators; 0 if it has none now."""
        try:
            with Dealer(self._run_dir.runtime_socket, Edge.RUNTIME_TO_COMMAND) as dealer:
                dealer.send(Ask(VERSION, "status", {}))
                answer = dealer.receive(1.0)
        except (OSError, NodeRuntimeError):
            return 0
        if not isinstance(answer, Answer):
            return 0
        result: Any = answer.result
        of_node = (item["pid"] for item in result["nodes"] if id in (item["id"], item["id"].partition(".")[0]))
        return next(of_node, 0) or 0

    @property
    def _run_dir(self) -> RunDir:
        return RunDir(self.home / "runs" / "d")

    def kill(self, node: str) -> None:
        """Kill a node of the run `d`, once it has a process."""
        while True:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                return os.kill(wait_until(lambda: self.node(node), f"a process of {node}"), signal.SIGKILL)

    def records(self, name: str = "out") -> list[dict[str, Any]]:
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def values(self, name: str = "out") -> list[Any]:
        return [value for record in self.records(name) if record.get("type") == "INPUT" for value in record["value"]]

    def events(self, name: str = "out") -> list[tuple[str, str]]:
        """All that is no INPUT: type and id."""
        return [(told["type"], told["id"]) for told in self.records(name) if told.get("type", "INPUT") != "INPUT"]

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        left = wait_until(lambda: None if processes_of(self.home) else ["none"], "the processes to end")
        assert left == ["none"]
