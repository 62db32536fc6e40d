"""`scale`: give a node of a running dataflow another number of replicas, and wait until that holds or is given up."""

from __future__ import annotations

from argparse import Namespace

from noderuntime.cli import output
from noderuntime.cli.apply import as_json, follow, show_plan
from noderuntime.cli.choose import choose, one_name
from noderuntime.cli.output import CommandError, UsageError


def scale(options: Namespace) -> int:
    """Carry out one change. Returns the exit code."""
    if not 2 <= len(options.names) <= 3:
        raise UsageError(f"[RUN] NODE N are needed, not {len(options.names)} words", "noderuntime scale")
    *run_name, node, number = options.names
    try:
        replicas = int(number)
    except ValueError:
        raise UsageError(f"{number!r} is no number of replicas", "noderuntime scale") from None
    run = choose(one_name(run_name[0] if run_name else None, options.given_run, "scale"))
    done = follow(run, "scale", {"node": node, "replicas": replicas, "timeout": options.timeout})
    if options.json:
        output.result_json({**as_json(run, done), "node": node, "replicas": replicas})
        return done["code"]
    show_plan(done)
    if done["error"]:
        raise CommandError(done["error"], done["code"])
    many = f"{replicas} replica{'s' if replicas > 1 else ''}"
    late = f"; not ready yet, and without keys until then: {', '.join(done['late'])}" if done["late"] else ""
    output.tell(f"{node} has {many} now{late}" if done["plan"] else f"{node} has {many} already")
    return output.OK
