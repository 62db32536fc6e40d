"""Which files an operator is made of, found by reading them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.kit import dataflow_of

from noderuntime.dataflow.imports import closure, files_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "op.py": "import helper\nfrom pack.inner import thing\nimport os, numpy\n",
        "helper.py": "def f():\n    import late\n",
        "late.py": "import op\n",
        "other.py": "",
        "pack/__init__.py": "from . import side\n",
        "pack/side.py": "from .. import nothing\n",
        "pack/inner/__init__.py": "",
        "pack/inner/thing.py": "from ..deep.end import x\n",
        "pack/deep/end.py": "x = 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def names(files: set[Path], folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in files}


def test_files_of_the_same_folder_are_followed_wherever_they_are_imported(folder: Path) -> None:
    assert names(closure(folder / "op.py", folder), folder) == {
        "op.py", "helper.py", "late.py", "pack/__init__.py", "pack/side.py", "pack/inner/__init__.py",
        "pack/inner/thing.py", "pack/deep/end.py",
    }  # fmt: skip


def test_a_file_that_is_no_python_just_now_is_there_all_the_same(folder: Path) -> None:
    (folder / "op.py").write_text("import helper\ndef (")
    assert names(closure(folder / "op.py", folder), folder) == {"op.py"}
    assert closure(folder / "missing.py", folder) == {folder / "missing.py"}


def test_an_operator_is_its_file_and_what_that_imports(folder: Path) -> None:
    dataflow = dataflow_of({"op": {"operator": {"python": "other.py", "outputs": ["x"]}}}, folder)
    assert names(files_of(dataflow, dataflow.nodes[0]), folder) == {"other.py"}


def test_an_operator_of_a_package_is_followed_within_that_package(folder: Path) -> None:
    dataflow = dataflow_of({"op": {"operator": {"module": "pack.inner.thing:x", "outputs": ["x"]}}}, folder)
    assert names(files_of(dataflow, dataflow.nodes[0]), folder) == {
        "pack/__init__.py", "pack/side.py", "pack/inner/__init__.py", "pack/inner/thing.py", "pack/deep/end.py",
    }  # fmt: skip


def test_a_module_that_is_not_found_has_no_files(folder: Path) -> None:
    dataflow = dataflow_of({"op": {"operator": {"module": "nowhere_at_all", "outputs": ["x"]}}}, folder)
    assert files_of(dataflow, dataflow.nodes[0]) == set()
