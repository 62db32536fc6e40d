"""`ps`, `stop`, `reload`, `clean`: looking at runs and telling their runtimes what to do."""

from __future__ import annotations

import os
import select
import time
from argparse import Namespace
from typing import Any

from noderuntime.cli import output
from noderuntime.cli.choose import RUNNING, choose, find, is_running, known_runs
from noderuntime.cli.output import CommandError, UsageError
from noderuntime.cli.text import duration
from noderuntime.runs import Run
from noderuntime.runs import clean as remove

PATIENCE_S = 2.0


def ps(options: Namespace) -> int:
    """List runs; with a RUN, its nodes."""
    if options.run is not None:
        return _ps_nodes(choose(options.run), options.json)
    runs = [run for run in known_runs() if options.all or run.state == RUNNING]
    now = time.time()
    if options.json:
        output.result_json([_json_run(run) for run in runs])
    elif runs:
        rows = [
            (run.name, run.state, _pid(run) or "-", _ago(now - run.file.started), run.file.file)
            for run in runs
        ]
        output.result_table(("NAME", "STATE", "PID", "STARTED", "FILE"), rows)
    else:
        interrupted = 0 if options.all else len(known_runs())
        also = f"; {interrupted} interrupted, see `noderuntime ps -a`" if interrupted else ""
        output.tell(f"no runs{'' if options.all else ' are running'}{also}")
    return output.OK


def stop(options: Namespace) -> int:
    """Stop a run and wait until nothing of it is left."""
    run = choose(options.run)
    processes = _processes(run)
    try:
        if is_running(run):
            _ask(run, "stop", {"drain": options.drain})
            _wait(run, processes)
    finally:
        for process in processes:
            os.close(process)
    output.tell(f"{run.name} has stopped")
    return output.OK


def reload(options: Namespace) -> int:
    """Let an operator take over its changed code."""
    if len(options.names) > 2:
        raise UsageError(f"at most RUN and NODE, not {len(options.names)} names", "noderuntime reload")
    *run_name, node = options.names
    run = choose(run_name[0] if run_name else None)
    _ask(run, "reload", {"node": node})
    output.tell(f"{node} of {run.name} reloads; a failure to do so is shown in `noderuntime logs {run.name}`")
    return output.OK


def clean(options: Namespace) -> int:
    """Remove what interrupted runs left behind, and print what was removed. Never touches a running one."""
    if options.run is not None:
        run = find(options.run)
        if run.state == RUNNING:
            raise CommandError(f"{run.name!r} is running; stop it first: `noderuntime stop {run.name}`")
        runs = [run]
    else:
        runs = [run for run in known_runs() if run.state != RUNNING]
    removed = [run for run in runs if remove(run)]
    if options.json:
        output.result_json([{"name": run.name, "path": str(run.run_dir.root)} for run in removed])
    else:
        for run in removed:
            output.result(f"removed {run.name} ({run.run_dir.root})")
        if not removed:
            output.tell("nothing to remove")
    return output.OK


def _ps_nodes(run: Run, as_json: bool) -> int:
    status = _ask(run, "status", {})
    if as_json:
        output.result_json(status)
        return output.OK
    rows = [
        (
            node["id"],
            node["kind"],
            node["state"],
            node["pid"] or "-",
            node["restarts"],
            node["messages"],
            node["phase"] or "-",
            node["reason"],
        )
        for node in status["nodes"]
    ]
    output.result_table(("NODE", "KIND", "STATE", "PID", "RESTARTS", "MESSAGES", "PHASE", "REASON"), rows)
    return output.OK


def _ask(run: Run, what: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from noderuntime.cli.ask import ask_runtime  # ZeroMQ, which a plain `ps` does without

    return ask_runtime(run.name, run.run_dir.runtime_socket, what, arguments)


def _processes(run: Run) -> list[int]:
    """Descriptors that become readable when the run's own processes have ended. They are ours: the lock is
    held."""
    found = []
    for pid in (run.file.pid, run.file.guard):
        try:
            found.append(os.pidfd_open(pid))
        except (OSError, ValueError):
            continue
    return found


def _wait(run: Run, processes: list[int]) -> None:
    began = time.monotonic()
    said = False
    left = set(processes)
    while left:
        ended, _, _ = select.select(left, [], [], 0.1 if said else PATIENCE_S)
        left.difference_update(ended)
        if left and not said and time.monotonic() - began >= PATIENCE_S:
            said = True
            output.tell(f"waiting for {run.name} to stop ...")


def _pid(run: Run) -> int | None:
    return run.file.pid if run.state == RUNNING else None


def _ago(seconds: float) -> str:
    return f"{duration(seconds)} ago"


def _json_run(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "state": run.state,
        "pid": _pid(run),
        "started": run.file.started,
        "file": run.file.file,
        "run_dir": str(run.run_dir.root),
        "log_dir": run.file.log_dir,
    }
