"""`clean`: remove what interrupted and failed runs left in shared memory."""

from __future__ import annotations

import os
from argparse import Namespace

from noderuntime.cli import output
from noderuntime.cli.choose import RUNNING, find, known_runs, one_name
from noderuntime.cli.output import CommandError
from noderuntime.ipc.runs import clean as remove
from noderuntime.ipc.runs import clean_remains


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
