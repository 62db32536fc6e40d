"""What `noderuntime validate`, and the start of a run, can tell of the code that a dataflow names, without running it.

Modules are found as an import would find them, but a parent package is not imported: its folders are looked into.
Names are looked up in the symbol table that Python makes of a file, which needs no execution. Where a module binds
names in ways that no table shows (`from x import *`, `__getattr__`, globals()), what cannot be told is not refused.

The config of ready-made operators and of the kinds of State that we bring is read by the same declarations as in a run.
"""

from __future__ import annotations

import ast
import importlib
import os
import symtable
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from noderuntime.api.handlers import HANDLERS
from noderuntime.dataflow.identifiers import nearest
from noderuntime.dataflow.model import Dataflow, NodeSpec, Place
from noderuntime.errors import DataflowError, StoreError
from noderuntime.ipc.entrypoints import PACKAGE, ROOT

_OPERATORS = "noderuntime.operators"
_READY_MADE = PACKAGE / "operators", ROOT / "operators"
_BINDS_UNSEEN = ("globals", "exec", "eval", "vars", "locals", "setattr")


def problems(dataflow: Dataflow, overrides: Mapping[str, str]) -> list[DataflowError]:
    """Everything that would keep a node, or the shared state, from starting, as far as one sees without running it.

    `overrides`: variables that win over the `env` of nodes (`--env`).
    """
    importlib.invalidate_caches()  # a runtime asks again and again, and modules come and go
    found = []
    for node in dataflow.nodes:
        if node.kind == "dynamic":
            continue
        place, problem = node.code.place, _code_problem(dataflow, node, overrides)
        if problem is None and node.kind == "operator":
            place, problem = node.config_place, _config_problem(dataflow, node)
        if problem is not None:
            what, hint = problem
            found.append(_error(dataflow, place, f"node {node.id!r}: {what}", hint))
    found += _shared_files(dataflow)
    wrong = _state_problem(dataflow)
    if wrong:
        found.append(_error(dataflow, dataflow.state.place, wrong, ""))
    return found


def _state_problem(dataflow: Dataflow) -> str:
    if dataflow.state.kind == "memory":  # whose fields were read with the file
        return ""
    from noderuntime.state import kinds  # which needs what a run needs: not to be loaded to look at most dataflows

    try:
        kinds.check(dataflow.state.kind, dataflow.state.to_plain())
        point = kinds.plugin(dataflow.state.kind)
        missing = None if point is None else _name_problem(*point, [*sys.path])
    except StoreError as error:
        return str(error)
    return f"state: kind {dataflow.state.kind!r}: {missing[0]}" if missing is not None else ""


def _code_problem(dataflow: Dataflow, node: NodeSpec, overrides: Mapping[str, str]) -> tuple[str, str] | None:
    """(what is wrong with the node's code, what would be right); None when nothing is."""
    if node.code.module:
        variables = {**node.env, **overrides}
        named = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))
        folders = [dataflow.folder, *(str(Path(dataflow.folder, each)) for each in named), *sys.path]
        return _name_problem(node.code.module, node.code.name, folders)
    path = Path(dataflow.folder, node.code.path)
    if path.suffix != ".py" or not path.is_file():
        return None
    return _file_problem(path, node.code.path, node.code.name if node.kind == "operator" else "")


def _name_problem(module: str, name: str, folders: list[str]) -> tuple[str, str] | None:
    """What keeps `from module import name` from working."""
    top, *rest = module.split(".")
    hint = "Install it, correct its name, or set PYTHONPATH in `env:` of the node."
    spec = PathFinder.find_spec(top, folders) or _found_otherwise(top)
    if spec is None:
        return None if top in sys.builtin_module_names else (f"there is no module {top!r}", hint)
    done = top
    for part in rest:
        if spec.submodule_search_locations is None:
            return (f"{done!r} is a module and no package, so it has no {part!r} in it", hint)
        inside = list(spec.submodule_search_locations)
        inner = PathFinder.find_spec(f"{done}.{part}", inside) or _found_otherwise(f"{done}.{part}", inside)
        if inner is None:
            beside = sorted(path.stem for folder in inside for path in Path(folder).glob("[!_]*.py"))
            near = nearest(part, beside)
            return (f"there is no module {done}.{part}", f"Did you mean {done}.{near}?" if near else hint)
        spec, done = inner, f"{done}.{part}"
    if spec.origin is None:
        return (f"{module} is a folder without code: it has no {name!r}", f"Write {module}.MODULE:NAME.")
    return _file_problem(Path(spec.origin), module, name) if spec.origin.endswith(".py") else None


def _found_otherwise(name: str, inside: list[str] | None = None) -> ModuleSpec | None:
    """The finders of packages that are installed to be edited look names up in a table of theirs."""
    for finder in sys.meta_path:
        spec = finder.find_spec(name, inside)
        if spec is not None:
            return spec
    return None


def _file_problem(path: Path, written: str, name: str) -> tuple[str, str] | None:
    """What keeps a Python file from being compiled, or from having `name` ("": need not)."""
    try:
        source = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes and the like
            tree = ast.parse(source, str(path))
            table = symtable.symtable(source, str(path), "exec")  # type: ignore[arg-type]
    except SyntaxError as error:
        return (f"{written}:{error.lineno or 0}: {error.msg}", "Correct the file.")
    except (OSError, ValueError, RecursionError, MemoryError):  # ValueError: a null byte
        return (f"{written} cannot be read as Python", "Check the file.")
    lazy = _lazy_handler(tree, name) if name else ""
    if lazy:
        return (f"{written}: {lazy}", "Nothing of it would run: write it as a plain `def` without `yield`.")
    if not name or _binds_unseen(tree):
        return None
    bound = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    bound |= _declared_global(table)
    if name in bound or (not bound and any(isinstance(item, ast.Raise) for item in tree.body)):
        return None  # a file that does nothing but raise says itself why it cannot be used
    callables = [item.name for item in tree.body if isinstance(item, ast.ClassDef | ast.FunctionDef)]
    public = [each for each in callables if not each.startswith("_")]
    near = nearest(name, public)
    known = f"it has: {', '.join(public[:10])}" if public else "it has nothing that could be one"
    return (
        f"{written} has no {name!r}; {known}",
        f"Write {written}:{near or 'NAME'}, with the name of the class or function.",
    )


def _lazy_handler(tree: ast.Module, name: str) -> str:
    """What a handler of the class `name` is, if its call would only make a coroutine or a generator; "": there is none.

    One with a decorator may be anything. See operator.refuse_lazy, which looks again at the start.
    """
    found = [item for item in tree.body if getattr(item, "name", "") == name]
    if not found or not isinstance(found[-1], ast.ClassDef):
        return ""
    last = {item.name: item for item in found[-1].body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
    for handler in HANDLERS:
        item = last.get(handler)
        if item is None or item.decorator_list:
            continue
        if isinstance(item, ast.AsyncFunctionDef):
            return f"line {item.lineno}: {name}.{handler} is `async def`"
        if _yields(item.body):
            return f"line {item.lineno}: {name}.{handler} is a generator (it has a `yield`)"
    return ""


def _yields(nodes: Sequence[ast.AST]) -> bool:
    """Whether there is a `yield` among them that belongs to no function or class of their own."""
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    return any(
        isinstance(node, ast.Yield | ast.YieldFrom)
        or (not isinstance(node, inner) and _yields(list(ast.iter_child_nodes(node))))
        for node in nodes
    )


def _binds_unseen(tree: ast.Module) -> bool:
    for item in ast.walk(tree):
        if isinstance(item, ast.ImportFrom) and any(alias.name == "*" for alias in item.names):
            return True
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Name) and item.func.id in _BINDS_UNSEEN:
            return True
    return any(isinstance(item, ast.FunctionDef) and item.name == "__getattr__" for item in tree.body)


def _declared_global(table: symtable.SymbolTable) -> set[str]:
    found = set()
    for child in table.get_children():
        found |= {
            symbol.get_name()
            for symbol in child.get_symbols()
            if symbol.is_declared_global() and (symbol.is_assigned() or symbol.is_imported())
        }
        found |= _declared_global(child)
    return found


def _ready_made(dataflow: Dataflow, node: NodeSpec) -> str:
    """Which operator of ours a node is; "" when it is none."""
    name = node.code.module.removeprefix(f"{_OPERATORS}.") if node.code.module.startswith(f"{_OPERATORS}.") else ""
    if node.code.path:
        path = Path(dataflow.folder, node.code.path).resolve()
        if any(path.parent == folder.resolve() for folder in _READY_MADE):
            name = path.stem
    return name if node.code.name == "Operator" else ""


def _shared_files(dataflow: Dataflow) -> list[DataflowError]:
    """A file belongs to one file_sink: each would cut off what the other has written."""
    owners: dict[Path, str] = {}
    found = []
    for node in dataflow.nodes:
        if node.kind == "operator" and _ready_made(dataflow, node) == "file_sink" and node.config.get("path"):
            path = Path(dataflow.folder, str(node.config["path"])).resolve()
            owner = owners.setdefault(path, node.id)
            if owner != node.id:
                what = f"node {node.id!r}: config: path: {node.config['path']!r} is the file of node {owner!r} already"
                found.append(_error(dataflow, node.config_place, what, "Give each file_sink a file of its own."))
    return found


def _config_problem(dataflow: Dataflow, node: NodeSpec) -> tuple[str, str] | None:
    """What an operator of ours would say of its config."""
    name = _ready_made(dataflow, node)
    if not name:
        return None
    schema = getattr(importlib.import_module(f"{_OPERATORS}.{name}"), "CONFIG", None)
    try:
        if schema is not None:
            schema.read(node.config)
    except ValueError as error:
        return (str(error), f"The head of {_OPERATORS}.{name} lists its config.")
    return None


def _error(dataflow: Dataflow, place: Place, what: str, hint: str) -> DataflowError:
    file = place.file or dataflow.file
    return DataflowError(what, file=file, line=place.line, column=place.column, hint=hint)
