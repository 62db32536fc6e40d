"""Operators in pytest, without processes: `Harness` for one, `ChainHarness` for those that share a process."""

from noderuntime.testing.harness import Harness
from noderuntime.testing.harness_chain import ChainHarness
from noderuntime.testing.lives import Sent

__all__ = ["ChainHarness", "Harness", "Sent"]
