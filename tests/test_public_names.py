"""`from noderuntime import ...` beside files of the user's that are named like modules that we need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def program(folder: Path, text: str = "from noderuntime import Node\n") -> str:
    (folder / "n.py").write_text(text)
    done = subprocess.run([sys.executable, "n.py"], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    return done.stderr


@pytest.mark.parametrize("name", ["logging", "select", "asyncio", "msgpack"])
def test_a_file_that_hides_a_module_we_need_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("mine = 1\n")
    errors = program(tmp_path).splitlines()
    assert f"noderuntime.Node cannot be imported, because {tmp_path}/{name}.py hides" in errors[-1]
    assert "Rename that file" in errors[-1]


def test_another_error_below_an_import_is_shown_as_it_is(tmp_path: Path) -> None:
    text = "import sys\nsys.modules['noderuntime.node.timers'] = None\nfrom noderuntime import Node\n"
    errors = program(tmp_path, text).splitlines()
    assert errors[-1].startswith("ImportError: noderuntime.Node cannot be imported: ModuleNotFoundError: import of")


def test_files_with_other_names_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("mine = 1\n")
    assert program(tmp_path, "import helper\nfrom noderuntime import Node\nprint(helper.mine)\n") == ""
    errors = program(tmp_path, "from noderuntime import Nope\n")
    assert "cannot import name 'Nope'" in errors
