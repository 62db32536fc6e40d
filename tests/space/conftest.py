from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.kit import MB, Make, Net, Nodes


@pytest.fixture
def make(shm: Path) -> Iterator[Make]:
    """make(nodes, size_bytes): a dataflow in a space of its own."""
    made: list[Net] = []

    def build(nodes: Nodes, size_bytes: int = 16 * MB) -> Net:
        made.append(Net(shm / str(len(made)), nodes, size_bytes))
        return made[-1]

    yield build
    for net in made:
        net.close()
