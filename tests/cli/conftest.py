"""Fixtures of the command's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli_world import World


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test of the command sees, or leaves anything in, the home of whoever runs it."""
    monkeypatch.setenv("NODERUNTIME_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def world(home: Path) -> Iterator[World]:
    made = World(home)
    yield made
    made.close()
