"""A module imports only from its own floor or below, and the pure ones touch nothing of the world."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "noderuntime"

FLOORS: dict[str, int] = {
    "errors": 0, "identifiers": 0, "snapshot_place": 0,
    "batches": 1, "boundary": 1, "budget": 1, "cells": 1, "dataflow": 1, "dataflow_file": 1, "dataflow_links": 1,
    "dataflow_names": 1, "deadlines": 1, "deaths": 1, "events": 1,
    "graph": 1, "graph_layout": 1, "keyed": 1, "keyed_operator": 1, "keyed_states": 1, "keyed_values": 1, "kills": 1,
    "merges": 1, "observer": 1, "operator": 1, "plan": 1, "protocol": 1, "sources": 1,
    "stuck": 1, "supervision": 1, "supervision_words": 1,
    "values": 1, "wiring": 1, "yaml_fields": 1, "yaml_nodes": 1, "yaml_tree": 1,
    "alarm": 2, "channel": 2, "cores": 2, "doorbell": 2, "forks": 2, "homes": 2, "imports": 2, "loader": 2,
    "lockwatch": 2, "loop": 2, "process": 2, "pulse": 2, "rundir": 2, "runs": 2, "space": 2, "state": 2,
    "state_folders": 2,
    "commit_helper": 3, "forkserver": 3, "guard": 3, "joining": 3, "logs": 3, "member": 3, "nursery": 3,
    "remote_log": 3, "snapshot": 3, "store_outside": 3, "store_start": 3, "storelink": 3, "usercode": 3,
    "chaos": 4, "children": 4, "codecheck": 4, "codewatch": 4, "context": 4, "crew": 4, "helpers": 4, "results": 4,
    "preflight": 4, "run_outbox": 4, "run_snapshots": 4, "store_forward": 4, "store_letters": 4, "store_nodes": 4,
    "store_snapshot": 4, "store_state": 4, "store_waits": 4, "store_watches": 4, "stuck_watch": 4, "timers": 4,
    "control": 5, "node": 5, "operator_host": 5, "runtime": 5, "store": 5, "testing": 5,
    "__init__": 6,
    "cli": 7,
    "__main__": 8,
}  # fmt: skip

PURE = {name for name, floor in FLOORS.items() if floor <= 1}
WORLD = {"zmq", "lmdb", "os", "subprocess", "mmap", "time", "socket", "select", "signal", "fcntl", "shutil", "tempfile"}
PUBLIC_MODULES = {"noderuntime.merges", "noderuntime.testing", "noderuntime.api.values"}
ONLY = {"lmdb": {"space"}, "zmq": {"channel"}}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


@cache
def imports(path: Path) -> frozenset[str]:
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "noderuntime":
                found.update(f"noderuntime.{alias.name}" for alias in node.names)
    return frozenset(found)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_floor_or_below(path: Path) -> None:
    mine = room(path)
    assert mine in FLOORS, f"{mine} has no floor: give it one here"
    for name in imports(path):
        if not name.startswith("noderuntime."):
            continue
        theirs = name.split(".")[1]
        if theirs in FLOORS:
            assert FLOORS[theirs] <= FLOORS[mine], f"{path.name} (floor {FLOORS[mine]}) imports {name}"


@pytest.mark.parametrize("path", [p for p in modules() if room(p) in PURE], ids=lambda path: path.name)
def test_a_pure_module_touches_nothing_of_the_world(path: Path) -> None:
    touched = {name.split(".")[0] for name in imports(path)} & WORLD
    assert not touched, f"{path.name} imports {sorted(touched)}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_lmdb_and_zmq_are_each_imported_in_one_place(path: Path) -> None:
    for library, rooms in ONLY.items():
        if room(path) not in rooms:
            assert library not in {name.split(".")[0] for name in imports(path)}, f"{path.name} imports {library}"


@pytest.mark.parametrize(
    "path",
    [p for folder in ("operators", "dataflows") for p in sorted((PACKAGE.parent / folder).rglob("*.py"))],
    ids=lambda path: path.name,
)
def test_operators_and_dataflows_use_public_names_only(path: Path) -> None:
    for name in imports(path):
        if name.startswith("noderuntime"):
            assert name.count(".") <= 1, name
            assert name.partition(".")[2] not in FLOORS or name in PUBLIC_MODULES, name


def test_a_module_that_names_its_floor_names_the_right_one() -> None:
    paths = {name: PACKAGE / f"{name}.py" for name in FLOORS}
    said = {name: re.search(r"Floor\s+(\d)", path.read_text()) for name, path in paths.items() if path.exists()}
    assert {name: int(found[1]) for name, found in said.items() if found} == {
        name: FLOORS[name] for name, found in said.items() if found
    }
