"""The runs of this user: where they live, who holds them, and which one may begin. Floor 2.

A run is *running* while its `lock` is flock'ed, by its runtime, for as long as that lives. A folder with a
`run.json` and no lock held is an *interrupted* run: its runtime was killed, its space is kept; or a *failed*
one: it ended in order, but a node of it failed for good, and there is no last snapshot to resume from. After a reboot
nothing in a folder is trusted (boot id): shared memory is gone then, and a space on a disk was written
without sync.

Homes are looked at in order: shared memory, and the fallback on disk for machines whose shared memory is
small.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote

from noderuntime.errors import NodeRuntimeError
from noderuntime.identifiers import directory_name
from noderuntime.rundir import ENV_HOME, RunDir, home, state_home

FORMAT = 1
LOG_RUNS_KEPT = 10
SIZE_BYTES = 1_000_000_000
SIZE_BYTES_MIN = 16_000_000
SHM_SHARE = 0.8  # of what is free in shared memory, at most this much becomes a space
MEMORY_SHARE = 0.5  # of the cgroup's memory limit


class RunRefused(NodeRuntimeError):
    """A run of this name cannot begin: it is running, or was interrupted. Exit code 2."""

    def __init__(self, run: str, what: str, hint: str) -> None:
        self.run = run
        self.what = what
        self.hint = hint
        super().__init__(f"{what}\n  {hint}")


@dataclass(frozen=True, slots=True)
class RunFile:
    """run.json. `pid` is the runtime's, `started` seconds since the epoch, `epoch` counts the runtimes of a space.

    `ended` is "failed" when the run ended in order, and is only kept because a node of it failed for good.
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
        """Write it as a whole or not at all."""
        temporary = run_dir.run_file.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.rename(run_dir.run_file)

    @classmethod
    def read(cls, run_dir: RunDir) -> RunFile | None:
        """None when there is none, or none that can be understood."""
        try:
            plain = json.loads(run_dir.run_file.read_text())
            return cls(**plain) if plain.get("format") == FORMAT else None
        except (OSError, ValueError, TypeError, AttributeError):
            return None


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
        """Whether the machine has not been restarted since."""
        return self.file.boot_id == boot_id()


def boot_id() -> str:
    """A text that is another one after each start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


# ---- homes


def homes(environ: Mapping[str, str]) -> list[Path]:
    """The folders in which runs may be, the preferred one first."""
    first = home(environ, os.getuid())
    return [first] if environ.get(ENV_HOME) else [first, state_home(environ) / "spaces"]


def make_private(folder: Path) -> None:
    """Make a folder that only this user may enter. Raises RunRefused when there cannot be one."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in {errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}:
            raise
        hint = f"Set ${ENV_HOME} to a folder of yours."
        raise RunRefused("", f"{folder} cannot be made: {error.strerror}", hint) from None
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise RunRefused(
            "", f"{folder} belongs to somebody else", "Remove it, or set $NODERUNTIME_HOME to a folder of yours."
        )
    if stat.S_IMODE(status.st_mode) != 0o700:
        folder.chmod(0o700)


def memory_limit_bytes() -> int | None:
    """The memory limit of this process's cgroup; None without one."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                text = Path(f"/sys/fs/cgroup{path}/memory.max").read_text().strip()
            elif "memory" in controllers.split(","):
                text = Path(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes").read_text().strip()
            else:
                continue
            if text != "max" and int(text) < 1 << 60:
                return int(text)
    return None


def choose_home(environ: Mapping[str, str], size_bytes: int | None) -> tuple[Path, int, str]:
    """Where a new run goes, how large its space may be, and what a person should know about that ("" for
    nothing).

    A size that was asked for and does not fit into shared memory goes to disk; the default one is made to
    fit, unless it would become very small.
    """
    candidates = homes(environ)
    first = candidates[0]
    make_private(first)
    free = _free_bytes(first)
    limit = memory_limit_bytes()
    wanted = size_bytes if size_bytes is not None else SIZE_BYTES
    room = int(free * SHM_SHARE)
    if limit is not None and _is_memory(first):
        room = min(room, int(limit * MEMORY_SHARE))
    if wanted <= room:
        return first, wanted, ""
    if size_bytes is None and room >= SIZE_BYTES_MIN:
        return first, room, f"the space is limited to {room // 1_000_000} MB: {first} has no more room"
    if len(candidates) == 1 or not _is_memory(first):
        return first, wanted, f"{first} has {free // 1_000_000} MB free; the space may grow to {wanted // 1_000_000} MB"
    second = candidates[1]
    make_private(second)
    return second, wanted, (
        f"{first.parent} is too small for a space of {wanted // 1_000_000} MB: it is on disk, in {second} (slower)"
    )


def _free_bytes(folder: Path) -> int:
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def _is_memory(folder: Path) -> bool:
    return str(folder).startswith("/dev/shm/")


# ---- who is there


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


def _look(run_dir: RunDir) -> Run | None:
    file = RunFile.read(run_dir)
    if file is None:
        return None
    return Run(run_dir, file, "running" if _is_held(run_dir) else file.ended or "interrupted")


def _is_held(run_dir: RunDir) -> bool:
    try:
        fd = os.open(run_dir.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


# ---- beginning and ending


@dataclass(slots=True)
class Held:
    """A run that this process holds. `fresh`: there is no space from before; `notice`: what a person should know."""

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
        """Let go of the run and leave its folder."""
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
    """Take the run of that name, as the table of the contract says.

    A run of that name that is running, or was interrupted and is neither resumed nor started afresh, is
    refused. With `from_snapshot` a space that was kept is given up for an older snapshot.
    """
    there = find_run(name, environ)
    notices = []
    if there is not None:
        folder = there.run_dir.root.parent
        size = size_bytes if size_bytes is not None else SIZE_BYTES
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
            named = "" if Path(file).stem == name else f" --name {quote(name)}"
            raise RunRefused(
                name,
                f"the run {name!r} was interrupted (its runtime was killed); its state is kept",
                f"`noderuntime run {quote(file)}{named} --resume` continues it exactly where it was, `--fresh` throws "
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


def _lock(run_dir: RunDir, name: str) -> int:
    for _ in range(100):
        fd = os.open(run_dir.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
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
                return fd
        os.close(fd)
        make_private(run_dir.root)
    raise RunRefused(name, f"the run {name!r} comes and goes", "Try again.")


def _empty(run_dir: RunDir) -> None:
    for entry in run_dir.root.iterdir():
        if entry.name == run_dir.lock.name:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def clean(run: Run) -> bool:
    """Remove an interrupted run. False when it is running after all."""
    return _remove_unless_held(run.run_dir)


def clean_remains(environ: Mapping[str, str]) -> list[Path]:
    """Remove the folders that are no runs, and held by nobody: of a command that was killed at the state of an ended
    run, or of a runtime that was killed before it had begun. Returns them."""
    removed = []
    for folder in homes(environ):
        with contextlib.suppress(OSError):
            for entry in sorted(folder.iterdir()):
                run_dir = RunDir(entry)
                if run_dir.lock.exists() and not run_dir.run_file.exists() and _remove_unless_held(run_dir):
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


def new_log_folder(name: str, environ: Mapping[str, str]) -> Path:
    """A folder for the logs of a run that begins now; the oldest beyond LOG_RUNS_KEPT are removed."""
    state = state_home(environ)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + f"-{os.getpid()}"
    folder = state / directory_name(name) / "logs" / stamp
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _forget_old_logs(state, environ, folder)
    return folder


def _forget_old_logs(state: Path, environ: Mapping[str, str], newest: Path) -> None:
    live = {Path(run.file.log_dir) for run in list_runs(environ)} | {newest}
    folders = sorted(state.glob("*/logs/*"), key=lambda folder: folder.name, reverse=True)
    for folder in folders[LOG_RUNS_KEPT:]:
        if folder not in live:
            shutil.rmtree(folder, ignore_errors=True)
            for parent in (folder.parent, folder.parent.parent):
                with contextlib.suppress(OSError):
                    parent.rmdir()


def log_folders(name: str, environ: Mapping[str, str]) -> list[Path]:
    """The log folders of the runs of that name, the newest first."""
    folder = state_home(environ) / directory_name(name) / "logs"
    return sorted(folder.glob("*"), key=lambda entry: entry.name, reverse=True)
