"""The kind `memory` keeps the contract of State."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from noderuntime.state import MemoryState
from noderuntime.testing.state_contract import StateContract


class TestMemory(StateContract):
    kind = MemoryState

    @pytest.fixture
    def configs(self) -> Iterator[Callable[[str], dict[str, Any]]]:
        with TemporaryDirectory(dir="/dev/shm", prefix="noderuntime-test-") as folder:
            yield lambda name: {"path": str(Path(folder) / name), "size": 32 << 20}
