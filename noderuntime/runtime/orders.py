"""What the fork server is to make: an operator in a warm fork, a program with its command line, or the store."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from noderuntime.dataflow import files
from noderuntime.dataflow.model import Dataflow, NodeSpec
from noderuntime.ipc import entrypoints
from noderuntime.ipc.rundir import (
    ENV_DORA,
    ENV_LIFE,
    ENV_NODE,
    ENV_PATIENT,
    ENV_RUN_DIR,
    ENV_TERMINAL,
    ENV_TRIAL,
    RunDir,
)
from noderuntime.runtime.forkserver import Order
from noderuntime.runtime.observer import RunOptions

# The interpreter or libraries read these when they are loaded: a fork of a warm interpreter would ignore them.
EARLY_ENV = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_", "OMP_", "OPENBLAS_", "MKL_", "NUMEXPR_", "NPY_")


def order_of(
    dataflow: Dataflow, spec: NodeSpec, options: RunOptions, run_dir: Path, life: int, trial: str = ""
) -> Order:
    """How to make the process of one life of a node; with `trial`, a process that tries the operator which that file
    describes (noderuntime/node/trial.py).

    Raises DataflowError when its file is missing or cannot be executed.
    """
    env = {**options.environ, **spec.env, **options.extra_env, "PYTHONUNBUFFERED": "1"}
    env.pop(ENV_TERMINAL, None)
    env |= {ENV_RUN_DIR: str(run_dir), ENV_NODE: spec.id, ENV_LIFE: str(life)}
    if spec.together:
        env[ENV_PATIENT] = "1"
    if options.dora is not None:
        env[ENV_DORA] = str(RunDir(run_dir).dora_file)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (options.dora.path, env.get("PYTHONPATH", ""))))
    if trial:
        env[ENV_TRIAL] = trial
    if options.terminal:
        env[ENV_TERMINAL] = options.terminal
    given = {*spec.env, *options.extra_env} - {"PYTHONUNBUFFERED"}  # which every node has
    is_forked = spec.spawn == "fork" and not any(key.startswith(EARLY_ENV) for key in given)
    if spec.kind == "node":
        argv = files.command(dataflow, spec)
        if is_forked and argv[0] == sys.executable:
            entry = entrypoints.DORA_SCRIPT
            return Order(spec.id, env, dataflow.folder, entry=entry, arguments=argv[1:], cpus=spec.cpus)
        return Order(spec.id, env, dataflow.folder, argv=argv, cpus=spec.cpus)
    entry = entrypoints.TRIAL if trial else entrypoints.OPERATOR
    if is_forked:
        return Order(spec.id, env, dataflow.folder, entry=entry, cpus=spec.cpus)
    return Order(spec.id, env, dataflow.folder, argv=entrypoints.command(entry), cpus=spec.cpus)


def store_order(
    dataflow: Dataflow, env: Mapping[str, str], run_dir: Path, size_bytes: int, snapshots: Sequence[str]
) -> Order:
    """How to make the store process. `size_bytes`: of the space; `snapshots`: its arguments about them."""
    arguments = [
        str(run_dir),
        "--size", str(size_bytes),
        "--purge-interval", str(dataflow.state.purge_interval_s),
        "--history", str(dataflow.state.history),
        *snapshots,
        "--state", json.dumps(dataflow.state.to_plain()),
    ]  # fmt: skip
    return Order("nr-store", env, dataflow.folder or "/", entry=entrypoints.STORE, arguments=arguments)


def preload_of(dataflow: Dataflow) -> list[str]:
    """Modules that the fork server imports in advance for this dataflow's operators."""
    codes = [spec.code for spec in dataflow.nodes if spec.kind == "operator"]
    ours = {code.adapter.partition(":")[0] or code.module for code in codes}
    if any(spec.kind == "node" and spec.spawn == "fork" for spec in dataflow.nodes):
        ours.add(entrypoints.DORA_SCRIPT.partition(":")[0])
    if dora := sorted(name for name in ours if name.startswith("noderuntime.dora.")):
        return [*entrypoints.PRELOAD, *dora]
    for spec in dataflow.nodes:
        if spec.kind == "operator" and spec.code.path:
            with contextlib.suppress(OSError):
                if b"numpy" in Path(dataflow.folder, spec.code.path).read_bytes():
                    return [*entrypoints.PRELOAD, "numpy"]
    return list(entrypoints.PRELOAD)
