"""The wheel: what a user gets from `pip install`, in an environment of its own, far from this repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("pyproject.toml", "setup.py", "README.md", "noderuntime", "operators", "dataflows")

FLOW = """\
nodes:
  - id: lines
    operator: {module: noderuntime.operators.file_lines, outputs: [line]}
    config: {path: numbers.txt}
  - id: sums
    operator: {python: sums.py, inputs: {line: lines/line}, outputs: [sum]}
  - id: sink
    operator: {module: noderuntime.operators.file_sink, inputs: {sum: sums/sum}}
    config: {path: sums.txt}
"""
SUMS = """\
from noderuntime import stateful_map

@stateful_map(output="sum", default=int)
def Operator(key, line, total):
    return str(total + int(line)), total + int(line)
"""


def call(*line: str | Path, folder: Path) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environ["NODERUNTIME_HOME"] = str(folder / "home")
    done = subprocess.run(line, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_wheel_brings_the_command_the_operators_and_the_examples(tmp_path: Path) -> None:
    source, away = tmp_path / "source", tmp_path / "away"
    source.mkdir()
    away.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, source)
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, source, folder=away)
    (wheel,) = tmp_path.glob("noderuntime-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python, command = tmp_path / "venv" / "bin" / "python", tmp_path / "venv" / "bin" / "noderuntime"
    call(python, "-m", "pip", "install", "--quiet", wheel, folder=away)
    is_compiled = not wheel.name.endswith("-none-any.whl")
    version = call(command, "--version", folder=away)
    assert version.rstrip().endswith("(compiled)" if is_compiled else "(interpreted)")

    where = call(python, "-c", "from noderuntime import dataflows; print(dataflows.__path__[0])", folder=away).strip()
    assert Path(where).is_relative_to(tmp_path / "venv")
    for file in sorted(Path(where).glob("*.yml")):
        assert "is valid" in call(command, "validate", file, folder=away)
    assert call(command, "run", f"{where}/running_sum.yml", folder=away).splitlines()[-1].endswith("│ sum: 5050")
    assert "lost 0, repeated 0" in call(command, "demo", "--stop-after", "5s", folder=away)

    (away / "flow.yml").write_text(FLOW)
    (away / "sums.py").write_text(SUMS)
    (away / "numbers.txt").write_text("1\n2\n3\n")
    call(command, "run", "flow.yml", folder=away)
    assert (away / "sums.txt").read_text().split() == ["1", "3", "6"]


def test_every_package_of_ours_is_in_the_wheel() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    ours = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "noderuntime").rglob("__init__.py")}
    assert sorted(listed) == sorted(ours | {"noderuntime.operators", "noderuntime.dataflows"})
