"""The fork server's own process: forks spares, each of which becomes what it is ordered to be.

One thread, modules imported, never a ZeroMQ context or the space open, so that a fork of it is clean. How it talks with
the runtime is in the docstring of forkserver.py.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import os
import random
import signal
import socket
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import msgpack

from noderuntime.ipc import entrypoints, process

ADOPTION_POLL_S = 0.0002
PID = struct.Struct("=q")  # what a spare says first
TAKEN = b"+"  # what it says when it has its order, before it does anything of it

_INT_BYTES = array.array("i").itemsize
_ORDER_FDS = 4  # the order itself, stdin, stdout, stderr


def main() -> NoReturn:
    """argv: descriptor of the orders, pid of the runtime, modules to import beforehand."""
    fd, runtime, *preload = sys.argv[1:]
    process.die_with_parent(int(runtime))
    os.set_inheritable(int(fd), False)
    process.set_name("nr-forkserver")
    for name in preload:
        importlib.import_module(name)
    sys.exit(serve(int(fd), int(runtime), [name for name in entrypoints.WARM if name in sys.modules]))


def serve(fd: int, runtime: int, warm: Sequence[str]) -> int:
    """Make spares until the other end closes."""
    orders = socket.socket(fileno=fd)
    gc.collect()
    gc.freeze()  # or the first collection in each child would copy all pages
    while True:
        body, fds = _receive(orders, 1)
        if not body:
            return 0
        for gate in fds:
            _make(gate, orders, runtime, warm)
            os.close(gate)


def _receive(sock: socket.socket, fds_max: int) -> tuple[bytes, list[int]]:
    room = socket.CMSG_SPACE(fds_max * _INT_BYTES)
    body, ancillary, _, _ = sock.recvmsg(16, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _INT_BYTES])
    return body, list(fds)


def _make(gate: int, orders: socket.socket, runtime: int, warm: Sequence[str]) -> None:
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
        _wait_at_gate(gate, between, runtime, warm)
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


def _wait_at_gate(gate: int, between: int, runtime: int, warm: Sequence[str]) -> NoReturn:
    """The spare: become the runtime's own, and wait for an order."""
    while os.getppid() == between:
        time.sleep(ADOPTION_POLL_S)
    process.die_with_parent(runtime)
    os.setsid()
    process.set_name("nr-spare")
    os.write(gate, PID.pack(os.getpid()))
    for name in warm:
        importlib.import_module(name).warm_up()
    sock = socket.socket(fileno=gate)
    body, fds = _receive(sock, _ORDER_FDS)
    sock.detach()
    if not body or len(fds) != _ORDER_FDS:
        os._exit(1)
    os.write(gate, TAKEN)
    request, *stdio = fds
    for wanted, fd in enumerate(stdio):
        os.dup2(fd, wanted)
        os.close(fd)
    packed = os.pread(request, os.fstat(request).st_size, 0)
    order: dict[str, Any] = msgpack.unpackb(packed, unicode_errors="surrogateescape")
    os.close(request)
    os.chdir(order["cwd"])
    if order["cpus"]:
        os.sched_setaffinity(0, order["cpus"])
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
