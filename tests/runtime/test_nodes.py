"""The nodes, and what they stand on: whatever is raised on the way, each life ends, and its node goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from noderuntime.ipc import process
from noderuntime.ipc.protocol import VERSION, Ask, Hello, Message
from noderuntime.ipc.rundir import RunDir
from noderuntime.runtime import children
from noderuntime.runtime import lifecycle_events as su
from noderuntime.runtime.children import Child
from noderuntime.runtime.forkserver import Order
from noderuntime.runtime.keepers import ForkServerKeeper
from noderuntime.runtime.lifecycle import Lifecycle
from noderuntime.runtime.lifecycle_events import LifecycleState
from noderuntime.runtime.loop import Loop
from noderuntime.runtime.node_control import one_node
from noderuntime.runtime.nodes import NodeSupervisor, named_process
from noderuntime.runtime.policy import Policy
from noderuntime.runtime.processes import Proc

CLAIM = {"incarnation": 1, "state": {}, "by_reference": False, "attempts": []}


class Link:
    """A store that is asked, and answers when the test says so. `broken`: asking for that raises once."""

    def __init__(self) -> None:
        self.broken = ""
        self.asked: list[tuple[str, Any]] = []

    def request(self, operation: str, arguments: Any, read: Any, then: Any, otherwise: Any) -> None:
        if operation == self.broken:
            self.broken = ""
            raise RuntimeError(f"asking for {operation}")
        self.asked.append((operation, then))

    def answer(self, operation: str, result: Any) -> None:
        """To the last request of that kind."""
        [then for asked, then in self.asked if asked == operation][-1](result)


class Process:
    """A Proc without a process."""

    def __init__(self, pid: int, owner: Any) -> None:
        self.pid = pid
        self.owner = owner
        self.reaped = False
        self.signals: list[int] = []

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def end(self, status: int) -> None:
        self.reaped = True
        self.owner.exited(self, status)


class Server:
    """A fork server. `error` is raised by its next spawn; `refused`: that of the next process, known at once."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.refused: OSError | None = None
        self.made: list[Process] = []
        self.pids: set[int] = set()
        self.busy = False

    def spawn(self, order: Any, owner: Any) -> Process:
        if (error := self.error) is not None:
            self.error = None
            raise error
        made = Process(len(self.made) + 1, owner)
        self.made.append(made)
        if (refused := self.refused) is not None:
            self.refused, made.pid, made.reaped = None, 0, True
            owner.not_spawned(made, refused)
        return made


class World:
    """A node supervisor with one node, and what is around it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str = "operator") -> None:
        monkeypatch.setattr(children, "order_of", lambda *given: None)
        self.link, self.server = Link(), Server()
        self.bells: list[int] = []
        self.now_s = 0.0
        self.sent: list[Any] = []
        self.coming: list[tuple[bytes, Message]] = []  # messages that are under way to the runtime
        self.asks: list[Any] = []
        self.told: list[str] = []
        self.run_log: Any = SimpleNamespace(keep=lambda text: None, tell=lambda *given: None, warn=self.told.append)
        router = SimpleNamespace(
            receive_nowait=lambda: self.coming.pop(0) if self.coming else None,
            send=lambda identity, message: self.sent.append(type(message).__name__),
        )
        loop = SimpleNamespace(close_fd=os.close)
        given: Any = (loop, router, self.link, self.server, self.run_log, None, SimpleNamespace(name="run", dora=None))
        more: Any = (RunDir(folder), lambda: self.now_s, lambda node: None, lambda *asked: self.asks.append(asked))
        self.supervisor = NodeSupervisor(*given, *more)
        code = SimpleNamespace(path="a.py")
        spec: Any = SimpleNamespace(id="a", kind=kind, max_attempts=3, replicas=1, together=False, code=code)
        page: Any = SimpleNamespace(words=[0] * 64)
        bell, self.bell = os.pipe2(os.O_NONBLOCK)
        os.close(bell)
        machine = Lifecycle("a", Policy(kind=kind))
        wiring: Any = SimpleNamespace(to_plain=dict, number=0, version=0)
        self.child = Child(self.supervisor._services, spec, machine, wiring, page, self.bell)
        self.supervisor.children["a"] = self.child
        monkeypatch.setattr(children.doorbell, "ring", self.bells.append)

    @property
    def state(self) -> LifecycleState:
        return self.child.machine.state


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, monkeypatch)
    yield made
    os.close(made.bell)


def test_a_spawn_that_raises_anything_is_followed_by_the_next_life(world: World) -> None:
    world.server.error = RuntimeError("nobody expects this")
    with pytest.raises(RuntimeError, match="nobody expects"):
        world.child.feed(su.Start())
    assert (world.state, world.child.machine.life) == (LifecycleState.STARTING, 2)
    assert world.child.proc is not None and not world.child.proc.reaped


def test_what_a_command_asks_goes_on_and_what_a_node_says_ends_with_the_node(world: World) -> None:
    world.child.feed(su.Start())
    ask = Ask(VERSION, "status", {})
    world.coming = [(b"node", Hello(VERSION, "a", "operator", os.getpid(), 1)), (b"command", ask)]
    assert world.supervisor.drain()
    assert world.asks == [(b"command", ask)]
    assert world.child.identity == b"node"
    assert not world.supervisor.drain()


def test_so_is_one_that_raises_in_a_later_life(world: World) -> None:
    world.child.feed(su.Start())
    world.link.answer("claim", CLAIM)
    world.server.error = RuntimeError("nobody expects this")
    with pytest.raises(RuntimeError, match="nobody expects"):
        world.server.made[0].end(-signal.SIGSEGV)
    assert world.state is LifecycleState.BACKOFF
    assert "nobody expects this" in world.child.machine.reason
    assert world.child.machine.deadline_s < 10.0


def test_a_spawn_that_is_refused_before_it_returns_is_followed_by_the_next_life(world: World) -> None:
    world.server.refused = OSError(24, "Too many open files")
    world.child.feed(su.Start())
    assert (world.state, world.child.machine.life) == (LifecycleState.STARTING, 2)
    assert world.child.proc is world.server.made[1]


@pytest.mark.parametrize("error", [RuntimeError("no"), OSError(12, "Cannot allocate memory")])
def test_a_life_whose_spawn_and_claim_both_fail_ends_once(world: World, error: Exception) -> None:
    world.server.error, world.link.broken = error, "claim"
    with pytest.raises(RuntimeError):
        world.child.feed(su.Start())
    assert (world.state, world.child.machine.life) == (LifecycleState.STARTING, 2)
    assert world.server.made[0].signals == []


def test_a_claim_that_raises_ends_its_life(world: World) -> None:
    world.link.broken = "claim"
    with pytest.raises(RuntimeError, match="claim"):
        world.child.feed(su.Start())
    assert world.server.made[0].signals == [signal.SIGKILL]
    world.server.made[0].end(-signal.SIGKILL)
    assert (world.state, world.child.machine.life) == (LifecycleState.STARTING, 2)


def test_an_answered_claim_that_cannot_be_taken_ends_its_life(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.child.feed(su.Start())
    monkeypatch.setattr(world.run_log, "tell", None)
    with pytest.raises(TypeError):
        world.link.answer("claim", {**CLAIM, "buried": "a message"})
    assert world.server.made[0].signals == [signal.SIGKILL]


def test_an_answered_claim_is_taken_although_a_neighbour_cannot_be_rung(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[int] = []

    def ring(bell: int) -> None:
        rung.append(bell)
        raise RuntimeError("ring")

    monkeypatch.setattr(children.doorbell, "ring", ring)
    other: Any = SimpleNamespace(bell=-7)
    world.child.neighbours = [other]
    world.child.feed(su.Start())
    with pytest.raises(RuntimeError, match="ring"):
        world.link.answer("claim", CLAIM)
    assert world.child.incarnation == 1
    assert world.server.made[0].signals == []
    assert rung == [world.bell, -7]


def test_a_welcome_that_cannot_be_sent_ends_its_life_and_a_line_that_cannot_be_told_does_not(world: World) -> None:
    world.child.feed(su.Start())
    world.child.feed(su.SaidHello())
    world.child.wiring = SimpleNamespace(number=0)  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        world.link.answer("claim", CLAIM)
    assert world.server.made[0].signals[0] == signal.SIGKILL
    world.run_log.tell = None
    with pytest.raises(TypeError):
        world.server.made[0].end(-signal.SIGKILL)
    assert world.server.made[1].signals == []


def test_a_dynamic_node_that_cannot_be_taken_in_is_told_so_and_may_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, monkeypatch, "dynamic")
    world.child.identity, world.child.peer_fd = b"peer", os.pidfd_open(os.getpid())
    world.link.broken = "claim"
    with pytest.raises(RuntimeError, match="claim"):
        world.child.feed(su.SaidHello())
    assert world.state is LifecycleState.WAITING
    assert world.sent == ["Refused"]
    assert world.child.peer_fd == -1
    os.close(world.bell)


def test_a_death_is_handled_although_what_it_left_cannot_be_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: object) -> None:
        raise RuntimeError("looking")

    world.child.feed(su.Start())
    world.link.answer("claim", CLAIM)
    monkeypatch.setattr(children, "kill_strays", fails)
    world.child.services = replace(world.child.services, drain=fails)
    with pytest.raises(RuntimeError, match="looking"):
        world.server.made[0].end(-signal.SIGKILL)
    assert world.child.machine.life == 2


def test_a_death_that_could_not_be_handled_is_handled_in_the_next_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: object) -> None:
        raise RuntimeError("feeding")

    world.child.feed(su.Start())
    world.link.answer("claim", CLAIM)
    with monkeypatch.context() as patch:
        patch.setattr(Child, "feed", fails)
        with pytest.raises(RuntimeError, match="feeding"):
            world.server.made[0].end(-signal.SIGKILL)
    assert world.child.machine.life == 1
    assert world.supervisor.deadline_s() <= world.now_s
    world.supervisor.tick(world.now_s)
    assert world.child.machine.life == 2
    world.supervisor.tick(world.now_s)
    assert world.child.machine.life == 2


@pytest.mark.parametrize("ask", ["stop", "abort"])
def test_what_is_asked_of_all_nodes_reaches_those_behind_one_that_fails(
    world: World, ask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[str] = []

    def feed(child: Child, event: su.LifecycleEvent) -> None:
        fed.append(child.id)
        raise RuntimeError("feeding")

    monkeypatch.setattr(Child, "feed", feed)
    other: Any = SimpleNamespace(machine=Lifecycle("b", Policy()), feed=lambda event: fed.append("b"))
    other.leader = other
    world.supervisor.children["b"] = other
    with pytest.raises(RuntimeError, match="feeding"):
        getattr(world.supervisor, ask)(*((1.0, False) if ask == "stop" else ()))
    assert fed == ["a", "b"]


def test_a_node_that_cannot_be_started_is_told_of_and_keeps_no_other_from_its_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[str] = []

    def feed(child: Child, event: su.LifecycleEvent) -> None:
        fed.append(child.id)
        raise RuntimeError("feeding")

    monkeypatch.setattr(Child, "feed", feed)
    other: Any = SimpleNamespace(id="b", machine=Lifecycle("b", Policy()))
    other.leader = other
    other.feed = partial(feed, other)
    world.supervisor.children["b"] = other
    world.supervisor.start()
    assert fed == ["a", "b"]
    assert [text.partition(" (")[0] for text in world.told] == [
        "the start of a: RuntimeError: feeding",
        "the start of b: RuntimeError: feeding",
    ]


class Told:
    """An Owner that remembers what it was told; `said` fails."""

    def __init__(self) -> None:
        self.ended: list[int | None] = []

    def said(self, stream: str, line: str) -> None:
        raise RuntimeError("a line")

    def exited(self, proc: Proc, status: int) -> None:
        self.ended.append(status)

    def not_spawned(self, proc: Proc, error: OSError) -> None:
        self.ended.append(None)


@pytest.fixture
def keeper() -> Iterator[tuple[Loop, ForkServerKeeper]]:
    loop = Loop()
    log: Any = SimpleNamespace(tell=print, helper_line=print)
    process.become_subreaper()
    made = ForkServerKeeper(loop, log, os.environ, [])
    yield loop, made
    made.close()
    os.kill(made.pid, signal.SIGKILL)
    process.reap(made.pid)
    loop.close()
    process.kill_descendants(5.0)


def order(*argv: str) -> Order:
    return Order("test", dict(os.environ), "/", argv=argv)


def test_a_process_of_whatever_owner_is_known_until_its_owner_is_told(
    keeper: tuple[Loop, ForkServerKeeper], tmp_path: Path
) -> None:
    """Else it could be reaped as an orphan, and its end taken for a kill from outside."""
    loop, server = keeper
    owner = Told()
    proc = server.spawn(order("/bin/sh", "-c", "exit 3"), owner)
    while not proc.pid:
        loop.turn(1.0)
    run_log = SimpleNamespace(warn=print)
    given: Any = (loop, None, None, server, run_log, None, None, RunDir(tmp_path), None, None, None)
    supervisor = NodeSupervisor(*given)
    os.waitid(os.P_PID, proc.pid, os.WEXITED | os.WNOWAIT)
    while server.busy:
        server.advance()
    assert proc.pid in server.pids
    supervisor.reap_orphans()
    while not owner.ended:
        loop.turn(1.0)
    assert owner.ended == [3]
    assert proc.pid not in server.pids
    proc.close()


def test_an_owner_hears_of_the_end_although_it_fails_at_the_last_lines(
    keeper: tuple[Loop, ForkServerKeeper],
) -> None:
    loop, server = keeper
    owner = Told()
    loop.pause(True)  # the lines are read when it is reaped
    proc = server.spawn(order("/bin/sh", "-c", "echo a line; exit 3"), owner)
    with pytest.raises(RuntimeError, match="a line"):
        while not owner.ended:
            loop.turn(1.0)
    assert owner.ended == [3]
    assert proc.reaped
    proc.close()


@pytest.mark.parametrize(
    ("operators", "named"), [("ab", "a, b"), ("abcde", "a, b, c, d, e"), ("abcdefg", "a, b, c, d, 3 more")]
)
def test_a_process_of_several_operators_is_told_of_by_its_name_and_theirs(operators: str, named: str) -> None:
    assert named_process("fast", list(operators)) == f"process fast ({named})"


def run_and_stop(world: World) -> None:
    """Until its node runs, and `node stop` was asked for."""
    world.supervisor.services.options.grace_s = 5.0  # type: ignore[misc]
    world.child.feed(su.Start())
    world.child.feed(su.SaidHello())
    world.link.answer("claim", CLAIM)
    world.child.feed(su.BecameReady())
    assert one_node("halt", world.supervisor, "a").error == ""
    assert world.child.parked and world.state is LifecycleState.STOPPING


def test_a_node_that_is_started_while_it_stops_begins_again_as_soon_as_it_has(world: World) -> None:
    run_and_stop(world)
    assert one_node("start", world.supervisor, "a").error == ""
    assert not world.child.parked
    world.child.feed(su.SaidBye(False))
    world.server.made[0].end(0)
    assert (world.state, world.child.machine.life) == (LifecycleState.STARTING, 2)


def test_what_is_refused_changes_nothing(world: World) -> None:
    run_and_stop(world)
    world.child.machine._leave = LifecycleState.ENDED  # it has to end
    assert "try again in a moment" in one_node("restart", world.supervisor, "a").error
    assert world.child.parked


def test_a_node_that_ends_while_it_is_being_stopped_is_waited_for_by_nobody(world: World) -> None:
    run_and_stop(world)
    world.child.feed(su.SaidBye(True))
    world.server.made[0].end(0)
    assert world.state is LifecycleState.ENDED
    assert world.supervisor.done
