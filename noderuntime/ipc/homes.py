"""Where runs are kept, and how large the space of a new run may be.

There are two homes, in this order: shared memory, and a fallback on disk for machines whose shared memory is small.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from noderuntime.errors import NodeRuntimeError
from noderuntime.ipc.cgroups import memory_limit_bytes
from noderuntime.ipc.rundir import ENV_HOME, home, state_home

SIZE_BYTES = 1_000_000_000
SIZE_BYTES_MIN = 16_000_000
SHM_SHARE = 0.8  # the largest part of free shared memory that a space may take
MEMORY_SHARE = 0.5  # of the cgroup's memory limit
_NO_FOLDER = frozenset({
    errno.EACCES, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS,
})  # fmt: skip
MEMORY_SYSTEMS = frozenset({"tmpfs", "ramfs", "hugetlbfs"})


class RunRefused(NodeRuntimeError):
    """A run cannot start: one of this name is running or was interrupted, or its folder cannot be made. Exit code 2."""

    def __init__(self, run: str, what: str, hint: str) -> None:
        self.run = run
        self.what = what
        self.hint = hint
        super().__init__(f"{what}\n  {hint}")


def homes(environ: Mapping[str, str]) -> list[Path]:
    """The folders that may hold runs, the preferred one first."""
    first = home(environ, os.getuid())
    return [first] if environ.get(ENV_HOME) else [first, state_home(environ) / "spaces"]


def make_private(folder: Path) -> None:
    """Make a folder that only this user may enter. Raises RunRefused if that is impossible."""
    make_folder(folder)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise RunRefused(
            "", f"{folder} belongs to another user", "Remove it, or set $NODERUNTIME_HOME to a folder of yours."
        )
    if stat.S_IMODE(status.st_mode) != 0o700:
        folder.chmod(0o700)


def make_folder(folder: Path) -> None:
    """Make a folder for runs, or for their logs and snapshots. Raises RunRefused if this user may not make one."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            raise
        hint = f"Set ${ENV_HOME} to a folder of yours."
        raise RunRefused("", f"{folder} cannot be made: {error.strerror}", hint) from None


def is_ours(folder: Path) -> bool:
    """Whether this is a folder (not a link to one) that belongs to this user, and that no other user may write to."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return mine and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def choose_home(environ: Mapping[str, str], size_bytes: int | None) -> tuple[Path, int, str]:
    """Where a new run is kept, how large its space may be, and a notice about that for the user ("" for none).

    If a size that the user asked for does not fit into shared memory, the space is on disk. The default size is reduced
    to fit, unless it would become very small.
    """
    candidates = homes(environ)
    first = candidates[0]
    make_private(first)
    wanted = size_bytes if size_bytes is not None else SIZE_BYTES
    free = _free_bytes(first)
    room = _room_bytes(first, free)
    if wanted <= room:
        return first, wanted, ""
    if size_bytes is None and room >= SIZE_BYTES_MIN:
        why = f"{first} has no more room" if room == int(free * SHM_SHARE) else "memory is limited here (cgroup)"
        return first, room, f"the space is limited to {room // 1_000_000} MB: {why}"
    if len(candidates) == 1 or not is_memory(first):
        return first, wanted, f"{first} has {free // 1_000_000} MB free; the space may grow to {wanted // 1_000_000} MB"
    second = candidates[1]
    make_private(second)
    return second, wanted, (
        f"{first.parent} is too small for a space of {wanted // 1_000_000} MB: it is on disk, in {second} (slower)"
    )


def size_where_it_is(folder: Path, size_bytes: int | None, space: Path) -> int:
    """How large an existing space, which stays in `folder`, may be: as large as was asked for, or else as large as a
    new one there. The bytes that it already takes count as free."""
    if size_bytes is not None:
        return size_bytes
    taken = 0
    with contextlib.suppress(OSError):
        taken = sum(entry.stat().st_blocks * 512 for entry in os.scandir(space))
    return min(SIZE_BYTES, max(_room_bytes(folder, _free_bytes(folder) + taken), taken, SIZE_BYTES_MIN))


def _room_bytes(folder: Path, free: int) -> int:
    room = int(free * SHM_SHARE)
    limit = memory_limit_bytes()
    if limit is not None and is_memory(folder):
        room = min(room, int(limit * MEMORY_SHARE))
    return room


def _free_bytes(folder: Path) -> int:
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def is_memory(folder: Path) -> bool:
    """Whether the folder is in memory, judged by the type of its file system rather than by its path."""
    return file_system(folder) in MEMORY_SYSTEMS


def file_system(folder: Path) -> str:
    """The type of the file system that a folder is on, such as tmpfs; "" if it cannot be told."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            mount, _, system = line.partition(" - ")
            if mount.split(" ", 3)[2] == number:
                return system.split(" ", 1)[0]
    return ""
