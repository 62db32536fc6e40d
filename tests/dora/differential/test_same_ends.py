# ruff: noqa: E501  (dataflows: a node a line)
"""Queues, timers, failures, restarts, logs, and how a run ends, on both (sections 6 to 8 and 11)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import Outcome, run_both

SEND = """
import os, time
import pyarrow as pa
from dora import Node
node = Node()
for n in range(int(os.environ.get("COUNT", "5"))):
    node.send_output("o", pa.array([n]))
    time.sleep(float(os.environ.get("PAUSE", "0.01")))
time.sleep(float(os.environ.get("STAY", "0")))
raise SystemExit(int(os.environ.get("CODE", "0")))
"""
TAKE = """
import os, time
from dora import Node
from record import say, shown
node = Node()
time.sleep(float(os.environ.get("LATE", "0")))
for event in node:
    told = shown(event)
    say([told["type"], told["id"], event["value"].to_pylist() if told["type"] == "INPUT" else None], name=os.environ.get("AS"))
say("over", name=os.environ.get("AS"))
"""
FILES = {"send.py": SEND, "take.py": TAKE}


def of(outcome: Outcome, type: str, who: str = "take") -> list[Any]:
    """The ids of all events of a type, with values for INPUT."""
    told = [item[0] for item in outcome.records.get(who, []) if item != ["over"]]
    return [(id, *(value or [])) for kind, id, value in told if kind == type]


def ends(outcome: Outcome, who: str = "take") -> list[Any]:
    """What is no INPUT, in order, and whether the program came to its end."""
    told = [item[0] for item in outcome.records.get(who, [])]
    return [item[:2] if isinstance(item, list) else item for item in told if item == "over" or item[0] != "INPUT"]


# ---- queues


@pytest.mark.parametrize("size", [1, 3, 10])
def test_the_newest_are_kept_for_a_late_reader(tmp_path: Path, size: int) -> None:
    dataflow = f"""
nodes:
  - {{id: s, path: send.py, outputs: [o], env: {{COUNT: 60, PAUSE: 0.002}}}}
  - {{id: t, path: take.py, inputs: {{i: {{source: s/o, queue_size: {size}}}}}, env: {{LATE: 2}}}}
"""
    real, ours = run_both(tmp_path, FILES, dataflow)
    newest = [("i", n) for n in range(60 - size, 60)]
    assert of(ours, "INPUT") == newest
    assert of(real, "INPUT")[-size:] == newest  # with at most one older message before them


def test_with_backpressure_nothing_is_lost_and_the_sender_waits_in_ours(tmp_path: Path) -> None:
    dataflow = """
nodes:
  - {id: s, path: send.py, outputs: [o], env: {COUNT: 500, PAUSE: 0}}
  - {id: t, path: take.py, inputs: {i: {source: s/o, queue_size: 1, queue_policy: backpressure}}, env: {LATE: 1}}
"""
    real, ours = run_both(tmp_path, FILES, dataflow)
    assert of(ours, "INPUT") == [("i", n) for n in range(500)]
    assert of(real, "INPUT")[-1] == ("i", 499)
    assert len(of(real, "INPUT")) < 500


def test_below_the_queue_size_nothing_is_lost_in_ours(tmp_path: Path) -> None:
    dataflow = """
nodes:
  - {id: s, path: send.py, outputs: [o], env: {COUNT: 900, PAUSE: 0}}
  - {id: t, path: take.py, inputs: {i: {source: s/o, queue_size: 1000}}}
"""
    real, ours = run_both(tmp_path, FILES, dataflow)
    assert of(ours, "INPUT") == [("i", n) for n in range(900)]
    assert set(of(real, "INPUT")) <= set(of(ours, "INPUT"))


# ---- timers


@pytest.mark.parametrize("finishes", [True, False])
def test_timers_and_the_end_of_the_data(tmp_path: Path, finishes: bool) -> None:
    dataflow = f"""
exit_when_nodes_finish: {str(finishes).lower()}
nodes:
  - {{id: s, path: send.py, outputs: [o]}}
  - {{id: t, path: take.py, inputs: {{i: s/o, t: dora/timer/millis/100}}}}
  - {{id: l, path: take.py, inputs: {{i: s/o, l: dora/logs/error}}, env: {{AS: logs}}}}
"""
    real, ours = run_both(tmp_path, FILES, dataflow, "--stop-after", "4s")
    assert (ours.code, real.code) == (0, 0)
    assert ends(ours) == ends(real)
    assert ends(ours, "logs") == ends(real, "logs")
    assert ends(ours)[-2] == ["STOP", "ALL_INPUTS_CLOSED" if finishes else "MANUAL"]


@pytest.mark.parametrize("option", ["--exit-when-nodes-finish", "--exit-when-nodes-finish=true"])
def test_the_option_wins_over_the_file(tmp_path: Path, option: str) -> None:
    dataflow = """
exit_when_nodes_finish: false
nodes:
  - {id: s, path: send.py, outputs: [o]}
  - {id: t, path: take.py, inputs: {i: s/o, t: dora/timer/millis/100}}
"""
    real, ours = run_both(tmp_path, FILES, dataflow, option)
    assert ends(ours) == ends(real) == [["INPUT_CLOSED", "i"], ["STOP", "ALL_INPUTS_CLOSED"], "over"]


def test_ticks_come_at_their_rate(tmp_path: Path) -> None:
    dataflow = "nodes:\n- {id: t, path: take.py, inputs: {a: dora/timer/millis/200, b: dora/timer/hz/2.5}}\n"
    real, ours = run_both(tmp_path, FILES, dataflow, "--stop-after", "3s")
    for outcome in (real, ours):
        ticks = of(outcome, "INPUT")
        assert {id for id, *_ in ticks} == {"a", "b"}
        assert all(len(tick) == 1 for tick in ticks)  # an array of length 0
        assert sum(id == "a" for id, *_ in ticks) > sum(id == "b" for id, *_ in ticks)


def test_the_first_tick_comes_at_once(tmp_path: Path) -> None:
    dataflow = """
nodes:
  - {id: t, path: take.py, inputs: {a: dora/timer/secs/3600, b: dora/timer/secs/7200}}
  - {id: o, operator: {python: op.py, inputs: {a: dora/timer/secs/3600}, outputs: [o]}}
  - {id: r, path: take.py, env: {AS: of_operator}, inputs: {i: o/o}}
"""
    operator = """
from dora import DoraStatus
class Operator:
    def on_event(self, event, send_output):
        if event["type"] == "INPUT":
            send_output("o", b"x", {})
        return DoraStatus.CONTINUE
"""
    real, ours = run_both(tmp_path, {**FILES, "op.py": operator}, dataflow, "--stop-after", "10s")
    for who in ("take", "of_operator"):
        assert sorted(of(ours, "INPUT", who)) == sorted(of(real, "INPUT", who)), who
    assert sorted(of(ours, "INPUT")) == [("a",), ("b",)]


# ---- failures, and the end


def test_a_failed_node(tmp_path: Path) -> None:
    dataflow = """
nodes:
  - {id: s, path: send.py, outputs: [o], env: {CODE: 3}}
  - {id: q, path: send.py, outputs: [o]}
  - {id: t, path: take.py, inputs: {i: {source: s/o, queue_size: 100}, j: {source: q/o, queue_size: 100}}}
"""
    real, ours = run_both(tmp_path, FILES, dataflow)
    assert (ours.code, real.code) == (1, 1)
    assert sorted(of(ours, "INPUT")) == sorted(of(real, "INPUT"))
    for outcome in (ours, real):
        assert sorted(of(outcome, "INPUT_CLOSED")) == [("i",), ("j",)]
        assert ends(outcome)[-2:] == [["STOP", "ALL_INPUTS_CLOSED"], "over"]


@pytest.mark.parametrize(("policy", "code"), [("on-failure", 3), ("always", 3), ("never", 3), ("on-failure", 0)])
def test_restarts(tmp_path: Path, policy: str, code: int) -> None:
    """With a timer, because dora never restarts a node without inputs."""
    program = """
import sys
import pyarrow as pa
from dora import Node
from record import say
node = Node()
say([node.is_restart(), node.restart_count()])
node.send_output("o", pa.array([node.restart_count()]))
raise SystemExit(int(sys.argv[1]))
"""
    dataflow = f"""
nodes:
  - id: s
    path: fail.py
    args: {code}
    inputs: {{t: dora/timer/millis/500}}
    outputs: [o]
    restart_policy: {policy}
    max_restarts: 2
    restart_delay: 0.1
  - {{id: t, path: take.py, inputs: {{i: s/o}}}}
"""
    real, ours = run_both(tmp_path, {**FILES, "fail.py": program}, dataflow)
    assert ours.code == real.code
    assert ours.records["fail"] == real.records["fail"]
    assert of(ours, "INPUT") == of(real, "INPUT")
    assert of(ours, "NODE_RESTARTED") == of(real, "NODE_RESTARTED")
    assert ends(ours)[-3:] == [["INPUT_CLOSED", "i"], ["STOP", "ALL_INPUTS_CLOSED"], "over"]


def test_a_node_without_inputs_is_restarted_in_ours_alone(tmp_path: Path) -> None:
    files = {**FILES, "send.py": SEND.replace("import os, time", "import os, time\nfrom record import say\nsay('life')")}
    dataflow = """
nodes:
  - {id: s, path: send.py, outputs: [o], env: {CODE: 3}, restart_policy: on-failure, max_restarts: 2}
  - {id: t, path: take.py, inputs: {i: {source: s/o, queue_size: 100}}}
"""
    real, ours = run_both(tmp_path, files, dataflow)
    assert (ours.code, real.code) == (1, 1)
    assert (len(ours.records["send"]), len(real.records["send"])) == (3, 1)


def test_a_node_that_is_always_restarted_ends_with_its_inputs(tmp_path: Path) -> None:
    dataflow = """
nodes:
  - {id: s, path: send.py, outputs: [o], env: {COUNT: 3}}
  - {id: t, path: take.py, inputs: {i: s/o}, restart_policy: always, restart_delay: 0.1}
"""
    real, ours = run_both(tmp_path, FILES, dataflow)
    assert (ours.code, real.code) == (0, 0)
    assert ends(ours) == ends(real) == [["INPUT_CLOSED", "i"], ["STOP", "ALL_INPUTS_CLOSED"], "over"]


def test_a_node_that_a_signal_ends_has_failed(tmp_path: Path) -> None:
    program = SEND + "\nimport signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    program = program.replace("raise SystemExit", "int")
    dataflow = """
nodes:
  - {id: s, path: kill.py, outputs: [o]}
  - {id: t, path: take.py, inputs: {i: {source: s/o, queue_size: 100}}}
"""
    real, ours = run_both(tmp_path, {**FILES, "kill.py": program}, dataflow)
    assert (ours.code, real.code) == (1, 1)
    assert ends(ours)[-2:] == ends(real)[-2:] == [["STOP", "ALL_INPUTS_CLOSED"], "over"]


def test_a_run_that_is_stopped(tmp_path: Path) -> None:
    dataflow = """
nodes:
  - {id: s, path: send.py, outputs: [o], env: {COUNT: 1000, PAUSE: 0.05}}
  - {id: t, path: take.py, inputs: {i: {source: s/o, queue_size: 100}}}
"""
    real, ours = run_both(tmp_path, FILES, dataflow, "--stop-after", "2s")
    assert (ours.code, real.code) == (0, 0)
    assert ends(ours)[-2:] == ends(real)[-2:] == [["STOP", "MANUAL"], "over"]


def test_the_start_barrier(tmp_path: Path) -> None:
    program = """
import os, time
from dora import Node
from record import say
if os.environ.get("LATE"):
    time.sleep(2)
    say(os.path.exists(os.path.join(os.environ["RECORDS"], "early.jsonl")), name="late")
Node()
if not os.environ.get("LATE"):
    say("up", name="early")
time.sleep(0.5)
"""
    dataflow = """
nodes:
  - {id: a, path: p.py, outputs: [o]}
  - {id: b, path: p.py, env: {LATE: 1}, inputs: {i: a/o}}
"""
    real, ours = run_both(tmp_path, {"p.py": program}, dataflow)
    assert ours.records == real.records == {"late": [[False]], "early": [["up"]]}


def test_a_script_without_a_node_alone(tmp_path: Path) -> None:
    for code in (0, 3):
        dataflow = f"nodes:\n- {{id: a, path: p.py, args: {code}}}\n"
        real, ours = run_both(tmp_path / str(code), {"p.py": "import sys; raise SystemExit(int(sys.argv[1]))"}, dataflow)
        assert ours.code == real.code == min(code, 1)


def test_an_input_that_falls_silent(tmp_path: Path) -> None:
    program = SEND.replace("time.sleep(float(os.environ.get(\"PAUSE\", \"0.01\")))", "time.sleep(3 if n == 2 else 0.05)")
    dataflow = """
health_check_interval: 0.3
nodes:
  - {id: s, path: send.py, outputs: [o], env: {COUNT: 6, STAY: 0.2}}
  - {id: t, path: take.py, inputs: {i: {source: s/o, input_timeout: 0.8, queue_size: 100}}}
"""
    real, ours = run_both(tmp_path, {**FILES, "send.py": program}, dataflow)
    told = [[item[0] for item in outcome.records["take"]] for outcome in (real, ours)]
    kinds = [[item if item == "over" else item[0] for item in items] for items in told]
    middle = ["INPUT"] * 3 + ["INPUT_CLOSED", "INPUT_RECOVERED"] + ["INPUT"] * 3
    assert kinds[1] == [*middle, "INPUT_CLOSED", "STOP", "over"]
    behind = [*middle[:4], "INPUT", "INPUT_RECOVERED", *middle[6:]]  # in four of nine runs
    assert kinds[0][:8] in (middle, behind)
    assert of(ours, "INPUT") == of(real, "INPUT")


# ---- lines and logs


PRINT = """
import json, sys, time
from dora import Node
node = Node()
time.sleep(0.5)
for text in ("plain", "", "{\\"not\\": \\"a record\\"}"):
    print(text, flush=True)
    time.sleep(0.05)
for told in ({}, {"level": "ERROR"}, {"level": "loud"}, {"message": 5}, {"timestamp": "soon"}, {"target": "t"}, {"target": 5},
             {"fields": {"a": "x"}}, {"fields": {"a": 1}}, {"fields": None}, {"extra": 5}, {"timestamp": "2020-01-01T00:00:00"},
             {"timestamp": "2020-01-01T00:00:00.25+02:00"}, {"level": 5}, {"level": "debug"}):
    print(json.dumps({"level": "warn", "message": "m", "timestamp": "2020-01-01T00:00:00Z", **told}), flush=True)
    time.sleep(0.05)
for level in ("error", "warn", "info", "debug", "trace", "loud"):
    node.log(level, f"logged {level}", "there", {"k": "v"})
    time.sleep(0.05)
time.sleep(1)
"""


def seen(outcome: Outcome, who: str) -> list[Any]:
    """The records that came, without what no two runs have alike."""
    told = [json.loads(value) for _, value in of(outcome, "INPUT", who)]
    told = [item for item in told if item["node_id"] == "p"]
    for item in told:
        for name in ("dataflow_id", "daemon_id", "timestamp"):
            item.pop(name)
    return told


def test_what_is_printed_and_logged(tmp_path: Path) -> None:
    dataflow = """
nodes:
  - {id: p, path: print.py, outputs: [o, l], send_stdout_as: o, send_logs_as: l}
  - {id: o, path: take.py, env: {AS: stdout}, inputs: {i: {source: p/o, queue_size: 200}}}
  - {id: l, path: take.py, env: {AS: logs}, inputs: {i: {source: p/l, queue_size: 200}}}
  - {id: a, path: take.py, env: {AS: all}, inputs: {i: {source: dora/logs, queue_size: 200}}}
  - {id: w, path: take.py, env: {AS: warn}, inputs: {i: {source: dora/logs/warn, queue_size: 200}}}
  - {id: d, path: take.py, env: {AS: debug}, inputs: {i: {source: dora/logs/debug/p, queue_size: 200}}}
"""
    real, ours = run_both(tmp_path, {**FILES, "print.py": PRINT}, dataflow, "--stop-after", "6s")
    assert (ours.code, real.code) == (0, 0)
    for who in ("logs", "all", "warn", "debug"):
        assert seen(ours, who) == seen(real, who) != [], who
    texts = [[value for _, value in of(outcome, "INPUT", "stdout")] for outcome in (real, ours)]
    assert texts[1][:18] == texts[0][:18]  # the others are records of node.log, with times in them
    assert len(texts[1]) == len(texts[0]) and all(text.endswith("\n") for text in texts[1])
    assert ends(ours, "stdout") == ends(real, "stdout")
    assert ends(ours, "all") == ends(real, "all")


def test_min_log_level(tmp_path: Path) -> None:
    dataflow = """
nodes:
  - {id: p, path: print.py, outputs: [o, l], send_stdout_as: o, send_logs_as: l, min_log_level: warn}
  - {id: o, path: take.py, env: {AS: stdout}, inputs: {i: {source: p/o, queue_size: 200}}}
  - {id: l, path: take.py, env: {AS: logs}, inputs: {i: {source: p/l, queue_size: 200}}}
  - {id: a, path: take.py, env: {AS: all}, inputs: {i: {source: dora/logs, queue_size: 200}}}
"""
    real, ours = run_both(tmp_path, {**FILES, "print.py": PRINT}, dataflow, "--stop-after", "6s")
    for who in ("logs", "all"):
        assert seen(ours, who) == seen(real, who) != [], who
    assert len(of(ours, "INPUT", "stdout")) == len(of(real, "INPUT", "stdout"))


def test_those_who_listen_do_not_hear_themselves(tmp_path: Path) -> None:
    program = """
import os, time
from dora import Node
from record import say
node = Node()
for event in node:
    if event["type"] == "INPUT":
        print("heard", flush=True)
        say("heard", name=os.environ["AS"])
"""
    speaks = "import time\nfrom dora import Node\nNode()\ntime.sleep(0.5)\nprint('once', flush=True)\ntime.sleep(1)\n"
    dataflow = """
nodes:
  - {id: p, path: speak.py}
  - {id: a, path: echo.py, env: {AS: a}, inputs: {i: dora/logs}}
"""
    real, ours = run_both(tmp_path, {"echo.py": program, "speak.py": speaks}, dataflow, "--stop-after", "3s")
    assert ours.records == real.records == {"a": [["heard"]]}
