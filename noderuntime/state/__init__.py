"""The State layer: what `ctx.kvs` and `node.kvs` are. `memory` is the kind that lives in the space."""

from __future__ import annotations

from noderuntime.state.memory import Entry, MemoryState, View

__all__ = ["Entry", "MemoryState", "View"]
