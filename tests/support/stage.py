"""Runs of the fault tests: started with faults, killed, resumed, looked at when they are at rest, cleaned away."""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lmdb
from support.fault_points import missing
from support.flows import Flow
from support.harness import Folder, Running, is_alive, processes_of, wait_until
from support.oracle import Found, check

from noderuntime import merges
from noderuntime.ipc import entrypoints, process, runs
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import VERSION, Answer, Ask, Edge
from noderuntime.space import kvs, lives, private, segments
from noderuntime.space.records import PRIVATE_BYTES

HERE = Path(__file__).parent
RUN_S_MAX = 90.0
RESUMES_MAX = 12
Fault = dict[str, Any]  # who, point, hit, action


@cache
def _compile() -> None:
    """The processes of these runs write no bytecode; without it each would compile the package again, for a second."""
    for folder in (entrypoints.PACKAGE, HERE / "inject"):
        compileall.compile_dir(folder, quiet=2)


class Stage:
    """A folder on shared memory with a dataflow; at the end nothing of it may be left anywhere."""

    def __init__(self, faults: Sequence[Fault] = (), root: Path | None = None, **env: str) -> None:
        _compile()
        unknown = missing(fault["point"] for fault in faults)
        assert not unknown, f"no process passes these points: {unknown}"
        self.root = root or Path(tempfile.mkdtemp(prefix="nr-faults-", dir="/dev/shm"))
        (self.root / "fired").mkdir()
        self.folder = Folder(self.root)
        shutil.copy(HERE / "cast.py", self.root)
        self.faults = list(faults)
        self.env = {
            "PYTHONPATH": f"{HERE / 'inject'}:{HERE.parent.parent}",
            "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1", "FAULTS": json.dumps(self.faults), "FAULTS_DIR": str(self.root / "fired"),
            **env,
        }  # fmt: skip
        self.running: Running | None = None
        self.resumes = 0
        self.codes: list[int] = []

    # ---- beginning

    def start(self, dataflow: str = "", **options: Any) -> Running:
        """Start it, or start it again."""
        self.running = self.folder.start(dataflow, env=self.env, **options)
        return self.running

    def fired(self) -> set[int]:
        """Which faults have happened."""
        return {int(entry.name) for entry in (self.root / "fired").iterdir()}

    def done(self) -> None:
        (self.root / "done").touch()

    # ---- on the way

    def ask(self, timeout_s: float = 1.0) -> dict[str, dict[str, Any]] | None:
        """The nodes by id as the runtime sees them; None when it does not answer."""
        run_dir = self.folder.run_dir()
        with contextlib.suppress(OSError), Dealer(run_dir.runtime_socket, Edge.RUNTIME_TO_COMMAND) as dealer:
            dealer.send(Ask(VERSION, "status", {}))
            answer = dealer.receive(timeout_s)
            dealer.close(0)
            if isinstance(answer, Answer) and not answer.error:
                result: Mapping[str, Any] = answer.result
                return {node["id"]: node for node in result["nodes"]}
        return None

    def complete(
        self,
        flow: Flow,
        rng: random.Random | None = None,
        every_s: float = 0.05,
        kills: int = 25,
        within_s: float = RUN_S_MAX,
    ) -> int:
        """Wait until all nodes but the keeper have ended; a runtime that dies is resumed.

        With `rng`, about every `every_s` some process of the run is killed from outside, `kills` times at most.
        Returns how many were.
        """
        left = kills
        deadline_s = time.monotonic() + within_s
        next_kill_s = time.monotonic() + 0.5
        while True:
            assert self.running is not None
            assert time.monotonic() < deadline_s, f"not at its end: {self.ask()}; {self.told()}"
            code = self.running.process.poll()
            if code is not None:
                self._resume(code)
                continue
            if rng is not None and left and time.monotonic() > next_kill_s:
                left -= self.kill_somebody(rng)
                next_kill_s = time.monotonic() + rng.expovariate(1 / every_s)
            status = self.ask()
            if status is not None:
                states = {node["state"] for id, node in status.items() if id != "keeper"}
                assert "failed" not in states, f"{status}; {self.told()}"
                if states == {"ended"}:
                    return kills - left
            time.sleep(0.01)

    def _resume(self, code: int, **options: Any) -> None:
        assert self.running is not None
        self.codes.append(code)
        self.resumes += 1
        wait_until(lambda: not processes_of(self.folder.home), "the processes of the run to end")
        self.running.finish()
        assert self.resumes <= RESUMES_MAX, f"it ends again and again: {self.codes}; {self.told()}"
        found = [run.state for run in runs.list_runs(self.environ)]
        assert found in ([], ["interrupted"]), found
        self.start(resume=True, **options)

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "NODERUNTIME_HOME": str(self.folder.home)}

    def pid(self, node: str) -> int:
        """Of a node that runs now; else 0."""
        found = (self.ask() or {}).get(node, {})
        return int(found["pid"]) if found.get("state") == "running" else 0

    def kill(self, node: str, number: int = signal.SIGKILL) -> int:
        """Signal the process of a node, once it runs. Returns its pid."""
        pid = int(wait_until(lambda: self.pid(node), f"{node} to run"))
        os.kill(pid, number)
        return pid

    def kill_somebody(self, rng: random.Random) -> bool:
        """SIGKILL to a child of the runtime, whichever. False when there was none to be killed."""
        file = runs.RunFile.read(self.folder.run_dir())
        if file is None or not is_alive(file.pid):
            return False
        children = sorted(process.children_of(file.pid))
        if len(children) < 3:  # it has not begun; a fork server that never gets to its work ends the run
            return False
        victim = rng.choice(children)
        with contextlib.suppress(OSError):
            if Path(f"/proc/{victim}/comm").read_text() == "nr-forkserver\n" and rng.random() < 0.9:
                return False
            fd = os.pidfd_open(victim)
            stat = process.read_stat(victim)
            if stat is not None and stat.parent == file.pid:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)
        return True

    def told(self) -> str:
        """What the runs have said, for a failure's text."""
        parts = []
        for running in self.folder.runs:
            said = [*running.said]
            with contextlib.suppress(Exception):
                while (told := running._queue.get_nowait()) is not None:
                    said.append(told)
                    running.said.append(told)
            parts.append("\n".join(str(told) for told in said[-60:]) + "\n" + "".join(running.errors[-40:]))
        return f"fired {sorted(self.fired())} of {self.faults}\n" + "\n---- resumed\n".join(parts)

    # ---- what is in the space

    def found(self, flow: Flow) -> Found:
        """Everything that the oracle wants to know; nobody may be writing."""
        env = lmdb.open(str(self.folder.run_dir().space), readonly=True, lock=False, max_dbs=0)
        try:
            with env.begin() as txn:
                graph = lives.load(txn)
                figures = lives.figures(txn, graph)
                found = Found(
                    states={
                        id: {key.decode(): record[PRIVATE_BYTES:] for key, record in private.listed(txn, vertex.number)}
                        for id, vertex in graph.items()
                    },
                    taken={}, dropped={}, queued={}, discarded={}, sent={}, counts={},
                )  # fmt: skip
                for id, node in figures.items():
                    for name, queue in node["inputs"].items():
                        at = id, name
                        found.taken[at], found.dropped[at] = queue["taken"], queue["dropped"]
                        found.queued[at], found.discarded[at] = queue["queued"], queue["discarded"]
                    for name, sent in node["outputs"].items():
                        found.sent[id, name] = sent
                for key, entry in kvs.entries(txn, b"count", 0):
                    found.counts[key.decode().removeprefix("count").removeprefix("/")] = merges.decode(entry.value)
                assert list(segments.referenced(txn)) == [], "a payload is still referred to"
                left = [item for item in txn.cursor() if item[0][:1] in (b"m", b"a")]
                assert not left, f"messages are left in the space: {left}; {figures}"
                stat = txn.stat()
                pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
                content = sum(len(key) + len(value) for key, value in txn.cursor())
                assert pages <= 12 + content // 1000, f"{pages} pages are taken by {content} bytes"
        finally:
            env.close()
        for id, vertex in flow.nodes.items():
            if vertex.role == "writing":
                found.written[id] = [
                    (name, int(number), int(value), int(attempt), int(life))
                    for name, number, value, attempt, life in (
                        line.split() for line in (self.root / f"{id}.txt").read_text().splitlines()
                    )
                ]
        return found

    def check(self, flow: Flow) -> dict[str, list[int]]:
        """The oracle's word on the run at rest."""
        # a node counts as ended from its reap on; that the store has closed its mailbox comes a little later
        with contextlib.suppress(AssertionError):
            wait_until(self._is_empty, "the space to be empty of messages", 10.0)
        return check(flow, self.found(flow))

    def _is_empty(self) -> bool:
        env = lmdb.open(str(self.folder.run_dir().space), readonly=True, lock=False, max_dbs=0)
        try:
            with env.begin() as txn:
                return not any(key[:1] in (b"m", b"a") for key, _ in txn.cursor())
        finally:
            env.close()

    # ---- the end

    def finish(self, code: int = 0) -> None:
        """Let the run end by itself."""
        assert self.running is not None
        self.done()
        while (ended := self.running.process.poll()) is None or ended != code:
            if ended is not None:
                self._resume(ended)
            with contextlib.suppress(Exception):
                self.running.process.wait(RUN_S_MAX)
        self.running.finish()
        assert list((self.folder.home / "runs").iterdir()) == []

    def kill_runtime(self) -> None:
        """SIGKILL to the runtime; everything has to be gone when its guard is."""
        assert self.running is not None
        file = runs.RunFile.read(self.folder.run_dir())
        assert file is not None
        os.kill(file.pid, signal.SIGKILL)
        assert self.running.finish() == 137
        assert processes_of(self.folder.home) == []
        (run,) = runs.list_runs(self.environ)
        assert run.state == "interrupted"
        assert not run.run_dir.runtime_socket.exists()
        assert not run.run_dir.store_socket.exists()

    def clean(self) -> None:
        """Remove an interrupted run."""
        for run in runs.list_runs(self.environ):
            assert runs.clean(run)
        assert list((self.folder.home / "runs").iterdir()) == []

    def close(self) -> None:
        try:
            for running in self.folder.runs:
                running.process.kill()
            self.folder.close()
        finally:
            shutil.rmtree(self.root)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(self.told())
        self.close()


def run_to_the_end(
    flow: Flow, faults: Sequence[Fault] = (), within_s: float = RUN_S_MAX, **env: str
) -> list[Fault]:
    """Run a dataflow with these faults, and check everything. Returns the faults that never happened."""
    with Stage(faults, None, **env) as stage:
        stage.start(flow.yaml(str(stage.root)))
        stage.complete(flow, within_s=within_s)
        stage.check(flow)
        stage.finish()
        fired = stage.fired()
        return [fault for index, fault in enumerate(stage.faults) if index not in fired]
