from __future__ import annotations

from typing import Any

import pytest

from noderuntime import Operator, Source, Status
from noderuntime.api.operator import POSITION_KEY, packed_position, position_of


def carried(position: Any) -> Any:
    """`position` as `produce` sees it after the commit."""
    saved = packed_position(position)
    assert saved is not None
    return position_of({POSITION_KEY: saved})


def test_a_returned_position_is_to_be_saved_and_comes_back() -> None:
    for position in (0, 17, "a", b"\x00", ["a.txt", 12], {"file": "a", "offset": 3}):
        assert carried(position) == position


def test_a_tuple_comes_back_as_a_list() -> None:
    assert carried(("a.txt", 12)) == ["a.txt", 12]


def test_at_first_there_is_no_position() -> None:
    assert position_of({}) is None
    assert position_of({"other": b"x"}) is None


def test_end_ends_and_leaves_the_position_alone() -> None:
    assert packed_position(Source.END) is None


def test_idle_waits_and_leaves_the_position_alone() -> None:
    assert Source.idle(2).seconds == 2.0
    assert 0 < Source.IDLE.seconds < 1
    assert packed_position(Source.IDLE) is None


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_idle_refuses_what_is_no_pause(seconds: float) -> None:
    with pytest.raises(ValueError, match="number of seconds"):
        Source.idle(seconds)


def test_a_forgotten_return_is_a_clear_error() -> None:
    with pytest.raises(TypeError, match=r"produce returned None; .*Source\.END"):
        packed_position(None)


def test_a_position_that_cannot_be_saved_is_a_clear_error() -> None:
    with pytest.raises(TypeError, match="produce returned a set"):
        packed_position({1, 2})
    with pytest.raises(TypeError, match="produce returned a int"):
        packed_position(2**80)


def test_what_a_subclass_forgot_is_named() -> None:
    class Empty(Operator):
        pass

    class NoProduce(Source):
        pass

    nothing: Any = None
    with pytest.raises(NotImplementedError, match="Empty has no on_event"):
        Empty().on_event(nothing, nothing)
    with pytest.raises(NotImplementedError, match="NoProduce has no produce"):
        NoProduce().produce(None, nothing)


def test_the_three_statuses_are_distinct() -> None:
    assert len({Status.CONTINUE, Status.STOP, Status.STOP_ALL}) == 3
