"""`validate`: whether a dataflow file can be run. Executes nothing."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from noderuntime.cli import loading, output
from noderuntime.cli.graph import json_nodes
from noderuntime.cli.preflight import problems
from noderuntime.dataflow.files import check_files, joined
from noderuntime.dataflow.model import Dataflow
from noderuntime.dataflow.processes import processes_of
from noderuntime.errors import DataflowError


def validate(options: Namespace) -> int:
    """Say whether the file can be run, and what looks wrong in it although it can."""
    try:
        loaded = loading.load(options)
        dataflow = loaded.dataflow
        warnings = [*loaded.notes, *check_files(dataflow)]
        if wrong := problems(dataflow, loaded.overrides):
            raise joined(wrong)
    except DataflowError as error:
        if options.json:
            errors = [_json_error(item) for item in (error, *error.more)]
            output.result_json({"file": options.file, "valid": False, "errors": errors, "warnings": []})
        raise
    for warning in warnings:
        output.warn(warning)
    if options.json:
        told = {"file": options.file, "valid": True, "errors": [], "warnings": warnings}
        output.result_json({**told, "nodes": json_nodes(loaded.shown)})
    else:
        output.result(f"{options.file} is valid: {_counted(loaded.shown)}")
        for name, members in processes_of(loaded.shown.nodes).items():
            output.result(f"  process {name}: {', '.join(node.id for node in members)}")
    return output.OK


def _counted(dataflow: Dataflow) -> str:
    words = {"operator": "operator", "node": "custom node", "dynamic": "dynamic node"}
    parts = []
    for kind, word in words.items():
        number = sum(node.kind == kind and not node.helper for node in dataflow.nodes)
        if number:
            parts.append(f"{number} {word}{'' if number == 1 else 's'}")
    return ", ".join(parts)


def _json_error(error: DataflowError) -> dict[str, Any]:
    return {
        "file": error.file,
        "line": error.line,
        "column": error.column,
        "what": error.what,
        "hint": error.hint,
    }
