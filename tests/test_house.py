"""The structure of the code: a package imports only from those above it in one list, the safety rules hold, modules do
not import each other in circles, and none has grown beyond one idea."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from noderuntime.ipc import entrypoints

PACKAGE = Path(__file__).parent.parent / "noderuntime"

# What stands further up knows nothing of what stands below it.
ORDER = [
    "errors", "merges", "api", "dataflow", "ipc", "space", "state", "snapshot", "node", "dora", "store", "watching",
    "runtime", "testing", "cli", "__init__", "__main__",
]  # fmt: skip

NEVER = {
    # it must never open the space: see docs/architecture.md
    "runtime": {"space", "state", "node", "dora", "store", "watching"},
    "node": {"runtime", "snapshot", "watching"},
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
    "runtime/machine.py", "runtime/lifecycle.py", "runtime/lifecycle_events.py", "runtime/phases.py",
    "runtime/restart_budget.py", "runtime/policy.py", "runtime/health.py",
    "runtime/claims.py", "node/chain.py",
    "runtime/deaths.py", "runtime/stuck.py", "runtime/plan.py", "runtime/chaos_schedule.py", "runtime/observer.py",
    "runtime/welcome.py", "runtime/flight_recorder.py",
    "runtime/summary.py", "runtime/outcome.py",
    "space/keys.py", "space/kvs_cells.py", "runtime/start_barrier.py", "runtime/printed.py",
    "dora/reader.py", "dora/nodes.py", "dora/fields.py", "dora/links.py", "dora/modules.py", "dora/env.py",
    "dora/sources.py", "dora/drawn.py", "dora/refusals.py", "dora/descriptor.py", "dora/facts.py",
    "watching/backlog.py", "watching/choice.py", "watching/frames.py",
]  # fmt: skip

FIRST_TO_READ = {
    "api": "operator.py", "dataflow": "model.py", "ipc": "protocol.py", "space": "commit.py", "state": "base.py",
    "snapshot": "format.py", "node": "session.py", "dora": "reader.py", "store": "operations.py",
    "runtime": "lifecycle.py", "cli": "parser.py", "watching": "tap.py",
}  # fmt: skip


# A module above this many lines usually holds two ideas. Those that are longer, and why they are one idea all the same:
LINES_MAX = 450
LONGER = {
    "runtime/lifecycle.py": "one table of (state, event) -> actions, and its rows",
    "space/kvs.py": "one store: its reads, writes, history and purge share the layout of its records",
    "space/segments.py": "one protocol between the owner and the readers of a segment; its halves make sense together",
    "state/common.py": "the base class of kinds with tables, a documented import path",
    "state/memory.py": "one kind, the same calls as the others",
}  # fmt: skip

# Private by form only: os._exit and NamedTuple._replace are documented; SlateDB's binding offers nothing else, nor
# does Python for what an interpreter does at its end (dora/script.py);
# what a kind with tables implements (docs/state.md) is called by the three modules that make an operator's view of it.
NOT_PRIVATE = {"_exit", "_replace", "_UniffiRustBufferBuilder", "_shutdown", "_run_exitfuncs"}
OF_KINDS = ("state/external.py", "store/external_watches.py", "store/startup.py")
OF_TABLE_STATE = {"_after", "_await_change", "_wake", "_transact"}

INJECTOR = Path(__file__).parent / "support/inject"
NEVER_FIRES = [{"who": "nobody", "point": "nothing", "hit": 1, "action": "kill"}]


def modules() -> list[str]:
    return sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def dotted(module: str) -> str:
    return f"noderuntime.{module.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__")


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


def imported(module: str) -> set[str]:
    """The modules of ours that a module takes names from. `from package import module` is an import of that module."""
    known = {dotted(name): name for name in modules()}
    found = imports(PACKAGE / module)
    packages = {name for name in known if known[name].endswith("__init__.py")}
    used = {name for name in found if name in known and name not in packages}
    used |= {name.rpartition(".")[0] for name in found if name.rpartition(".")[0] in packages and name not in known}
    return {known[name] for name in used} - {module}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions count: they hide a circle, they do not open it."""
    edges = {module: imported(module) for module in modules()}
    while True:
        targets = set().union(*edges.values())
        inner = {module for module, used in edges.items() if used & edges.keys() and module in targets}
        if inner == edges.keys():
            break
        edges = {module: edges[module] & inner for module in inner}
    assert edges == {}


def test_a_module_is_one_idea() -> None:
    lines = {module: len((PACKAGE / module).read_text().splitlines()) for module in modules()}
    long = {module: count for module, count in lines.items() if count > LINES_MAX}
    assert {module: count for module, count in long.items() if module not in LONGER} == {}
    assert set(LONGER) <= set(long), "a module that is no longer that long needs no reason"


def test_the_fault_injector_wraps_names_that_exist() -> None:
    """A renamed boundary must not make the fault tests silently weaker."""
    program = "import importlib, sitecustomize; [importlib.import_module(name) for name in sitecustomize.POINTS]"
    environ = {**os.environ, "PYTHONPATH": str(INJECTOR), "FAULTS": json.dumps(NEVER_FIRES)}
    line = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(line, env=environ, cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def private_names_of_others(module: str) -> set[str]:
    """Names with one leading underscore that a module uses and does not define. (ruff's SLF001 also refuses a module's
    own: the table of lifecycle.py, the constructors of events.py.)"""
    tree = ast.parse((PACKAGE / module).read_text())
    defined, used = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # __slots__
            defined.add(node.value)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("noderuntime"):
            used.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (defined if own else used).add(node.attr)
    return {name for name in used - defined if name.startswith("_") and not name.startswith("__")}


@pytest.mark.parametrize("module", modules())
def test_a_private_name_is_used_in_its_own_module_only(module: str) -> None:
    assert private_names_of_others(module) - NOT_PRIVATE <= (OF_TABLE_STATE if module in OF_KINDS else set())


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
