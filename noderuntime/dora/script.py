"""A Python node of dora's in a fork of a warm interpreter: `import dora`, numpy and pyarrow cost it nothing any more.

What a program can tell of its start is as if the interpreter had been called with it: sys.argv, sys.path, `__main__`,
unbuffered output, its exit code, what is done at exit. A folder that holds a module of a name that is loaded here
already would get ours instead of its own: its program is executed after all.
"""

from __future__ import annotations

import atexit
import builtins
import os
import signal
import sys
import threading
import types
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import noderuntime.dora.node  # noqa: F401  what `import dora` of the program needs
from noderuntime.dora import arrays

arrays.load()


def main() -> int:
    """argv: the program, its arguments. Returns the exit code of the program."""
    path, *arguments = sys.argv[1:]
    folder = Path(path).resolve().parent
    if hides_loaded(folder):
        _execute(path, arguments)
    sys.argv = [path, *arguments]
    sys.path[:] = search_path(folder, os.environ.get("PYTHONPATH", ""), sys.path)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True, line_buffering=True)  # type: ignore[union-attr]
    code = _run(path)
    threading._shutdown()  # type: ignore[attr-defined]  # what an interpreter does at its end, and a fork does not:
    atexit._run_exitfuncs()  # wait for threads, then call what was registered
    return code


def hides_loaded(folder: Path) -> bool:
    """Whether a module in `folder` has the name of one that is loaded here already, from elsewhere."""
    names = {entry.stem for entry in folder.glob("*.py")}
    names |= {entry.parent.name for entry in folder.glob("*/__init__.py")}
    return any(
        not str(getattr(sys.modules[name], "__file__", None)).startswith(f"{folder}/")
        for name in names & set(sys.modules) - {"__main__"}
    )


def search_path(folder: Path, python_path: str, present: Sequence[str]) -> list[str]:
    """sys.path as a fresh interpreter would have it for a program in `folder`."""
    first = [str(folder), *(str(Path(entry).absolute()) for entry in python_path.split(os.pathsep) if entry)]
    return list(dict.fromkeys([*first, *present]))


def _execute(path: str, arguments: Sequence[str]) -> NoReturn:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execve(sys.executable, [sys.executable, path, *arguments], os.environ)


def _run(path: str) -> int:
    """Run the program as `__main__`; what it raises is printed as an interpreter prints it."""
    module = types.ModuleType("__main__")
    module.__dict__.update(__file__=path, __builtins__=builtins, __cached__=None)
    sys.modules["__main__"] = module
    try:
        exec(compile(Path(path).read_bytes(), path, "exec", dont_inherit=True), module.__dict__)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        trace = error.__traceback__.tb_next if error.__traceback__ is not None else None  # without this frame
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    return 0
