from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.harness import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """A folder for a dataflow; nothing of its runs may be left at the end."""
    folder = Folder(tmp_path)
    yield folder
    folder.close()
