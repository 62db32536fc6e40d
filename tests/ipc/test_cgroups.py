"""Limits of control groups, of both versions, as they are found in a folder that looks like /."""

from __future__ import annotations

from pathlib import Path

import pytest

from noderuntime.ipc import cgroups


def write(root: Path, lines: str, files: dict[str, str]) -> None:
    for name, text in {"proc/self/cgroup": lines, **{f"sys/fs/cgroup/{name}": files[name] for name in files}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n" if text else "")


@pytest.mark.parametrize(
    ("lines", "files", "limit"),
    [
        ("0::/a/b", {"a/b/memory.max": "max"}, None),
        ("0::/a/b", {"a/b/memory.max": "300"}, 300),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "200"}, 200),
        ("0::/a/b", {"a/b/memory.max": "300", "a/memory.max": "200", "memory.max": "250"}, 200),
        ("0::/docker/of-the-host", {"memory.max": "100"}, 100),
        ("0::/", {}, None),
        ("4:memory:/a\n0::/", {"memory/a/memory.limit_in_bytes": "70"}, 70),
        ("4:cpu,memory:/a", {"memory/a/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("", {}, None),
    ],
)
def test_the_lowest_limit_of_memory_on_the_way_up_holds(
    tmp_path: Path, lines: str, files: dict[str, str], limit: int | None
) -> None:
    write(tmp_path, lines, files)
    assert cgroups.memory_limit_bytes(tmp_path) == limit


@pytest.mark.parametrize(
    ("lines", "files", "limit"),
    [
        ("0::/a/b", {"a/b/cpu.max": "max 100000"}, None),
        ("0::/a/b", {"a/b/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "300000 100000", "a/cpu.max": "50000 100000"}, 0.5),
        ("0::/docker/of-the-host", {"cpu.max": "200000 100000"}, 2.0),
        ("3:cpu,cpuacct:/a\n0::/", {"cpu/a/cpu.cfs_quota_us": "25000", "cpu/a/cpu.cfs_period_us": "100000"}, 0.25),
        ("3:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, None),
        ("0::/a", {"a/cpu.max": "unheard of"}, None),
        ("0::/", {}, None),
        ("", {}, None),
    ],
)
def test_the_lowest_limit_of_time_on_the_way_up_holds(
    tmp_path: Path, lines: str, files: dict[str, str], limit: float | None
) -> None:
    write(tmp_path, lines, files)
    assert cgroups.cpu_limit(tmp_path) == limit
