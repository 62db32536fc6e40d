"""Fault points: every line of ours that touches the world, made to kill, stop or fail its process on demand.

Python imports this module by itself, in each process of a run that is started with this folder on PYTHONPATH; outside
of tests nothing of it exists. It wraps the thin boundaries of a module when that is imported: LMDB's transactions,
bells, sockets, flock, the handlers of the loops. Modules that can be compiled pass their points themselves, by
noderuntime/ipc/fault_points.py. Each is a named point, and

    FAULTS='[{"who": "sums", "point": "put", "hit": 3, "action": "kill"}, ...]'

makes the third put of a process of node `sums` its last one. `who` is a node's id, or runtime, store, forkserver or
spare; hits are counted in each process anew. A fault fires once in a run: the file FAULTS_DIR/INDEX is made before it.

    kill    SIGKILL from within                     stop    SIGSTOP, and go on if somebody says so
    error   an exception that nobody expects        full    LMDB says that there is no room
    server  SIGKILL to the Redis server whose pid is in the file FAULTS_SERVER

The file FAULTS_SERVER is there while a server is up. A `server` fault takes it away with the server; when there is
none, the fault waits for a later hit. So each of these faults kills a server of its own.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NoReturn

HOOKED = "noderuntime_fault_injector"  # the name under which noderuntime/ipc/fault_points.py finds this module

PLAN = json.loads(os.environ.get("FAULTS", "[]"))
FOLDER = os.environ.get("FAULTS_DIR", "")

role = ""
hits: dict[str, int] = {}
acting = threading.Lock()  # a thread that kills this process must not cut off another one that kills the server


class Injected(Exception):
    """The exception of `error`."""


def who() -> str:
    return role or os.environ.get("NODERUNTIME_NODE", "")


def point(name: str) -> None:
    """Here something can go wrong."""
    hits[name] = count = hits.get(name, 0) + 1
    me = who()
    for index, fault in enumerate(PLAN):
        if fault["point"] == name and fault["hit"] <= count and fault["who"] == me:
            with acting:
                if fault["action"] == "server":
                    _kill_server(index)
                elif _fires(index):
                    _act(fault["action"], name)


def _fires(index: int) -> bool:
    try:
        os.close(os.open(os.path.join(FOLDER, str(index)), os.O_CREAT | os.O_EXCL | os.O_WRONLY))  # noqa: PTH118
    except FileExistsError:
        return False
    return True


def _act(action: str, name: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "full":
        import lmdb

        raise lmdb.MapFullError(f"injected at {name}")
    else:
        raise Injected(f"injected at {name}")


def _kill_server(index: int) -> None:
    """If one is up. It must be gone when this returns."""
    up = os.environ["FAULTS_SERVER"]
    taken = f"{up}.{index}"
    if os.path.exists(os.path.join(FOLDER, str(index))):  # noqa: PTH110, PTH118
        return
    try:
        os.rename(up, taken)  # noqa: PTH104
    except FileNotFoundError:
        return
    if not _fires(index):  # in another thread or process, meanwhile
        os.rename(taken, up)  # noqa: PTH104
        return
    with open(taken) as file:
        pid = int(file.read())
    with open(f"/proc/{pid}/comm") as file:
        assert file.read().startswith("redis-server")
    handle = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([handle], [], [])
    os.close(handle)


def around(owner: object, name: str, before: str = "", after: str = "") -> None:
    """Make a call of `owner.name` a point, or two."""
    real = getattr(owner, name)

    def call(*arguments: object, **named: object) -> object:
        if before:
            point(before)
        result = real(*arguments, **named)
        if after:
            point(after)
        return result

    setattr(owner, name, call)


class Stand:
    """Stands for a module or an object; what is set on it is taken instead."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Cursor(Stand):
    """A cursor of a write transaction."""

    def __iter__(self) -> Any:
        return iter(self._real)

    def delete(self) -> Any:
        point("delete")
        return self._real.delete()

    def putmulti(self, items: Any) -> None:
        for key, value in items:
            point("put")
            self._real.put(key, value)


class Transaction(Stand):
    """A write transaction with its points."""

    def put(self, *arguments: Any, **named: Any) -> Any:
        point("put")
        return self._real.put(*arguments, **named)

    def delete(self, *arguments: Any, **named: Any) -> Any:
        point("delete")
        return self._real.delete(*arguments, **named)

    def cursor(self) -> Any:
        return Cursor(self._real.cursor())

    def commit(self) -> None:
        point("commit")
        self._real.commit()
        point("committed")

    def __enter__(self) -> Any:
        self._real.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._real.__exit__(*error)


class Reading(Stand):
    """A read transaction, in which one can be stopped or killed."""

    def __enter__(self) -> Any:
        transaction = self._real.__enter__()
        point("read")
        return transaction

    def __exit__(self, *error: Any) -> Any:
        return self._real.__exit__(*error)


class Environment(Stand):
    def begin(self, write: bool = False, **named: Any) -> Any:
        if not write:
            return Reading(self._real.begin(**named))
        point("lock")
        transaction = Transaction(self._real.begin(write=True, **named))
        point("locked")
        return transaction


def space(module: Any) -> None:
    real = module.Space.__init__

    def begin(self: Any, folder: Any, env: Any, lock_word: Any) -> None:
        point("open")
        real(self, folder, Environment(env), lock_word)

    module.Space.__init__ = begin


def segments(module: Any) -> None:
    locks, system = Stand(module.fcntl), Stand(module.os)
    around(locks, "flock", "flock", "flocked")
    around(system, "posix_fallocate", "allocate", "allocated")
    module.fcntl, module.os = locks, system
    around(module.SegmentPool, "fill", "fill", "filled")
    around(module.SegmentViews, "lease", "lease", "leased")


def bells(module: Any) -> None:
    around(module, "ring", "ring", "rung")


def channel(module: Any) -> None:
    for kind in (module.Dealer, module.Router):
        _sending(kind)
    real = module.Dealer.receive_nowait

    def receive_nowait(self: Any) -> Any:
        message = real(self)
        if message is not None:
            point(f"received {type(message).__name__}")
        return message

    module.Dealer.receive_nowait = receive_nowait


def _sending(kind: Any) -> None:
    real = kind.send

    def send(self: Any, *arguments: Any) -> Any:
        name = next(type(item).__name__ for item in arguments if type(item) is not bytes)
        point(f"send {name}")
        result = real(self, *arguments)
        point(f"sent {name}")
        return result

    kind.send = send


def operator_main(module: Any) -> None:
    around(module, "main", "begin")


def node(module: Any) -> None:
    around(module.Node, "send_output", "stage", "staged")


def store(module: Any) -> None:
    real_main = module.main

    def main(*arguments: Any) -> Any:
        global role
        role = "store"
        hits.clear()
        point("begin")
        return real_main(*arguments)

    module.main = main


def store_operations(module: Any) -> None:
    real_handle = module.Store.handle

    def handle(self: Any, request: Any) -> Any:
        point(f"request {request.operation}")
        reply = real_handle(self, request)
        point(f"answer {request.operation}")
        return reply

    module.Store.handle = handle
    around(module.Store, "housekeeping", "housekeeping")


def fork_server(module: Any) -> None:
    real_serve, real_call, real_wait = module.serve, module._call, module._wait_at_gate

    def serve(*arguments: Any) -> Any:
        global role
        role = "forkserver"
        return real_serve(*arguments)

    def wait_at_gate(*arguments: Any) -> Any:
        global role
        role = "spare"
        hits.clear()
        point("become")
        return real_wait(*arguments)

    def call(order: Any) -> Any:
        global role
        role = ""
        point("called")
        return real_call(order)

    module.serve, module._wait_at_gate, module._call = serve, wait_at_gate, call
    around(module, "_make", "make", "made")
    around(module, "_receive", "", "ordered")


def runtime(module: Any) -> None:
    real = module.run

    def run(*arguments: Any) -> Any:
        global role
        role = "runtime"
        return real(*arguments)

    module.run = run
    around(module.Runtime, "_look", "look")
    around(module.Runtime, "_opened", "", "started")
    around(module.Runtime, "_lay_out", "opened")
    around(module.Runtime, "_finish", "finish")
    around(module.Runtime, "_end", "end")


def applying(module: Any) -> None:
    around(module.Applying, "begin", "apply asked", "apply begun")
    around(module.Applying, "_checked", "apply checked", "apply tries")
    around(module.Applying, "_got_numbers", "apply numbers")
    around(module.Applying, "_switch", "apply switch", "apply switching")
    around(module.Applying, "_switched", "apply switched", "apply done")


def moving(module: Any) -> None:
    around(module.Moving, "_moved", "apply moved", "apply moved it")


def draining(module: Any) -> None:
    around(module.Draining, "_settled", "apply settled", "apply settled it")


def tap_server(module: Any) -> None:
    real_main = module.main

    def main(*arguments: Any) -> Any:
        global role
        role = "taps"
        hits.clear()
        point("begin")
        return real_main(*arguments)

    module.main = main
    around(module.Server, "_hear", "tap heard")
    around(module.Server, "_send", "tap send", "tap sent")
    around(module.Server, "_end", "tap end", "tap ended")


def mailboxes(module: Any) -> None:
    around(module.Mailboxes, "follow", "tap", "tapped")
    around(module.Mailboxes, "take", "tap take", "tap taken")


def children(module: Any) -> None:
    real_do, real_feed = module.Child._do, module.Child.feed

    def do(self: Any, action: Any) -> None:
        point(f"do {type(action).__name__}")
        real_do(self, action)
        point(f"done {type(action).__name__}")

    def feed(self: Any, event: Any, **named: Any) -> Any:
        if type(event).__name__ != "Vitals":
            point(f"event {type(event).__name__}")
        return real_feed(self, event, **named)

    module.Child._do, module.Child.feed = do, feed


def process(module: Any) -> None:
    around(module, "reap", "reap", "reaped")


def memory_state(module: Any) -> None:
    around(module.MemoryState, "_change", "kvs", "kvs done")


def table_state(module: Any) -> None:
    for call in ("set_once", "delete_once", "merge_once"):
        around(module.TableState, call, "kvs", "kvs done")
    around(module.TableState, "purge", "purge", "purged")


def redis_state(module: Any) -> None:
    around(module.RedisState, "purge", "purge", "purged")


def redis_connection(module: Any) -> None:
    around(module.AbstractConnection, "send_packed_command", "server send", "server sent")
    around(module.AbstractConnection, "read_response", "", "server told")


class Connection(Stand):
    """A connection to SQLite with its points."""

    def execute(self, *arguments: Any) -> Any:
        point("sql")
        found = self._real.execute(*arguments)
        point("sql done")
        return found


def sqlite_state(module: Any) -> None:
    real = module.sqlite3
    module.sqlite3 = Stand(real)
    module.sqlite3.connect = lambda *arguments, **named: Connection(real.connect(*arguments, **named))


def subscription(module: Any) -> None:
    _subscribing(module.Subscription)


def external_subscription(module: Any) -> None:
    _subscribing(module.ExternalSubscription)


def _subscribing(kind: type) -> None:
    around(kind, "add", "subscribe", "subscribed")
    around(kind, "read", "look", "looked")


def store_state(module: Any) -> None:
    around(module.StateOperations, "purge", "purge", "purged")
    around(module, "sow_here", "sow", "sown")


def store_start(module: Any) -> None:
    around(module.Start, "_read_seeds", "seeds", "seeds read")
    around(module, "sow", "sow", "sown")


def store_outbox(module: Any) -> None:
    around(module, "apply_entry", "apply", "applied")


def store_external(module: Any) -> None:
    around(module.ExternalRequests, "take", "forward", "forwarded")
    around(module.ExternalRequests, "_answer", "carry out", "carried out")
    around(module.ExternalRequests, "_done", "done")


POINTS = {
    "noderuntime.space.environment": space, "noderuntime.space.segments": segments, "noderuntime.ipc.doorbell": bells,
    "noderuntime.ipc.channel": channel, "noderuntime.node.operator_main": operator_main,
    "noderuntime.node.custom_node": node, "noderuntime.store.__main__": store,
    "noderuntime.store.operations": store_operations, "noderuntime.runtime.forkserver_main": fork_server,
    "noderuntime.runtime.runtime": runtime, "noderuntime.runtime.children": children,
    "noderuntime.runtime.applying": applying, "noderuntime.runtime.draining": draining,
    "noderuntime.runtime.moving": moving,
    "noderuntime.ipc.process": process,
    "noderuntime.watching.server": tap_server, "noderuntime.watching.mailboxes": mailboxes,
    "noderuntime.state.memory": memory_state, "noderuntime.state.common": table_state,
    "noderuntime.state.redis": redis_state, "noderuntime.state.sqlite": sqlite_state,
    "noderuntime.state.external": external_subscription, "noderuntime.space.watches": subscription,
    "noderuntime.store.kvs": store_state, "noderuntime.store.startup": store_start,
    "noderuntime.store.outbox": store_outbox, "noderuntime.store.external": store_external,
    "redis.connection": redis_connection,
}  # fmt: skip


class Finder(importlib.abc.MetaPathFinder):
    """Finds our modules as the other finders do, and puts the points in after their execution."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        wrap = POINTS.get(name)
        if wrap is None:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                _follow(spec.loader, wrap)
                return spec
        return None


def _follow(loader: Any, wrap: Callable[[Any], None]) -> None:
    if isinstance(loader, importlib.machinery.ExtensionFileLoader):
        _refuse(f"{loader.name} is compiled: its functions call each other directly, so its points are in its source")
    real = loader.exec_module

    def exec_module(module: Any) -> None:
        real(module)
        before = set(vars(module))
        try:
            wrap(module)
            if new := set(vars(module)) - before:
                raise AttributeError(f"module {module.__name__!r} has no attribute {new.pop()!r}")
        except AttributeError as error:
            _refuse(f"{module.__name__}: {error}")

    loader.exec_module = exec_module


def _check_modules() -> None:
    """Each module of POINTS exists: one that was renamed would be patched no more, and tests would be weaker."""
    folders = {name: importlib.util.find_spec(name) for name in {n.split(".")[0] for n in POINTS}}
    for name in POINTS:
        package, *path = name.split(".")
        spec = folders[package]
        where = (spec.submodule_search_locations if spec is not None else None) or []
        if not any(os.path.exists(os.path.join(folder, *path) + ".py") for folder in where):  # noqa: PTH110, PTH118
            _refuse(f"there is no module {name}")


def _refuse(why: str) -> NoReturn:
    """End this process: Python would go on after an exception of this module, without any fault."""
    os.write(2, f"fault injector: {why}\n".encode())
    os._exit(70)


if PLAN:
    _check_modules()
    sys.modules[HOOKED] = sys.modules[__name__]
    sys.meta_path.insert(0, Finder())
