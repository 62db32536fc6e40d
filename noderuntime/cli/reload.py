"""`reload`: have an operator of a run take over its changed code, and wait for the result."""

from __future__ import annotations

import time
from argparse import Namespace

from noderuntime.cli import output
from noderuntime.cli.choose import choose, one_name
from noderuntime.cli.client import ask_runtime
from noderuntime.cli.output import CommandError, UsageError
from noderuntime.ipc.control_records import NodeStatus, Reloading, RunStatus
from noderuntime.ipc.runs import Run

IMPORTED_WITHIN_S = 65.0  # the trial import is given 60
POLL_S = 0.02
SETTLED = frozenset({"running", "backoff", "failed", "ended", "stopped"})


def reload(options: Namespace) -> int:
    """Let an operator take over its changed code."""
    if len(options.names) > 2:
        raise UsageError(f"at most RUN and NODE, not {len(options.names)} names", "noderuntime reload")
    *run_name, node = options.names
    run = choose(one_name(run_name[0] if run_name else None, options.given_run, "reload"))
    before = _node(run, node)
    together = ask_runtime(run, "reload", {"node": node}, Reloading)["together"]
    if before is None:
        raise CommandError(f"{run.name!r} has no node {node!r}")
    within_s = IMPORTED_WITHIN_S + before["start_timeout_s"]
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        now = _node(run, node) or before
        if now["reloads_failed"] > before["reloads_failed"]:
            raise CommandError(f"the changed code does not import; the old code keeps running\n{now['reload_error']}")
        if now["restarts"] > before["restarts"] and now["state"] in SETTLED:
            break
        time.sleep(POLL_S)
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
    do, share = ("does", "shares") if len(together) == 1 else ("do", "share")
    with_others = f", as {do} {', '.join(together)}, which {share} its process" if together else ""
    output.tell(f"{node} runs its new code{with_others}, with its state restored (process {now['pid']})")
    return output.OK


def _node(run: Run, node: str) -> NodeStatus | None:
    """A node's status; None for an unknown node: the reply to `reload` has the better message."""
    status = ask_runtime(run, "status", {}, RunStatus)
    return next((found for found in status["nodes"] if found["id"] == node), None)
