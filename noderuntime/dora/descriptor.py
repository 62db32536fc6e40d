"""What `dataflow_descriptor()` returns: the file as dora understands it, defaults filled in. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noderuntime.dora.env import Value
from noderuntime.dora.nodes import DoraNode


def descriptor_of(nodes: Sequence[DoraNode], root_env: Mapping[str, Value], shown: Mapping[str, Any]) -> dict[str, Any]:
    """`shown`: the other fields of the file."""
    made: dict[str, Any] = {"nodes": [_node(node) for node in nodes], **shown}
    if root_env:
        made["env"] = dict(sorted(root_env.items()))
    return made


def _node(node: DoraNode) -> dict[str, Any]:
    defaults: dict[str, Any] = {"outputs": [], "inputs": {}, "deploy": None}
    return {**defaults, **node.shown, "env": dict(sorted(node.env.items())) or None}
