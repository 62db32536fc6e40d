"""A node for unit tests, without a dataflow."""

from noderuntime.dora.mock_node import MockNode

__all__ = ["MockNode"]
