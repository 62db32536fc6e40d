"""The end of a run waits until its shared writes have arrived elsewhere, but not for ever."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from noderuntime.runtime.outbox import HURRIED_S, PATIENCE_S, RunOutbox


class Link:
    """A store that answers at once."""

    def __init__(self) -> None:
        self.result: dict[str, Any] | None = {"first": "01", "trouble": "the Redis server at x: gone"}

    def request(self, operation: str, arguments: Any, read: Any, then: Any, otherwise: Any) -> None:
        assert operation == "outbox"
        if self.result is None:
            otherwise("StoreError", "the store cannot tell")
        else:
            then(read(self.result))


def outbox(kind: str = "redis") -> tuple[Any, Link, list[str]]:
    said: list[str] = []
    dataflow = SimpleNamespace(state=SimpleNamespace(kind=kind))
    made: Any = RunOutbox(dataflow, SimpleNamespace(tell=said.append))  # type: ignore[arg-type]
    return made, Link(), said


def test_with_the_space_itself_there_is_nothing_to_wait_for() -> None:
    waiting, _, _ = outbox("memory")
    assert waiting.over
    assert not waiting.problem


def test_it_is_over_when_nothing_waits_any_more() -> None:
    waiting, link, said = outbox()
    waiting.begin(100.0, hurried=False)
    waiting.look(link, 100.0)
    waiting.look(link, 101.0)
    assert not waiting.over
    assert "the Redis server at x: gone" in said[0]
    link.result = {"first": "", "trouble": ""}
    waiting.look(link, 102.0)
    assert waiting.over
    assert not waiting.problem
    assert len(said) == 1


def test_it_waits_for_as_long_as_something_arrives() -> None:
    waiting, link, _ = outbox()
    waiting.begin(0.0, hurried=False)
    for turn in range(5):
        link.result = {"first": f"{turn:02}", "trouble": ""}
        waiting.look(link, (turn + 0.9) * PATIENCE_S)
        assert not waiting.over
    waiting.look(link, 6 * PATIENCE_S)
    assert waiting.over
    assert "30 s" in waiting.problem


def test_a_run_that_was_stopped_waits_for_less() -> None:
    waiting, link, _ = outbox()
    waiting.begin(0.0, hurried=True)
    waiting.look(link, 0.0)
    waiting.look(link, HURRIED_S + 0.1)
    assert waiting.problem == "the Redis server at x: gone"


def test_somebody_may_not_want_to_wait() -> None:
    waiting, link, _ = outbox()
    waiting.give_up()
    assert not waiting.over
    waiting.begin(1.0, hurried=False)
    waiting.look(link, 1.0)
    waiting.give_up()
    assert waiting.over
    assert waiting.problem


def test_a_store_that_cannot_tell_is_a_problem() -> None:
    waiting, link, _ = outbox()
    link.result = None
    waiting.begin(0.0, hurried=False)
    waiting.look(link, 0.0)
    assert waiting.problem == "the store cannot tell"
