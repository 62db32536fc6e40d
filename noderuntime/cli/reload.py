"""`reload`: have an operator of a run take over its changed code, and wait for the result."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

from noderuntime.cli import output
from noderuntime.cli.choose import choose, one_name
from noderuntime.cli.client import ask_runtime
from noderuntime.cli.output import CommandError, UsageError
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
    ask_runtime(run, "reload", {"node": node})
    within_s = IMPORTED_WITHIN_S + before.get("start_timeout_s", 0.0)
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        now = _node(run, node)
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
    output.tell(f"{node} runs its new code, with its state restored (process {now['pid']})")
    return output.OK


def _node(run: Run, node: str) -> dict[str, Any]:
    """A node's status; an empty one for an unknown node: the reply to `reload` has the better message."""
    for found in ask_runtime(run, "status", {})["nodes"]:
        if found["id"] == node:
            status: dict[str, Any] = found
            return status
    return {"reloads_failed": 0, "restarts": 0, "state": "", "reason": "", "pid": 0}
