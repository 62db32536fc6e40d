"""How a custom node's program joins its run: finding the run and the node's id, and the runtime's welcome."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from noderuntime.errors import Fenced, NotRunning
from noderuntime.ipc import runs
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import EXIT_FENCED, VERSION, WELCOME_S, Hello, Refused, Welcome
from noderuntime.ipc.rundir import ENV_LIFE, ENV_NODE, ENV_PATIENT, ENV_RUN_DIR, RunDir


def find_run(node_id: str | None, run: str | None) -> tuple[RunDir, str, bool]:
    """The folder of the run, the id of this node, and whether it joins as a dynamic node."""
    environ = os.environ
    if node_id is None or (run is None and environ.get(ENV_NODE) == node_id):
        if ENV_RUN_DIR not in environ or ENV_NODE not in environ:
            raise NotRunning(
                "this program is a node of a dataflow, and was started without one",
                "Start the dataflow with `noderuntime run FILE`, or join one with Node('id', run='NAME').",
            )
        return RunDir(Path(environ[ENV_RUN_DIR])), environ[ENV_NODE], False
    if run is None:
        raise TypeError("Node(id, run=NAME): the name of the run is missing; `noderuntime ps` lists them")
    found = runs.find_run(run, environ)
    if found is None:
        raise NotRunning(f"there is no run {run!r}")
    if found.state != "running":
        why = "has failed" if found.state == "failed" else "was interrupted"
        raise NotRunning(f"the run {run!r} {why}, it is not running")
    return found.run_dir, node_id, True


def greet(dealer: Dealer, name: str, dynamic: bool) -> Welcome:
    """Say hello, and wait for the answer. Raises NotRunning; a process whose life is over ends here."""
    life = 0 if dynamic else int(os.environ.get(ENV_LIFE, "0"))
    dealer.send(Hello(VERSION, name, "dynamic" if dynamic else "node", os.getpid(), life))
    answer = dealer.receive(None if ENV_PATIENT in os.environ else WELCOME_S)
    if isinstance(answer, Welcome):
        return answer
    dealer.close(0)
    if isinstance(answer, Refused):
        if dynamic:
            raise NotRunning(f"node {name!r} may not join: {answer.why}", "")
        end_fenced(Fenced(answer.why))
    raise NotRunning(f"the runtime did not answer node {name!r} within {WELCOME_S:.0f} seconds")


def end_fenced(fenced: Fenced) -> NoReturn:
    """End this process at once, touching nothing: another life has the node now."""
    print(f"noderuntime: {fenced}; this process ends", file=sys.stderr, flush=True)
    os._exit(EXIT_FENCED)
