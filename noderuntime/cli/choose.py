"""Which run is meant: by its name, or the only one there is."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from noderuntime.cli.output import USAGE, CommandError, UsageError
from noderuntime.dataflow.identifiers import nearest, node_of
from noderuntime.errors import NotRunning
from noderuntime.ipc import runs, state_folders
from noderuntime.ipc.rundir import RunDir, state_home
from noderuntime.ipc.runs import Run, RunFile

RUNNING = "running"


def known_runs() -> list[Run]:
    """The runs of this user that have a folder: running, interrupted and failed ones, by name."""
    return runs.list_runs(os.environ)


def find(name: str) -> Run:
    """The run of that name. NotRunning, with the nearest name, when there is none."""
    found = runs.find_run(name, os.environ)
    if found is not None:
        return found
    near = nearest(name, [run.name for run in known_runs()])
    raise NotRunning(f"there is no run {name!r}", f"Did you mean {near!r}?" if near else "See `noderuntime ps -a`.")


def choose(name: str | None, interrupted: bool = False) -> Run:
    """The run of that name, or the only one that is running (then the name may be None).

    With `interrupted`, an interrupted or failed run will do; without a name, when it is the only one and none is
    running.
    """
    if name is not None:
        run = find(name)
        if run.state != RUNNING and not interrupted:
            what = "was interrupted" if run.state == "interrupted" else "has failed"
            raise NotRunning(f"the run {name!r} {what}, it is not running")
        return run
    known = known_runs()
    candidates = [run for run in known if run.state == RUNNING] or (known if interrupted else [])
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise _several(candidates)
    raise NotRunning("no run is running")


def one_name(name: str | None, given: str | None, command: str) -> str | None:
    """The run's name, from its place on the command line or from --run. Raises UsageError when both give one."""
    if name is not None and given is not None and name != given:
        what = f"--run says {given!r}, and the first word {name!r}; give one of them"
        raise UsageError(what, f"noderuntime {command}")
    return name if given is None else given


def is_running(run: Run) -> bool:
    """Whether that very run, and not one that began later under its name, is running now."""
    return runs.is_running(run, os.environ)


@contextlib.contextmanager
def hold(run: Run) -> Iterator[int]:
    """Keep an interrupted run from being resumed or removed. Gives the descriptor of its lock."""
    try:
        lock = os.open(run.run_dir.lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        raise NotRunning(f"the run {run.name!r} is gone") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(f"another command is using the run {run.name!r}; try again") from None
        if not run.run_dir.lock.exists():  # removed between our open and our lock
            raise NotRunning(f"the run {run.name!r} is gone")
        yield lock
    finally:
        os.close(lock)


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """A run whose logs are kept; it may have ended long ago (then `run` is None)."""

    name: str
    log_dir: Path
    run: Run | None

    def is_running(self) -> bool:
        return self.run is not None and is_running(self.run)

    def check(self) -> None:
        """CommandError when the logs of a run that is still running were removed."""
        if not self.log_dir.is_dir():
            raise CommandError(
                f"the logs of the run {self.name!r} were removed: there is no {self.log_dir}. It is made anew with "
                "the next line"
            )

    def nodes(self) -> list[str]:
        """The nodes that have left logs, by name."""
        names = [path.name.removesuffix(".jsonl") for path in self.log_dir.glob("*.jsonl")]
        return sorted({*names, *map(node_of, names)})


def choose_logs(words: Sequence[str], given: str | None) -> tuple[LoggedRun, str]:
    """The run whose logs are meant, and the node ("" for all). `words`: [RUN] [NODE]; `given`: of --run.

    A single word is the name of a run, or a node of the only running run, or of the one that ran last. Raises
    NotRunning, and CommandError (code 2) for a word that could be both, and for a node that the run does not have.
    """
    if given is not None:
        if len(words) > 1 and words[0] != given:
            raise UsageError(f"--run says {given!r}; then only NODE may follow, not {words[0]!r}", "noderuntime logs")
        return _named(given), _node_of(_named(given), words[-1]) if words else ""
    if not words:
        return _latest(), ""
    if len(words) > 1:
        found = _named(words[0])
        return found, _node_of(found, words[1])
    (word,) = words
    run, latest = _logged(word), None
    with contextlib.suppress(NotRunning):
        latest = _latest()
    is_node = latest is not None and word in latest.nodes()
    if run is not None and latest is not None and is_node:
        raise CommandError(
            f"{word!r} is a run, and a node of the run {latest.name!r}. Say `logs --run {word}` for the run, or "
            f"`logs --run {latest.name} {word}` for the node",
            USAGE,
        )
    if run is not None:
        return run, ""
    if latest is not None and is_node:
        return latest, word
    raise _no_logs(word, latest.nodes() if latest is not None else ())


def _named(name: str) -> LoggedRun:
    found = _logged(name)
    if found is None:
        raise _no_logs(name, ())
    return found


def _no_logs(name: str, nodes: Iterable[str]) -> NotRunning:
    left = {state_folders.name_of(folder) for folder in _folders(state_home(os.environ))}
    known = {run.name for run in known_runs()} | left
    near = nearest(name, {*known, *nodes} - {name})
    return NotRunning(f"there are no logs of a run {name!r}", f"Did you mean {near!r}?" if near else "")


def _node_of(run: LoggedRun, node: str) -> str:
    run.check()
    nodes = run.nodes()
    if node in nodes:
        return node
    near = nearest(node, nodes)
    hint = f"did you mean {near!r}?" if near else f"its nodes are: {', '.join(nodes) or 'none'}"
    raise CommandError(f"the run {run.name!r} has no node {node!r}; {hint}", USAGE)


def _logged(name: str) -> LoggedRun | None:
    """The logs of the run of that name: of the one that is there, else of the last one that was."""
    run = runs.find_run(name, os.environ)
    if run is not None and (run.state == RUNNING or Path(run.file.log_dir).is_dir()):
        return LoggedRun(name, Path(run.file.log_dir), run)
    folders = runs.log_folders(name, os.environ)
    return LoggedRun(name, folders[0], None) if folders else None


def ended_runs() -> list[LoggedRun]:
    """The last run of each name whose logs are kept, the one that began last first."""
    last: dict[str, Path] = {}
    for folder in _folders(state_home(os.environ)):
        name = state_folders.name_of(folder)
        logs = [*_folders(folder / "logs"), *([last[name]] if name in last else [])]
        if logs:
            last[name] = max(logs, key=_stamp)
    by_time = sorted(last.items(), key=lambda item: _stamp(item[1]), reverse=True)
    return [LoggedRun(name, folder, None) for name, folder in by_time]


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run without a space. `state`: finished | stopped | failed | lost (with its machine, or removed after it was
    killed); `resumable`: it has snapshots that `--resume` can continue from."""

    file: RunFile
    state: str
    resumable: bool

    @property
    def name(self) -> str:
        return self.file.name


def past_runs(known: Iterable[Run]) -> list[PastRun]:
    """The last run of each dataflow file and name that is not among the `known` ones, by name, as far as its logs are
    kept."""
    seen = {(run.name, run.file.file) for run in known}
    found = []
    for folder in _folders(state_home(os.environ)):
        logs = _folders(folder / "logs")
        file = RunFile.read(RunDir(max(logs, key=_stamp))) if logs else None
        if file is None or (file.name, file.file) in seen:
            continue
        seen.add((file.name, file.file))
        state = file.ended or "lost"
        found.append(PastRun(file, state, state != "finished" and _has_snapshots(folder)))
    return sorted(found, key=lambda run: (run.name, run.file.file))


def _has_snapshots(state_folder: Path) -> bool:
    """Whether there may be some; only folders are looked into: an object store may be slow, or away."""
    from noderuntime.snapshot.settings import FILE, Settings  # costly, and only for `ps -a`

    settings = Settings.read(state_folder / FILE)
    if settings is None or not settings.enabled:
        return False
    return bool(settings.to) or any(Path(settings.spool).glob("*"))


def _stamp(folder: Path) -> str:
    return folder.name  # these names sort by time


def _latest() -> LoggedRun:
    """The logs of the only running run; when none is running, of the one that began last."""
    running = [run for run in known_runs() if run.state == RUNNING]
    if len(running) > 1:
        raise _several(running)
    if running:
        return LoggedRun(running[0].name, Path(running[0].file.log_dir), running[0])
    ended = ended_runs()
    if not ended:
        raise NotRunning("no run has left any logs", "")
    return ended[0]


def _folders(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir()]
    except OSError:
        return []


def _several(running: list[Run]) -> NotRunning:
    return NotRunning("several runs are there; name one of them", f"There are: {', '.join(r.name for r in running)}.")
