"""Our events as the dicts that dora's nodes get. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noderuntime.api.events import Event, is_message, message_of, utc
from noderuntime.dora import arrays, metadata

TIMED_OUT = "Timeout event stream error: Receiver timed out"

NodeFacts = Mapping[str, Mapping[str, Any]]
"""What dora calls our nodes, by our ids; see child.py. Nodes that are not in it are none of the user's."""


def as_dora(event: Event, nodes: NodeFacts, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The dict of an event; None for one that dora does not know. `inputs`: of the receiver, as the file has them."""
    if is_message(event):
        value, given, _, sent_ns = message_of(event)
        return _input(event.id, value, metadata.incoming(given, utc(sent_ns)))
    kind = event.type
    if kind == "INPUT":  # a tick
        return _input(event.id, None, metadata.incoming({}, event.timestamp))
    if kind in ("INPUT_CLOSED", "INPUT_RECOVERED", "STOP"):
        return {"type": kind, "id": event.id, "kind": "dora"}
    if kind == "EXTERNAL":
        return {"type": kind, "kind": "external", "value": event.value}
    if kind not in ("NODE_RESTARTED", "NODE_FAILED") or event.id not in nodes:
        return None
    node = nodes[event.id].get("node", event.id)
    told: dict[str, Any] = {"type": kind, "id": node, "kind": "dora"}
    if kind == "NODE_FAILED":
        affected = [name for name, source in inputs.items() if source_of(source).split("/")[0] == node]
        told["value"] = {"source_node_id": node, "error": event.error, "affected_input_ids": affected}
    return told


def _input(id: str, value: Any, told: dict[str, Any]) -> dict[str, Any]:
    return {"type": "INPUT", "id": id, "kind": "dora", "value": arrays.incoming(value), "metadata": told}


def source_of(input: Any) -> str:
    """The source of an input as the file has it: a text, or a mapping with `source`."""
    return str(input["source"] if isinstance(input, Mapping) else input)


def error(text: str) -> dict[str, Any]:
    """An ERROR event."""
    return {"type": "ERROR", "error": text, "kind": "dora"}
