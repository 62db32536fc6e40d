"""A small runtime for tests of children: it speaks protocol.py to real processes; space and neighbours are in here."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

from support.kit import MB, Net, Nodes, commit, shown, staged, switch
from support.procs import WAIT_S, wait_until

from noderuntime.ipc import doorbell, pulse
from noderuntime.ipc.channel import Router
from noderuntime.ipc.protocol import Bye, Edge, Failed, Hello, Log, Message, Ready, RestoreState, Welcome
from noderuntime.ipc.rundir import ENV_LIFE, ENV_NODE, ENV_RUN_DIR, RunDir
from noderuntime.space.commit import Commits

M = TypeVar("M")

LAST_WORDS_S = 1.0


class Forker:
    """The process that forks children (see forker.py), and how they ended."""

    def __init__(self, has_points: bool = False) -> None:
        """`has_points`: its children pass fault points (see inject/sitecustomize.py)."""
        script = Path(__file__).parent / "forker.py"
        nobody = json.dumps([{"who": "", "point": "", "hit": 1, "action": "kill"}])  # without any, there is no point
        paths = [str(script.parent / "inject"), *filter(None, [os.environ.get("PYTHONPATH", "")])]
        points = {"PYTHONPATH": os.pathsep.join(paths), "FAULTS": nobody} if has_points else {}
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, **points},
        )
        self.outputs = Path(tempfile.mkdtemp())  # not on shared memory: it may be full
        self.ended: dict[int, int] = {}
        self.begun: list[int] = []
        self._rest = b""

    def start(self, **request: Any) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        begun = len(self.begun)
        wait_until(lambda: self.listen() and len(self.begun) > begun)
        return self.begun[-1]

    def listen(self) -> bool:
        assert self.process.stdout is not None
        while select.select([self.process.stdout], [], [], 0)[0]:
            said = os.read(self.process.stdout.fileno(), 65536)
            assert said, "the forker died"
            *lines, self._rest = (self._rest + said).split(b"\n")
            for line in lines:
                pid, what, *status = line.split()
                if what == b"started":
                    self.begun.append(int(pid))
                else:
                    self.ended[int(pid)] = int(status[0])
        return True

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(WAIT_S)
        self.process.stdout.close()
        shutil.rmtree(self.outputs)


class Child:
    """One life of a node in a process of its own."""

    def __init__(self, run: Run, node: str, pid: int, output: Path) -> None:
        self.run = run
        self.node = node
        self.pid = pid
        try:
            self._pidfd = os.pidfd_open(pid)  # signals must not reach whoever gets its pid later
        except ProcessLookupError:
            self._pidfd = -1
        self.output = output
        self.identity = b""
        self.hello: Hello | None = None
        self.said: list[Message] = []

    @property
    def code(self) -> int | None:
        self.run.forker.listen()
        return self.run.forker.ended.get(self.pid)

    def wait(self) -> int:
        """Its exit code; minus the signal that killed it."""
        code: int = wait_until(lambda: [] if self.code is None else [self.code], f"the end of {self}")[0]
        deadline = time.monotonic() + (WAIT_S if self._has_last_words(code) else LAST_WORDS_S)
        while code in (0, 1) and not self.has_said(Bye | Failed) and time.monotonic() < deadline:
            time.sleep(0.001)  # it has ended, and its last words are still under way
        self.run.listen()
        return code

    def _has_last_words(self, code: int) -> bool:
        """Whether it is sure to say Bye or Failed before it ends with that code. A custom node that fails may not."""
        is_operator = self.hello is not None and self.hello.kind == "operator"
        return code in (0, 1) and (is_operator or (code == 0 and bool(self.has_said(Ready))))

    def signal(self, number: signal.Signals) -> None:
        """Nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        self.signal(signal.SIGKILL)
        wait_until(lambda: self.code is not None)
        if self._pidfd >= 0:
            os.close(self._pidfd)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def has_said(self, kind: type[M] | UnionType) -> list[M]:
        self.run.listen()
        return [message for message in self.said if isinstance(message, kind)]

    def expect(self, kind: type[M]) -> M:
        """Wait until it says a message of that kind."""
        # asked for once more when it has ended: what it said last may have come in between
        said = wait_until(lambda: self.has_said(kind) or ([] if self.code is None else self.has_said(kind)), str(self))
        return said[-1]

    def logged(self, text: str) -> bool:
        return any(text in log.text for log in self.has_said(Log))

    def send(self, message: Message) -> None:
        assert self.run.router.send(self.identity, message)

    @property
    def text(self) -> str:
        """What it wrote on stdout and stderr."""
        return self.output.read_text() if self.output.exists() else ""

    def pulse_of(self, node: str) -> pulse.Pulse:
        """Of a node of its process."""
        page = pulse.PulsePage(self.run.dir.pulse(self.run.numbers[node]["number"]))
        try:
            return page.read()
        finally:
            page.close()

    @property
    def pulse(self) -> pulse.Pulse:
        return self.pulse_of(self.node)

    def __repr__(self) -> str:
        return f"child {self.pid} of {self.node}: {self.code}, said {self.said[-5:]}, wrote {self.text[-2000:]!r}"


class Run(Net):
    """A dataflow whose nodes are children, or are played by the test: see `send` and `take`."""

    def __init__(self, folder: Path, nodes: Nodes, forker: Forker, size_bytes: int = 16 * MB) -> None:
        super().__init__(folder, nodes, size_bytes)
        self.dir = RunDir(folder)
        self.forker = forker
        self.bells: dict[int, int] = {}
        self.hang_bells()
        self.router = Router(self.dir.runtime_socket, Edge.CHILD_TO_RUNTIME)
        self.children: list[Child] = []
        self.lives: dict[str, int] = {}
        self.played: dict[str, Commits] = {}

    def hang_bells(self) -> None:
        """Make the bell and the page of each node that has none."""
        made = [item["number"] for item in self.numbers.values() if item["number"] not in self.bells]
        for number in made:
            doorbell.create(self.dir.bell(number))
            self.dir.pulse(number).parent.mkdir(exist_ok=True)
            pulse.PulsePage(self.dir.pulse(number)).close()
        for wiring in self.wirings.values():
            for other in wiring.others:
                if other.number in made:
                    doorbell.share(self.dir.bell(other.number), self.dir.bell(wiring.number))
        self.bells.update({number: doorbell.open_bell(self.dir.bell(number)) for number in made})

    def switch(self, nodes: Nodes, **more: Any) -> int:
        """Change the dataflow. Nobody is told: a process finds it out."""
        version = switch(self, nodes, **more)
        self.hang_bells()
        return version

    # --- children -------------------------------------------------------------------------------------------------

    def start(self, node: str, program: str | None = None, env: Mapping[str, str] | None = None) -> Child:
        """Start a child: an operator, or a custom node with `program` as its text."""
        life = self.lives[node] = self.lives.get(node, 0) + 1
        what = "operator"
        if program is not None:
            file = self.folder / f"{node}.py"
            file.write_text(program)
            what = str(file)
        output = self.forker.outputs / f"{len(self.forker.begun)}-{node}-{life}.txt"
        given = {ENV_RUN_DIR: str(self.folder), ENV_NODE: node, ENV_LIFE: str(life), **(env or {})}
        pid = self.forker.start(env=given, cwd=str(self.folder), output=str(output), run=what)
        child = Child(self, node, pid, output)
        self.children.append(child)
        return child

    def welcome(self, child: Child, inline: bool = True, **claim: Any) -> Mapping[str, Any]:
        """Answer its hello as the runtime does: with a claim, and the state that it brings."""
        wait_until(lambda: self.listen() and child.hello, f"the hello of {child}")
        result = self.claim(child.node, **claim)
        wiring = self.wirings[child.node]
        states = 1 if wiring.kind == "operator" else 0
        child.send(Welcome(result["incarnation"], wiring.to_plain(), states, result["attempts"]))
        if states:
            child.send(RestoreState(result["state"] if inline else {}, result["by_reference"] or not inline))
        return result

    def begun(self, node: str, program: str | None = None, env: Mapping[str, str] | None = None, **more: Any) -> Child:
        """A child that is ready."""
        child = self.start(node, program, env)
        self.welcome(child, **more)
        child.expect(Ready)
        return child

    def listen(self) -> bool:
        """Take what the children have said."""
        while (found := self.router.receive_nowait()) is not None:
            identity, message = found
            if isinstance(message, Hello):
                child = next(child for child in self.children if child.pid == message.pid)
                child.identity, child.hello = identity, message
            for child in self.children:
                if child.identity == identity:
                    child.said.append(message)
        return True

    # --- neighbours, played by the test ---------------------------------------------------------------------------

    def ring(self, *nodes: str) -> None:
        for node in nodes:
            doorbell.ring(self.bells[self.numbers[node]["number"]])

    def play(self, node: str) -> Commits:
        if node not in self.played:
            self.played[node] = self.begin(node)
        return self.played[node]

    def send(self, node: str, *values: Any, output: str = "out", ends: bool = False) -> None:
        """Commit one event per value as `node`, and ring as it would."""
        commits = self.play(node)
        for value in values:
            assert commit(commits, staged(commits, (output, value))) == 1
            self._ring(commits)
        if ends:
            assert commit(commits, staged(commits, ends=True)) == 1
            self._ring(commits)

    def take(self, node: str, count: int = 1) -> list[Any]:
        """Wait for messages for `node`, and take them."""
        commits = self.play(node)
        found: list[Any] = []
        while len(found) < count:
            message = wait_until(lambda: self.messages(commits, 1), f"{node}: {found}, {self.children}")[0]
            assert commit(commits, staged(commits, ack=message)) == 1
            self._ring(commits)
            found.append(shown(message[1]))
        return found

    def _ring(self, commits: Commits) -> None:
        for number in commits.rings:
            doorbell.ring(self.bells[number])

    def close(self) -> None:
        for child in self.children:
            child.close()
        self.router.close(0)
        for bell in self.bells.values():
            os.close(bell)
        super().close()
