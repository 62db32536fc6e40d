"""`graph`: draw a dataflow, as Mermaid text or as an HTML page. Executes nothing."""

from __future__ import annotations

import contextlib
import os
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from noderuntime.cli import loading, output
from noderuntime.cli.output import CommandError
from noderuntime.dataflow import drawing
from noderuntime.dataflow.model import Dataflow


def graph(options: Namespace) -> int:
    """Draw the dataflow."""
    dataflow = loading.load(options).shown
    if options.json:
        output.result_json({"file": options.file, "nodes": json_nodes(dataflow), "edges": _edges(dataflow)})
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


def json_nodes(dataflow: Dataflow) -> list[dict[str, Any]]:
    """The nodes of a dataflow for JSON: id, kind, code, inputs with their sources, outputs, and the process."""
    return [
        {
            "id": node.id,
            "kind": node.kind,
            "code": str(node.code),
            "inputs": {spec.name: spec.source for spec in node.inputs},
            "outputs": list(node.outputs),
            "process": node.process or None,
        }
        for node in dataflow.nodes
    ]


def _edges(dataflow: Dataflow) -> list[dict[str, Any]]:
    return [
        {"from": spec.source, "to": f"{node.id}/{spec.name}", "policy": spec.queue_policy}
        for node in dataflow.nodes
        for spec in node.inputs
    ]
