"""The text at the start of a run that says what losing the machine would cost a dataflow. Pure.

Operators without inputs are Sources: they continue at their positions. A custom node cannot be asked again for the
messages that it has sent since the last snapshot. So nodes downstream of Sources alone are exact, and nodes downstream
of custom nodes are not; the text must keep the two apart.
"""

from __future__ import annotations

from collections.abc import Iterable

from noderuntime.dataflow.model import Dataflow


def not_replayable(dataflow: Dataflow) -> list[str]:
    """The ids of custom nodes that send: with the machine, their messages since the last snapshot are lost."""
    return [node.id for node in dataflow.nodes if node.kind != "operator" and node.outputs]


def downstream(dataflow: Dataflow, ids: Iterable[str]) -> set[str]:
    """All nodes that messages of `ids` reach, directly or through other nodes."""
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
    """A line for the log if a source is not replayable; "" if all of them are, or there is nothing to say."""
    lost = not_replayable(dataflow)
    if not lost:
        return ""
    names = ", ".join(lost)
    affected = downstream(dataflow, lost)
    exact = [
        node.id for node in dataflow.nodes if node.kind == "operator" and not node.replica and node.id not in affected
    ]
    one = len(lost) == 1
    text = (
        f"snapshots every {every_s:g} s: if the machine is lost, what {names} sent since the last one is gone "
        f"({'it is a custom node' if one else 'they are custom nodes'}, not replayable)"
    )
    if exact:
        return f"{text}; {', '.join(exact)} continue exactly. If only processes are killed, nothing is lost"
    return f"{text}. If only processes are killed, nothing is lost"
