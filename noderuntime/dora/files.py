"""Reads a dora file and the files of its modules from disk. Executes nothing."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from noderuntime.dataflow.files import read_file
from noderuntime.dataflow.model import Dataflow
from noderuntime.dora.reader import DoraFile, parse
from noderuntime.errors import DataflowError, NodeRuntimeError

PATH: Final = Path(__file__).parent / "path"
"""What comes first on the PYTHONPATH of the children: the folder with their module `dora`."""

ENV_SHELL: Final = "DORA_ALLOW_SHELL_NODES"


class ArrowMissing(NodeRuntimeError):
    """dora's messages are Arrow arrays, and pyarrow is not installed."""

    def __init__(self) -> None:
        super().__init__("dataflows of dora need pyarrow: pip install 'noderuntime[arrow]'")


def load(
    file: str | Path,
    overrides: Mapping[str, str] | None = None,
    finishes: bool | None = None,
    allow_shell: bool = False,
) -> DoraFile:
    """Read a dora file. The parameters are those of `reader.parse`. Raises DataflowError, and ArrowMissing."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ArrowMissing
    path = Path(file)
    folder = path.absolute().parent
    found = parse(
        read_file(path),
        file=str(file),
        folder=str(folder),
        env=os.environ,
        overrides=overrides,
        read_module=lambda name: read_file(folder / name),
        finishes=finishes,
        allow_shell=allow_shell or os.environ.get(ENV_SHELL, "").lower() in ("1", "true"),
    )
    _check_cores(found.dataflow, os.sched_getaffinity(0))
    return found


def _check_cores(dataflow: Dataflow, cores: set[int]) -> None:
    """As the system does, be content with one of the cores that a node names."""
    for spec in dataflow.nodes:
        if spec.cpus and not cores & set(spec.cpus):
            what = f"`cpu_affinity` of node {spec.id!r} names no core that there is: {', '.join(map(str, spec.cpus))}"
            hint = f"Name some of: {', '.join(map(str, sorted(cores)))}."
            file = spec.place.file or dataflow.file
            raise DataflowError(what, file=file, line=spec.place.line, column=spec.place.column, hint=hint)
