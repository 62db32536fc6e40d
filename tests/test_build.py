"""The compiled modules: which ones may be, what is built where there is no compiler, and that `make test-compiled`
tests what it says."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from support.fault_points import INJECTOR

from noderuntime import cli
from noderuntime.ipc import entrypoints

ROOT = Path(__file__).parent.parent
PARTS = ("pyproject.toml", "setup.py", "README.md", "noderuntime", "operators", "dataflows")


def constant(path: Path, name: str) -> Any:
    """What a module assigns to `name`."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            return node.value
    raise AssertionError(f"{path} assigns nothing to {name}")


COMPILED: tuple[str, ...] = ast.literal_eval(constant(ROOT / "setup.py", "COMPILED"))
NAMES = ["noderuntime." + path.removesuffix(".py").replace("/", ".") for path in COMPILED]


def is_extension(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    return isinstance(spec.loader, importlib.machinery.ExtensionFileLoader)


def test_all_modules_that_can_be_compiled_are_or_none_is() -> None:
    assert {is_extension(name) for name in NAMES} == {entrypoints.is_compiled()}


def test_the_build_under_test_is_the_one_that_was_asked_for() -> None:
    wanted = os.environ.get("NODERUNTIME_TESTED", "interpreted")
    assert entrypoints.is_compiled() == (wanted == "compiled")
    code = "from noderuntime.ipc import entrypoints; print(entrypoints.is_compiled())"
    env = {"PYTHONPATH": f"{INJECTOR.parent}:{ROOT}"}  # as the runs of the fault tests have it
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"{entrypoints.is_compiled()}\n"


def test_version_says_which_build_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.rstrip().endswith(" (compiled)" if entrypoints.is_compiled() else " (interpreted)")


def test_no_module_that_the_injector_wraps_is_compiled() -> None:
    wrapped = constant(INJECTOR, "POINTS")
    assert isinstance(wrapped, ast.Dict)
    assert not {ast.literal_eval(key) for key in wrapped.keys if key is not None} & set(NAMES)


def test_the_tests_check_types_with_a_release_that_compiles() -> None:
    wanted = Requirement(ast.literal_eval(constant(ROOT / "setup.py", "MYPY")))
    pins = (ROOT / "constraints" / "test.txt").read_text().splitlines()
    (pinned,) = (line.split()[0].partition("==")[2] for line in pins if line.startswith("mypy=="))
    assert wanted.specifier.contains(pinned)


@pytest.mark.parametrize(
    ("why", "env"),
    [
        ("there is no compiler", {"CC": "/nowhere/cc"}),
        ("it is not wanted", {"NODERUNTIME_COMPILE": "0"}),
        ("mypyc is missing", {"PYTHONPATH": "HIDES"}),
        ("the compiler fails", {"CC": "HIDES/cc"}),
    ],
)
def test_without_compiling_the_wheel_is_one_for_every_python(why: str, env: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for part in PARTS:
        (source / part).symlink_to(ROOT / part)
    (tmp_path / "hides").mkdir()
    (tmp_path / "hides" / "mypyc.py").write_text("raise ImportError('not here')\n")
    compiler = tmp_path / "hides" / "cc"
    compiler.write_text('#!/bin/sh\ntouch "$0.called"; echo "an error of the compiler" >&2; exit 1\n')
    compiler.chmod(0o700)
    env = {name: value.replace("HIDES", str(tmp_path / "hides")) for name, value in env.items()}
    before = sorted(os.listdir(ROOT))
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps",
         "--no-build-isolation", "-w", str(tmp_path), str(source)],
        env={**os.environ, **env}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), why
    assert Path(f"{compiler}.called").exists() == (env.get("CC") == str(compiler))
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"noderuntime/{path}" for path in COMPILED} <= names
    assert not [name for name in names if name.endswith((".so", ".c"))]
    assert sorted(os.listdir(ROOT)) == before
