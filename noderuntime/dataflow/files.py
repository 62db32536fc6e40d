"""Reads a dataflow file from disk and checks the files that it names. Executes nothing.

Errors, each with its line: node files that are missing, are folders, cannot be read, or are neither Python nor
executable. Warnings only: Python files whose names hide a module of the standard library, and modules that this process
cannot find (the environment of the run decides).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from noderuntime.dataflow import reader
from noderuntime.dataflow.identifiers import nearest
from noderuntime.dataflow.model import Dataflow, NodeSpec, Place
from noderuntime.dataflow.yaml.tree import TEXT_BYTES_MAX
from noderuntime.errors import DataflowError

_HIDDEN_BY_NODE_FILES = sys.stdlib_module_names | {"noderuntime"}


def load(
    file: str | Path, env: Mapping[str, str] | None = None, overrides: Mapping[str, str] | None = None
) -> Dataflow:
    """Read a dataflow file. `env` is for $VAR (default: that of this process), `overrides` come from `--env`.

    The folder of the result is absolute. Raises DataflowError only.
    """
    path = Path(file)
    data = read_file(path)
    folder = str(path.absolute().parent)
    given = os.environ if env is None else env
    return reader.parse(data, file=str(file), folder=folder, env=given, overrides=overrides)


def digest_of(dataflow: Dataflow) -> str:
    """A digest of the file that a dataflow came from, as it is now; "" when it cannot be read."""
    try:
        return hashlib.sha256(read_file(Path(dataflow.folder, Path(dataflow.file).name))).hexdigest()
    except DataflowError:
        return ""


def check_files(dataflow: Dataflow) -> list[str]:
    """Look at every file that the dataflow names. Returns warnings, each with its file:line:column.

    Raises one DataflowError that holds all that is missing.
    """
    errors: list[DataflowError] = []
    warnings: list[str] = []
    for node in dataflow.nodes:
        problem = _node_problem(dataflow, node)
        if problem is not None:
            errors.append(problem)
            continue
        warning = _node_warning(dataflow, node)
        if warning:
            warnings.append(f"{_where(dataflow, node.code.place)}: {warning}")
        warning = _budget_warning(node)
        if warning:
            warnings.append(f"{_where(dataflow, node.place)}: {warning}")
    seed = dataflow.state.seed_file
    if seed and not Path(dataflow.folder, seed).is_file():
        errors.append(_error(dataflow, dataflow.state.place, f"there is no seed file {seed!r}", dataflow.folder))
    if errors:
        raise joined(errors)
    warnings += _shadowed_beside(dataflow)
    return warnings


def joined(errors: list[DataflowError]) -> DataflowError:
    """One error that tells all of them; there is at least one."""
    first, *others = errors
    return DataflowError(
        first.what, file=first.file, line=first.line, column=first.column, hint=first.hint, more=others
    )


def command(dataflow: Dataflow, node: NodeSpec) -> list[str]:
    """The command of a custom node: this interpreter for a .py file, else the executable; then its arguments.

    A path without a slash that is not in the dataflow's folder is looked up on the PATH, as a shell would.
    Raises DataflowError when it cannot be started.
    """
    problem = _node_problem(dataflow, node)
    if problem is not None:
        raise problem
    path = Path(dataflow.folder, node.code.path)
    if path.suffix == ".py":
        return [sys.executable, str(path), *node.code.args]
    if not path.exists():
        found = _on_path(node)
        assert found is not None  # _node_problem looked
        path = Path(found)
    return [str(path), *node.code.args]


def read_file(path: Path) -> bytes:
    """The content of a dataflow file, at most one byte more than it may have. Raises DataflowError."""
    hint = "Name a dataflow file, such as dataflow.yml."
    try:
        # Not blocking: opening a FIFO without a writer must not hang.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                what = "this is a folder" if stat.S_ISDIR(mode) else "this is no regular file"
                raise DataflowError(what, file=str(path), hint=hint)
            return os.read(descriptor, TEXT_BYTES_MAX + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError | ValueError) -> DataflowError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return DataflowError("there is no such file", file=str(path), hint=_near_file(path, (".yml", ".yaml"), path))
    said = error.strerror if isinstance(error, OSError) else str(error)
    return DataflowError(f"the file cannot be read: {said}", file=str(path), hint="Check its name and its permissions.")


def _near_file(path: Path, suffixes: tuple[str, ...], written: str | Path) -> str:
    """A file beside `path`, with one of the suffixes, that was probably meant; told the way `path` was written."""
    try:
        names = sorted(item.name for item in path.parent.iterdir() if item.suffix in suffixes)[:200]
    except OSError:
        return f"There is no folder {str(path.parent)!r} either."
    stems = {Path(name).stem: name for name in names}  # of the whole names, `.py` alone would make many alike
    near = nearest(path.stem[:200], stems)
    if near:
        return f"Did you mean {str(Path(written).parent / stems[near])!r}?"
    if names:
        return f"In that folder there are: {', '.join(names[:10])}."
    return "Check the path."


def _node_problem(dataflow: Dataflow, node: NodeSpec) -> DataflowError | None:
    """Why the node's file cannot be run; None when it can, as far as one sees without running it."""
    written = node.code.path
    if not written:
        return None
    path = Path(dataflow.folder, written)
    label = f"node {node.id!r}: {written!r}"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        may_be_command = node.kind == "node" and "/" not in written and path.suffix != ".py"
        if may_be_command and _on_path(node):
            return None
        near = _near_file(path, (".py",), written)
        hint = f"{near} Paths are relative to the folder of the dataflow file, {dataflow.folder!r}."
        nor = ", and no command of that name is on the PATH" if may_be_command else ""
        return _error(dataflow, node.code.place, f"{label} does not exist{nor}", hint)
    except OSError as error:
        return _error(dataflow, node.code.place, f"{label} cannot be read: {error.strerror}", "Check the path.")
    if stat.S_ISDIR(mode):
        return _error(dataflow, node.code.place, f"{label} is a folder", "Name a file in it.")
    if not os.access(path, os.R_OK) and (node.kind == "operator" or path.suffix == ".py"):
        return _error(dataflow, node.code.place, f"{label} may not be read", f"Try: chmod u+r {written}")
    if node.kind == "node" and path.suffix != ".py" and not os.access(path, os.X_OK):
        hint = f"Try: chmod +x {written}. (Only .py files are started with Python by themselves.)"
        return _error(dataflow, node.code.place, f"{label} is not executable", hint)
    return None


def _node_warning(dataflow: Dataflow, node: NodeSpec) -> str:
    path = Path(node.code.path)
    if path.suffix == ".py" and path.stem in _HIDDEN_BY_NODE_FILES:
        return (
            f"{node.code.path!r} of node {node.id!r} hides Python's own module {path.stem!r}: "
            f"`import {path.stem}` in that process finds this file. Rename it."
        )
    return ""


def _shadowed_beside(dataflow: Dataflow) -> list[str]:
    """Files beside those of nodes hide modules of the standard library as well: the folder comes first on sys.path."""
    own = {Path(dataflow.folder, node.code.path).resolve() for node in dataflow.nodes if node.code.path}
    found = []
    seen: set[Path] = set()
    for node in dataflow.nodes:
        path = Path(dataflow.folder, node.code.path)
        if path.suffix != ".py" or path.resolve().parent in seen:
            continue
        seen.add(path.resolve().parent)
        for beside in sorted(path.parent.glob("*.py")):
            if beside.stem in _HIDDEN_BY_NODE_FILES and beside.resolve() not in own:
                name = str(Path(node.code.path).parent / beside.name)
                found.append(
                    f"{_where(dataflow, node.code.place)}: {name!r}, in the folder of node {node.id!r}, hides Python's "
                    f"own module {beside.stem!r}: `import {beside.stem}` in that process finds this file. Rename it."
                )
    return found


def _budget_warning(node: NodeSpec) -> str:
    """A message that fails every time is buried in the claim of the life after its last attempt: is there one?"""
    takes_messages = any(not spec.is_timer for spec in node.inputs)
    if node.restart_policy == "never" or not takes_messages or not 0 < node.max_restarts < node.max_attempts:
        return ""
    return (
        f"node {node.id!r} fails for good before a message that fails every time becomes a dead letter: that takes "
        f"max_attempts = {node.max_attempts} restarts, and max_restarts is {node.max_restarts}. Raise it."
    )


def _on_path(node: NodeSpec) -> str | None:
    return shutil.which(node.code.path, path=node.env.get("PATH"))


def _where(dataflow: Dataflow, place: Place) -> str:
    return ":".join(str(part) for part in (place.file or dataflow.file, place.line, place.column) if part)


def _error(dataflow: Dataflow, place: Place, what: str, hint: str) -> DataflowError:
    file = place.file or dataflow.file
    return DataflowError(what, file=file, line=place.line, column=place.column, hint=hint)
