"""What a child is sent once it has said hello and its claim is answered: the welcome, and an operator's state."""

from __future__ import annotations

from collections.abc import Mapping

from noderuntime.ipc.protocol import FRAME_BYTES_MAX, RestoreState, Welcome
from noderuntime.ipc.store_records import Claimed
from noderuntime.ipc.wiring import Wiring

RESTORE_PART_BYTES = FRAME_BYTES_MAX // 2


def welcome(kind: str, claim: Claimed, wiring: Wiring) -> list[Welcome | RestoreState]:
    """The messages, in order. `claim` is the store's answer; only an operator (`kind`) is sent its state.

    A state with a value that fits into no frame is not sent: the child reads it from the space.
    """
    parts: list[RestoreState] = []
    if kind == "operator":
        state = claim["state"]
        if claim["by_reference"] or any(len(value) > RESTORE_PART_BYTES for value in state.values()):
            parts = [RestoreState({}, True)]
        else:
            parts = [RestoreState(part, False) for part in split_state(state)]
    first = Welcome(claim["incarnation"], wiring.to_plain(), len(parts), claim["attempts"])
    return [first, *parts]


def split_state(state: Mapping[str, bytes]) -> list[dict[str, bytes]]:
    """Parts of a state that fit into a frame each. Pure."""
    parts: list[dict[str, bytes]] = []
    size = RESTORE_PART_BYTES + 1
    for key, value in state.items():
        size += len(value) + 4 * len(key) + 16
        if size > RESTORE_PART_BYTES:
            parts.append({})
            size = len(value) + 4 * len(key) + 16
        parts[-1][key] = value
    return parts
