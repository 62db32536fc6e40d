"""What several folders of tests share. Helpers to import stand in kit.py."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.fake_runtime import Forker, Run
from support.harness import heed_sigint
from support.kit import MB, Nodes

pytest_plugins = ["support.reruns"]

heed_sigint()

# how long an example takes says how busy the machine is
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture
def shm() -> Iterator[Path]:
    """A folder on shared memory, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="noderuntime-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    forker = Forker()
    yield forker
    forker.close()


@pytest.fixture
def run(shm: Path, forker: Forker) -> Iterator[Callable[..., Run]]:
    """run(nodes): a dataflow whose children are real processes."""
    runs: list[Run] = []

    def build(nodes: Nodes, size_bytes: int = 16 * MB, **files: str) -> Run:
        for name, text in files.items():
            (shm / f"{name}.py").write_text(text)
        runs.append(Run(shm, nodes, forker, size_bytes))
        return runs[-1]

    yield build
    for made in runs:
        made.close()
