"""The fork server: a warm interpreter that creates all children of a run; an operator starts in milliseconds.

`ForkServer` is the runtime's side; forkserver_main.py is the other process. There is always a *spare*, a child that is
created before it is needed:

    runtime    one end of a socket pair, the spare's gate  --SCM_RIGHTS-->  fork server
    server     fork; the one in between forks the spare and exits, so that the spare becomes the runtime's own
               (which is a subreaper): its exit status arrives there, and it survives the fork server
    spare      waits until the runtime is its parent; PR_SET_PDEATHSIG, setsid; its pid --gate--> runtime; warms up
    runtime    opens a pidfd (the spare is its own and not reaped: the number is right)

and a spawn is one message:

    runtime    memfd with the order, stdin, stdout, stderr  --gate-->  spare
    spare      "taken" --gate--> runtime, before it does anything of the order
    spare      calls its entry point, or execs its program; an error --gate--> runtime; else the gate closes

If a gate closes without "taken", the order was not started: its spare was killed while it waited. Sending the order may
succeed all the same, because the gate stays open until the kernel has ended the process and the fork server has closed
its copy. The order is then given to the next spare. So only a spare that took the order becomes the caller's child.

Because of the gates the fork server has no state. When it dies, the runtime closes the gates at which no spare has
arrived, and asks the next fork server for new ones. A spare of the dead server finds its gate closed and exits before
it does anything. So each spawn creates exactly one process.

Rejected: fork from the runtime (it has ZeroMQ's threads); forking only when a child is needed (4 ms more, twice that
on a busy machine); a reply by the fork server (it could die after the fork and before the reply); CLONE_PARENT instead
of the second fork (glibc would keep the old thread id in the child, and LMDB's robust mutex records exactly that).
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgpack

from noderuntime.ipc import entrypoints
from noderuntime.runtime.forkserver_main import PID, TAKEN

ASKED_MAX = 5  # spares in a row that died on their way, or with the same order before they took it


@dataclass(frozen=True, slots=True)
class Order:
    """What to make: a call of `entry` ("module:function", int result = exit code), or a program when `argv`
    is given.

    `env` is the whole environment; `name` is what `ps` shows for forked ones.
    """

    name: str
    env: Mapping[str, str]
    cwd: str
    entry: str = ""
    argv: Sequence[str] = ()
    arguments: Sequence[str] = ()  # sys.argv[1:] of an entry
    cpus: Sequence[int] = ()  # cores that it may run on; (): all


@dataclass(slots=True, eq=False)
class Spare:
    """A process that waits for an order. `pid` is 0 until it has arrived at its gate."""

    gate: int = -1
    theirs: int = -1  # its end of the gate, until the fork server has it
    pid: int = 0
    pidfd: int = -1
    asked: int = 0  # times, of the present fork server


@dataclass(slots=True, eq=False)
class Spawning:
    """A spawn. `pid` is 0 until a spare has taken the order; `done`: it runs what was ordered, or never will.

    `error` says why not. With a pid and an error (a program that cannot be executed) there is a child to be reaped.
    """

    order: Order
    stdio: tuple[int, int, int]
    request: int
    pid: int = 0
    pidfd: int = -1  # the caller's, once it is known
    error: OSError | None = None
    done: bool = False
    spare: Spare | None = None  # has the order at its gate and has not said that it took it
    given: int = 0  # to so many spares


class ForkServer:
    """The runtime's end: starts the fork server's process, keeps a spare, and hands out orders.

    The loop polls `fd` and then calls `advance`; it watches `pidfd`, reaps `pid` when it has ended, and calls
    `restart`, which begins another process and repeats what was under way. `stdio` is for the fork server itself.
    """

    def __init__(self, preload: Sequence[str], env: Mapping[str, str], stdio: tuple[int, int, int]) -> None:
        self._preload = list(preload)
        self._env = {**env, "PYTHONUNBUFFERED": "1"}
        self._stdio = stdio
        self._gates = select.epoll()
        self._spares: dict[int, Spare] = {}  # by gate
        self._waiting: deque[Spawning] = deque()  # for a spare
        self._ordered: dict[int, Spawning] = {}  # by gate: the order is sent
        self._orders: socket.socket | None = None
        self.fd = self._gates.fileno()
        self.pid = 0
        self.pidfd = -1
        self.started_s = 0.0
        self._start()
        self.keep_spares()

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            stdin, stdout, stderr = self._stdio
            child = subprocess.Popen(
                entrypoints.command(entrypoints.FORK_SERVER, str(theirs.fileno()), str(os.getpid()), *self._preload),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=self._env,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.pid = child.pid
        child.returncode = 0  # the loop reaps it, not Popen
        self.pidfd = os.pidfd_open(self.pid)
        self._orders = ours
        self.started_s = time.monotonic()

    def restart(self) -> None:
        """The process has ended and was reaped: start another one, and repeat what is under way."""
        self._let_go()
        self._start()
        for spare in list(self._spares.values()):
            if not spare.pid:
                spare.asked = 0  # it was not the spare's fault
                self._ask(spare)
        self.flush()

    def spawn(self, order: Order, stdio: tuple[int, int, int]) -> Spawning:
        """Have a child made; `stdio` is closed once the child has it. Raises OSError when descriptors run out."""
        request = os.memfd_create("order", os.MFD_CLOEXEC)
        plain = {
            "name": order.name,
            "env": dict(order.env),
            "cwd": order.cwd,
            "entry": order.entry,
            "argv": list(order.argv),
            "arguments": list(order.arguments),
            "cpus": list(order.cpus),
        }
        try:
            with open(request, "wb", closefd=False) as file:
                file.write(msgpack.packb(plain, unicode_errors="surrogateescape"))
        except BaseException:
            os.close(request)
            raise
        spawning = Spawning(order, stdio, request)
        self._waiting.append(spawning)
        self._hand_out()
        if self._waiting:
            self.keep_spares()
        return spawning

    # ---- spares

    def keep_spares(self) -> None:
        """Ask for as many as orders wait, and one more.

        Call it now and then: after a spawn the next spare is not made at once, where it would take the processor from
        the child that has just begun.
        """
        try:
            while len(self._spares) < len(self._waiting) + 1:
                self._ask(Spare())
        except OSError:
            if not self._spares:
                self._refuse(None, OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        self.flush()

    def _ask(self, spare: Spare) -> None:
        """Have a spare made, with a fresh gate. A process that comes to the old one finds it closed, and exits."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._drop(spare)
        ours.setblocking(False)
        spare.gate, spare.theirs = ours.detach(), theirs.detach()
        spare.asked += 1
        self._spares[spare.gate] = spare
        self._gates.register(spare.gate, select.EPOLLIN)

    def _drop(self, spare: Spare) -> None:
        if spare.gate >= 0:
            del self._spares[spare.gate]
            os.close(spare.gate)  # leaves the epoll set by itself
        for fd in (spare.theirs, spare.pidfd):
            if fd >= 0:
                os.close(fd)
        spare.gate = spare.theirs = spare.pidfd = -1

    def flush(self) -> None:
        """Ask for the spares that the fork server could not be asked for before. Never waits."""
        assert self._orders is not None
        for spare in self._spares.values():
            if spare.theirs < 0:
                continue
            try:
                fds = array.array("i", [spare.theirs])
                self._orders.sendmsg([b"1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            except (BlockingIOError, ConnectionError):
                return  # it is slow, or gone: the loop will see
            os.close(spare.theirs)
            spare.theirs = -1

    @property
    def busy(self) -> bool:
        """Whether a child may exist whose pid is not known yet."""
        return any(not spare.pid for spare in self._spares.values())

    @property
    def pids(self) -> set[int]:
        """The fork server's own, and those of the spares."""
        return {self.pid, *(spare.pid for spare in self._spares.values()), *self.untaken}

    @property
    def untaken(self) -> set[int]:
        """Pids of spares that have an order at their gate and have not said yet that they took it."""
        return {spawning.spare.pid for spawning in self._ordered.values() if spawning.spare is not None}

    def _hand_out(self) -> list[Spawning]:
        """Give orders to spares that are ready; the spawns that will never get one."""
        refused = []
        while self._waiting and self._waiting[0].done:
            refused.append(self._waiting.popleft())
        for spare in [spare for spare in self._spares.values() if spare.pid]:
            if not self._waiting:
                break
            spawning = self._waiting[0]
            fds = array.array("i", [spawning.request, *spawning.stdio])
            gate = socket.socket(fileno=spare.gate)
            try:
                gate.sendmsg([b"1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            except OSError:
                continue  # it was killed while it waited; `advance` will see the end of its gate
            finally:
                gate.detach()
            self._waiting.popleft()
            del self._spares[spare.gate]
            self._ordered[spare.gate] = spawning
            spawning.spare = spare
            spawning.given += 1
        return refused

    # ---- news

    def advance(self) -> list[Spawning]:
        """Take what came through the gates: the spawns that have a pid since, or are done."""
        found: list[Spawning] = []
        for gate, _ in self._gates.poll(0):
            if gate in self._ordered:
                found.extend(self._listen_to_child(gate))
            elif gate in self._spares:
                self._listen_to_spare(self._spares[gate])
        found.extend(self._hand_out())
        if self._waiting:
            self.keep_spares()
        return found

    def _listen_to_spare(self, spare: Spare) -> None:
        said = _read_gate(spare.gate)
        if said is None:
            return
        if len(said) == PID.size:
            (spare.pid,) = PID.unpack(said)
            try:
                spare.pidfd = os.pidfd_open(spare.pid)
            except (OSError, OverflowError):  # it is gone, or that is not the number of a process
                self._drop(spare)  # it finds its gate closed, and exits
        elif said:
            self._refuse(spare, _error_of(said))
        elif spare.pid or spare.asked >= ASKED_MAX:
            ever = bool(spare.pid)
            self._drop(spare)
            if not ever:
                self._refuse(None, OSError(0, "it ended before it began"))
        else:
            self._ask(spare)  # killed on its way; when the fork server was, `restart` asks again

    def _refuse(self, spare: Spare | None, error: OSError) -> None:
        """No process can be made: the order that has waited longest is not carried out."""
        if spare is not None:
            self._drop(spare)
        for spawning in self._waiting:
            if not spawning.done:
                spawning.error = error
                self._finish(spawning)
                return

    def _listen_to_child(self, gate: int) -> list[Spawning]:
        """The spawn at this gate, when there is news of it."""
        spawning = self._ordered[gate]
        news = False
        while (said := _read_gate(gate)) is not None:
            if said == TAKEN:
                self._took(spawning)
                news = True
            elif said:
                spawning.error = _error_of(said)
            else:
                del self._ordered[gate]
                os.close(gate)
                if spawning.spare is not None:
                    self._give_back(spawning, spawning.spare)
                    return []
                spawning.done = True
                return [spawning]
        return [spawning] if news else []

    def _took(self, spawning: Spawning) -> None:
        """The spare is the caller's child from here on."""
        assert spawning.spare is not None
        spawning.pid, spawning.pidfd = spawning.spare.pid, spawning.spare.pidfd
        spawning.spare = None
        self._let_stdio_go(spawning)

    def _give_back(self, spawning: Spawning, spare: Spare) -> None:
        """Its spare died before it took the order: the order is the next one to be handed out."""
        os.close(spare.pidfd)
        spawning.spare = None
        if spawning.given >= ASKED_MAX:
            spawning.error = spawning.error or OSError(0, "it ended before it began")
            self._finish(spawning)
        self._waiting.appendleft(spawning)

    def _let_stdio_go(self, spawning: Spawning) -> None:
        for fd in (spawning.request, *spawning.stdio):
            os.close(fd)

    def _finish(self, spawning: Spawning) -> None:
        self._let_stdio_go(spawning)
        spawning.done = True

    def _let_go(self) -> None:
        if self._orders is not None:
            self._orders.close()
            self._orders = None
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def close(self) -> None:
        """Let go of everything. The fork server's process ends by itself, and so do spares at their gates."""
        for spare in list(self._spares.values()):
            self._drop(spare)
        for spawning in self._waiting:
            self._finish(spawning)
        for gate, spawning in self._ordered.items():
            os.close(gate)
            if spawning.spare is not None:  # it finds its gate closed, and exits
                os.close(spawning.spare.pidfd)
                spawning.spare = None
                self._let_stdio_go(spawning)
            spawning.done = True
        self._waiting.clear()
        self._ordered.clear()
        self._let_go()
        self._gates.close()


def _read_gate(gate: int) -> bytes | None:
    """What came; b"" at its end, None when nothing came yet."""
    try:
        return os.read(gate, 4096)
    except BlockingIOError:
        return None
    except ConnectionError:
        return b""


def _error_of(said: bytes) -> OSError:
    number, _, text = said[1:].decode(errors="replace").partition(":")
    return OSError(int(number), text) if number.isdigit() else OSError(0, text)
