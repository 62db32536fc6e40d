"""`dora.run` and `dora.build`: the commands `noderuntime run --dora` and `noderuntime build`, from a program."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from noderuntime.ipc.rundir import ENV_HOME

_OWN = "NODERUNTIME_"  # a run that a node starts is none of its own run


def run(dataflow_path: str, uv: bool | None = None, stop_after: float | None = None) -> None:
    """Run a dataflow until it ends, or for `stop_after` seconds. Raises RuntimeError if it failed."""
    _refuse_uv(uv)
    limit = [] if stop_after is None else ["--stop-after", f"{float(stop_after)!r}s"]
    _call("run", "--dora", *limit, os.fspath(dataflow_path))


def build(
    dataflow_path: str,
    uv: bool | None = None,
    coordinator_addr: str | None = None,
    coordinator_port: int | None = None,
    force_local: bool = False,
) -> None:
    """Run the `build` commands of a dataflow, on this machine. Raises RuntimeError if one failed."""
    _refuse_uv(uv)
    if coordinator_addr is not None or coordinator_port is not None:
        raise NotImplementedError("coordinator_addr and coordinator_port: there is no coordinator; leave them out")
    _call("build", "--dora", os.fspath(dataflow_path))


def _refuse_uv(uv: Any) -> None:
    if uv:
        raise NotImplementedError("uv=True is not supported: start this program with `uv run`, and leave it out")


def _call(*arguments: str) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(_OWN) or key == ENV_HOME}
    done = subprocess.run([sys.executable, "-m", "noderuntime", *arguments], env=environ, check=False)
    if done.returncode:
        raise RuntimeError(f"noderuntime {' '.join(arguments)} failed with exit code {done.returncode}")
