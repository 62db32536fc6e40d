"""A dataflow as JSON and back, with every variable expanded: how the run keeps the one that is in force.

What a newer version adds has its default when an older version's text is read; what this version does not know is
passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from noderuntime.dataflow.model import Code, Dataflow, InputSpec, NodeSpec, Place, SnapshotSpec, StateSpec

T = TypeVar("T")

_PARTS: dict[type, dict[str, type]] = {
    Code: {"place": Place},
    InputSpec: {"place": Place},
    NodeSpec: {"code": Code, "place": Place, "process_place": Place, "config_place": Place},
    StateSpec: {"place": Place},
    SnapshotSpec: {"place": Place},
    Dataflow: {"state": StateSpec, "snapshots": SnapshotSpec},
    Place: {},
}
_LISTS: dict[tuple[type, str], type] = {(NodeSpec, "inputs"): InputSpec, (Dataflow, "nodes"): NodeSpec}
_TUPLES = {(Code, "args"), (NodeSpec, "outputs"), (NodeSpec, "cpus"), (StateSpec, "seed_command")}


def to_text(dataflow: Dataflow) -> str:
    """The dataflow as JSON."""
    return json.dumps(asdict(dataflow), default=_plain)


def from_text(text: str) -> Dataflow:
    """The dataflow that `to_text` has written. Raises ValueError for anything else."""
    try:
        return _made(Dataflow, json.loads(text))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"this is no dataflow that was kept: {error}") from None


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} in a dataflow")


def _made(kind: type[T], given: Mapping[str, Any]) -> T:
    known: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        name = field.name
        if name not in given:
            continue
        value = given[name]
        if (kind, name) in _LISTS:
            value = tuple(_made(_LISTS[kind, name], item) for item in value)
        elif (kind, name) in _TUPLES:
            value = tuple(value)
        elif name in _PARTS[kind]:
            value = _made(_PARTS[kind][name], value)
        known[name] = value
    return kind(**known)
