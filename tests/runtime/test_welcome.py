"""The welcome of a child: a state in parts that fit into frames, or none of it."""

from __future__ import annotations

from typing import Any

from noderuntime.ipc.protocol import RestoreState, Welcome
from noderuntime.ipc.store_records import Claimed
from noderuntime.ipc.wiring import Wiring
from noderuntime.runtime.welcome import RESTORE_PART_BYTES, split_state, welcome

WIRING = Wiring(run="run", node="a", number=1, kind="operator", inputs=(), outputs=())


def messages(kind: str, **claim: Any) -> list[Welcome | RestoreState]:
    return welcome(kind, Claimed(**{"incarnation": 3, "attempts": [], "by_reference": False, **claim}), WIRING)


def test_a_state_comes_in_parts_and_the_welcome_says_how_many() -> None:
    half = b"x" * (RESTORE_PART_BYTES // 2)
    first, *parts = messages("operator", state={"a": half, "b": half, "c": b"y"})
    assert isinstance(first, Welcome) and (first.incarnation, first.states) == (3, 2)
    assert parts == [RestoreState({"a": half}, False), RestoreState({"b": half, "c": b"y"}, False)]


def test_a_value_that_fits_into_no_frame_is_read_from_the_space() -> None:
    assert messages("operator", state={"a": b"x" * (RESTORE_PART_BYTES + 1)})[1:] == [RestoreState({}, True)]
    assert messages("operator", state={}, by_reference=True)[1:] == [RestoreState({}, True)]


def test_only_an_operator_is_sent_its_state() -> None:
    assert len(messages("node", state={"a": b"x"})) == 1
    assert split_state({}) == []
