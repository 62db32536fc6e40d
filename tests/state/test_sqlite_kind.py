"""The kind `sqlite` keeps the contract of State."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noderuntime.state.sqlite import SqliteState
from noderuntime.testing.state_contract import StateContract


class TestSqlite(StateContract):
    kind = SqliteState

    @pytest.fixture
    def configs(self, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
        return lambda name: {"path": str(tmp_path / f"{name}.db")}
