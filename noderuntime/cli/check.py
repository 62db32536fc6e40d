"""`validate` and `graph`: look at a dataflow file without executing anything."""

from __future__ import annotations

import contextlib
import os
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from noderuntime.cli import output
from noderuntime.cli.output import CommandError
from noderuntime.dataflow import drawing
from noderuntime.dataflow.files import check_files, joined, load
from noderuntime.dataflow.model import Dataflow
from noderuntime.errors import DataflowError


def validate(options: Namespace) -> int:
    """Say whether the file can be run, and what looks wrong in it although it can."""
    from noderuntime.cli.preflight import problems  # `graph` needs nothing of it

    try:
        dataflow = load(options.file, overrides=dict(options.env))
        warnings = check_files(dataflow)
        if wrong := problems(dataflow):
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
        output.result_json({**told, "nodes": _nodes(dataflow)})
    else:
        output.result(f"{options.file} is valid: {_counted(dataflow)}")
    return output.OK


def graph(options: Namespace) -> int:
    """Draw the dataflow."""
    dataflow = load(options.file, overrides=dict(options.env))
    if options.json:
        output.result_json({"file": options.file, "nodes": _nodes(dataflow), "edges": _edges(dataflow)})
    elif options.html is None:
        output.result(drawing.mermaid(dataflow).rstrip("\n"))
    elif options.html == "-":
        output.result(drawing.html(dataflow).rstrip("\n"))
    else:
        _write(Path(options.html), drawing.html(dataflow))
        output.tell(f"wrote {options.html}")
    return output.OK


def _write(path: Path, text: str) -> None:
    """Replace `path` as a whole, or leave it as it was."""
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a FIFO
            path.write_text(text, encoding="utf-8")
            return
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            umask = os.umask(0)
            os.umask(umask)
            Path(name).chmod(0o666 & ~umask)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror or error}", output.USAGE) from None


def _counted(dataflow: Dataflow) -> str:
    words = {"operator": "operator", "node": "custom node", "dynamic": "dynamic node"}
    parts = []
    for kind, word in words.items():
        number = sum(node.kind == kind for node in dataflow.nodes)
        if number:
            parts.append(f"{number} {word}{'' if number == 1 else 's'}")
    return ", ".join(parts)


def _nodes(dataflow: Dataflow) -> list[dict[str, Any]]:
    return [
        {
            "id": node.id,
            "kind": node.kind,
            "code": str(node.code),
            "inputs": {spec.name: spec.source for spec in node.inputs},
            "outputs": list(node.outputs),
        }
        for node in dataflow.nodes
    ]


def _edges(dataflow: Dataflow) -> list[dict[str, Any]]:
    return [
        {"from": spec.source, "to": f"{node.id}/{spec.name}", "policy": spec.queue_policy}
        for node in dataflow.nodes
        for spec in node.inputs
    ]


def _json_error(error: DataflowError) -> dict[str, Any]:
    return {
        "file": error.file,
        "line": error.line,
        "column": error.column,
        "what": error.what,
        "hint": error.hint,
    }
