"""A save that is cut off, by a kill or by the power, leaves the snapshot before it, or the new one; nothing else.

The tests with a real file system make an image, mount it by a loop device, and shut it down without flushing: they need
root, `mkfs.ext4` and loop devices. Where these are not there, pytest says so for each of them (`-ra`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.spaces import content, keeper, make_space, read_all, save

from noderuntime.errors import StoreError
from noderuntime.snapshot.blobs import BlobBackend
from noderuntime.snapshot.directory import DirectoryBlobs

EVERY = Path(__file__).parent.parent / "support" / "every_system_call.py"
FS_IOC_SHUTDOWN = 0x8004587D
WITHOUT_FLUSHING = 2


def run_every(folder: Path, step: int) -> tuple[int, int, int]:
    done = subprocess.run(
        [sys.executable, str(EVERY), str(folder), str(step)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    kills, old, new = map(int, done.stdout.split())
    return kills, old, new


def test_a_save_that_is_killed_at_every_seventh_system_call_leaves_the_old_or_the_new_one(tmp_path: Path) -> None:
    kills, old, new = run_every(tmp_path, 7)
    assert kills > 20
    assert old
    assert new


@pytest.mark.long
def test_a_save_that_is_killed_at_each_of_its_system_calls_leaves_the_old_or_the_new_one(tmp_path: Path) -> None:
    kills, old, new = run_every(tmp_path, 1)
    assert kills > 140
    assert old
    assert new




class Disk:
    """An ext4 file system in a file. `cut` ends it as a power cut would: what was not forced out is gone."""

    def __init__(self, folder: Path) -> None:
        self.image = folder / "disk.img"
        self.root = folder / "disk"
        self.root.mkdir()
        self.make()

    def make(self) -> None:
        with open(self.image, "wb") as file:
            file.truncate(32 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self.image)], check=True)
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.root)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.root)], check=True)

    def cut(self) -> None:
        fd = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", WITHOUT_FLUSHING))
        finally:
            os.close(fd)


def why_not() -> str:
    if os.geteuid() != 0:
        return "a power cut needs root: it mounts a file system and shuts it down"
    if not shutil.which("mkfs.ext4") or not Path("/dev/loop-control").exists():
        return "a power cut needs mkfs.ext4 and loop devices"
    return ""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    with contextlib.suppress(subprocess.CalledProcessError):
        disk.unmount()


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("first", [True, False], ids=["the first one", "a later one"])
def test_a_power_cut_at_each_step_of_a_save_leaves_the_old_or_the_new_one(
    first: bool, disk: Disk, tmp_path: Path
) -> None:
    space = make_space(tmp_path / "space")
    save(space, 1, {f"k{number}": b"v" * 300 for number in range(1000)})
    outcomes = []
    while True:
        held: dict[int, dict[bytes, bytes]] = {}
        kept = disk.root / "kept"
        if not first:
            held[1] = content(space)
            keeper(space, BlobBackend(DirectoryBlobs(kept), kept), keep=1).take("asked")
        save(space, 1, {"k3": b"%d" % len(outcomes)})
        held[len(held) + 1] = content(space)
        steps: list[str] = []

        def halt(step: str) -> None:
            steps.append(step)  # noqa: B023
            if len(steps) == len(outcomes) + 1:  # noqa: B023
                disk.cut()

        with contextlib.suppress(StoreError, OSError):
            keeper(space, BlobBackend(DirectoryBlobs(kept, halt), kept), keep=1).take("asked")
        if len(steps) <= len(outcomes):
            break
        disk.unmount()
        disk.mount()
        backend = BlobBackend(DirectoryBlobs(kept), kept)
        listed = backend.snapshots()
        assert all(item.manifest for item in listed), steps
        outcomes.append(listed[0].number if listed else 0)
        if listed:
            found = read_all(backend, outcomes[-1])
            assert {key: found.get(key) for key in held[outcomes[-1]]} == held[outcomes[-1]], steps
        disk.unmount()
        disk.make()
    space.close()
    # a first one is published by its very last step; later ones have others behind that
    assert set(outcomes) == ({0} if first else {1, 2})
    assert outcomes == sorted(outcomes)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_once_save_has_returned_a_power_cut_loses_nothing(disk: Disk, tmp_path: Path) -> None:
    space = make_space(tmp_path / "space")
    for number in range(1, 6):
        save(space, 1, {"n": b"%d" % number})
        backend = BlobBackend(DirectoryBlobs(disk.root / "new" / "folders" / "kept"), disk.root / "new/folders/kept")
        assert keeper(space, backend).take("asked").manifest.number == number
        disk.cut()
        disk.unmount()
        disk.mount()
        backend = BlobBackend(DirectoryBlobs(disk.root / "new" / "folders" / "kept"), disk.root / "new/folders/kept")
        assert backend.snapshots()[0].number == number
        found = read_all(backend, number)
        assert {key: found.get(key) for key in content(space)} == content(space)
    space.close()
