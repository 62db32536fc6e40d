"""`node stop`, `node start` and `node restart`: one node ends and begins, and the run goes on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.harness import Folder, wait_until
from support.live_cast import command, counts, enough, flow, handled, keeps, prepare, seen, takes, wait_handled


@pytest.fixture
def place(folder: Folder) -> Folder:
    prepare(folder)
    return folder


def test_a_node_that_was_stopped_holds_its_senders_up_and_the_run_waits_for_it(place: Folder) -> None:
    running = place.start(flow(counts(), keeps("a", size=50), keeps("b")))
    running.wait_running()
    wait_handled(running, "a")
    code, _, err = command(place, "node", "stop", "a")
    assert code == 0 and "a is stopped; its queue is kept" in err
    wait_until(lambda: running.status()["counts"]["phase"].startswith("waiting for room"), "counts to be held up")
    enough(place)
    code, _, err = command(place, "node", "start", "b")
    assert code == 1 and "was not stopped: it is running" in err
    assert running.process.poll() is None
    assert command(place, "node", "start", "a")[0] == 0
    assert running.finish() == 0
    waits = [line for line in running.statuses() if "the run waits for `node start a`" in line]
    assert len(waits) == 1
    for node in ("a", "b"):
        first, last, count, good = seen(running, node)["counts/n"]
        assert (first, count, good) == (0, last + 1, True)


def test_a_restart_brings_back_a_node_that_has_failed_with_a_new_budget_and_not_one_that_has_finished(
    place: Folder,
) -> None:
    place.write(
        few_py="""
from noderuntime import Source
class Operator(Source):
    def produce(self, position, ctx):
        number = position or 0
        if number == 20:
            return Source.END
        ctx.send_output("n", number)
        return number + 1
""",
        fails_py="""
import os
class Operator:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            assert os.path.exists("good")
        elif event["type"] == "STOP":
            print("took", event["id"], flush=True)
""",
    )
    few = {"id": "few", "operator": {"python": "few.py", "outputs": ["n"]}}
    fails = {"id": "fails", "operator": {"python": "fails.py", "inputs": {"in": "few/n"}}, "max_restarts": 1,
             "max_attempts": 0}  # fmt: skip
    running = place.start(flow(few, fails, counts(), keeps("a")))
    running.wait_running("counts", "a")
    wait_until(lambda: running.status()["fails"]["state"] == "failed", "it to fail")
    wait_until(lambda: running.status()["few"]["state"] == "ended", "the source to finish")
    code, _, err = command(place, "node", "restart", "few")
    assert code == 1 and "'few' has finished, and does not begin again in this run" in err
    code, _, err = command(place, "node", "stop", "fails")
    assert code == 1 and "`node restart fails` brings it back" in err
    (place.folder / "good").touch()
    code, _, err = command(place, "node", "restart", "fails")
    assert code == 0, err
    wait_until(lambda: running.status()["fails"]["state"] == "ended", "it to handle what waited")
    enough(place)
    assert running.finish() == 0
    assert running.lines("fails") == ["took ALL_INPUTS_CLOSED"]


def test_a_program_that_is_restarted_is_another_process_and_takes_again_what_it_had_in_hand(place: Folder) -> None:
    running = place.start(flow(counts(), takes("c")))
    running.wait_running()
    wait_handled(running, "c")
    before = running.status()["c"]["pid"]
    assert command(place, "node", "restart", "c")[0] == 0
    assert running.status()["c"]["pid"] not in (0, before)
    count = handled(running, "c")
    wait_until(lambda: handled(running, "c") > count + 100, "it to go on")
    enough(place)
    assert running.finish() == 0


def test_a_program_that_is_stopped_while_its_receiver_is_full_loses_nothing_that_it_has_sent(place: Folder) -> None:
    place.write(
        sends_py="""
from noderuntime import Node
node = Node()
count = 0
for event in node:
    if event["type"] == "INPUT":
        for _ in range(20):
            node.send_output("n", count)
            count += 1
print("sent", count, flush=True)
""",
        slowly_py="""
import os, time
class Operator:
    def __init__(self):
        self.count = 0
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            while not os.path.exists("go"):
                time.sleep(0.01)
            assert event["value"] == self.count
            self.count += 1
            ctx.save_state("count", str(self.count).encode())
""",
    )
    sends = {"id": "sends", "path": "sends.py", "inputs": {"tick": "timer/millis/10"}, "outputs": ["n"]}
    inputs = {"in": {"source": "sends/n", "queue_size": 1}}
    slowly = {"id": "slowly", "operator": {"python": "slowly.py", "inputs": inputs}}
    running = place.start(flow(sends, slowly), grace_s=60.0)
    running.wait_running()
    wait_until(lambda: running.status()["sends"]["phase"].startswith("waiting for room"), "the queue to be full")
    stops = subprocess.Popen(
        [sys.executable, "-m", "noderuntime", "node", "stop", "sends"], cwd=place.folder, stderr=subprocess.PIPE,
        env={**os.environ, "NODERUNTIME_HOME": str(place.home)},
    )  # fmt: skip
    wait_until(lambda: running.status()["sends"]["state"] == "stopping", "the stop")
    (place.folder / "go").touch()
    _, said = stops.communicate(timeout=60)
    assert stops.returncode == 0, said
    sent = int(running.wait_for("line", "sends", "stdout", "sent *")[3].split()[1])
    wait_until(lambda: command(place, "state", "get", "slowly", "count")[1].strip() == str(sent), f"all {sent}")
    assert command(place, "stop")[0] == 0
    running.finish()
