"""What a child of a dataflow of dora is told of it, as JSON in a file of the run. Pure.

    {"dataflow_id": UUID, "descriptor": {...},
     "nodes": {ID: {"node": ID in the dora file, "operator": its id in a node of several, else "",
                    "inputs": {...}, "outputs": [...], "options": {...}}}}

`descriptor` is what `dataflow_descriptor()` returns; `inputs`, `outputs` and what is in `options` are what
`node_config()` returns, as they are written. ID is the one of our model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypedDict

ADAPTER: Final = "noderuntime.dora.operator_adapter:adapt"
OPTIONS: Final = ("output_types", "output_framing", "input_types", "shared_memory_pool_size")
LINES: Final = "noderuntime.dora.lines"
END: Final = "dora.end"  # an output that is never sent over: that it closes tells a helper that the node has ended


class NodeFacts(TypedDict):
    """Of one node or operator."""

    node: str
    operator: str
    inputs: dict[str, Any]
    outputs: list[str]
    options: dict[str, Any]


class Facts(TypedDict):
    """Of the dataflow."""

    dataflow_id: str
    descriptor: dict[str, Any]
    nodes: dict[str, NodeFacts]


def facts_of(dataflow_id: str, descriptor: Mapping[str, Any], nodes: Mapping[str, NodeFacts]) -> Facts:
    """The content of the file."""
    return {"dataflow_id": dataflow_id, "descriptor": dict(descriptor), "nodes": dict(nodes)}
