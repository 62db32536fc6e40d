"""Each named point, hit with a kill, with a stop and a kill, and with an error. What comes out is always exact.

In one run the lives of one victim end one after the other, each at the next point; a fault that never happens fails the
test, so that no point can get lost. But not every life comes to every point: an operator that was killed behind its
last commit has ended, and nobody is rung whose queue is not empty. So the last words have runs of their own, and so has
what the common run did not come to: there the victim's first life, which nothing disturbs, passes every point.
"""

from __future__ import annotations

import pytest
from support.flows import Flow, Link, Vertex, source, worker, writing
from support.schedules import CUSTOM_OFTEN, CUSTOM_ONCE, FORK_SERVER, OPERATOR_OFTEN, OPERATOR_ONCE, RUNTIME, STORE
from support.stage import Fault, Stage, run_to_the_end

SENDING = ("flock", "flocked", "allocate", "allocated", "fill", "filled")
TAKING = ("lease", "leased", "received RestoreState")
NOT_OF_SOURCES = ("take", "taken", "delete", "handle", "handled")


def flow(count: int = 60) -> Flow:
    """Small and large messages, several outputs and none, two receivers, a small queue, a custom node at each end."""
    return Flow({
        "count": Vertex("counting", outputs=["o0"], config={"count": count, "seed": 2, "pause_ms": 1}),
        "source": source(count, batch=2, large=4),
        "a": worker("many", {"x": Link("count/o0", 20), "y": Link("source/o0", 5)}, 2, large=5, keep=2),
        "b": worker("dice", {"x": Link("a/o0", 10), "y": Link("a/o1", 1000)}, large=7),
        "c": worker("none", {"x": Link("a/o1"), "tick": Link("timer/millis/5")}, 0),
        "sink": writing(n=Link("b/o0", 8)),
    })  # fmt: skip


def faults(who: str, action: str, points: tuple[str, ...], hits: tuple[int, ...] = (1,)) -> list[Fault]:
    return [{"who": who, "point": point, "hit": hit, "action": action} for point in points for hit in hits]


OPERATOR = (*OPERATOR_ONCE, *OPERATOR_OFTEN)
OPERATORS = ("source", "a", "c")
LAST_WORDS = ("send Bye", "sent Bye")
POINTS = {
    "source": (*(point for point in OPERATOR if point not in NOT_OF_SOURCES), *SENDING[:4]),
    "a": (*OPERATOR, *SENDING, *TAKING),
    "c": tuple(point for point in OPERATOR if point not in ("ring", "rung")),  # it sends nothing, and holds nobody up
    "count": tuple(point for point in (*CUSTOM_ONCE, *CUSTOM_OFTEN) if point not in ("take", "taken")),
    "sink": tuple(point for point in (*CUSTOM_ONCE, *CUSTOM_OFTEN) if point not in ("stage", "staged")),
    "store": STORE,
}
LONG_S = 240.0  # 30 s on two cores that are busy
# two deaths without a commit in between: the second one is followed by a pause, and by a `touch` of the store
PAUSES = [{"who": "b", "point": point, "hit": 1, "action": "kill"} for point in ("restore", "restored")]


DEATH = [{"who": "a", "point": "committed", "hit": 3, "action": "kill"}]
BEFORE = {"received RestoreState": DEATH, "request touch": PAUSES, "answer touch": PAUSES}


def sweep(who: str, action: str, points: tuple[str, ...], count: int = 60) -> None:
    """Every point happens: as many as can be in one run, and the others in one run each."""
    alone = [point for point in points if point in LAST_WORDS and who in OPERATORS]
    together = faults(who, action, tuple(point for point in points if point not in alone))
    missed = run_to_the_end(flow(count), together + PAUSES)
    assert [fault for fault in missed if fault["who"] != who] == []
    for fault in missed + faults(who, action, tuple(alone)):
        assert run_to_the_end(flow(), [*BEFORE.get(fault["point"], []), fault]) == []


@pytest.mark.parametrize("who", ["a", pytest.param("sink", marks=pytest.mark.long), "store"])
def test_killed_at_every_point(who: str) -> None:
    sweep(who, "kill", POINTS[who])


def test_stopped_then_killed_holding_the_lock_reading_and_restoring() -> None:
    assert run_to_the_end(flow(), faults("a", "stop", ("locked", "read", "restore", "flocked"))) == []


def test_an_error_at_every_point() -> None:
    sweep("a", "error", POINTS["a"])


def test_no_room_at_every_write() -> None:
    assert run_to_the_end(flow(), faults("a", "full", ("put", "delete", "commit"), (1, 2, 7, 20))) == []


def points_of(who: str, action: str) -> tuple[str, ...]:
    return tuple(point for point in POINTS[who] if not (who == "store" and action == "error" and point == "begin"))


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("action", ["kill", "error", "stop"])
@pytest.mark.parametrize("who", POINTS)
def test_every_victim_at_every_point(who: str, action: str) -> None:
    sweep(who, action, points_of(who, action), 200)


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("hits", [(3, 11), (5, 29)])
@pytest.mark.parametrize("action", ["kill", "error", "stop"])
@pytest.mark.parametrize("who", POINTS)
def test_every_victim_at_later_passes_of_every_point(who: str, action: str, hits: tuple[int, ...]) -> None:
    """What is passed once in a life never happens here."""
    hits = hits[:1] if action == "stop" else hits
    run_to_the_end(flow(200), faults(who, action, points_of(who, action), hits) + PAUSES, LONG_S)


@pytest.mark.long
@pytest.mark.parametrize("point", FORK_SERVER)
def test_the_fork_server_killed_while_it_makes_a_child(point: str) -> None:
    plan = [*faults("forkserver", "kill", (point,), (2, 5)), *faults("a", "kill", OPERATOR_OFTEN)]
    run_to_the_end(flow(), plan)


def test_children_killed_before_they_are_anybody() -> None:
    run_to_the_end(flow(), faults("spare", "kill", ("become", "ordered", "called")))


@pytest.mark.parametrize("point", ["event Exited"])
def test_the_runtime_killed_and_resumed(point: str) -> None:
    _runtime_killed([point], "kill")


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("action", ["kill", "error"])
@pytest.mark.parametrize("at", range(0, len(RUNTIME), 5))
def test_the_runtime_killed_at_every_point_and_resumed(at: int, action: str) -> None:
    _runtime_killed(list(RUNTIME[at : at + 5]), action)


def _runtime_killed(points: list[str], action: str) -> None:
    """Operators die too, so that the runtime has something to do."""
    dataflow = flow(150)
    plan = faults("runtime", action, tuple(points), (2,)) + faults("a", "kill", ("committed", "restored"), (3, 9))
    plan = [{**fault, "hit": 1} if fault["point"] in ("opened", "started") else fault for fault in plan]
    with Stage(plan) as stage:
        stage.start(dataflow.yaml(str(stage.root)))
        stage.complete(dataflow)
        stage.check(dataflow)
        stage.finish()
        assert stage.fired() >= set(range(len(points)))
        # an error is no death: the runtime goes on by itself, where it has laid out what it needs
        assert stage.resumes == len([point for point in points if action == "kill" or point == "opened"])
