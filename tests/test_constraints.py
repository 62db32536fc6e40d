"""constraints/: what `make` installs is complete, pinned, hashed, and within what pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "constraints"
PYTHONS = ("3.11.0", "3.11.7", "3.12.1", "3.13.0", "3.14.0")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FILES = sorted(FOLDER.glob("*.txt"))


def lines(path: Path) -> list[str]:
    joined = path.read_text().replace("\\\n", " ")
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def asked(*paths: str) -> list[Requirement]:
    return [Requirement(line.split("  #")[0]) for path in paths for line in lines(ROOT / path)]


def pins(path: Path, python: str) -> dict[str, str]:
    """Name -> version, as pip on this machine with that Python would install them."""
    environment = {**default_environment(), "python_version": python.rpartition(".")[0], "python_full_version": python}
    found: dict[str, str] = {}
    for line in lines(path):
        pin = Requirement(HASH.sub("", line).strip())
        if pin.marker is None or pin.marker.evaluate({**environment, "implementation_name": "cpython"}):
            ((operator, version),) = ((spec.operator, spec.version) for spec in pin.specifier)
            name = canonical(pin.name)
            assert operator == "==" and name not in found, line
            found[name] = version
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_line_has_hashes_and_no_option_so_no_index_is_named(path: Path) -> None:
    assert lines(path)
    for line in lines(path):
        assert HASH.search(line), line
        assert "--" not in HASH.sub("", line) and "://" not in line, line


@pytest.mark.parametrize("python", PYTHONS)
def test_all_that_is_asked_for_is_pinned_within_its_bounds(python: str) -> None:
    ours = [Requirement(text) for text in PROJECT["dependencies"]] + asked("constraints/run.in")
    tests = [Requirement(text) for text in PROJECT["optional-dependencies"]["test"]]
    peers = asked("bench/requirements.txt")
    for name, wanted in (("run", ours), ("test", [*ours, *tests]), ("bench", peers)):
        found = pins(FOLDER / f"{name}.txt", python)
        for requirement in wanted:
            environment = {"python_version": python.rpartition(".")[0], "python_full_version": python}
            if requirement.marker is None or requirement.marker.evaluate(environment):
                assert requirement.specifier.contains(found[canonical(requirement.name)]), f"{name}: {requirement}"


@pytest.mark.parametrize("python", PYTHONS)
def test_the_tests_run_with_the_releases_that_users_get(python: str) -> None:
    tests = pins(FOLDER / "test.txt", python)
    for name, version in pins(FOLDER / "run.txt", python).items():
        assert tests[name] == version
