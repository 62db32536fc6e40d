"""What a node that failed does to the others: nothing is lost, nobody ends because of it, and no run waits for ever."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from support.harness import Folder, Running, wait_until

from noderuntime.ipc import process

NUMBERS = """
from noderuntime import Source
class Operator(Source):
    def produce(self, position, ctx):
        number = position or 0
        if number == ctx.config["count"]:
            return Source.END
        ctx.send_output("n", number)
        return number + 1
"""
ADDS = """
import os
class Operator:
    def __init__(self):
        self.total = self.count = 0
        if os.path.exists("broken"):
            raise RuntimeError("it is broken")
    def restore_state(self, state):
        self.total, self.count = (int(item) for item in state["sums"].split())
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            self.total += event["value"]
            self.count += 1
            ctx.save_state("sums", f"{self.total} {self.count}".encode())
            if "forwards" in ctx.config:
                ctx.send_output("n", event["value"])
        elif event["type"] in ("NODE_FAILED", "NODE_RESTARTED", "INPUT_CLOSED"):
            print(event["type"], event["id"], flush=True)
        elif event["type"] == "STOP":
            print(event["id"], self.total, self.count, flush=True)
"""
COUNT = 3000
ALL = f"{sum(range(COUNT))} {COUNT}"
FLOW = """
snapshots: {to: %s}
nodes:
  - id: numbers
    operator: {python: numbers.py, outputs: [n]}
    config: {count: 3000}
  - id: sink
    operator: {python: adds.py, inputs: {n: {source: numbers/n, queue_size: 100%s}}}
    max_restarts: 2
    restart_delay: 1ms
"""
BEHIND = """
nodes:
  - id: numbers
    operator: {python: numbers.py, outputs: [n]}
    config: {count: 3000}
  - id: first
    operator: {python: passes.py, inputs: {n: {source: numbers/n, queue_size: 100}}, outputs: [n]}
  - id: middle
    operator: {python: adds.py, inputs: {n: {source: first/n, queue_size: 100}}, outputs: [n]}
    config: {forwards: true}
    restart_policy: never
  - id: last
    operator: {python: last.py, inputs: {n: middle/n}}
"""
PASSES = """
class Operator:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("n", event["value"])
"""


@pytest.fixture
def place(folder: Folder) -> Folder:
    last = ADDS.replace('os.path.exists("broken")', "False")
    folder.write(numbers_py=NUMBERS, adds_py=ADDS, passes_py=PASSES, last_py=last, broken="")
    return folder


def mended(place: Folder) -> None:
    (place.folder / "broken").unlink()


def command(place: Folder, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "noderuntime", *arguments],
        env={**os.environ, "NODERUNTIME_HOME": str(place.home)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def told(running: Running, text: str) -> list[str]:
    return [status for status in running.statuses() if text in status]


@pytest.mark.parametrize("to", ["./snapshots", "none"])
def test_a_run_in_which_all_wait_for_a_failed_node_ends_and_a_resume_goes_on_with_every_message(
    place: Folder, to: str
) -> None:
    running = place.start(FLOW % (to, ""))
    assert running.finish() == 1
    rows = running.rows()
    assert (rows["sink"]["state"], rows["numbers"]["state"]) == ("failed", "stopped")
    assert rows["numbers"]["reason"] == "waits for room in the queue of sink (failed)"
    assert told(running, "nothing can go on any more: numbers waits for room in the queue of sink (failed)")
    assert told(running, "100 messages for sink: kept")
    mended(place)
    again = place.start(resume=True)
    assert again.finish() == 0
    assert again.lines("sink") == ["INPUT_CLOSED n", f"ALL_INPUTS_CLOSED {ALL}"]


def test_a_queue_that_drops_goes_on_dropping_counts_and_holds_nobody_up(place: Folder) -> None:
    running = place.start(FLOW % ("none", ", queue_policy: drop_oldest"))
    assert running.finish() == 1
    assert running.rows()["numbers"]["state"] == "finished"
    assert told(running, "100 messages for sink: kept")
    assert told(running, "2900 messages for sink: dropped, by `queue_policy: drop_oldest`")
    mended(place)
    again = place.start(resume=True)
    assert again.finish() == 0
    assert again.lines("sink") == ["INPUT_CLOSED n", f"ALL_INPUTS_CLOSED {sum(range(2900, 3000))} 100"]


def test_those_before_and_behind_a_failed_node_wait_and_go_on_after_a_resume(place: Folder) -> None:
    running = place.start(BEHIND)
    assert running.finish() == 1
    rows = running.rows()
    assert {id: row["state"] for id, row in rows.items()} == {
        "numbers": "stopped", "first": "stopped", "middle": "failed", "last": "stopped",
    }  # fmt: skip
    assert rows["numbers"]["reason"] == "waits for room in the queue of first"
    assert rows["first"]["reason"] == "waits for room in the queue of middle (failed)"
    assert rows["last"]["reason"] == "waits for messages of middle (failed)"
    assert running.lines("last") == ["NODE_FAILED middle", "INPUT_CLOSED n", "MANUAL 0 0"]
    mended(place)
    again = place.start(resume=True)
    assert again.finish() == 0
    assert again.lines("last") == ["INPUT_CLOSED n", f"ALL_INPUTS_CLOSED {ALL}"]


def test_a_reload_brings_a_failed_node_back_while_the_run_goes_on(place: Folder) -> None:
    ticks = "  - id: ticks\n    operator: {python: ticks.py, inputs: {t: timer/millis/20}, outputs: [tick]}\n"
    running = place.start(BEHIND + ticks)
    running.wait_for("status", "numbers waits for room in the queue of first; first waits for room*")
    assert running.said[-1][1].endswith(". The run continues for: ticks")
    status = running.status()
    assert status["first"]["reason"] == "waits for room in the queue of middle (failed)"
    assert status["middle"]["state"] == "failed"
    code, said = command(place, "reload", "flow", "middle")
    assert code == 1 and "RuntimeError: it is broken (failed; what waits for it is kept: mend it and reload it" in said
    mended(place)
    code, said = command(place, "reload", "flow", "middle")
    assert (code, "runs its new code" in said) == (0, True), said
    running.wait_for("line", "last", "stdout", f"ALL_INPUTS_CLOSED {ALL}")
    failure = ["NODE_FAILED middle", "INPUT_CLOSED n", "NODE_RESTARTED middle"]
    assert running.lines("last") == [*failure, *failure, "INPUT_CLOSED n", f"ALL_INPUTS_CLOSED {ALL}"]
    running.ask("stop")
    assert running.finish() == 0, "no node is failed any more"


@pytest.mark.parametrize("how", ["stop", "--stop-after"])
def test_a_timer_an_idle_source_or_a_program_keeps_the_run_going_and_a_stop_exits_with_1(
    place: Folder, how: str
) -> None:
    place.write(
        idles_py="from noderuntime import Source\nclass Operator(Source):\n"
        "    def produce(self, position, ctx):\n        return Source.idle(0.01)\n"
    )
    others = """
  - id: idles
    operator: {python: idles.py, outputs: [n]}
  - {id: program, path: sink.py, inputs: {n: behind/n}}
  - id: behind
    operator: {python: passes.py, inputs: {n: idles/n}, outputs: [n]}
"""
    running = place.start(FLOW % ("none", "") + others, **({"stop_after_s": 8.0} if how != "stop" else {}))
    running.wait_for("status", "numbers waits for room in the queue of sink (failed). The run continues for: *")
    assert running.said[-1][1].endswith(": idles, program, behind")
    if how == "stop":
        assert running.ask("stop").error == ""
    assert running.finish() == 1
    assert running.rows()["numbers"]["state"] == "stopped"


def test_a_run_with_a_failed_node_can_be_drained(place: Folder) -> None:
    """Also where a timer stands behind it: it would tick for ever."""
    place.write(ticker_py=PASSES)
    more = """
  - id: ticker
    operator: {python: ticker.py, inputs: {n: last/n, t: timer/millis/10}, outputs: [n]}
"""
    dataflow = BEHIND.replace("last.py, inputs: {n: middle/n}", "last.py, inputs: {n: middle/n}, outputs: [n]")
    running = place.start(dataflow + more)
    running.wait_for("status", "*", timeout_s=30.0)
    wait_until(lambda: running.status()["last"]["reason"], "them to be stuck")
    running.ask("stop", drain=True)
    assert running.finish() == 1
    assert running.rows()["last"]["state"] == "stopped", "its output stays open, for --resume"
    mended(place)
    again = place.start(resume=True)
    assert again.finish() == 0
    counts = {id: row["messages"] for id, row in again.rows().items()}
    assert counts["numbers"] == counts["first"] == counts["middle"] == counts["last"] > 100, "what was sent is handled"


def test_reload_of_what_it_cannot_bring_back_names_the_way_out(place: Folder) -> None:
    place.write(bad_py="import sys\nsys.exit(3)\n")
    bad = "  - {id: bad, path: bad.py}\n"
    ticks = "  - id: ticks\n    operator: {python: ticks.py, inputs: {t: timer/millis/20}, outputs: [tick]}\n"
    running = place.start("nodes:\n" + bad + ticks)
    running.wait_for("status", "bad failed for good*")
    code, said = command(place, "reload", "flow", "bad")
    assert code != 0 and "`run FILE --resume`" in said
    running.ask("stop")
    assert running.finish() == 1


BUSY = """
  - id: busy
    operator: {python: endless.py, outputs: [n]}
  - id: eats
    operator: {python: idle.py, inputs: {n: busy/n}}
"""
ENDLESS = """
from noderuntime import Source
class Operator(Source):
    def produce(self, position, ctx):
        ctx.send_output("n", 1)
        return (position or 0) + 1
"""


def test_nodes_at_full_speed_elsewhere_hide_nobody_who_waits(place: Folder) -> None:
    place.write(endless_py=ENDLESS)
    running = place.start(BEHIND + BUSY)
    running.wait_for("status", "numbers waits for room in the queue of first; first waits for room*")
    assert running.said[-1][1].endswith(". The run continues for: busy, eats")
    assert running.status()["numbers"]["reason"] == "waits for room in the queue of first"
    running.ask("stop")
    assert running.finish() == 1


def test_changed_code_brings_a_failed_operator_back_where_files_are_watched(place: Folder) -> None:
    place.write(slow_py=ENDLESS.replace("ctx.send", "import time; time.sleep(0.01); ctx.send"))
    running = place.start(BEHIND + BUSY.replace("endless.py", "slow.py"), watch=True)
    running.wait_for("status", "middle failed for good*")
    place.write(adds_py=ADDS.replace('os.path.exists("broken")', "False"))
    running.wait_for("line", "last", "stdout", f"ALL_INPUTS_CLOSED {ALL}")
    running.ask("stop")
    assert running.finish() == 0


def test_a_space_that_is_full_of_what_a_failed_node_keeps_ends_the_run_too(place: Folder) -> None:
    place.write(numbers_py=NUMBERS.replace('"n", number', '"n", bytes(40_000)'))
    flow = "state: {size: 12MB}\n" + FLOW % ("none", "")
    running = place.start(flow.replace("queue_size: 100", "queue_size: 100000").replace("count: 3000", "count: 300"))
    assert running.finish() == 1
    why = "waits for room in the space, which is full of messages for sink (failed)"
    assert running.rows()["numbers"]["reason"] == why
    mended(place)
    place.write(adds_py=ADDS.replace('event["value"]', 'len(event["value"])'))
    again = place.start(resume=True)
    assert again.finish() == 0
    assert again.lines("sink")[-1] == f"ALL_INPUTS_CLOSED {300 * 40_000} 300"


PROGRAMS = """
nodes:
  - {id: count, path: count.py, outputs: [n], env: {COUNT: "2999"}, restart_policy: on-failure}
  - id: sink
    operator: {python: adds.py, inputs: {n: {source: count/n, queue_size: 100}}}
    restart_policy: never
"""


def test_a_program_that_waits_for_room_at_a_failed_node_is_stuck_too(place: Folder) -> None:
    running = place.start(PROGRAMS)
    assert running.finish() == 1
    assert running.rows()["count"]["state"] == "stopped"
    assert running.rows()["count"]["reason"] == "waits for room in the queue of sink (failed)"


def test_a_failed_node_does_not_begin_again_in_a_run_that_stops(place: Folder) -> None:
    place.write(slow_py="import os, time\nfrom noderuntime import Node\nnode = Node()\nnode.next()\n"
                "while not os.path.exists('enough'): time.sleep(0.01)\n")  # fmt: skip
    running = place.start(BEHIND + "  - {id: slow, path: slow.py, inputs: {n: first/n}}\n")
    running.wait_for("status", "middle failed for good*")
    running.wait_running("slow")
    running.ask("stop")
    mended(place)
    assert "the run is stopping" in running.ask("reload", node="middle").error
    place.write(enough="")
    assert running.finish() == 1
    assert running.rows()["middle"]["state"] == "failed"


# ---- cycles

CYCLE = """
nodes:
  - id: numbers
    operator: {python: numbers.py, outputs: [n]}
    config: {count: 300}
  - id: loop
    operator:
      python: loop.py
      inputs: {n: numbers/n, again: {source: back/n, queue_policy: drop_oldest, queue_size: 100000}}
      outputs: [n, done]
  - id: back
    operator: {python: passes.py, inputs: {n: loop/n}, outputs: [n]}
  - id: last
    operator: {python: last.py, inputs: {n: loop/done}}
"""
LOOP = """
class Operator:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            if event["id"] == "n":
                ctx.send_output("n", event["value"])
            else:
                ctx.send_output("done", event["value"])
        elif event["type"] == "STOP":
            print(event["id"], flush=True)
"""


def test_a_cycle_ends_when_its_source_has_ended_and_nothing_is_left(place: Folder) -> None:
    place.write(loop_py=LOOP)
    running = place.start(CYCLE)
    assert running.finish() == 0
    assert {row["state"] for row in running.rows().values()} == {"finished"}
    assert running.lines("loop") == ["ALL_INPUTS_CLOSED"]
    assert running.lines("last")[-1] == f"ALL_INPUTS_CLOSED {sum(range(300))} 300"


PLANT = """
nodes:
  - id: plant
    operator:
      python: plant.py
      inputs: {t: timer/hz/100, command: {source: controller/n, queue_policy: drop_oldest}}
      outputs: [n]
  - id: controller
    operator: {python: passes.py, inputs: {n: plant/n}, outputs: [n]}
"""
PLANT_CODE = """
class Operator:
    sent = heard = 0
    def on_event(self, event, ctx):
        if event["type"] == "INPUT" and event["id"] == "t":
            self.sent += 1
            ctx.send_output("n", self.sent)
        elif event["type"] == "INPUT":
            self.heard += 1
        elif event["type"] == "STOP":
            print(event["id"], self.sent == self.heard, flush=True)
"""


def test_a_cycle_with_a_timer_inside_can_be_drained(place: Folder) -> None:
    place.write(plant_py=PLANT_CODE)
    running = place.start(PLANT)
    running.wait_running()
    wait_until(lambda: running.status()["controller"]["handled"] > 5, "some ticks")
    running.ask("stop", drain=True)
    assert running.finish() == 0
    assert {row["state"] for row in running.rows().values()} == {"finished"}
    assert running.lines("plant") == ["ALL_INPUTS_CLOSED True"]


PLANT_PROGRAM = """
from noderuntime import Node
sent = heard = 0
with Node() as node:
    for event in node:
        if event["type"] == "INPUT" and event["id"] == "t":
            sent += 1
            node.send_output("n", sent)
        elif event["type"] == "INPUT":
            heard += 1
        elif event["type"] == "STOP":
            print(event["id"], sent == heard, flush=True)
"""


def test_a_cycle_of_programs_with_a_timer_inside_can_be_drained_too(place: Folder) -> None:
    echo = "from noderuntime import Node\nfor event in (node := Node()):\n"
    echo += "    if event['type'] == 'INPUT': node.send_output('n', event['value'])\n"
    place.write(plant_program_py=PLANT_PROGRAM, echo_py=echo)
    running = place.start("""
nodes:
  - id: plant
    path: plant_program.py
    inputs: {t: timer/hz/100, command: {source: controller/n, queue_policy: drop_oldest}}
    outputs: [n]
  - {id: controller, path: echo.py, inputs: {n: plant/n}, outputs: [n]}
""")
    running.wait_running()
    wait_until(lambda: running.status()["controller"]["handled"] > 5, "some ticks")
    running.ask("stop", drain=True)
    assert running.finish() == 0
    assert {row["state"] for row in running.rows().values()} == {"finished"}
    assert running.lines("plant") == ["ALL_INPUTS_CLOSED True"]


# ---- kills

LIVES_MAX = 5


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 8))])
def test_whatever_is_killed_around_a_failing_node_all_messages_count_once(place: Folder, seed: int) -> None:
    """Children are killed, in most runs the runtime too; the node in the middle fails for good, and is mended."""
    chance = random.Random(seed)
    policy = "max_restarts: 1\n    max_attempts: 0\n    restart_delay: 1ms"
    place.write(numbers_py=NUMBERS.replace("ctx.send_output", "time.sleep(0.0005)\n        ctx.send_output", 1))
    place.write(numbers_py="import time\n" + (place.folder / "numbers.py").read_text())
    dataflow = BEHIND.replace("restart_policy: never", policy)
    broken = place.folder / "broken"
    for life in range(LIVES_MAX):
        running = place.start(dataflow, resume=life > 0)
        running.wait_for("started")
        for _ in range(chance.randrange(1, 6)):
            time.sleep(chance.random() * 0.2)
            if chance.random() < 0.5:
                broken.touch()
            else:
                broken.unlink(missing_ok=True)
            victims = process.children_of(running.runtime_pid)
            if victims:
                kill(chance.choice(victims))
        if chance.random() < 0.7:
            kill(running.runtime_pid)
        else:
            broken.touch()
            kill(*process.children_of(running.runtime_pid))
        if running.finish() == 0:
            break
    broken.unlink(missing_ok=True)
    if running.process.returncode != 0:
        running = place.start(resume=True)
        assert running.finish() == 0
    # as often as a life of `last` was killed between its STOP and the end of the run, and each time the same
    told = {line for each in place.runs for line in each.lines("last") if line.startswith("ALL_INPUTS_CLOSED")}
    assert told == {f"ALL_INPUTS_CLOSED {ALL}"}


def kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
