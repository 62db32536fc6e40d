"""A dora node as a real child of a runtime that the test plays."""

from __future__ import annotations

import json
from typing import Any

from support.fake_runtime import Child, Run

from noderuntime.dora.operator_adapter import PATH
from noderuntime.ipc.rundir import ENV_DORA

BEGINNING = f"""
import json, sys, time
sys.path.insert(0, {PATH!r})
import pyarrow as pa
from dora import Node
def say(*facts):
    print(json.dumps(facts), flush=True)
def plain(event):
    if event is None or event["type"] != "INPUT":
        return event
    metadata = {{key: value for key, value in event["metadata"].items() if key != "timestamp"}}
    return {{**event, "value": event["value"].to_pylist(), "metadata": metadata}}
def refused(call):
    try:
        return call()
    except Exception as error:
        return [type(error).__name__, str(error).split("\\n")[0]]
"""

FACTS = {
    "dataflow_id": "6a1d6a4e-0000-4000-8000-000000000001",
    "descriptor": {"nodes": [{"id": "n"}], "deploy": None},
    "nodes": {
        "a": {"node": "a", "operator": "", "inputs": {}, "outputs": ["out"]},
        "n": {"node": "n", "operator": "", "inputs": {"in": "a/out"}, "outputs": ["out"]},
        "c": {"node": "c", "operator": "", "inputs": {"in": "n/out"}, "outputs": []},
    },
}


def environment(run: Run) -> dict[str, str]:
    """What `run --dora` gives its children."""
    file = run.folder / "dora.json"
    file.write_text(json.dumps(FACTS))
    return {ENV_DORA: str(file)}


def begin(run: Run, program: str, node: str = "n", **claim: Any) -> Child:
    """Start a node that uses the module dora."""
    return run.begun(node, BEGINNING + program, environment(run), **claim)


def said(child: Child) -> list[Any]:
    """What the program said, and the log records that it printed."""
    return [json.loads(line) for line in child.text.splitlines() if line.startswith(("[", "{"))]
