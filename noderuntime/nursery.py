"""The nursery: a warm interpreter that makes all children of a run, operators in milliseconds. Floor 3.

`serve` is the nursery's own process: one thread, modules imported, never a ZeroMQ context or the space open,
so that a fork of it is clean. `Nursery` is the runtime's end. One request makes one process:

    runtime    memfd with the request, gate, stdin, stdout, stderr  --SCM_RIGHTS-->  nursery
    nursery    fork; the one in between forks the child and exits, so that the child becomes the runtime's own
               (which is a subreaper): its exit status arrives there, and it survives the nursery
    child      waits until the runtime is its parent; PR_SET_PDEATHSIG, setsid; its pid --gate--> runtime
    runtime    opens a pidfd (the child is its own and not reaped: the number is right), "go" --gate--> child
    child      calls its entry point, or execs its program; an error --gate--> runtime; else the gate closes

The gate is a socket pair of one spawn. It keeps the nursery without state: when the nursery dies, the runtime
closes the gates that are not through and asks the next one again. A child of the dead one then reads the end
of its gate and exits before it has done anything. So there is exactly one process for one spawn.

Rejected: fork from the runtime (it has ZeroMQ's threads); a reply by the nursery (it could die after the fork
and before the reply); CLONE_PARENT instead of the second fork (glibc would keep the old thread id in the
child, and LMDB's robust mutex records exactly that).
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgpack

from noderuntime import process

PRELOAD = ("noderuntime.operator_host", "noderuntime.store")
ADOPTION_POLL_S = 0.0002
ASKED_MAX = 5

_GO = b"g"
_PID = struct.Struct("=q")
_INT_BYTES = array.array("i").itemsize
_FDS = 5  # request, gate, stdin, stdout, stderr


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


# ---- the nursery's own process


def serve(fd: int, runtime: int) -> int:
    """Make children until the other end closes."""
    orders = socket.socket(fileno=fd)
    gc.collect()
    gc.freeze()  # or the first collection in each child would copy all pages
    while True:
        body, fds = _receive(orders)
        if not body:
            return 0
        if len(fds) == _FDS:
            _make(fds, orders, runtime)
        for held in fds:
            os.close(held)


def _receive(orders: socket.socket) -> tuple[bytes, list[int]]:
    room = socket.CMSG_SPACE(_FDS * _INT_BYTES)
    body, ancillary, _, _ = orders.recvmsg(16, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _INT_BYTES])
    return body, list(fds)


def _make(fds: list[int], orders: socket.socket, runtime: int) -> None:
    gate = fds[1]
    try:
        between = _fork()
    except OSError as error:
        _complain(gate, error)
        return
    if between:
        os.waitpid(between, 0)
        return
    try:
        between = os.getpid()
        if _fork():
            os._exit(0)
        orders.close()
        _become(fds, between, runtime)
    except OSError as error:
        _complain(gate, error)
    finally:
        os._exit(1)


def _fork() -> int:
    with warnings.catch_warnings():
        # numpy's idle threads make newer interpreters warn; they are re-created after the fork
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _complain(gate: int, error: OSError) -> None:
    with contextlib.suppress(OSError):
        os.write(gate, f"!{error.errno}:{error.strerror}".encode())


def _become(fds: list[int], between: int, runtime: int) -> NoReturn:
    """The child: pass the gate, then be what was ordered."""
    request, gate, *stdio = fds
    while os.getppid() == between:
        time.sleep(ADOPTION_POLL_S)
    process.die_with_parent(runtime)
    os.setsid()
    for wanted, fd in enumerate(stdio):
        os.dup2(fd, wanted)
        os.close(fd)
    packed = os.pread(request, os.fstat(request).st_size, 0)
    order: dict[str, Any] = msgpack.unpackb(packed, unicode_errors="surrogateescape")
    os.close(request)
    os.write(gate, _PID.pack(os.getpid()))
    if os.read(gate, 1) != _GO:
        os._exit(1)
    os.chdir(order["cwd"])
    if order["argv"]:
        _execute(gate, order)
    os.close(gate)
    code = 1
    try:
        code = _call(order)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code & 0xFF)


def _execute(gate: int, order: dict[str, Any]) -> NoReturn:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, programs do not expect that
    try:
        os.execve(order["argv"][0], order["argv"], order["env"])
    except OSError as error:
        _complain(gate, error)
    os._exit(127)


def _call(order: dict[str, Any]) -> int:
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    process.set_name(order["name"])
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    module, _, function = order["entry"].partition(":")
    sys.argv = [module, *order["arguments"]]
    code: int = getattr(importlib.import_module(module), function)()
    return code


# ---- the runtime's end


@dataclass(slots=True, eq=False)
class Spawning:
    """A spawn under way. `pid` is known once the child stands at the gate; `done` when it is through, or will
    never be: then `error` says why. With a pid and an error (a program that cannot be executed) there is a
    child to be reaped."""

    order: Order
    stdio: tuple[int, int, int]
    request: int
    pid: int = 0
    pidfd: int = -1  # belongs to the caller once it is known
    error: OSError | None = None
    done: bool = False
    gate: int = -1
    theirs: int = -1  # the child's end of the gate, until the nursery has it
    asked: int = 0


class Nursery:
    """The runtime's end: starts the nursery's process, and has it make children.

    The loop polls `fd` and then calls `advance`; it watches `pidfd`, reaps `pid` when it has ended, and calls
    `restart`, which begins another process and repeats what was under way. `stdio` is for the nursery itself.
    """

    def __init__(self, preload: Sequence[str], env: Mapping[str, str], stdio: tuple[int, int, int]) -> None:
        self._preload = list(preload)
        self._env = {**env, "PYTHONUNBUFFERED": "1"}
        self._stdio = stdio
        self._under_way: dict[int, Spawning] = {}  # by gate
        self._gates = select.epoll()
        self._orders: socket.socket | None = None
        self.fd = self._gates.fileno()
        self.pid = 0
        self.pidfd = -1
        self.started_s = 0.0
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            # -P: a file of the user's called queue.py must not become our queue. The root is for a checkout
            # that is not installed.
            root = str(Path(__file__).parent.parent)
            code = (
                "import sys; sys.path.append(sys.argv.pop(1)); from noderuntime.nursery import main; main()"
            )
            stdin, stdout, stderr = self._stdio
            child = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-c",
                    code,
                    root,
                    str(theirs.fileno()),
                    str(os.getpid()),
                    *self._preload,
                ],
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
        for spawning in list(self._under_way.values()):
            if not spawning.pid:
                self._ask(spawning)
        self.flush()

    def spawn(self, order: Order, stdio: tuple[int, int, int]) -> Spawning:
        """Have a child made; `stdio` is closed once the child has it. OSError: descriptors ran out."""
        request = os.memfd_create("order", os.MFD_CLOEXEC)
        plain = {
            "name": order.name,
            "env": dict(order.env),
            "cwd": order.cwd,
            "entry": order.entry,
            "argv": list(order.argv),
            "arguments": list(order.arguments),
        }
        spawning = Spawning(order, stdio, request)
        try:
            with open(request, "wb", closefd=False) as file:
                file.write(msgpack.packb(plain, unicode_errors="surrogateescape"))
            self._ask(spawning)
        except BaseException:
            os.close(request)
            raise
        self.flush()
        return spawning

    def _ask(self, spawning: Spawning) -> None:
        """A fresh gate. Whoever still stands at the old one finds it closed, and exits."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._close_gate(spawning)
        ours.setblocking(False)
        spawning.gate, spawning.theirs = ours.detach(), theirs.detach()
        spawning.asked += 1
        self._under_way[spawning.gate] = spawning
        self._gates.register(spawning.gate, select.EPOLLIN)

    def _close_gate(self, spawning: Spawning) -> None:
        if spawning.gate >= 0:
            del self._under_way[spawning.gate]
            os.close(spawning.gate)  # leaves the epoll set by itself
        if spawning.theirs >= 0:
            os.close(spawning.theirs)
        spawning.gate = spawning.theirs = -1

    def flush(self) -> None:
        """Send the orders that the nursery did not take before. Never waits."""
        for spawning in self._under_way.values():
            if spawning.theirs < 0:
                continue
            assert self._orders is not None
            fds = array.array("i", [spawning.request, spawning.theirs, *spawning.stdio])
            try:
                self._orders.sendmsg([b"1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            except (BlockingIOError, ConnectionError):
                return  # it is slow, or gone: the loop will see
            os.close(spawning.theirs)
            spawning.theirs = -1

    @property
    def busy(self) -> bool:
        """Whether a child may exist whose pid is not known yet."""
        return any(not spawning.pid for spawning in self._under_way.values())

    def advance(self) -> list[Spawning]:
        """Take what came through the gates: the spawns that have a pid since, or are done."""
        found: list[Spawning] = []
        for gate, _ in self._gates.poll(0):
            spawning = self._under_way.get(gate)
            if spawning is not None and self._listen(spawning):
                found.append(spawning)
        self.flush()
        return found

    def _listen(self, spawning: Spawning) -> bool:
        """Whether something is new."""
        news = False
        while True:
            try:
                said = os.read(spawning.gate, 4096)
            except BlockingIOError:
                return news
            except ConnectionError:
                said = b""
            if len(said) == _PID.size:
                (pid,) = _PID.unpack(said)
                try:
                    spawning.pidfd = os.pidfd_open(pid)
                    spawning.pid = pid
                    os.write(spawning.gate, _GO)
                except ConnectionError:
                    pass
                except OSError as error:
                    spawning.error = error
                news = True
            elif said:
                number, _, text = said[1:].decode(errors="replace").partition(":")
                spawning.error = OSError(int(number) if number.isdigit() else 0, text)
            else:
                if not spawning.pid and spawning.error is None:
                    if spawning.asked < ASKED_MAX:
                        self._ask(
                            spawning
                        )  # killed before it began; or the nursery was, then restart asks again
                        return news
                    spawning.error = OSError(0, "it ended before it began")
                self._finish(spawning)
                return True

    def _finish(self, spawning: Spawning) -> None:
        self._close_gate(spawning)
        for fd in (spawning.request, *spawning.stdio):
            os.close(fd)
        spawning.done = True

    def _let_go(self) -> None:
        if self._orders is not None:
            self._orders.close()
            self._orders = None
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def close(self) -> None:
        """Let go of everything. The nursery's process ends by itself, and so do children at their gates."""
        for spawning in list(self._under_way.values()):
            self._finish(spawning)
        self._let_go()
        self._gates.close()


def main() -> NoReturn:
    """argv: descriptor of the orders, pid of the runtime, modules to import beforehand."""
    fd, runtime, *preload = sys.argv[1:]
    process.die_with_parent(int(runtime))
    os.set_inheritable(int(fd), False)
    process.set_name("nr-nursery")
    for name in preload:
        importlib.import_module(name)
    sys.exit(serve(int(fd), int(runtime)))
