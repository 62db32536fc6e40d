"""Runs made of files: a run directory, its lock, and the two sockets, each with a simple server behind it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noderuntime.ipc import runs
from noderuntime.ipc.channel import Router
from noderuntime.ipc.control_records import NodeStatus, RunStatus
from noderuntime.ipc.protocol import Answer, Ask, Edge, Reply, Request
from noderuntime.ipc.rundir import RunDir
from noderuntime.ipc.store_records import Figures, NodeFigures


def node_status(id: str, **said: Any) -> NodeStatus:
    """A node's status in which everything that is not said is that of an operator that has just begun to run."""
    status: Any = {
        "id": id, "kind": "operator", "state": "running", "pid": 10, "restarts": 0, "incarnation": 1, "handled": 0,
        "reason": "", "phase": "waiting", "reloads_failed": 0, "reload_error": "", "start_timeout_s": 0.0,
        "since_s": 1.0, **said,
    }  # fmt: skip
    made: NodeStatus = status
    return made


def status_answer(*nodes: NodeStatus, pid: int = 9) -> Answer:
    """What a runtime answers when it is asked for its status."""
    status: RunStatus = {
        "run": "flow", "pid": pid, "file": "/flows/flow.yml", "started": 1.0, "state": "running", "nodes": list(nodes),
    }  # fmt: skip
    return Answer(status, "")


def figures_reply(number: int, **nodes: NodeFigures) -> Reply:
    """What a store answers when it is asked for its figures."""
    figures: Figures = {"nodes": nodes, "used_bytes": 1, "size_bytes": 2, "readers": 0, "run_id": "r"}
    return Reply(number, figures, "")


class FakeRun:
    """What a run leaves in the world, without its processes. It is running while `lock` is held."""

    def __init__(self, home: Path, name: str, running: bool, started: float) -> None:
        self.name = name
        self.paths = RunDir.of(name, home / "runs")
        self.paths.root.mkdir(parents=True)
        self.logs = home / "state" / name / "logs" / "2026-01-01T00-00-00"
        self.logs.mkdir(parents=True)
        self.paths.run_file.write_text(
            json.dumps(
                {
                    "format": 1,
                    "name": name,
                    "pid": os.getpid(),
                    "guard": os.getppid(),
                    "file": f"/flows/{name}.yml",
                    "started": started,
                    "boot_id": runs.boot_id(),
                    "log_dir": str(self.logs),
                    "epoch": 1,
                }
            )
        )
        self._lock = os.open(self.paths.lock, os.O_RDWR | os.O_CREAT, 0o600)
        if running:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            runs.mark_running(self._lock)

    def end(self) -> None:
        """Let go of the lock, as the death of the runtime does."""
        os.close(self._lock)
        self._lock = -1

    def remove(self) -> None:
        """Remove its folder, as the end of a run does; the logs stay."""
        shutil.rmtree(self.paths.root)

    def log(self, node: str, *records: dict[str, Any]) -> None:
        with (self.logs / f"{node}.jsonl").open("a") as file:
            for record in records:
                file.write(json.dumps({"node": node, "stream": "stdout", **record}) + "\n")

    def close(self) -> None:
        if self._lock >= 0:
            self.end()


class Server:
    """Answers what comes to one socket, in a thread."""

    def __init__(self, path: Path, answer: Callable[[Any], Any]) -> None:
        self.heard: list[Any] = []
        self._answer = answer
        self._router = Router(path, Edge.COMMAND_TO_RUNTIME, Edge.CLIENT_TO_STORE)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._end.is_set():
            found = self._router.receive(0.02)
            if found is not None:
                identity, message = found
                self.heard.append(message)
                reply = self._answer(message)
                if reply is not None:
                    self._router.send(identity, reply)
        self._router.close()

    def close(self) -> None:
        self._end.set()
        self._thread.join()


class World:
    """The runs of one user."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._runs: list[FakeRun] = []
        self._servers: list[Server] = []

    def run(self, name: str, running: bool = True, started: float | None = None) -> FakeRun:
        made = FakeRun(self.home, name, running, time.time() if started is None else started)
        self._runs.append(made)
        return made

    def runtime(self, run: FakeRun, answer: Callable[[Ask], Answer | None]) -> Server:
        return self._server(run.paths.runtime_socket, answer)

    def store(self, run: FakeRun, answer: Callable[[Request], Reply | None]) -> Server:
        return self._server(run.paths.store_socket, answer)

    def _server(self, path: Path, answer: Callable[[Any], Any]) -> Server:
        made = Server(path, answer)
        self._servers.append(made)
        return made

    def close(self) -> None:
        for server in self._servers:
            server.close()
        for run in self._runs:
            run.close()
