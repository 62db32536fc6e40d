"""Operators that share a process, in real runs: killed, reloaded, failed for good, drained, resumed, moved."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest
from support.harness import Folder, Running, wait_until
from test_survive import call, call_json

CODE = """
import os, time
from noderuntime import Operator, Source, stateful_map

class Numbers(Source):
    def produce(self, position, ctx):
        number = position or 0
        if number == ctx.config["count"]:
            return Source.END
        if number == 1 and os.path.exists("pause"):
            return Source.IDLE
        ctx.send_output("n", number)
        return number + 1

class Doubles(Operator):
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("n", event["value"] * FACTOR)

@stateful_map(output="n", key=lambda value: value % 3, default=int)
def thirds(key, value, state):
    return [key, state + value], state + value

class Sums(Operator):
    def __init__(self):
        if os.path.exists("broken"):
            raise RuntimeError("it is broken")
        self.total = self.count = 0
    def restore_state(self, state):
        self.total, self.count = (int(item) for item in state["sums"].split())
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            number = event["value"] if event["id"] == "n" else 0
            if number in ctx.config.get("poison", ()):
                raise ValueError(f"{number} is poison")
            while number == ctx.config.get("hangs"):
                time.sleep(1)
            self.total += number
            self.count += 1
            ctx.save_state("sums", f"{self.total} {self.count}".encode())
            ctx.send_output("n", self.total)
        elif event["type"] == "STOP":
            print(event["id"], self.total, self.count, flush=True)

FACTOR = 2
"""
FLOW = """
snapshots: {to: %(snapshots)s}
nodes:
  - id: numbers
    process: fast
    operator: {python: code.py:Numbers, outputs: [n]}
    config: {count: %(count)s}
  - id: doubles
    process: fast
    operator: {python: code.py:Doubles, inputs: {n: numbers/n}, outputs: [n]}
  - id: thirds
    process: fast
    operator: {python: code.py:thirds, inputs: {n: numbers/n}, outputs: [n]}
  - id: sums
    process: fast
    operator: {python: code.py:Sums, inputs: {n: doubles/n, thirds: thirds/n}, outputs: [n]}
    config: %(config)s
  - {id: sink, path: sink.py, inputs: {sum: sums/n}}
"""
TOGETHER = ("numbers", "doubles", "thirds", "sums")
# takes its time, and does not come to its end, while there is a file `pause`
ENDS_LATER = CODE.replace(
    '        if number == 1 and os.path.exists("pause"):\n            return Source.IDLE\n',
    '        if os.path.exists("pause"):\n            time.sleep(0.001)\n'
    '            if number == 4999:\n                return Source.IDLE\n',
)
assert ENDS_LATER != CODE


@pytest.fixture
def place(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("NODERUNTIME_HOME", str(folder.home))
    folder.write(code_py=CODE)
    return folder


def flow(count: int = 2000, snapshots: str = "none", **config: Any) -> str:
    return FLOW % {"count": count, "snapshots": snapshots, "config": json.dumps(config)}


def totals(running: Running) -> list[str]:
    """What `sums` has printed at its end: it comes from the process, which has the name of its first operator."""
    return [line for id in TOGETHER for line in running.lines(id) if line.startswith("ALL_INPUTS_CLOSED")]


def kill(running: Running, node: str) -> int:
    pid = int(wait_until(lambda: running.status()[node]["pid"], f"{node} to run"))
    os.kill(pid, signal.SIGKILL)
    return pid


def test_a_process_killed_again_and_again_handles_each_message_once_at_each_operator(place: Folder) -> None:
    place.write(code_py=ENDS_LATER, pause="")
    running = place.start(flow(5_000))
    running.wait_running(*TOGETHER)
    assert len({running.status()[id]["pid"] for id in TOGETHER}) == 1
    assert running.status()["sink"]["pid"] not in (0, running.status()["sums"]["pid"])
    for life, victim in enumerate((*TOGETHER, *TOGETHER), 1):
        handled = running.status()["sums"]["handled"]
        kill(running, victim)
        wait_until(lambda life=life: running.status()["sums"]["restarts"] >= life, "the next life")
        wait_until(lambda: running.status()["sums"]["state"] == "running", "it to run")
        wait_until(lambda handled=handled: running.status()["sums"]["handled"] > handled, "progress")
    (place.folder / "pause").unlink()
    assert running.finish() == 0
    rows = running.rows()
    assert {id: rows[id]["messages"] for id in rows} == {
        "numbers": 5_000, "doubles": 5_000, "thirds": 5_000, "sums": 10_000, "sink": 10_000,
    }  # fmt: skip
    assert len({rows[id]["restarts"] for id in TOGETHER}) == 1
    assert totals(running) == [f"ALL_INPUTS_CLOSED {sum(range(5_000)) * 2} 10000"]


def test_the_bad_message_of_a_source_inside_becomes_a_dead_letter_where_it_was_refused(place: Folder) -> None:
    running = place.start(flow(200, poison=[14, 300]))
    assert running.finish() == 0
    letters = call_json("dead-letters", "ls", "--run", "flow")
    assert [(letter["node"], letter["uid"], letter["attempts"]) for letter in letters] == [
        ("sums", "doubles/n#8", 3), ("sums", "doubles/n#151", 3),
    ]  # fmt: skip
    assert all("on_event of sums: ValueError" in letter["error"] for letter in letters)
    assert totals(running) == [f"ALL_INPUTS_CLOSED {sum(range(200)) * 2 - 314} 398"]
    assert next(told for told in running.said if told[0] == "crash")[1:3] == ["sums", "on_event"]


def test_the_bad_message_that_entered_becomes_a_dead_letter_that_names_who_raised(place: Folder) -> None:
    outside = "  - {id: count, path: count.py, outputs: [n]}\n  - id: doubles"
    dataflow = flow(poison=[14]).replace("  - id: doubles", outside).replace("{n: numbers/n}", "{n: count/n}")
    dataflow = dataflow.replace("config: {count: 2000}", "config: {count: 0}")
    running = place.start(dataflow)
    assert running.finish() == 0
    (letter,) = call_json("dead-letters", "show", "--run", "flow", "doubles")
    assert (letter["uid"], letter["value"]) == ("count/n#8", 7)
    assert letter["error"].startswith("on_event of sums: ValueError: 14 is poison")
    assert any(text.startswith("doubles failed 3 times on count/n#8: a dead letter now") for text in running.statuses())
    assert totals(running) == [f"ALL_INPUTS_CLOSED {sum(range(101)) * 2 - 14} 201"]


def test_a_hang_names_the_operator_whose_handler_it_was(place: Folder) -> None:
    dataflow = flow(20, hangs=14).replace("config: {", "health_check_timeout: 300ms\n    config: {")
    running = place.start(dataflow)
    why = "hung: one handler call of sums took longer than 0.3 s"
    running.wait_for("status", f"process fast (numbers, doubles, thirds, sums) died ({why})*")
    assert running.finish() == 0
    assert totals(running) == [f"ALL_INPUTS_CLOSED {sum(range(20)) * 2 - 14} 39"]


def test_a_reload_takes_over_the_code_of_the_whole_process(place: Folder) -> None:
    place.write(pause="")
    running = place.start(flow(3))
    running.wait_running()
    wait_until(lambda: running.status()["sums"]["handled"] == 2, "the first number")
    before = running.status()
    place.write(code_py=CODE.replace("FACTOR = 2", "FACTOR = 5").replace('ctx.send_output("n", self.total)', "pass"))
    said = call("reload", "flow", "sums")
    assert "sums runs its new code, as do numbers, doubles, thirds, which share its process" in said
    after = running.status()
    assert {after[id]["restarts"] for id in TOGETHER} == {1} and after["sink"]["restarts"] == 0
    assert after["doubles"]["pid"] not in (0, before["doubles"]["pid"])
    place.write(code_py="nonsense(")
    assert "the changed code does not import" in call("reload", "flow", "doubles", code=1)
    assert running.status()["sums"]["pid"] == after["sums"]["pid"]
    (place.folder / "pause").unlink()
    assert running.finish() == 0
    assert totals(running) == ["ALL_INPUTS_CLOSED 15 6"], "1 and 2 times 5"


def test_changed_files_of_one_process_make_one_new_life(place: Folder) -> None:
    other = CODE.replace("FACTOR = 2", "FACTOR = 3")
    place.write(pause="", other_py=other)
    dataflow = flow(3).replace("code.py:Doubles", "other.py:Doubles")
    running = place.start(dataflow, watch=True)
    running.wait_running()
    wait_until(lambda: running.status()["sums"]["handled"] == 2, "the first number")
    os.kill(running.runtime_pid, signal.SIGSTOP)  # so that it does not look between the two changes
    place.write(code_py=CODE.replace('print(event["id"]', 'print("new", event["id"]'),
                other_py=other.replace("FACTOR = 3", "FACTOR = 5"))  # fmt: skip
    os.kill(running.runtime_pid, signal.SIGCONT)
    wait_until(lambda: running.status()["sums"]["restarts"] == 1, "the new life")
    running.wait_running()
    (place.folder / "pause").unlink()
    assert running.finish() == 0
    assert {running.rows()[id]["restarts"] for id in TOGETHER} == {1}
    assert [line for id in TOGETHER for line in running.lines(id)] == ["new ALL_INPUTS_CLOSED 15 6"], "1 and 2 times 5"
    told = [text for text in running.statuses() if "has changed" in text]
    assert sorted(told) == [
        "code.py has changed: reloading numbers, thirds, sums, and with them doubles, in the same process",
        "other.py has changed: reloading doubles, and with them numbers, thirds, sums, in the same process",
    ]


def test_changed_code_that_does_not_import_is_told_and_the_process_goes_on(place: Folder) -> None:
    place.write(pause="", other_py=CODE)
    running = place.start(flow(3).replace("code.py:Doubles", "other.py:Doubles"), watch=True)
    running.wait_running()
    wait_until(lambda: running.status()["sums"]["handled"] == 2, "the first number")
    place.write(other_py="nonsense(", code_py=CODE.replace('print(event["id"]', 'print("new", event["id"]'))
    wait_until(lambda: running.status()["doubles"]["reload_error"], "the answer")
    assert {running.status()[id]["restarts"] for id in TOGETHER} == {0}
    place.write(other_py=CODE)
    wait_until(lambda: running.status()["sums"]["restarts"] == 1, "the new life")
    (place.folder / "pause").unlink()
    assert running.finish() == 0
    assert [line for id in TOGETHER for line in running.lines(id)] == ["new ALL_INPUTS_CLOSED 6 6"]


def test_a_process_that_fails_for_good_ends_a_run_that_is_to_be_aborted_then(place: Folder) -> None:
    place.write(broken="")
    clock = "  - {id: clock, operator: {python: ticks.py, inputs: {t: timer/secs/1}, outputs: [tick]}}\n"
    dataflow = flow().replace("process: fast", "process: fast\n    max_restarts: 1\n    restart_delay: 1ms") + clock
    running = place.start(dataflow, abort_on_failure=True)
    assert running.finish() == 1
    assert {running.rows()[id]["state"] for id in TOGETHER} == {"failed"}
    assert "init of sums: RuntimeError: it is broken" in running.rows()["numbers"]["reason"]
    assert running.rows()["clock"]["state"] == "stopped"


@pytest.mark.parametrize("setting", ["restart_policy: always", "restart_policy: on-failure", "spawn: exec"])
def test_a_process_lives_and_ends_by_the_settings_that_its_operators_agree_on(place: Folder, setting: str) -> None:
    place.write(pause="")
    running = place.start(flow(500).replace("process: fast", f"process: fast\n    {setting}"))
    running.wait_running()
    for life, victim in enumerate(("sums", "numbers"), 1):
        kill(running, victim)
        wait_until(lambda life=life: running.status()["sums"]["restarts"] >= life, "the next life")
        running.wait_running()
    (place.folder / "pause").unlink()
    assert running.finish() == 0
    assert {running.rows()[id]["state"] for id in TOGETHER} == {"finished"}
    assert totals(running) == [f"ALL_INPUTS_CLOSED {sum(range(500)) * 2} 1000"]


def test_a_process_that_is_not_restarted_fails_as_a_whole(place: Folder) -> None:
    place.write(pause="")
    running = place.start(flow(500).replace("process: fast", "process: fast\n    restart_policy: never"))
    running.wait_running()
    kill(running, "doubles")
    wait_until(lambda: running.status()["sums"]["state"] == "failed", "it to fail for good")
    running.ask("stop")
    assert running.finish() == 1
    assert {running.rows()[id]["state"] for id in TOGETHER} == {"failed"}


def test_a_process_that_failed_for_good_comes_back_as_a_whole(place: Folder) -> None:
    outside = "  - {id: count, path: count.py, outputs: [n], env: {COUNT: '300'}}\n  - id: doubles"
    dataflow = flow().replace("  - id: doubles", outside).replace("{n: numbers/n}", "{n: count/n}")
    dataflow = dataflow.replace("config: {count: 2000}", "config: {count: 0}")
    dataflow += "  - {id: clock, operator: {python: ticks.py, inputs: {t: timer/secs/1}, outputs: [tick]}}\n"
    dataflow = dataflow.replace("process: fast", "process: fast\n    max_restarts: 1\n    restart_delay: 1ms")
    place.write(broken="")
    running = place.start(dataflow)
    running.wait_for("status", "process fast (numbers, doubles, thirds, sums) died*")
    wait_until(lambda: running.status()["sums"]["state"] == "failed", "it to fail for good", 30.0)
    assert {running.status()[id]["state"] for id in TOGETHER} == {"failed"}
    assert "init of sums: RuntimeError: it is broken" in running.status()["doubles"]["reason"]
    (place.folder / "broken").unlink()
    call("reload", "flow", "doubles")
    wait_until(lambda: running.status()["sums"]["state"] == "ended", "it to end")
    running.ask("stop")
    running.finish()
    assert totals(running) == [f"ALL_INPUTS_CLOSED {sum(range(301)) * 2} 602"]


def test_a_process_that_waits_for_a_failed_node_is_stuck_as_a_whole(place: Folder) -> None:
    place.write(fails_py="raise SystemExit(3)")
    dataflow = flow(500).replace("{id: sink, path: sink.py, inputs: {sum: sums/n}}",
        "{id: sink, path: fails.py, inputs: {sum: {source: sums/n, queue_size: 10}}}")  # fmt: skip
    running = place.start(dataflow)
    assert running.finish() == 1
    assert any("sums waits for room in the queue of sink (failed)" in text for text in running.statuses())
    place.write(fails_py=(place.folder / "sink.py").read_text())
    again = place.start(resume=True)
    assert again.finish() == 0
    assert totals(again) == [f"ALL_INPUTS_CLOSED {sum(range(500)) * 2} 1000"]
    assert again.lines("sink") == [f"last {sum(range(500)) * 2} of 1000"]


def test_a_drain_ends_a_process_with_a_timer_when_its_messages_are_handled(place: Folder) -> None:
    code = "operator: {python: ticks.py, inputs: {t: timer/millis/5}, outputs: [tick]}"
    dataflow = flow(10**9).replace("  - {id: sink", f"  - {{id: ticks, process: fast, {code}}}\n  - {{id: sink")
    dataflow = dataflow.replace("thirds: thirds/n}", "thirds: thirds/n, tick: ticks/tick}")
    running = place.start(dataflow)
    running.wait_running()
    wait_until(lambda: running.status()["sums"]["handled"] > 500, "some messages")
    running.ask("stop", drain=True)
    assert running.finish() == 0
    rows = running.rows()
    assert {row["state"] for row in rows.values()} == {"finished"}
    assert rows["doubles"]["messages"] == rows["thirds"]["messages"] == rows["numbers"]["messages"]
    expected = rows["doubles"]["messages"] + rows["thirds"]["messages"] + rows["ticks"]["messages"]
    assert rows["sums"]["messages"] == rows["sink"]["messages"] == expected


@pytest.mark.parametrize("snapshots", ["none", "kept"])
@pytest.mark.parametrize("then", ["fast", "apart", "other"])
def test_a_run_is_resumed_whichever_operators_share_a_process_then(place: Folder, snapshots: str, then: str) -> None:
    """From the space, with `snapshots: none`, and from a snapshot."""
    place.write(code_py=ENDS_LATER, pause="")
    running = place.start(flow(5_000, "none" if snapshots == "none" else "./kept"))
    running.wait_running()
    wait_until(lambda: running.status()["sums"]["handled"] > 500, "some messages")
    if snapshots == "none":
        os.kill(running.runtime_pid, signal.SIGKILL)
        running.finish()
    else:
        running.ask("stop")
        assert running.finish() == 0
    (place.folder / "pause").unlink()
    dataflow = place.file.read_text()
    if then == "apart":
        dataflow = dataflow.replace("    process: fast\n", "")
    elif then == "other":  # the first of the process is another one
        dataflow = dataflow.replace("  - id: numbers\n    process: fast\n", "  - id: numbers\n")
    again = place.start(dataflow, resume=True)
    assert again.finish() == 0
    assert totals(again) == [f"ALL_INPUTS_CLOSED {sum(range(5_000)) * 2} 10000"]
    assert again.rows()["sink"]["messages"] == 10_000


def test_operators_that_move_into_a_process_bring_their_state(place: Folder) -> None:
    together = flow(5_000)
    place.write(code_py=ENDS_LATER, pause="")
    running = place.start(together.replace("    process: fast\n", ""))
    running.wait_running()
    wait_until(lambda: running.status()["sums"]["handled"] > 500, "some messages")
    os.kill(running.runtime_pid, signal.SIGKILL)
    running.finish()
    (place.folder / "pause").unlink()
    again = place.start(together, resume=True)
    assert again.finish() == 0
    assert totals(again) == [f"ALL_INPUTS_CLOSED {sum(range(5_000)) * 2} 10000"]
