"""`ps`, `stop`, `reload`, `clean`: looking at runs and telling their runtimes what to do."""

from __future__ import annotations

import os
import select
import time
from argparse import Namespace
from collections import Counter
from typing import Any

from noderuntime.cli import output
from noderuntime.cli.choose import RUNNING, PastRun, choose, find, is_running, known_runs, one_name, past_runs
from noderuntime.cli.output import CommandError, UsageError
from noderuntime.cli.text import duration
from noderuntime.errors import NotRunning
from noderuntime.ipc.runs import Run, clean_remains
from noderuntime.ipc.runs import clean as remove

PATIENCE_S = 2.0
STORE_PATIENCE_S = 1.0
IMPORTED_WITHIN_S = 65.0  # the trial import is given 60
RELOAD_POLL_S = 0.02
SETTLED = frozenset({"running", "backoff", "failed", "ended", "stopped"})


def ps(options: Namespace) -> int:
    """List runs; with a RUN, its nodes."""
    name = one_name(options.run, options.given_run, "ps")
    if name is not None:
        return _ps_nodes(choose(name), options.json)
    runs = [run for run in known_runs() if options.all or run.state == RUNNING]
    found: list[Run | PastRun] = [*runs, *(past_runs(runs) if options.all else ())]
    now = time.time()
    if options.json:
        output.result_json([_json_run(run) for run in found])
    elif found:
        heads = ("NAME", "STATE", "PID", "STARTED", *(["RESUMABLE"] if options.all else []), "FILE")
        output.result_table(heads, [_row(run, now, options.all) for run in found])
    else:
        states = Counter() if options.all else Counter(run.state for run in known_runs())
        others = ", ".join(f"{count} {state}" for state, count in sorted(states.items(), reverse=True))
        also = f"; {others}, see `noderuntime ps -a`" if others else ""
        output.tell(f"no runs{'' if options.all else ' are running'}{also}")
    return output.OK


def stop(options: Namespace) -> int:
    """Stop a run and wait until nothing of it is left."""
    run = choose(one_name(options.run, options.given_run, "stop"))
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
    run = choose(one_name(run_name[0] if run_name else None, options.given_run, "reload"))
    before = _node(run, node)
    _ask(run, "reload", {"node": node})
    within_s = IMPORTED_WITHIN_S + before.get("start_timeout_s", 0.0)
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        now = _node(run, node)
        if now["reloads_failed"] > before["reloads_failed"]:
            raise CommandError(f"the changed code does not import, the old goes on\n{now['reload_error']}")
        if now["restarts"] > before["restarts"] and now["state"] in SETTLED:
            break
        time.sleep(RELOAD_POLL_S)
    else:
        raise CommandError(
            f"{node} has not taken over its new code within {within_s:g} s, and may still do so; "
            f"see `noderuntime ps {run.name}`"
        )
    if now["state"] != "running":
        was = "imports, but then" if before["state"] == "running" else "does not run:"
        then = {
            "backoff": "; it is tried again, and mended code takes over at once",
            "failed": "; what waits for it is kept: mend it and reload it again",
        }.get(now["state"], "")
        raise CommandError(f"the changed code of {node} {was} {now['reason']} ({now['state']}{then})")
    output.tell(f"{node} runs its new code, with its state restored (process {now['pid']})")
    return output.OK


def clean(options: Namespace) -> int:
    """Remove what interrupted and failed runs left behind, and print what was removed. Never touches a running one."""
    name = one_name(options.run, options.given_run, "clean")
    if name is not None:
        run = find(name)
        if run.state == RUNNING:
            raise CommandError(f"{run.name!r} is running; stop it first: `noderuntime stop {run.name}`")
        runs = [run]
    else:
        runs = [run for run in known_runs() if run.state != RUNNING]
    removed = [(run.name, run.run_dir.root) for run in runs if remove(run)]
    if name is None:
        removed += [(path.name, path) for path in clean_remains(os.environ)]
    if options.json:
        output.result_json([{"name": name, "path": str(path)} for name, path in removed])
    else:
        for name, path in removed:
            output.result(f"removed {name} ({path})")
        if not removed:
            output.tell("nothing to remove")
    return output.OK


def _node(run: Run, node: str) -> dict[str, Any]:
    """A node's status; an empty one when the run has no such node, which `reload` itself is told better."""
    for found in _ask(run, "status", {})["nodes"]:
        if found["id"] == node:
            status: dict[str, Any] = found
            return status
    return {"reloads_failed": 0, "restarts": 0, "state": "", "reason": "", "pid": 0}


def _ps_nodes(run: Run, as_json: bool) -> int:
    from noderuntime.runtime import summary

    status = _ask(run, "status", {})
    figures = _figures(run)
    for node in status["nodes"]:
        own = figures.get(node["id"])
        node["messages"] = None if own is None else summary.messages(own)
        node["dropped"] = None if own is None else summary.dropped(own)
        node["dead_letters"] = None if own is None else int(own.get("dead_letters", 0))
        node["pid"] = node["pid"] or None
        node["replicas"] = []
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
            "-" if node["messages"] is None else node["messages"],
            "-" if node["dropped"] is None else node["dropped"],
            node["phase"] or "-",
            summary.with_counts(node["reason"], node["dead_letters"] or 0),
        )
        for node in status["nodes"]
    ]
    output.result_table(("NODE", "KIND", "STATE", "PID", "RESTARTS", "MESSAGES", "DROPPED", "PHASE", "REASON"), rows)
    return output.OK


def _figures(run: Run) -> dict[str, Any]:
    """The store's figures of the nodes; empty when the store, which alone knows, does not answer just now."""
    from noderuntime.cli.client import StoreClient

    if not run.run_dir.store_socket.exists():
        return {}
    try:
        with StoreClient(run.name, run.run_dir.store_socket, within_s=STORE_PATIENCE_S) as store:
            found: dict[str, Any] = store.request("figures", {})["nodes"]
    except (CommandError, NotRunning):
        return {}
    return found


def _ask(run: Run, what: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from noderuntime.cli.client import ask_runtime  # ZeroMQ, which a plain `ps` does without

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


def _row(run: Run | PastRun, now: float, with_past: bool) -> tuple[object, ...]:
    resumable = ["yes" if _can_be_resumed(run) else "-"] if with_past else []
    return (run.name, run.state, _pid(run) or "-", _ago(now - run.file.started), *resumable, run.file.file)


def _can_be_resumed(run: Run | PastRun) -> bool:
    """Whether `run --resume` goes on with it; a run that is running cannot be."""
    return run.resumable if isinstance(run, PastRun) else run.state != RUNNING and run.trusted


def _pid(run: Run | PastRun) -> int | None:
    return run.file.pid if run.state == RUNNING else None


def _ago(seconds: float) -> str:
    return f"{duration(seconds)} ago"


def _json_run(run: Run | PastRun) -> dict[str, Any]:
    return {
        "name": run.name,
        "state": run.state,
        "pid": _pid(run),
        "started": run.file.started,
        "file": run.file.file,
        "resumable": _can_be_resumed(run),
        "run_dir": None if isinstance(run, PastRun) else str(run.run_dir.root),
        "log_dir": run.file.log_dir,
    }
