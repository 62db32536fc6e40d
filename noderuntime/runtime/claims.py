"""What the store is asked when a life begins, and what is told of its answer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote
from typing import Any

from noderuntime.dataflow.identifiers import node_of, shown_id
from noderuntime.dataflow.model import NodeSpec
from noderuntime.runtime.lifecycle_events import Claim


def claim_of(claim: Claim, members: Sequence[tuple[NodeSpec, int]]) -> dict[str, Any]:
    """The arguments of a claim. `members` are the operators of the process, with their numbers; of most there is one.

    What was in hand names the number of its node only where there are several.
    """

    def hands_of(number: int) -> list[list[int]]:
        return [list(hand[:3]) for hand in claim.hands if len(members) == 1 or hand[3] == number]

    (first, number), *others = members
    return {
        "node": first.id,
        "cause": claim.cause,
        "counts": claim.counts,
        "hands": hands_of(number),
        "max_attempts": first.max_attempts,
        "trace": claim.trace,
        "others": [[spec.id, spec.max_attempts, hands_of(number)] for spec, number in others],
    }


def burial(buried: str, entry: NodeSpec, run: str) -> str:
    """What is told of messages that have become dead letters of `entry`."""
    attempts = entry.max_attempts
    times = "once" if attempts == 1 else f"{attempts} times"
    return (
        f"{shown_id(entry.id, entry.replicas)} failed {times} on {buried}: a dead letter now, the flow continues; "
        f"see `noderuntime dead-letters show --run {quote(run)} {node_of(entry.id)}`"
    )
