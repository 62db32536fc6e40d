"""What several folders of tests share. Helpers to import stand in kit.py."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def shm() -> Iterator[Path]:
    """A folder on shared memory, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="noderuntime-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)
