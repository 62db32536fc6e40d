"""Loads users' code, and shows users' errors without frames of noderuntime."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from noderuntime.errors import OperatorError
from noderuntime.ipc.boundary import TRACE_CHARACTERS_MAX, cut, describe
from noderuntime.ipc.entrypoints import PACKAGE

_OURS = str(PACKAGE) + os.sep  # with the separator: noderuntime_operators.py only begins with our name
_COMPILED = PACKAGE.name + os.sep  # code objects of compiled modules have relative names
_loaded: dict[Path, ModuleType] = {}
_USERS = tuple(_OURS + folder + os.sep for folder in ("operators", "dataflows"))


def load_code(code: Mapping[str, str]) -> Any:
    """What makes the operator that `code` of a Wiring names. Raises OperatorError."""
    module, _, function = code.get("adapter", "").partition(":")
    if not module:
        return load(code["path"], code["module"], code["name"])
    adapter = importlib.import_module(module)  # first: it may provide what the code imports
    return getattr(adapter, function)(load(code["path"], code["module"], code["name"]))


def load(path: str, module: str, name: str) -> Any:
    """The class or function `name` of the file `path`, or of the importable `module`.

    Puts the file's folder, or for a module the working directory, on sys.path. Raises OperatorError with the user's
    part of the traceback.
    """
    folder = str(Path(path).parent.resolve() if path else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        loaded = _load_file(Path(path)) if path else importlib.import_module(module)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise OperatorError("import", describe(error), user_trace(error)) from None
    found = getattr(loaded, name, None)
    where = os.path.relpath(path) if path else module  # nearly as the dataflow file writes it
    if found is None:
        classes = [n for n, value in vars(loaded).items() if callable(value) and not n.startswith("_")]
        known = ", ".join(classes[:10]) or "nothing that could be one"
        hint = f"Write it as {where}:NAME in the dataflow file"
        raise OperatorError("import", f"{where} has no {name!r}; it has: {known}. {hint}")
    if not callable(found):
        raise OperatorError("import", f"{name!r} in {where} is {type(found).__name__}, not a class with on_event")
    return found


def _load_file(path: Path) -> ModuleType:
    resolved = path.resolve()
    if resolved in _loaded:  # another operator of this process is in the same file
        return _loaded[resolved]
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    # under its own name if that is free, so that dataclasses, logging and tracebacks look as in other programs
    name = path.stem
    if name in sys.modules or name in sys.stdlib_module_names:
        name = f"noderuntime_operator_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    _loaded[resolved] = module
    return module


def refuse_namesakes(files: Sequence[str]) -> None:
    """Raise OperatorError when operators of one process, from different folders, would import each other's modules.

    A process has one module of a name: the `util` that was imported from one folder would be that of all.
    """
    folders = sorted({Path(file).parent.resolve() for file in files if file})
    if len(folders) < 2:
        return
    for name, module in sorted(sys.modules.items()):
        place = getattr(module, "__file__", None)
        if "." in name or not place:
            continue
        own = Path(place).resolve()
        home = own.parent.parent if own.name == "__init__.py" else own.parent
        for folder in folders:
            if home in folders and folder != home and _has_module(folder, name):
                what = f"the process has imported {name!r} from {home}, and operators in {folder} have another {name!r}"
                raise OperatorError("import", f"{what}. Rename one, or give one operator another `process`")


def _has_module(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()


def user_trace(error: BaseException) -> str:
    """The traceback without our own frames and those of the import machinery; causes are trimmed as well."""
    trace = traceback.TracebackException.from_exception(error)
    _trim(trace)
    return cut("".join(trace.format()).rstrip("\n"), TRACE_CHARACTERS_MAX)


def _trim(trace: traceback.TracebackException) -> None:
    users = [frame for frame in trace.stack if not _is_ours(frame.filename)]
    trace.stack = traceback.StackSummary.from_list(users)
    for chained in (trace.__cause__, trace.__context__):
        if chained is not None:
            _trim(chained)


def _is_ours(filename: str) -> bool:
    if filename.startswith("<frozen importlib"):
        return True
    return filename.startswith((_OURS, _COMPILED)) and not filename.startswith(_USERS)
