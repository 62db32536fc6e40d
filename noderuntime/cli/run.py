"""`run`: load the dataflow, start the runtime under its guard, and show the run.

The process that the user launched becomes the guard; the runtime, which includes the console, is its child. With -d
both are children of a process that returns as soon as the run is up.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from noderuntime.cli import answered, loading, output
from noderuntime.cli.console import Console, Detached, JsonConsole
from noderuntime.cli.loading import Loaded
from noderuntime.cli.output import UsageError
from noderuntime.dataflow.files import check_files, joined
from noderuntime.runtime import guard
from noderuntime.runtime.observer import Observer, RunOptions


def run(options: Namespace) -> int:
    """Run a dataflow. Returns the exit code of the run; with -d, 0 as soon as it is up."""
    if options.exit_when_nodes_finish is not None and not options.dora:
        raise UsageError("--exit-when-nodes-finish is for dora files; it needs --dora", "noderuntime run")
    loaded = loading.load(options)
    dataflow = loaded.dataflow
    name = run_name(options.name, options.file)
    if options.chaos == 0:
        raise UsageError("--chaos 0s would be one kill after the other; give a time such as 1s", "noderuntime run")
    if options.seed is not None and options.chaos is None:
        raise UsageError("--seed says which kills to repeat; it needs --chaos TIME", "noderuntime run")
    if options.fresh and (options.resume or options.from_snapshot is not None):
        other = "--resume" if options.resume else "--from"
        raise UsageError(f"--fresh forgets what {other} would continue from; give one of them", "noderuntime run")
    if (options.drop or options.rename) and not (options.resume or options.from_snapshot is not None):
        raise UsageError("--drop and --rename say what --resume may do; give it, too", "noderuntime run")
    if len(dict(options.rename)) < len(options.rename):
        raise UsageError("--rename gives one node two ids", "noderuntime run")
    for warning in (*loaded.notes, *check_files(dataflow)):
        output.warn(warning)
    if not options.detach:
        return guard.run_guarded(lambda: _answered(lambda: _shown(loaded, options, name)))
    work = partial(_runtime, loaded, Detached(), options, name)
    code = guard.run_guarded(lambda: _answered(work), detach=True)
    if code == output.OK:
        output.result(name)
    return code


def run_name(given: str | None, file: str) -> str:
    """The name of the run: what was given, else the file's name without its ending. Raises UsageError."""
    name = Path(file).stem if given is None else given
    if not name or not name.isprintable() or name != name.strip():
        raise UsageError(
            f"{name[:60]!r} cannot be the name of a run: it needs printable characters, and no space at its ends; "
            "give one with --name",
            "noderuntime run",
        )
    return name


def _shown(loaded: Loaded, options: Namespace, name: str) -> int:
    """The runtime, with a console that shows it."""
    over = threading.Event()

    def broken() -> None:
        """The reader of our stdout is gone (`run ... | head`): stop in order, as for SIGTERM."""
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    kind = JsonConsole if options.log_format == "json" else Console
    console = kind([node.id for node in loaded.dataflow.nodes], quiet=options.quiet, broken=broken)
    # the runtime is no process group of the terminal's foreground; `stty tostop` must not stop it when it writes
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    console.start()
    try:
        code = _runtime(loaded, console, options, name, console.terminal)
    finally:
        over.set()
        for number in guard.FORWARDED:
            signal.signal(number, _end_by_signal)  # what is left to write may never be read
        console.close()
    return output.PIPE_CLOSED if console.out_is_gone and code == output.TERMINATED else code


def _end_by_signal(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _runtime(loaded: Loaded, observer: Observer, options: Namespace, name: str, terminal: str = "") -> int:
    from noderuntime.cli.preflight import problems  # only after the guard has split off: it stays small
    from noderuntime.runtime import runtime  # with ZeroMQ, likewise

    if wrong := problems(loaded.dataflow, loaded.overrides):
        raise joined(wrong)
    return runtime.run(
        loaded.dataflow,
        RunOptions(
            name=name,
            environ=os.environ,
            extra_env=loaded.overrides,
            resume=options.resume or options.from_snapshot is not None,
            from_snapshot=options.from_snapshot,
            fresh=options.fresh,
            drop=options.drop,
            rename=dict(options.rename),
            stop_after_s=options.stop_after,
            abort_on_failure=options.abort_on_failure,
            terminal=terminal,
            chaos_s=options.chaos,
            seed=options.seed,
            watch=options.watch,
            dora=loaded.dora,
            problems=problems,
        ),
        observer,
    )


def _answered(work: Callable[[], int]) -> int:
    return answered(work, sys.argv[1:])
