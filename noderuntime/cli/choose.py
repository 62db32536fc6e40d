"""Which run is meant: by its name, or the only one there is."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noderuntime.cli.output import CommandError
from noderuntime.errors import NotRunning
from noderuntime.identifiers import directory_name, nearest
from noderuntime.rundir import RunDir, home, state_home


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run that has a run directory. `running` as it was when we looked; `started` in seconds since the
    epoch."""

    name: str
    running: bool
    paths: RunDir
    pid: int
    guard: int
    file: str
    started: float
    log_dir: Path

    @property
    def state(self) -> str:
        return "running" if self.running else "interrupted"

    def is_running(self) -> bool:
        """Whether it is running now."""
        return _is_locked(self.paths.lock)

    @contextlib.contextmanager
    def hold(self) -> Iterator[int]:
        """Keep an interrupted run from being resumed or removed. Gives the descriptor of its lock."""
        try:
            lock = os.open(self.paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            raise NotRunning(f"the run {self.name!r} is gone") from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CommandError(f"somebody else uses the run {self.name!r} just now; try again") from None
            yield lock
        finally:
            os.close(lock)

    def remove(self) -> bool:
        """Remove what an interrupted run left. False when it is running again, or gone."""
        with contextlib.suppress(NotRunning, CommandError), self.hold():
            shutil.rmtree(self.paths.root)
            return True
        return False


def known_runs() -> list[KnownRun]:
    """The runs of this user that have a run directory: running and interrupted ones, by name."""
    folder = home(os.environ, os.getuid())
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return []
    return sorted((run for path in paths if (run := _read(RunDir(path)))), key=lambda run: run.name)


def find(name: str) -> KnownRun:
    """The run of that name. NotRunning, with the nearest name, when there is none."""
    runs = known_runs()
    for run in runs:
        if run.name == name:
            return run
    near = nearest(name, [run.name for run in runs])
    hint = f"Did you mean {near!r}?" if near else "See `noderuntime ps -a`."
    raise NotRunning(f"there is no run {name!r}", hint)


def choose(name: str | None, interrupted: bool = False) -> KnownRun:
    """The run of that name, or the only one that is running (then the name may be None).

    With `interrupted`, an interrupted run will do; without a name, when it is the only one and none is
    running.
    """
    if name is not None:
        run = find(name)
        if not run.running and not interrupted:
            raise NotRunning(f"the run {name!r} is interrupted, not running")
        return run
    runs = known_runs()
    running = [run for run in runs if run.running]
    candidates = running or (runs if interrupted else [])
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise NotRunning("several runs are there; name one of them", _names(candidates))
    raise NotRunning("no run is running")


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """A run whose logs are kept; it may have ended long ago."""

    name: str
    log_dir: Path
    run: KnownRun | None

    def is_running(self) -> bool:
        return self.run is not None and self.run.is_running()

    def nodes(self) -> list[str]:
        """The nodes that have left logs, by name."""
        return sorted(path.name.removesuffix(".jsonl") for path in self.log_dir.glob("*.jsonl"))


def choose_logs(name: str | None, node: str | None) -> tuple[LoggedRun, str]:
    """The run whose logs are meant, and the node ("" for all).

    A single name that is no run's is a node of the only running run, or of the one that ran last.
    """
    if name is None:
        return _latest(), ""
    found = _logged(name)
    if found is not None:
        return found, node or ""
    if node is not None:
        raise _no_logs(name)
    with contextlib.suppress(NotRunning):
        latest = _latest()
        if name in latest.nodes():
            return latest, name
    raise _no_logs(name)


def _logged(name: str) -> LoggedRun | None:
    """The logs of the run of that name: of the one that is there, else of the last one that was."""
    for run in known_runs():
        if run.name == name and run.log_dir.is_dir():
            return LoggedRun(name, run.log_dir, run)
    newest = _newest(state_home(os.environ) / directory_name(name))
    return LoggedRun(name, newest, None) if newest else None


def _latest() -> LoggedRun:
    """The logs of the only running run; when none is running, of the one that began last."""
    running = [run for run in known_runs() if run.running]
    if len(running) > 1:
        raise NotRunning("several runs are running; name one of them", _names(running))
    if running:
        return LoggedRun(running[0].name, running[0].log_dir, running[0])
    folders = _folders(state_home(os.environ))
    newest = [found for folder in folders if (found := _newest(folder))]
    if not newest:
        raise NotRunning("no run has left any logs", "")
    last = max(newest, key=lambda path: path.name)
    return LoggedRun(last.parent.parent.name, last, None)


def _newest(folder: Path) -> Path | None:
    """The logs of the last run in a folder of the state directory; their names are stamps that sort by
    time."""
    return max(_folders(folder / "logs"), default=None)


def _folders(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir()]
    except OSError:
        return []


def _no_logs(name: str) -> NotRunning:
    known = {run.name for run in known_runs()} | {path.name for path in _folders(state_home(os.environ))}
    near = nearest(name, known)
    return NotRunning(f"there are no logs of a run {name!r}", f"Did you mean {near!r}?" if near else "")


def _names(runs: list[KnownRun]) -> str:
    return f"There are: {', '.join(run.name for run in runs)}."


def _read(paths: RunDir) -> KnownRun | None:
    try:
        said = json.loads(paths.run_file.read_text())
        return KnownRun(
            name=said["name"],
            running=_is_locked(paths.lock),
            paths=paths,
            pid=int(said["pid"]),
            guard=int(said["guard"]),
            file=said["file"],
            started=float(said["started"]),
            log_dir=Path(said["log_dir"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # just beginning, or just being removed


def _is_locked(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
