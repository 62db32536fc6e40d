"""The order of the house: a package imports only from those above it in one list, and the safety rules hold."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

from noderuntime.ipc import entrypoints

PACKAGE = Path(__file__).parent.parent / "noderuntime"

# What stands further up knows nothing of what stands below it.
ORDER = [
    "errors", "merges", "api", "dataflow", "ipc", "space", "state", "snapshot", "node", "store", "runtime", "testing",
    "cli", "__init__", "__main__",
]  # fmt: skip

NEVER = {
    "runtime": {"space", "state", "node", "store"},  # it must never open the space: see docs/architecture.md
    "node": {"runtime", "snapshot"},
    "state": {"snapshot"},
    "snapshot": {"state"},
}

# Libraries that only one place imports, and what the pure packages leave alone.
ONLY = {"lmdb": ["space/"], "zmq": ["ipc/channel.py"]}
WORLD = {"zmq", "lmdb", "os", "subprocess", "mmap", "time", "socket", "select", "signal", "fcntl", "shutil", "tempfile"}
PURE = ["api/", "dataflow/", "merges.py", "errors.py"]
IMPURE = ["dataflow/files.py", "dataflow/imports.py"]
DECIDES = [  # pure modules of packages that otherwise touch the world
    "ipc/protocol.py", "ipc/wiring.py", "ipc/boundary.py",
    "runtime/lifecycle.py", "runtime/lifecycle_events.py", "runtime/restart_budget.py", "runtime/deaths.py",
    "runtime/stuck.py", "runtime/plan.py", "runtime/chaos_schedule.py", "runtime/observer.py",
    "space/keys.py", "space/kvs_cells.py",
]  # fmt: skip

FIRST_TO_READ = {
    "api": "operator.py", "dataflow": "model.py", "ipc": "protocol.py", "space": "commit.py", "state": "base.py",
    "snapshot": "format.py", "node": "session.py", "store": "service.py", "runtime": "lifecycle.py",
    "cli": "parser.py",
}  # fmt: skip


def modules() -> list[str]:
    return sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    return module.split("/")[0].removesuffix(".py")


@cache
def imports(path: Path) -> frozenset[str]:
    """What a module imports when it is imported, or when it runs; not what is for the type checker only."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def rooms_of(module: str) -> set[str]:
    """The packages of ours that a module imports from, its own left out."""
    names = {name.split(".")[1] for name in imports(PACKAGE / module) if name.startswith("noderuntime.")}
    return {name for name in names if name in ORDER} - {room(module)}


def test_every_package_stands_in_the_order() -> None:
    assert {room(module) for module in modules()} == set(ORDER)


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_from_packages_above_its_own(module: str) -> None:
    above = set(ORDER[: ORDER.index(room(module))])
    assert rooms_of(module) <= above | {"__init__"} - ({"__init__"} if room(module) == "__init__" else set())
    assert not rooms_of(module) & NEVER.get(room(module), set())


@pytest.mark.parametrize("library", ONLY)
def test_a_library_of_one_place_is_imported_nowhere_else(library: str) -> None:
    importers = {m for m in modules() if library in {name.split(".")[0] for name in imports(PACKAGE / m)}}
    assert importers
    assert {m for m in importers if not m.startswith(tuple(ONLY[library]))} == set()


@pytest.mark.parametrize("module", [m for m in modules() if m.startswith(tuple(PURE)) and m not in IMPURE] + DECIDES)
def test_what_decides_touches_nothing_of_the_world(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(PACKAGE / module)} & WORLD


@pytest.mark.parametrize("package", FIRST_TO_READ)
def test_a_package_says_what_it_is_and_where_to_start_reading(package: str) -> None:
    docstring = ast.get_docstring(ast.parse((PACKAGE / package / "__init__.py").read_text())) or ""
    assert f"Start reading in {FIRST_TO_READ[package]}" in docstring
    assert (PACKAGE / package / FIRST_TO_READ[package]).exists()
    above = ORDER[: ORDER.index(package)]
    said = re.search(r"May import (.*?)[.;(]", docstring, re.DOTALL)
    assert said, f"{package} does not say what it may import"
    named = set(re.findall(r"[a-z]+", said[1])) & set(ORDER)
    used = set().union(*(rooms_of(m) for m in modules() if room(m) == package)) - {"errors", "merges", "__init__"}
    assert used <= named <= set(above), f"{package} imports {sorted(used)} and names {sorted(named)}"


@pytest.mark.parametrize(
    "path",
    [p for folder in ("operators", "dataflows") for p in sorted((PACKAGE.parent / folder).rglob("*.py"))],
    ids=lambda path: path.name,
)
def test_operators_and_dataflows_use_public_names_only(path: Path) -> None:
    public = {f"noderuntime{name}" for name in ("", ".merges", ".testing", ".operators", ".api.values")}
    tree = ast.parse(path.read_text())
    used = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    ours = {name for name in used if name.split(".")[0] == "noderuntime"}
    assert {name for name in ours if name not in public and not name.startswith("noderuntime.operators.")} == set()


@pytest.mark.parametrize("entry", entrypoints.ALL)
def test_a_process_of_a_run_begins_where_something_is(entry: str) -> None:
    module, _, function = entry.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
