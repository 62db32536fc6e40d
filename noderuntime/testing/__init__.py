"""Operators in pytest, without processes: `Harness` for one, `ChainHarness` for those that share a process."""

from noderuntime.testing.harness import Harness, Sent
from noderuntime.testing.harness_chain import ChainHarness

__all__ = ["ChainHarness", "Harness", "Sent"]
