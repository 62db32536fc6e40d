"""The `noderuntime` command: one module per subcommand, named like it.

May import errors, merges, api, dataflow, ipc, space, state, snapshot, node, dora, store, watching, runtime and testing.
Start reading in parser.py (all commands and options), then run.py and client.py (requests to a live run).
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from noderuntime import __version__
from noderuntime.cli import output
from noderuntime.cli.output import CommandError, UsageError
from noderuntime.errors import DataflowError, NodeRuntimeError, NotRunning
from noderuntime.ipc import entrypoints

if TYPE_CHECKING:
    from argparse import Namespace

_NOT_OUR_BUGS = {
    errno.EACCES, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EPERM,
    errno.EROFS,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command line (default: that of this process) and return its exit code. Raises nothing."""
    _complete_stdio()
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:  # inherited: with it no child could be waited for
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names and values may hold what the locale cannot say
            stream.reconfigure(errors="backslashreplace")
    return answered(lambda: _dispatch(arguments), arguments)


def _complete_stdio() -> None:
    """Descriptors 0 to 2 are open from here on, and no file of ours gets their numbers (`noderuntime run FILE >&-`)."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, os.O_RDWR)  # the lowest that is free, which is the one that is missing
            os.set_inheritable(fd, fd <= 2)
            setattr(sys, name, os.fdopen(fd, mode, errors="backslashreplace"))


def answered(work: Callable[[], int], arguments: Sequence[str]) -> int:
    """The exit code of `work`. When it raises, one clear sentence goes to stderr, and the code is that of the error."""
    try:
        try:
            return work()
        finally:
            sys.stdout.flush()
    except SystemExit as end:  # argparse, after --help
        return end.code if isinstance(end.code, int) else output.OK
    except UsageError as error:
        output.complain(f"{error.what}\n  See `{error.program} --help`.")
        return output.USAGE
    except CommandError as error:
        output.complain(error.what)
        return error.code
    except NodeRuntimeError as error:
        output.complain(str(error))
        return _code_of(error)
    except BrokenPipeError:
        _forget_stdout()
        return output.PIPE_CLOSED
    except KeyboardInterrupt:
        return output.INTERRUPTED
    except OSError as error:
        if error.errno not in _NOT_OUR_BUGS:
            output.complain(_internal(error, arguments))
            return output.INTERNAL
        output.complain(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
        _forget_stdout()  # what is left in its buffer may be what could not be written
        return output.FAILED
    except Exception as error:
        output.complain(_internal(error, arguments))
        return output.INTERNAL


def _dispatch(arguments: list[str]) -> int:
    from noderuntime.cli import parser

    if not arguments:
        parser.build()[0].print_help(sys.stderr)
        return output.USAGE
    options = parser.parse(arguments)
    if options.version:
        core = "compiled" if entrypoints.is_compiled() else "interpreted"
        output.result(f"noderuntime {__version__} ({core})")
        return output.OK
    if options.command is None:
        raise UsageError("a command is missing")
    name = options.command.replace("-", "_")
    command: Callable[[Namespace], int] = getattr(importlib.import_module(f"noderuntime.cli.{name}"), name)
    return command(options)


def _code_of(error: NodeRuntimeError) -> int:
    from noderuntime.ipc.homes import RunRefused

    if isinstance(error, DataflowError | RunRefused):
        return output.USAGE
    return output.NO_SUCH_RUN if isinstance(error, NotRunning) else output.FAILED


def _forget_stdout() -> None:
    """The reader of our stdout is gone: keep the interpreter from complaining about it at exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _internal(error: Exception, arguments: Sequence[str]) -> str:
    """A bug of ours: a short text, and the traceback in a file rather than in the user's face."""
    import tempfile
    import traceback
    from pathlib import Path

    from noderuntime.ipc.rundir import state_home

    report = f"noderuntime {' '.join(arguments)}\n\n{''.join(traceback.format_exception(error))}"
    folder = state_home(os.environ) / "errors"
    for place in (folder, Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            file, name = tempfile.mkstemp(prefix="noderuntime-error-", suffix=".txt", dir=place)
            with open(file, "w", errors="backslashreplace") as stream:
                stream.write(report)
            where = f"The traceback is in {name}; please send it along when you report this."
            break
    else:
        where = report
    what = str(error) or "no further text"
    return f"this is a bug of noderuntime, not yours: {type(error).__name__}: {what}\n  {where}"
