"""The summary of a run: a row for each node, from its lifecycle and the store's figures. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from noderuntime.dataflow.identifiers import node_of, shown_id
from noderuntime.dataflow.model import Dataflow
from noderuntime.ipc.store_records import GoneFigures, NodeFigures
from noderuntime.runtime.children import Child
from noderuntime.runtime.lifecycle_events import LifecycleState
from noderuntime.runtime.observer import SummaryRow

STATES = {LifecycleState.ENDED: "finished", LifecycleState.STOPPED: "stopped", LifecycleState.FAILED: "failed"}

FiguresByNode = Mapping[str, NodeFigures]  # the store's; {}: it could not be asked


def rows(children: Iterable[Child], figures: FiguresByNode) -> list[SummaryRow]:
    """What became of each node, and of helpers that failed. Without figures, the counts are those seen from here."""
    found = []
    for child in children:
        machine = child.machine
        if child.spec.helper and child.state is not LifecycleState.FAILED:
            continue
        own = figures.get(child.id)
        dead, lost = (0, 0) if own is None else (own["dead_letters"], dropped(own))
        found.append(
            SummaryRow(
                node=child.id,
                state=STATES.get(child.state, child.state.value),
                restarts=machine.restarts,
                messages=child.handled() if own is None else messages(own),
                reason=with_counts(machine.reason or child.waits, dead, lost),
                dropped=lost,
                dead_letters=dead,
            )
        )
    return folded(found)


def folded(found: Sequence[SummaryRow]) -> list[SummaryRow]:
    """One row for all replicas of a node; the reasons say of which replica they are."""
    by_node: dict[str, list[SummaryRow]] = {}
    for row in found:
        by_node.setdefault(node_of(row.node), []).append(row)
    return [own[0] if len(own) == 1 else _one_of(node, own) for node, own in by_node.items()]


def _one_of(node: str, own: Sequence[SummaryRow]) -> SummaryRow:
    reasons = {row.node: row.reason for row in own if row.reason}
    same = len(set(reasons.values())) == 1 and len(reasons) == len(own)
    told = [f"{shown_id(id, len(own))}: {reason}" for id, reason in reasons.items()]
    return SummaryRow(
        node=node,
        state=state_of([row.state for row in own]),
        restarts=sum(row.restarts for row in own),
        messages=sum(row.messages for row in own),
        reason=own[0].reason if same else "; ".join(told),
        dropped=sum(row.dropped for row in own),
        dead_letters=sum(row.dead_letters for row in own),
    )


def state_of(states: Sequence[str]) -> str:
    """The state of a node by those of its replicas: failed if one has, finished only if all have."""
    last = ("running", "stopping", "stopped", "finished", "ended")
    return min(states, key=lambda state: (state != "failed", last.index(state) if state in last else -1))


def lines(found: Sequence[SummaryRow]) -> list[str]:
    """The rows as lines, for the runtime's log."""
    return [
        f"{row.node}: {row.state}, {row.restarts} restarts, {row.messages} messages"
        + (f" ({row.reason})" if row.reason else "")
        for row in found
    ]


def rows_of_none(dataflow: Dataflow, state: str) -> list[SummaryRow]:
    """The rows of a run that ended before it had any children."""
    return folded([SummaryRow(spec.id, state, 0, 0, "") for spec in dataflow.nodes if not spec.helper])


def messages(figures: NodeFigures) -> int:
    """Messages that a node took; those that it sent when it took none."""
    taken = sum(item["taken"] for item in figures["inputs"].values()) + _gone(figures)["taken"]
    return taken or sum(figures["outputs"].values())


def dead_letters(figures: FiguresByNode) -> dict[str, int]:
    """How many dead letters there are, by node; only nodes that have some. Replicas are one node."""
    found: dict[str, int] = {}
    for id, node in figures.items():
        if node["dead_letters"]:
            found[node_of(id)] = found.get(node_of(id), 0) + node["dead_letters"]
    return found


def letters_text(count: int) -> str:
    """So many dead letters, in words."""
    return f"{count} dead letter{'' if count == 1 else 's'}"


def dropped(figures: NodeFigures) -> int:
    """Messages for a node that its `drop_oldest` inputs have dropped."""
    return sum(item["dropped"] for item in figures["inputs"].values()) + _gone(figures)["dropped"]


def _gone(figures: NodeFigures) -> GoneFigures:
    """Of inputs that a change has removed; they count for the node still."""
    nothing: GoneFigures = {"taken": 0, "dropped": 0}
    return figures.get("gone", nothing)


def with_counts(reason: str, letters: int, lost: int = 0) -> str:
    """A node's reason, and its dead letters and dropped messages where it has some."""
    counts = [letters_text(letters) if letters else "", f"{lost} dropped" if lost else ""]
    return "; ".join(filter(None, [reason, *counts]))


def messages_text(count: int) -> str:
    """So many messages, in words."""
    return f"{count} message{'' if count == 1 else 's'}"
