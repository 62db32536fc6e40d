"""The example dataflows as files: they load, they explain themselves, and they refer to nothing outside the package."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from noderuntime import dataflows, operators
from noderuntime.dataflow import files

FOLDER = Path(dataflows.__path__[0])
FILES = sorted(FOLDER.glob("*.yml"))


def test_all_that_users_were_promised_are_there() -> None:
    names = {path.stem for path in FILES}
    assert names >= {"host_metrics", "running_sum", "parity_sums", "word_count", "camera", "dynamic", "survivor"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dataflow_loads_without_a_warning(path: Path) -> None:
    assert files.check_files(files.load(path)) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dataflow_says_first_what_it_shows_and_how_it_is_run(path: Path) -> None:
    lines = path.read_text().splitlines()
    head = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    assert len(head) >= 4
    assert any(f"noderuntime run {path.name}" in line for line in head)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dataflow_finds_its_operators_in_the_repository_and_in_the_package(path: Path) -> None:
    for node in yaml.safe_load(path.read_text())["nodes"]:
        python = node.get("operator", {}).get("python", "").partition(":")[0]
        if python.startswith("../"):
            assert python.startswith("../operators/")
            assert (Path(operators.__path__[0]) / Path(python).name).is_file()
