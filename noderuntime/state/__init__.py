"""Kinds of shared KVS behind one contract: memory (the space), sqlite, redis, and those that users write.

May import errors, merges, api, dataflow, ipc and space; knows nothing of snapshot.
Start reading in base.py (what a kind promises). kinds.py finds a kind by name; common.py is the base class of kinds
that keep tables; external.py is how nodes use any kind but memory.
"""

from __future__ import annotations

from noderuntime.state.base import Diff, Entry, State, Update, View, Watch
from noderuntime.state.memory import MemoryState

__all__ = ["Diff", "Entry", "MemoryState", "State", "Update", "View", "Watch"]
