"""Shared memory that is full, by ourselves and by somebody else: everything waits, nothing is lost, and it goes on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.flows import Flow, Link, source, worker
from support.harness import wait_until
from support.stage import Stage

SIZE = 24 << 20


@pytest.fixture
def small() -> Iterator[Path]:
    """A tmpfs with little room; where none may be mounted, a folder: then the space's own size is the limit."""
    folder = Path(tempfile.mkdtemp(prefix="nr-faults-small-", dir="/dev/shm"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    mounted = os.getuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    inside = folder / "stage"
    inside.mkdir()
    yield inside
    assert not inside.exists()
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()


def flow(count: int, size: str, **more: int) -> Flow:
    """Much that is large, into queues that would take more than there is, towards somebody slow."""
    return Flow({
        "source": source(count, large=2),
        "a": worker("many", {"in": Link("source/o0", 100_000)}, 1, large=2),
        "c": worker("none", {"in": Link("a/o0", 100_000)}, 0, slow_ms=2, **more),
    }, size=size)  # fmt: skip


def used(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


@pytest.mark.long
def test_a_space_that_fills_up_holds_its_senders_back(small: Path) -> None:
    dataflow = flow(400, "12MB")
    with Stage(root=small) as stage:
        stage.start(dataflow.yaml(str(stage.root)))
        stage.complete(dataflow)
        stage.check(dataflow)
        assert used(stage.folder.run_dir().segments) < 12_000_000, "one limit for both senders"
        assert used(stage.folder.run_dir().root) < 24_000_000
        stage.finish()


@pytest.mark.long
def test_a_tmpfs_that_fills_up_holds_its_senders_back(small: Path) -> None:
    """The space would be allowed more than there is."""
    dataflow = flow(400, "100MB", keep=3)
    with Stage(root=small) as stage:
        stage.start(dataflow.yaml(str(stage.root)))
        stage.complete(dataflow)
        stage.check(dataflow)
        stage.finish()


def fill(path: Path) -> None:
    """Take all the room that there is."""
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 16, 4096):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    assert os.fstat(file.fileno()).st_size < 2 * SIZE


def test_somebody_else_fills_the_tmpfs_while_processes_die_and_goes_away_again(small: Path) -> None:
    dataflow = Flow({
        "source": source(1500, pause_ms=10),
        "a": worker("many", {"in": Link("source/o0", 50)}, 1),
        "c": worker("none", {"in": Link("a/o0", 500)}, 0, slow_ms=0.5),
    }, size="16MB")  # fmt: skip
    with Stage(root=small) as stage:
        stage.start(dataflow.yaml(str(stage.root)))
        wait_until(lambda: stage.pid("a") and stage.pid("c"), "the beginning")
        ballast = small / "ballast"
        for victim in ("a", "c", "source"):
            fill(ballast)
            old = stage.kill(victim)
            wait_until(lambda old=old, victim=victim: stage.pid(victim) not in (0, old), f"{victim} to come back")
            fill(ballast)
            ballast.unlink()
        stage.complete(dataflow)
        stage.check(dataflow)
        stage.finish()
