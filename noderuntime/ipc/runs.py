"""The runs of this user: where they are, which process holds each, and whether a new one may start.

A run is *running* while its runtime lives. The runtime holds two locks on the file `lock`: a flock, which gives the
exclusive use of the run (commands that work on an interrupted run's state take it, too), and an OFD lock, which marks
the holder as a runtime. Commands that only look test the OFD lock (F_OFD_GETLK) and take none. A folder with a
`run.json` and without a held lock is an *interrupted* run, whose runtime was killed and whose space is kept, or a
*failed* run: it ended in order, but a node failed for good and there is no last snapshot to resume from. After a reboot
(seen by the boot id) nothing in a folder is trusted: shared memory is gone, and a space on disk was written without
sync.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote

from noderuntime.dataflow.identifiers import directory_name
from noderuntime.ipc import state_folders
from noderuntime.ipc.homes import (
    RunRefused,
    choose_home,
    homes,
    is_ours,
    make_folder,
    make_private,
    size_where_it_is,
)
from noderuntime.ipc.rundir import RunDir, letters_file, state_home

FORMAT = 1
LOG_RUNS_KEPT = 10
LOCK_WAIT_S = 2.0  # while a command holds the lock for a moment
LOCK_LOOK_S = 0.01

_FLOCK = struct.Struct("@hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid


@dataclass(frozen=True, slots=True)
class RunFile:
    """run.json. `pid` is the runtime's, `started` seconds since the epoch, `epoch` counts the runtimes of a space.

    `ended` is "failed" if the run ended in order and is kept only because a node failed for good. A copy of the file is
    with the logs and outlives the run; there `ended` is finished | stopped | failed, or "" while the run lives and
    after it was killed.
    """

    name: str
    pid: int
    guard: int
    file: str
    started: float
    boot_id: str
    log_dir: str
    epoch: int
    ended: str = ""
    format: int = FORMAT

    def write(self, run_dir: RunDir) -> None:
        """Write the file atomically."""
        temporary = run_dir.run_file.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.rename(run_dir.run_file)

    @classmethod
    def read(cls, run_dir: RunDir) -> RunFile | None:
        """The run file; None if there is none or it cannot be read."""
        try:
            plain = json.loads(run_dir.run_file.read_text())
            return cls(**plain) if plain.get("format") == FORMAT else None
        except (OSError, ValueError, TypeError, AttributeError):
            return None


def continue_command(name: str, file: str, how: str = "--resume") -> str:
    """The command that continues the run `name` of the dataflow file `file`, in backquotes."""
    named = "" if Path(file).stem == name else f" --name {quote(name)}"
    return f"`noderuntime run {quote(file)}{named} {how}`"


@dataclass(frozen=True, slots=True)
class Run:
    """A run that exists. `state`: running | interrupted | failed."""

    run_dir: RunDir
    file: RunFile
    state: str

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def trusted(self) -> bool:
        """Whether the machine has not been restarted since the run started."""
        return self.file.boot_id == boot_id()


def boot_id() -> str:
    """A text that differs after each start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


# ---- existing runs


def list_runs(environ: Mapping[str, str]) -> list[Run]:
    """All runs of this user, running and interrupted, by name."""
    found = []
    for folder in homes(environ):
        with contextlib.suppress(OSError):
            for entry in sorted(folder.iterdir()):
                run = _look(RunDir(entry))
                if run is not None:
                    found.append(run)
    return sorted(found, key=lambda run: run.name)


def find_run(name: str, environ: Mapping[str, str]) -> Run | None:
    """The run of that name."""
    for folder in homes(environ):
        run = _look(RunDir(folder / directory_name(name)))
        if run is not None and run.name == name:
            return run
    return None


def is_running(run: Run, environ: Mapping[str, str]) -> bool:
    """Whether that very run, and not one that began later under its name, is running now."""
    now = find_run(run.name, environ)
    return now is not None and now.state == "running" and now.file.pid == run.file.pid


def _look(run_dir: RunDir) -> Run | None:
    if not (is_ours(run_dir.root.parent) and is_ours(run_dir.root)):
        return None
    file = RunFile.read(run_dir)
    if file is None:
        return None
    return Run(run_dir, file, "running" if _is_held(run_dir) else file.ended or "interrupted")


def _is_held(run_dir: RunDir) -> bool:
    """Whether a runtime holds the run. Takes no lock, which could make a run fail that is about to start."""
    try:
        fd = os.open(run_dir.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        asked = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    finally:
        os.close(fd)
    return bool(_FLOCK.unpack(asked)[0] != fcntl.F_UNLCK)


# ---- starting and ending a run


@dataclass(slots=True)
class Held:
    """A run that this process holds. `fresh`: no earlier space is kept; `notice`: a text for the user."""

    run_dir: RunDir
    fresh: bool
    epoch: int
    size_bytes: int
    notice: str
    fd: int

    def remove(self) -> None:
        """Remove the run's folder; the lock is released last."""
        shutil.rmtree(self.run_dir.root, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Release the run and leave its folder."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def hold(
    name: str,
    environ: Mapping[str, str],
    *,
    resume: bool,
    fresh: bool,
    size_bytes: int | None,
    file: str = "FILE",
    from_snapshot: bool = False,
) -> Held:
    """Lock the folder of the run `name`, and decide whether its space is kept.

    Raises RunRefused if that run is running, or if it was interrupted and neither `resume` nor `fresh` is set. With
    `from_snapshot`, a kept space is given up for an older snapshot.
    """
    there = find_run(name, environ)
    notices = []
    if there is not None:
        folder = there.run_dir.root.parent
        size = size_where_it_is(folder, size_bytes, there.run_dir.space)
    else:
        folder, size, notice = choose_home(environ, size_bytes)
        notices.append(notice)
    run_dir = RunDir.of(name, folder)
    make_private(run_dir.root)
    fd = _lock(run_dir, name)
    try:
        old = RunFile.read(run_dir)
        trusted = old is not None and old.boot_id == boot_id()
        if old is not None and trusted and old.ended and not (resume or fresh):
            notices.append("the last run of this name failed: starting anew (`--resume` would have gone on with it)")
        elif old is not None and trusted and not (resume or fresh):
            raise RunRefused(
                name,
                f"the run {name!r} was interrupted (its runtime was killed); its state is kept",
                f"{continue_command(name, file)} continues it exactly where it was, `--fresh` throws "
                f"that away and starts anew, `noderuntime clean {quote(name)}` removes it.",
            )
        if old is not None and not trusted:
            so = "looking for its last snapshot" if resume else "starting anew"
            notices.append(f"there was an interrupted run of this name, but the machine was restarted: {so}")
        keep = old is not None and trusted and resume and not fresh and not from_snapshot
        if not keep:
            _empty(run_dir)
    except BaseException:
        os.close(fd)
        raise
    epoch = old.epoch + 1 if old is not None and keep else 1
    return Held(run_dir, not keep, epoch, size, "; ".join(filter(None, notices)), fd)


def mark_running(fd: int) -> None:
    """Take the OFD lock, which marks the holder as the run's runtime. `fd`: the run's `lock`, with its flock held."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))


def _lock(run_dir: RunDir, name: str) -> int:
    deadline_s = time.monotonic() + LOCK_WAIT_S
    while time.monotonic() < deadline_s:
        fd = os.open(run_dir.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            if not _is_held(run_dir):  # a command reads its state or removes it
                time.sleep(LOCK_LOOK_S)
                continue
            file = RunFile.read(run_dir)
            who = f" (process {file.pid})" if file is not None else ""
            raise RunRefused(
                name,
                f"a run {name!r} is running already{who}",
                f"Stop it with `noderuntime stop {name}`, or give this one another name with `--name`.",
            ) from None
        with contextlib.suppress(FileNotFoundError):
            # the holder before us may have removed the folder between our open and our lock
            if os.fstat(fd).st_ino == run_dir.lock.stat().st_ino:
                mark_running(fd)
                return fd
        os.close(fd)
        make_private(run_dir.root)
    raise RunRefused(name, f"another command uses the run {name!r} just now", "Try again when it has ended.")


def _empty(run_dir: RunDir) -> None:
    for entry in run_dir.root.iterdir():
        if entry.name == run_dir.lock.name:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def clean(run: Run) -> bool:
    """Remove an interrupted run. Returns False if it is running after all."""
    return _remove_unless_held(run.run_dir)


def clean_remains(environ: Mapping[str, str]) -> list[Path]:
    """Remove folders that hold no run and that no process holds. A command leaves one if it is killed while it reads
    the state of an ended run, a runtime if it is killed before the run starts. Returns the removed folders."""
    removed = []
    for folder in filter(is_ours, homes(environ)):
        with contextlib.suppress(OSError):
            for entry in sorted(folder.iterdir()):
                run_dir = RunDir(entry)
                remains = is_ours(entry) and run_dir.lock.exists() and not run_dir.run_file.exists()
                if remains and _remove_unless_held(run_dir):
                    removed.append(entry)
    return removed


def _remove_unless_held(run_dir: RunDir) -> bool:
    try:
        fd = os.open(run_dir.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(run_dir.root, ignore_errors=True)
        return True
    finally:
        os.close(fd)


# ---- logs


def new_log_folder(state_folder: Path, environ: Mapping[str, str]) -> Path:
    """Make the log folder of a new run. Removes the oldest beyond LOG_RUNS_KEPT, except those with dead letters."""
    state = state_home(environ)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + f"-{os.getpid()}"
    folder = state_folder / "logs" / stamp
    make_folder(folder)
    _forget_old_logs(state, environ, folder)
    return folder


def _forget_old_logs(state: Path, environ: Mapping[str, str], newest: Path) -> None:
    live = {Path(run.file.log_dir) for run in list_runs(environ)} | {newest}
    for folder in newest_first(state.glob("*/logs/*"))[LOG_RUNS_KEPT:]:
        if folder not in live and not letters_file(folder).exists():  # dead letters are kept
            shutil.rmtree(folder, ignore_errors=True)
            for parent in (folder.parent, folder.parent.parent):
                with contextlib.suppress(OSError):
                    parent.rmdir()


def log_folders(name: str, environ: Mapping[str, str]) -> list[Path]:
    """The log folders of the runs of that name, the newest first."""
    folders = state_folders.folders(name, environ)
    return newest_first(entry for folder in folders for entry in (folder / "logs").glob("*"))


def newest_first(log_folders: Iterable[Path]) -> list[Path]:
    """By when their runs began, which is what their names begin with."""
    return sorted(log_folders, key=lambda folder: folder.name, reverse=True)
