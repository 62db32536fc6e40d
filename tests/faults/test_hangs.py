"""Children that stop or hang where it hurts: noticed, named, replaced; the others go on, and the space stays small."""

from __future__ import annotations

import pytest
from support.flows import Flow, Link, source, worker, writing
from support.stage import Stage, run_to_the_end

PINS = """
import time
from cast import Worker

class Pinning(Worker):
    "Keeps a moment of the shared store in view, in its first life only."
    def on_event(self, event, ctx):
        if ctx.incarnation == 1 and self.log.count == 5:
            with ctx.kvs.snapshot():
                time.sleep(1000)
        return super().on_event(event, ctx)
"""
HANGS = """
import time
from cast import Worker as Real
{at_import}

class Worker(Real):
    def __init__(self, ctx):
        super().__init__(ctx)
        {at_init}
    def restore_state(self, state):
        super().restore_state(state)
        {at_restore}
    def on_event(self, event, ctx):
        {at_event}
        return super().on_event(event, ctx)
"""
ONCE = "import os; os.path.exists('hung') or (open('hung', 'w').close(), time.sleep(1000))"


def flow(count: int) -> Flow:
    """Two branches: what happens in one must not hold up the other."""
    return Flow({
        "source": source(count, batch=4, outputs=2, pause_ms=4),
        "a": worker("sum", {"in": Link("source/o0", 20_000)}),
        "b": worker("dice", {"in": Link("source/o1", 20_000)}),
        "sink": writing(n=Link("b/o0")),
    })  # fmt: skip


def written_to(dataflow: Flow, stage: Stage, name: str, timeout: str) -> str:
    text = dataflow.yaml(str(stage.root)).replace('"id": "a"', f'"id": "a", {timeout}')
    return text.replace("cast.py:Worker", name, 1)


def test_a_reader_that_keeps_its_moment_is_killed_and_the_space_stays_small() -> None:
    dataflow = flow(12_000)
    with Stage() as stage:
        stage.folder.write(pins_py=PINS)
        running = stage.start(written_to(dataflow, stage, "pins.py:Pinning", '"start_timeout": "30s"'))
        running.wait_for("status", "a kept a read transaction *")
        stage.complete(dataflow)
        stage.check(dataflow)
        # what one second of writing at full speed leaves; all of the messages would be several times that
        assert (stage.folder.run_dir().space / "data.mdb").stat().st_blocks * 512 < 64_000_000
        stage.finish()


@pytest.mark.long
def test_a_process_that_is_stopped_while_it_reads_is_replaced_and_the_space_stays_small() -> None:
    dataflow = flow(4000)
    with Stage([{"who": "a", "point": "read", "hit": 6, "action": "stop"}]) as stage:
        running = stage.start(dataflow.yaml(str(stage.root)))
        running.wait_for("status", "a was stopped *")
        stage.complete(dataflow)
        stage.check(dataflow)
        assert (stage.folder.run_dir().space / "data.mdb").stat().st_blocks * 512 < 40_000_000
        stage.finish()


@pytest.mark.parametrize(
    "where", [pytest.param("at_import", marks=pytest.mark.long), pytest.param("at_init", marks=pytest.mark.long),
              "at_restore", pytest.param("at_event", marks=pytest.mark.long)]
)  # fmt: skip
def test_a_hang_is_noticed_named_and_ended_while_the_others_go_on(where: str) -> None:
    dataflow = flow(400)
    places = {place: ONCE if place == where else "pass" for place in ("at_import", "at_init", "at_restore", "at_event")}
    faults = [{"who": "a", "point": "committed", "hit": 3, "action": "kill"}] if where == "at_restore" else []
    with Stage(faults) as stage:
        stage.folder.write(hangs_py=HANGS.format(**places))
        limits = '"start_timeout": "2s", "health_check_timeout": "1s"'
        running = stage.start(written_to(dataflow, stage, "hangs.py:Worker", limits))
        told = running.wait_for("status", "a hung: *" if where == "at_event" else "a start timeout: *")
        assert "killing it" in told[1]
        stage.complete(dataflow)
        stage.check(dataflow)
        stage.finish()


@pytest.mark.long
def test_a_store_and_a_fork_server_that_are_stopped_are_replaced() -> None:
    run_to_the_end(
        flow(100),
        [
            {"who": "store", "point": "answer claim", "hit": 4, "action": "stop"},
            {"who": "forkserver", "point": "made", "hit": 6, "action": "stop"},
            *({"who": "a", "point": "committed", "hit": hit, "action": "kill"} for hit in (1, 2)),
        ],
    )
