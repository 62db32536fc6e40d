"""`stop`: ask the runtime of a run to stop, and wait until its processes have ended."""

from __future__ import annotations

import os
import select
import time
from argparse import Namespace

from noderuntime.cli import output
from noderuntime.cli.choose import choose, is_running, one_name
from noderuntime.cli.client import ask_runtime
from noderuntime.ipc.runs import Run
from noderuntime.ipc.store_records import Done

SAID_AFTER_S = 2.0  # a stop that takes longer says that it waits


def stop(options: Namespace) -> int:
    """Stop a run and wait until nothing of it is left."""
    run = choose(one_name(options.run, options.given_run, "stop"))
    processes = _processes(run)
    try:
        if is_running(run):
            ask_runtime(run, "stop", {"drain": options.drain}, Done)
            _wait(run, processes)
    finally:
        for process in processes:
            os.close(process)
    output.tell(f"{run.name} has stopped")
    return output.OK


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
        ended, _, _ = select.select(left, [], [], 0.1 if said else SAID_AFTER_S)
        left.difference_update(ended)
        if left and not said and time.monotonic() - began >= SAID_AFTER_S:
            said = True
            output.tell(f"waiting for {run.name} to stop ...")
