"""Killed between LMDB's meta page and its transaction's number: the commit is made, and nobody sees it yet.

Readers see such a commit only once somebody has taken the write lock. If nobody did, the run would wait for ever: so it
is the end of these runs that is tested, besides their being exact.
"""

from __future__ import annotations

import threading

import pytest
from support.flows import Flow, Link, Vertex, source, worker, writing
from support.harness import wait_until
from support.stage import Stage
from support.tracing import kill_behind_meta_page

# One commit takes at most what a queue holds: each victim has more commits before it than its lives need, also where a
# busy machine lets messages wait.
QUEUE = 4


def flow() -> Flow:
    return Flow({
        "source": source(400, pause_ms=20),
        "a": worker("sum", {"in": Link("source/o0", QUEUE)}),
        "b": worker("dice", {"in": Link("a/o0", QUEUE), "tick": Link("timer/millis/20")}),
        "count": Vertex("counting", outputs=["o0"], config={"count": 400, "seed": 2, "pause_ms": 5}),
        "c": worker("none", {"in": Link("count/o0")}, 0),
        "sink": writing(n=Link("b/o0")),
    })  # fmt: skip


LONG = [pytest.param(node, marks=pytest.mark.long) for node in ("source", "b")]


@pytest.mark.parametrize("victim", ["a", "store", *LONG])
def test_a_commit_that_was_killed_before_it_was_published_counts_once(victim: str) -> None:
    dataflow = flow()
    with Stage() as stage:
        running = stage.start(dataflow.yaml(str(stage.root)))
        running.wait_for("started")
        if victim == "store":
            # the next thing that it commits is the claim of somebody who has died
            store = running.helper("nr-store")
            killed: list[bool] = []
            tracer = threading.Thread(target=lambda: killed.append(kill_behind_meta_page(store, 4096, 0)))
            tracer.start()
            stage.kill("a")
            tracer.join()
            assert killed == [True]
        else:
            for commits in (3, 0, 1):  # three lives, one after the other
                pid = int(wait_until(lambda: stage.pid(victim), "its pid"))
                assert kill_behind_meta_page(pid, 4096, commits)
                wait_until(lambda pid=pid: stage.pid(victim) not in (0, pid), "its next life")
        stage.complete(dataflow)
        stage.check(dataflow)
        stage.finish()
