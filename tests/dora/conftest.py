from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.dora_flow import Flow


@pytest.fixture
def flow(tmp_path: Path) -> Iterator[Flow]:
    made = Flow(tmp_path)
    yield made
    made.close()
