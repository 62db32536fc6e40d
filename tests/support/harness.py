"""Real runs in the tests: a folder with a dataflow, the runner below its guard, and a look at what is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from noderuntime.ipc import process
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import VERSION, Answer, Ask, Edge
from noderuntime.ipc.rundir import ENV_VALIDATE, RunDir

WAIT_S = 30.0
T = TypeVar("T")
MARK = "TEST_RUN_HOME"  # in the environment of all processes of a run, the forked ones too
RUNNER = Path(__file__).parent / "runner.py"

# what most dataflows here are made of
NODES = {
    "count.py": """
import os, time
from noderuntime import Node
pause_s = float(os.environ.get("PAUSE", "0"))
enough = os.environ.get("ENOUGH", "")  # a file: when it is there, this was the last number
with Node() as node:
    for number in range(int(os.environ.get("COUNT", "100")) + 1):
        node.send_output("n", number)
        if pause_s:
            time.sleep(pause_s)
        if enough and os.path.exists(enough):
            break
""",
    "sums.py": """
import os
class Operator:
    def __init__(self):
        self.total = 0
    def restore_state(self, state):
        self.total = int.from_bytes(state["total"], "little")
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            self.total += event["value"]
            ctx.save_state("total", self.total.to_bytes(8, "little"))
            ctx.send_output("sum", self.total)
""",
    "sink.py": """
from noderuntime import Node
last, count = None, 0
for event in Node():
    if event["type"] == "INPUT":
        last, count = event["value"], count + 1
print("last", last, "of", count, flush=True)
""",
    "idle.py": """
class Operator:
    def on_event(self, event, ctx):
        pass
""",
    "ticks.py": """
class Operator:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("tick", 1)
""",
}
SUMS = """
nodes:
  - {id: count, path: count.py, outputs: [n], restart_policy: on-failure}
  - id: sums
    operator: {python: sums.py, inputs: {n: count/n}, outputs: [sum]}
  - {id: sink, path: sink.py, inputs: {sum: sums/sum}}
"""
# the environment of `count`: numbers until `enough` was called, however slow the machine is
COUNTING = {"COUNT": "1000000", "PAUSE": "0.002", "ENOUGH": "enough"}
# ticks for as long as the run is
TICKING = """
nodes:
  - id: ticks
    operator: {python: ticks.py, inputs: {t: timer/millis/20}, outputs: [tick]}
  - id: idle
    operator: {python: idle.py, inputs: {tick: ticks/tick}}
"""


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = WAIT_S) -> T:
    deadline_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"waited in vain for: {what}"
        time.sleep(0.005)
    return found


def is_alive(pid: int) -> bool:
    stat = process.read_stat(pid)
    return stat is not None and not stat.dead


class Folder:
    """A folder with a dataflow and its nodes, and a NODERUNTIME_HOME of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.file = folder / "flow.yml"
        self.runs: list[Running] = []
        for name, text in NODES.items():
            (folder / name).write_text(text)

    def write(self, **files: str) -> None:
        """Files by name; `_py` at the end stands for `.py`.

        A node that reads one meanwhile sees the old or the new text, never a part.
        """
        for name, text in files.items():
            path = self.folder / name.replace("_py", ".py").replace("_sh", ".sh")
            new = path.with_name(f".{path.name}.new")
            new.write_text(text)
            if path.exists():
                new.chmod(path.stat().st_mode)
            new.replace(path)

    def start(self, dataflow: str = "", env: Mapping[str, str] | None = None, **options: Any) -> Running:
        if dataflow:
            self.file.write_text(dataflow)
        running = Running(self, options, env or {})
        self.runs.append(running)
        return running

    def run_dir(self, name: str = "flow") -> RunDir:
        return RunDir(self.home / "runs" / name)

    def wait_gone(self) -> None:
        wait_until(lambda: not processes_of(self.home), "the processes of the run to end")

    def close(self) -> None:
        for running in self.runs:  # all of them first: the processes of one are looked for in the home that they share
            running.kill()
        with contextlib.suppress(AssertionError):
            self.wait_gone()
        left = processes_of(self.home)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for running in self.runs:
            running.close()
        assert not left, f"processes were left behind: {left}"


def heed_sigint() -> None:
    """A shell that runs tests in the background lets them ignore SIGINT, and so would every program that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def helper_of(runtime: int, name: str) -> int:
    """The pid of the store (nr-store) or the fork server (nr-forkserver) of a runtime; 0 if there is none now."""
    for pid in process.children_of(runtime):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == name and is_alive(pid):
                return pid
    return 0


def processes_of(home: Path) -> list[int]:
    """All processes whose environment says that they belong to a run below `home`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            env = process.environment_of(int(entry.name))
            if env.get(MARK) == str(home) and is_alive(int(entry.name)):
                found.append(int(entry.name))
    return found


class Running:
    """A run. What the observer was told is in `said`, and waited for with `wait_for`."""

    def __init__(self, folder: Folder, options: Mapping[str, Any], env: Mapping[str, str]) -> None:
        self.folder = folder
        self.said: list[list[Any]] = []
        self._queue: queue.Queue[list[Any] | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, str(RUNNER), str(folder.file), json.dumps(dict(options))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "NODERUNTIME_HOME": str(folder.home), MARK: str(folder.home), ENV_VALIDATE: "1", **env},
            text=True,
        )
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)

    def wait_for(self, *what: Any, timeout_s: float = WAIT_S) -> list[Any]:
        """The next thing told that begins with `what`; a text ending in "*" is a prefix."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                told = self._queue.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"waited in vain for {what}; told: {self.said}; {self.errors}") from None
            assert told is not None, f"the run ended before {what}; told: {self.said}; {self.errors}"
            self.said.append(told)
            if len(told) >= len(what) and all(matches(a, b) for a, b in zip(what, told, strict=False)):
                return told

    def finish(self, timeout_s: float = WAIT_S) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(timeout_s)
        for thread in self._threads:
            thread.join(timeout_s)
        while (told := self._queue.get_nowait()) is not None:
            self.said.append(told)
        self._queue.put(None)
        return code

    def lines(self, node: str) -> list[str]:
        return [told[3] for told in self.said if told[:2] == ["line", node]]

    def statuses(self) -> list[str]:
        return [told[1] for told in self.said if told[0] == "status"]

    def rows(self) -> dict[str, dict[str, Any]]:
        """The summary by node."""
        (summary,) = [told[1] for told in self.said if told[0] == "summary"]
        return {row["node"]: row for row in summary}

    def enough(self) -> None:
        """Let `count` end, which has COUNTING in its environment."""
        self.folder.write(enough="")

    def counted(self) -> tuple[int, int]:
        """How many numbers `count` has sent, and their sum; to be asked at the end."""
        sent = self.rows()["count"]["messages"]
        assert sent > 0
        return sent, sum(range(sent))

    def ask(self, what: str, **arguments: Any) -> Answer:
        with Dealer(self.folder.run_dir().runtime_socket, Edge.RUNTIME_TO_COMMAND) as dealer:
            dealer.send(Ask(VERSION, what, arguments))
            answer = dealer.receive(WAIT_S)
            assert isinstance(answer, Answer)
            return answer

    def status(self) -> dict[str, dict[str, Any]]:
        """The nodes of `status`, by id."""
        result: Mapping[str, Any] = self.ask("status").result
        return {node["id"]: node for node in result["nodes"]}

    def wait_running(self, *nodes: str) -> None:
        """Until these nodes (all by default) are running."""
        if not any(told[0] == "started" for told in self.said):
            self.wait_for("started")
        wait_until(
            lambda: all(row["state"] == "running" for id, row in self.status().items() if not nodes or id in nodes),
            "all nodes to be running",
        )

    @property
    def runtime_pid(self) -> int:
        (told,) = [told for told in self.said if told[0] == "started"]
        return int(told[1])

    def helper(self, name: str) -> int:
        """The pid of the store (nr-store) or the fork server (nr-forkserver)."""

        return wait_until(lambda: helper_of(self.runtime_pid, name), name)

    def found(self, name: str) -> list[int]:
        """The pid of a helper if there is one now."""
        return [pid for pid in [helper_of(self.runtime_pid, name)] if pid]

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        self.kill()
        self.folder.wait_gone()
        for thread in self._threads:
            thread.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def kill_node(running: Running, victim: str) -> None:
    """Kill a node, or the store, and wait for its next life. A node that has ended stays ended."""
    if victim == "store":
        os.kill(running.helper("nr-store"), signal.SIGKILL)
        running.wait_for("status", "the store died*")
        return

    def settled() -> dict[str, Any] | None:
        row = running.status()[victim]
        return row if row["state"] in ("running", "ended") else None

    row = wait_until(settled, f"{victim} to run")
    assert row is not None
    if row["state"] == "running" and row["pid"]:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(row["pid"], signal.SIGKILL)

        def is_over() -> bool:
            now = running.status()[victim]  # killed behind its last commit, it has ended and lives no more
            return now["state"] == "ended" or now["pid"] not in (0, row["pid"])

        wait_until(is_over, "its end, or the next life")


def matches(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, str) and wanted.endswith("*"):
        return isinstance(found, str) and found.startswith(wanted[:-1])
    return bool(wanted == found)
