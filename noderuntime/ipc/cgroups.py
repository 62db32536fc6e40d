"""The limits that the kernel's control groups set for this process, of version 1 and 2 (Linux: cgroups(7))."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """How much memory this process and those beside it may use: the lowest limit of its group and of those above it.

    None if there is none.
    """
    found = [_whole(folder / name) for folder, name in _groups(root, "memory", "memory.max", "memory.limit_in_bytes")]
    return min((limit for limit in found if limit is not None and limit < 1 << 60), default=None)


def cpu_limit(root: Path = ROOT) -> float | None:
    """How many cores' worth of time this process and those beside it may use. None if there is no limit."""
    found = []
    for folder, name in _groups(root, "cpu", "cpu.max", "cpu.cfs_quota_us"):
        with contextlib.suppress(OSError, ValueError):
            if name == "cpu.max":
                quota, period = (folder / name).read_text().split()
            else:
                quota, period = (folder / name).read_text(), (folder / "cpu.cfs_period_us").read_text()
            if int(quota) > 0:  # "max" and -1 where there is no limit
                found.append(int(quota) / int(period))
    return min(found, default=None)


def _groups(root: Path, controller: str, second: str, first: str) -> Iterator[tuple[Path, str]]:
    """The folder of this process's group and those above it, with the name of the file of that controller there.

    `second`, `first`: its name in version 2 and in version 1.
    """
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                top, name = root / "sys/fs/cgroup", second
            elif controller in controllers.split(","):
                top, name = root / "sys/fs/cgroup" / controller, first
            else:
                continue
            # in a container the path may be the host's and not exist; the top is then the container's own group
            group = top / path.strip("/")
            yield from ((folder, name) for folder in (group, *group.parents) if folder.is_relative_to(top))


def _whole(file: Path) -> int | None:
    try:
        return int(file.read_text())  # "max" where there is no limit
    except (OSError, ValueError):
        return None
