"""`apply`: make a running dataflow what its file says now, and wait until that holds or is given up. Also the way of
`scale`.
"""

from __future__ import annotations

import contextlib
import signal
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from noderuntime.cli import output
from noderuntime.cli.choose import choose, known_runs, one_name
from noderuntime.cli.client import ask_runtime
from noderuntime.cli.output import CommandError, UsageError
from noderuntime.errors import NotRunning
from noderuntime.ipc.control_records import Applied
from noderuntime.ipc.runs import Run

POLL_S = 0.02
NO_CHANGE = "nothing has changed: the run is what the file says"


def apply(options: Namespace) -> int:
    """Carry out one change. Returns the exit code."""
    if len(options.names) > 2:
        raise UsageError(f"at most RUN and FILE, not {len(options.names)} names", "noderuntime apply")
    *run_name, file = options.names
    if len(dict(options.rename)) < len(options.rename):
        raise UsageError("--rename gives one node two ids", "noderuntime apply")
    if not run_name and not Path(file).exists() and any(run.name == file for run in known_runs()):
        raise UsageError(f"which FILE? {file!r} is the name of a run", "noderuntime apply")
    run = choose(one_name(run_name[0] if run_name else None, options.given_run, "apply"))
    arguments = {
        "file": str(Path(file).absolute()),
        "dry_run": options.dry_run,
        "timeout": options.timeout,
        "discard": options.discard,
        "drop": options.drop,
        "rename": dict(options.rename),
    }
    done = follow(run, "apply", arguments)
    if options.json:
        output.result_json(as_json(run, done))
    else:
        _show(done, options.dry_run)
    if done["error"] and not options.json:
        raise CommandError(done["error"], done["code"])
    return done["code"]


def follow(run: Run, what: str, arguments: dict[str, Any]) -> Applied:
    """Ask for a change of a run, and wait until it is over. Ctrl-C gives it up, unless it is in force by then."""
    done: Applied | None = None
    try:
        with _interrupted_later():
            done = ask_runtime(run, what, arguments, Applied)
        return _until_over(run, done)
    except KeyboardInterrupt:
        if done is None:  # it was not even begun
            raise
        done = _until_over(run, _look(run, "give_up", done))
        output.tell("the change is in force: too late" if done["applied"] else "given up: everything is as before")
        raise


@contextlib.contextmanager
def _interrupted_later() -> Iterator[None]:
    """Ctrl-C is raised at the end: before the runtime has answered, it is not known what is to be given up."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


def _until_over(run: Run, done: Applied) -> Applied:
    while not done["over"]:
        time.sleep(POLL_S)
        done = _look(run, "applied", done)
    return done


def as_json(run: Run, done: Applied) -> dict[str, Any]:
    """What became of a change, for programs."""
    plan = [{name: item[name] for name in ("node", "change", "details", "drops")} for item in done["plan"]]
    return {"run": run.name, "applied": done["applied"], "plan": plan, "error": done["error"] or None}


def _look(run: Run, what: str, before: Applied) -> Applied:
    try:
        return ask_runtime(run, what, {"ticket": before["ticket"]}, Applied)
    except NotRunning:
        raise CommandError(
            f"the runtime of {run.name!r} is gone; `noderuntime run FILE --resume` goes on with the dataflow of before "
            "or with the new one, and says with which"
        ) from None


def _show(done: Applied, dry_run: bool) -> None:
    show_plan(done)
    if done["error"]:
        return
    if not done["plan"] and not done["discarded"]:
        output.tell(NO_CHANGE)
    elif dry_run:
        output.tell("nothing was changed (--dry-run)")
        if done["gives_up"]:
            lost = f"`{done['gives_up']}` gives that up"
            output.tell(f"without --dry-run it would be refused for what it would lose; {lost}")
    else:
        drains = f"; still draining: {', '.join(done['drains'])}" if done["drains"] else ""
        discarded = f"; {done['discarded']} waiting messages were discarded" if done["discarded"] else ""
        output.tell(f"applied{drains}{discarded}")


def show_plan(done: Applied) -> None:
    """Print what was planned, a line a node."""
    if done["plan"]:
        rows = [
            (item["node"], item["change"], _details(item["details"], item["restarts"], item["drops"]))
            for item in done["plan"]
        ]
        output.result_table(("NODE", "CHANGE", "DETAILS"), rows)


def _details(details: list[str], restarts: bool, drops: str) -> str:
    texts = [*details, *(["begins a new life"] if restarts else []), *([f"would lose {drops}"] if drops else [])]
    return "; ".join(texts)
