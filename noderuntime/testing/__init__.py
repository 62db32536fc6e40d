"""Operators in pytest, without processes: `Harness` for one, `ChainHarness` for those that share a process.

May import errors, merges, api, dataflow, ipc, space, state and node (the order of messages inside a process).
state_contract/ tests a kind of State, linearizability.py a history of reads and writes.
"""

from noderuntime.testing.harness import Harness
from noderuntime.testing.harness_chain import ChainHarness
from noderuntime.testing.lives import Sent

__all__ = ["ChainHarness", "Harness", "Sent"]
