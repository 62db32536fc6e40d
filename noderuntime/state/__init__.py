"""The State layer: what `ctx.kvs` and `node.kvs` are, and what those who write a kind of their own implement.

`base` says what is promised; `memory` is the kind that lives in the space, `redis` one on a Redis server, `sqlite` one
in a file; `kinds` finds them by name.
"""

from __future__ import annotations

from noderuntime.state.base import Diff, Entry, State, Update, View, Watch
from noderuntime.state.memory import MemoryState

__all__ = ["Diff", "Entry", "MemoryState", "State", "Update", "View", "Watch"]
