"""The file with what the children of a dora dataflow are told of it (see noderuntime.dora.facts)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_facts(file: Path, facts: Mapping[str, Any], resume: bool) -> None:
    """Write the facts of a run. One that is resumed keeps its id. Raises OSError."""
    kept = {}
    if resume:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = {"dataflow_id": str(json.loads(file.read_text())["dataflow_id"])}
    file.write_text(json.dumps({**facts, **kept}))
