"""What losing the machine would cost a dataflow, in words, at the start of a run. Pure.

Operators without inputs are Sources: they continue at their positions. A custom node that sends cannot be asked again
for what it has sent since the last snapshot. So what follows from Sources alone is exact, and what follows from custom
nodes is not; the words must keep the two apart.
"""

from __future__ import annotations

from collections.abc import Iterable

from noderuntime.dataflow.model import Dataflow


def not_replayable(dataflow: Dataflow) -> list[str]:
    """The ids of custom nodes that send: what they sent since the last snapshot is gone with the machine."""
    return [node.id for node in dataflow.nodes if node.kind != "operator" and node.outputs]


def downstream(dataflow: Dataflow, ids: Iterable[str]) -> set[str]:
    """All nodes that something of `ids` reaches."""
    reached: set[str] = set()
    open_ids = set(ids)
    while open_ids:
        receivers = {
            node.id
            for node in dataflow.nodes
            for spec in node.inputs
            if spec.node in open_ids and node.id not in reached
        }
        reached |= receivers
        open_ids = receivers
    return reached


def guarantee(dataflow: Dataflow, every_s: float) -> str:
    """A line for the log when a source is not replayable; "" when all of them are, or there is nothing to say."""
    lost = not_replayable(dataflow)
    if not lost:
        return ""
    names = ", ".join(lost)
    affected = downstream(dataflow, lost)
    exact = [node.id for node in dataflow.nodes if node.kind == "operator" and node.id not in affected]
    one = len(lost) == 1
    text = (
        f"snapshots every {every_s:g} s: if the machine is lost, what {names} sent since the last one is gone "
        f"({'it is a custom node' if one else 'they are custom nodes'}, not replayable)"
    )
    if exact:
        return f"{text}; {', '.join(exact)} continue exactly. If only processes are killed, nothing is lost"
    return f"{text}. If only processes are killed, nothing is lost"
