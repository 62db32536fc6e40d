"""Finds the files of an operator: its own, and those in its folder that it imports directly or indirectly.

It reads `import` statements anywhere in a file and runs nothing. It does not find modules that are imported by a name
made at run time, nor files outside the folder: installed packages do not change while a user works on an operator.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from noderuntime.dataflow.model import Dataflow, NodeSpec

FILES_MAX = 500


def files_of(dataflow: Dataflow, spec: NodeSpec) -> set[Path]:
    """The files of an operator. Its own file is included even if it does not exist."""
    if spec.code.path:
        path = Path(dataflow.folder, spec.code.path)
        return closure(path, path.parent)
    top, *rest = spec.code.module.split(".")
    found = PathFinder.find_spec(top, [dataflow.folder, *sys.path])
    if found is None or not found.origin:
        return set()
    origin = Path(found.origin)
    if origin.name != "__init__.py":
        return {origin}
    files: set[Path] = set()
    for path in _named(".".join([top, *rest]), origin.parent.parent):
        files |= closure(path, origin.parent.parent, only=top)
    return files


def closure(first: Path, root: Path, only: str = "") -> set[Path]:
    """`first`, and what it imports from below `root`, and so on; with `only`, of that package alone."""
    found = {first}
    unread = [first]
    while unread and len(found) < FILES_MAX:
        path = unread.pop()
        for name in _imported(path, root):
            if only and name.partition(".")[0] != only:
                continue
            for file in _named(name, root):
                if file not in found:
                    found.add(file)
                    unread.append(file)
    return found


def _imported(path: Path, root: Path) -> Iterator[str]:
    """The names of the modules that a file imports; none if it is not valid Python at the moment."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = path.parent
                for _ in range(node.level - 1):
                    package = package.parent
                if not package.is_relative_to(root):
                    continue
                base = ".".join([*package.relative_to(root).parts, *([base] if base else [])])
            if base:
                yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


def _named(name: str, root: Path) -> Iterator[Path]:
    """The files below `root` that importing a dotted name runs: those of its packages, and its own."""
    folder = root
    for part in name.split("."):
        if (folder / part / "__init__.py").is_file():
            yield folder / part / "__init__.py"
        elif (folder / f"{part}.py").is_file():
            yield folder / f"{part}.py"
            return
        folder = folder / part
