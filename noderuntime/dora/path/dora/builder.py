"""A dataflow file, built by calls."""

from noderuntime.dora.builder import DataflowBuilder, Node, Operator, Output

__all__ = ["DataflowBuilder", "Node", "Operator", "Output"]
