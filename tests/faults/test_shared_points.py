"""Each named point of a process that operators share, hit with a kill and with an error. What comes out is exact."""

from __future__ import annotations

import pytest
from support.flows import Flow, Link, Vertex, source, worker, writing
from support.schedules import OPERATOR_OFTEN, OPERATOR_ONCE, SHARED_OFTEN
from support.stage import Fault, run_to_the_end

FIRST = "a"  # of the operators in the process, which has its name
LAST_WORDS = ("send Bye", "sent Bye")
POINTS = tuple(point for point in (*OPERATOR_ONCE, *OPERATOR_OFTEN, *SHARED_OFTEN) if point not in LAST_WORDS)


def flow(count: int = 60) -> Flow:
    """A Source, a fan-out, two inputs, a tick and large messages in one process; a custom node at each end of it."""
    nodes = {
        "count": Vertex("counting", outputs=["o0"], config={"count": count, "seed": 2, "pause_ms": 1}),
        FIRST: worker("many", {"x": Link("count/o0", 20), "y": Link("source/o0", 5)}, 2, large=5, keep=2),
        "source": source(count, batch=2, large=4),
        "b": worker("dice", {"x": Link("a/o0", 10), "y": Link("a/o1"), "z": Link("source/o0")}, large=7),
        "c": worker("none", {"x": Link("a/o1"), "tick": Link("timer/millis/5")}, 0),
        "sink": writing(n=Link("b/o0", 8)),
    }
    for id in (FIRST, "source", "b", "c"):
        nodes[id].process = "together"
    return Flow(nodes)


def faults(action: str, points: tuple[str, ...], hits: tuple[int, ...] = (1,)) -> list[Fault]:
    return [{"who": FIRST, "point": point, "hit": hit, "action": action} for point in points for hit in hits]


def sweep(action: str, count: int = 60) -> None:
    """Every point happens: as many as can be in one run, and the others in one run each."""
    for fault in [*run_to_the_end(flow(count), faults(action, POINTS)), *faults(action, LAST_WORDS)]:
        assert run_to_the_end(flow(), [fault]) == []


@pytest.mark.parametrize("action", ["kill", "error"])
def test_the_process_at_every_point(action: str) -> None:
    sweep(action)


def test_the_process_stopped_then_killed_holding_the_lock_reading_and_restoring() -> None:
    assert run_to_the_end(flow(), faults("stop", ("locked", "restore", "passed on"))) == []


def test_no_room_at_every_write() -> None:
    assert run_to_the_end(flow(), faults("full", ("put", "delete", "commit"), (1, 2, 7, 20))) == []


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("hits", [(3, 11), (5, 29)])
@pytest.mark.parametrize("action", ["kill", "error", "stop"])
def test_the_process_at_later_passes_of_every_point(action: str, hits: tuple[int, ...]) -> None:
    """What is passed once in a life never happens here."""
    run_to_the_end(flow(200), faults(action, POINTS, hits[:1] if action == "stop" else hits), 240.0)
