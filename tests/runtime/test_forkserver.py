"""forkserver.py: real forks. The test process stands in for the runtime."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from noderuntime.ipc import process
from noderuntime.runtime.forkserver import ASKED_MAX, ForkServer, Order, Spare, Spawning
from noderuntime.runtime.forkserver_main import PID

WAIT_S = 20.0
ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}


@dataclass
class Child:
    spawning: Spawning
    stdout: int

    def read(self) -> str:
        """All that it wrote, once it has ended."""
        with open(self.stdout, closefd=False) as file:
            return file.read()

    def wait(self) -> int:
        poll = select.poll()
        poll.register(self.spawning.pidfd, select.POLLIN)
        assert poll.poll(WAIT_S * 1000)
        status = process.reap(self.spawning.pid)
        assert status is not None
        return status


class Parent:
    """The part of the runtime that a fork server needs."""

    def __init__(self) -> None:
        self.null = os.open(os.devnull, os.O_RDWR)
        self.fork_server = ForkServer(["decimal"], ENV, (self.null, 2, 2))
        self.fds = [self.null]
        self.children: list[Child] = []

    def start(self, entry: str = "", argv: Sequence[str] = (), env: Mapping[str, str] = ENV, cwd: str = "/") -> Child:
        out, child_out = os.pipe()
        self.fds.append(out)
        order = Order("test", env, cwd, f"support.children:{entry}" if entry else "", argv, ["--flag"])
        stdio = (os.open(os.devnull, os.O_RDONLY), child_out, os.dup(2))
        child = Child(self.fork_server.spawn(order, stdio), out)
        self.children.append(child)
        return child

    def finish(self, *children: Child) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not all(child.spawning.done for child in children):
            assert time.monotonic() < deadline_s
            self.turn(1.0)

    def turn(self, within_s: float) -> None:
        ready, _, _ = select.select([self.fork_server.fd, self.fork_server.pidfd], [], [], within_s)
        if self.fork_server.pidfd in ready:
            assert process.reap(self.fork_server.pid) is not None
            self.fork_server.restart()
        self.fork_server.advance()

    def spawn(self, entry: str = "", **options: object) -> Child:
        child = self.start(entry, **options)  # type: ignore[arg-type]
        self.finish(child)
        return child

    def close(self) -> None:
        self.fork_server.close()
        left = process.kill_descendants(WAIT_S)
        assert not left
        for fd in [*self.fds, *(child.spawning.pidfd for child in self.children)]:
            if fd >= 0:
                os.close(fd)


def is_alive(pid: int) -> bool:
    stat = process.read_stat(pid)
    return stat is not None and not stat.dead


@pytest.fixture(scope="module", autouse=True)
def subreaper() -> None:
    process.become_subreaper()


@pytest.fixture
def parent() -> Iterator[Parent]:
    before = set(os.listdir("/proc/self/fd"))
    parent = Parent()
    yield parent
    parent.close()
    assert set(os.listdir("/proc/self/fd")) == before, "descriptors leaked"


def test_a_forked_child_is_our_own_in_a_session_of_its_own_with_what_was_ordered(
    parent: Parent, tmp_path: Path
) -> None:
    child = parent.spawn("report", env={"A": "1", "B": "\udcff"}, cwd=str(tmp_path))
    assert child.wait() == 7
    facts = json.loads(child.read())
    assert facts["pid"] == facts["session"] == child.spawning.pid
    assert facts["parent"] == os.getpid()
    assert facts["env"] == {"A": "1", "B": "\udcff"}
    assert (facts["cwd"], facts["argv"], facts["stdin"]) == (str(tmp_path), ["--flag"], "")
    assert facts["preloaded"]
    assert facts["fds"] == [0, 1, 2], "nothing of the fork server's is left open in it"


def test_random_numbers_differ_between_children(parent: Parent) -> None:
    children = [parent.spawn("report") for _ in range(2)]
    values = []
    for child in children:
        child.wait()
        values.append(json.loads(child.read())["random"])
    assert values[0] != values[1]


def test_many_at_once(parent: Parent) -> None:
    children = [parent.start("report") for _ in range(20)]
    parent.finish(*children)
    assert {child.wait() for child in children} == {7}
    assert len({child.spawning.pid for child in children}) == 20


def test_exit_codes_and_tracebacks_are_those_of_a_usual_process(parent: Parent) -> None:
    assert parent.spawn("crash").wait() == 1
    assert parent.spawn("exit_text").wait() == 1


def test_a_program_is_executed_with_its_own_environment(parent: Parent) -> None:
    child = parent.spawn(argv=["/bin/sh", "-c", "echo $A; exit 5"], env={"A": "hello"})
    assert child.wait() == 5
    assert child.read() == "hello\n"
    assert child.spawning.error is None


def test_python_s_ignored_signals_are_not_ignored_in_programs(parent: Parent) -> None:
    child = parent.spawn(argv=["/bin/sh", "-c", "kill -PIPE $$"])
    assert child.wait() == -signal.SIGPIPE


@pytest.mark.parametrize(
    ("content", "mode", "error"),
    [(None, 0, FileNotFoundError), ("x", 0o600, PermissionError), ("no shebang", 0o700, OSError)],
)
def test_a_program_that_cannot_be_executed_is_told_by_its_error(
    parent: Parent, tmp_path: Path, content: str | None, mode: int, error: type[OSError]
) -> None:
    path = tmp_path / "program"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    child = parent.spawn(argv=[str(path)])
    assert isinstance(child.spawning.error, error)
    assert child.wait() == 127


def test_a_missing_working_directory_is_told_too(parent: Parent, tmp_path: Path) -> None:
    child = parent.spawn("report", cwd=str(tmp_path / "missing"))
    assert isinstance(child.spawning.error, FileNotFoundError)
    assert child.wait() == 1


def test_children_survive_the_fork_server_and_the_next_one_makes_more(parent: Parent) -> None:
    child = parent.spawn("sleep")
    os.kill(parent.fork_server.pid, signal.SIGKILL)
    second = parent.spawn("report")
    assert second.wait() == 7
    assert process.read_stat(child.spawning.pid) is not None
    os.kill(child.spawning.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


@pytest.mark.parametrize("after", [0.0, 0.001, 0.003, 0.01, 0.05, 0.3])
def test_a_fork_server_killed_at_any_moment_leaves_one_process_for_each_spawn(parent: Parent, after: float) -> None:
    parent.spawn("report").wait()  # warm
    children = [parent.start("sleep") for _ in range(5)]
    time.sleep(after)
    os.kill(parent.fork_server.pid, signal.SIGKILL)
    parent.finish(*children)
    pids = {child.spawning.pid for child in children}
    assert len(pids) == 5
    deadline_s = time.monotonic() + WAIT_S
    while True:
        parent.turn(0.01)  # all may have been made before its death was seen
        alive = {pid for pid in process.children_of(os.getpid()) if is_alive(pid)}
        if alive == pids | parent.fork_server.pids:
            break
        assert time.monotonic() < deadline_s, f"{alive} live, {pids} are known"


def test_a_child_dies_with_the_runtime(parent: Parent) -> None:
    """A process in between plays the runtime; both the forked and the executed child die with it."""
    code = """
import os, select, sys
sys.path.insert(0, sys.argv[1])
from test_forkserver import Parent, process
process.become_subreaper()
parent = Parent()
children = [parent.spawn("stubborn"), parent.spawn(argv=["/bin/sleep", "1000"])]
print(*[child.spawning.pid for child in children], parent.fork_server.pid, flush=True)
sys.stdin.read()
"""
    runtime = subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert runtime.stdout is not None and runtime.stdin is not None
    pids = [int(pid) for pid in runtime.stdout.readline().split()]
    assert len(pids) == 3
    runtime.kill()
    runtime.wait()
    runtime.stdin.close()
    runtime.stdout.close()
    deadline_s = time.monotonic() + WAIT_S
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_closing_leaves_no_process(parent: Parent) -> None:
    child = parent.start("sleep")
    pid = parent.fork_server.pid
    parent.fork_server.close()
    assert child.spawning.done
    deadline_s = time.monotonic() + WAIT_S
    while is_alive(pid):
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    parent.fork_server = ForkServer([], ENV, (parent.null, 2, 2))


def test_a_spare_that_was_killed_while_it_waited_is_replaced(parent: Parent) -> None:
    parent.spawn("report").wait()
    wait_for_spare(parent)
    (spare,) = parent.fork_server.pids - {parent.fork_server.pid}
    os.kill(spare, signal.SIGKILL)
    os.waitpid(spare, 0)
    assert parent.spawn("report").wait() == 7


def test_a_spare_that_is_killed_just_before_it_gets_an_order_costs_nothing(parent: Parent) -> None:
    for _ in range(20):
        wait_for_spare(parent)
        (spare,) = parent.fork_server.pids - {parent.fork_server.pid}
        os.kill(spare, signal.SIGKILL)  # and not waited for: the kernel may still be ending it
        assert parent.spawn("report").wait() == 7


def test_a_spare_that_dies_with_an_order_at_its_gate_hands_it_on(parent: Parent) -> None:
    wait_for_spare(parent)
    (spare,) = parent.fork_server.pids - {parent.fork_server.pid}
    os.kill(spare, signal.SIGSTOP)
    child = parent.start("report")
    assert not child.spawning.pid
    assert parent.fork_server.untaken == {spare}
    assert spare in parent.fork_server.pids
    os.kill(spare, signal.SIGKILL)
    parent.finish(child)
    assert child.spawning.pid not in (0, spare)
    assert child.wait() == 7
    assert json.loads(child.read())["stdin"] == ""


def test_an_order_whose_spares_all_die_before_they_take_it_is_refused(parent: Parent) -> None:
    wait_for_spare(parent)
    os.kill(*(parent.fork_server.pids - {parent.fork_server.pid}), signal.SIGSTOP)
    child = parent.start("report")
    while not child.spawning.done:
        (spare,) = parent.fork_server.untaken
        wait_for_spare(parent)
        (following,) = parent.fork_server.pids - {parent.fork_server.pid, spare}
        os.kill(following, signal.SIGSTOP)
        os.kill(spare, signal.SIGKILL)
        while parent.fork_server.untaken == {spare}:
            assert select.select([parent.fork_server.fd], [], [], WAIT_S)[0]
            parent.fork_server.advance()
    assert child.spawning.given == ASKED_MAX
    assert not child.spawning.pid
    assert child.spawning.error is not None


def wait_for_spare(parent: Parent) -> None:
    parent.fork_server.keep_spares()
    while parent.fork_server.busy:
        assert select.select([parent.fork_server.fd], [], [], WAIT_S)[0]
        parent.fork_server.advance()


def test_a_fork_server_killed_many_times_in_a_row_costs_no_spawn(parent: Parent) -> None:
    child = parent.start("report")
    for _ in range(12):
        os.kill(parent.fork_server.pid, signal.SIGKILL)
        assert select.select([parent.fork_server.pidfd], [], [], WAIT_S)[0]
        parent.fork_server.advance()
        assert process.reap(parent.fork_server.pid) is not None
        parent.fork_server.restart()
        assert not child.spawning.done
    parent.finish(child)
    assert child.spawning.error is None
    assert child.wait() == 7


@pytest.mark.parametrize("pid", [2**31, -1, 0, 2**63 - 1])
def test_a_spare_that_tells_an_impossible_pid_is_let_go(parent: Parent, pid: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    spare = Spare()
    spare.gate = ours.detach()
    parent.fork_server._spares[spare.gate] = spare
    parent.fork_server._gates.register(spare.gate, select.EPOLLIN)
    theirs.send(PID.pack(pid))
    parent.fork_server.advance()
    assert spare.gate == -1
    theirs.close()
    assert parent.spawn(argv=["/bin/true"]).wait() == 0
