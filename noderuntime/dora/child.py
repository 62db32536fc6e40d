"""What a node's process knows of its dataflow in dora's terms: the facts that `run --dora` wrote for its children.

{"dataflow_id": UUID, "descriptor": {...},
 "nodes": {our id: {"node": dora's id, "operator": its operator's or "", "inputs": as in the file, "outputs": [...]}}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from noderuntime.errors import NotRunning
from noderuntime.ipc import runs
from noderuntime.ipc.rundir import ENV_DORA, ENV_NODE

ENV_RUN = "NODERUNTIME_RUN"  # for dynamic nodes: the run to join, if several have a node of that id

OUTSIDE = "Could not initiate node from environment variable."


class Facts:
    """The dataflow, and one node of it: `nodes` by our ids, `inputs` and `outputs` of this one."""

    def __init__(self, facts: Mapping[str, Any], node: str) -> None:
        self.dataflow_id: str = facts["dataflow_id"]
        self.descriptor: dict[str, Any] = facts["descriptor"]
        self.nodes: dict[str, dict[str, Any]] = facts["nodes"]
        own = self.nodes.get(node, {})
        self.inputs: dict[str, Any] = own.get("inputs") or {}
        self.outputs: list[str] = own.get("outputs") or []
        self.options: dict[str, Any] = own.get("options") or {}


@cache
def _read(path: str) -> Any:
    return json.loads(Path(path).read_text())


def is_child() -> bool:
    """Whether `run --dora` started this process."""
    return bool(os.environ.get(ENV_DORA) and os.environ.get(ENV_NODE))


def facts(node: str | None = None) -> Facts:
    """Those of a node of this process (of its first one by default). RuntimeError unless `run --dora` started it."""
    path, node = os.environ.get(ENV_DORA), node or os.environ.get(ENV_NODE)
    if not path or not node:
        raise RuntimeError(
            f"{OUTSIDE} This program is a node of a dataflow: start that with `noderuntime run --dora FILE`, or, for a "
            "node with `path: dynamic`, give Node its id."
        )
    return Facts(_read(path), node)


def find_dynamic(node: str) -> tuple[str, Facts]:
    """The run that has a dynamic node of this id, and its facts. Raises RuntimeError unless there is exactly one."""
    wanted = os.environ.get(ENV_RUN)
    found = {}
    for run in runs.list_runs(os.environ):
        file = run.run_dir.dora_file
        if run.state != "running" or (wanted and run.name != wanted) or not file.is_file():
            continue
        told = json.loads(file.read_text())
        if node in told["nodes"]:
            found[run.name] = told
    if not found:
        which = f"the run {wanted!r}" if wanted else "any run"
        raise RuntimeError(
            f"Could not initiate node {node!r}: {which} of `noderuntime run --dora` has no such node now"
        )
    if len(found) > 1:
        names = ", ".join(sorted(found))
        raise RuntimeError(f"Could not initiate node {node!r}: several runs have it ({names}); name one in ${ENV_RUN}")
    ((name, told),) = found.items()
    return name, Facts(told, node)


def as_runtime_error(error: NotRunning) -> RuntimeError:
    """What dora raises where we raise NotRunning."""
    return RuntimeError(f"{OUTSIDE} {error}")
