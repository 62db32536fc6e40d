"""Events, their order within an input, and the end of the stream: sections 1, 2, 5, 7 and 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import Outcome, run_both

RECEIVER = """
from dora import Node
from record import say, shown
for event in Node():
    say(shown(event))
"""

SENDER = """
import sys, time
import pyarrow as pa
from dora import Node
from record import say
node = Node()
count, mark = int(sys.argv[1]), int(sys.argv[2])
for n in range(count):
    node.send_output("o", pa.array([mark, n]), {"n": n})
    time.sleep(0.002)
"""


def inputs(outcome: Outcome, input: str, who: str = "receiver") -> list[Any]:
    """The INPUT events of one input, in their order."""
    return [event for (event,) in outcome.records.get(who, []) if event["type"] == "INPUT" and event["id"] == input]


def others(outcome: Outcome, who: str = "receiver") -> list[Any]:
    """The other events, in their order. (With the real one they overtake data.)"""
    return [event for (event,) in outcome.records.get(who, []) if event["type"] != "INPUT"]


def test_data_and_their_end(tmp_path: Path) -> None:
    dataflow = """
nodes:
  - {id: sender, path: sender.py, args: 30 1, outputs: [o]}
  - id: receiver
    path: receiver.py
    inputs: {i: {source: sender/o, queue_size: 100, queue_policy: backpressure}}
"""
    real, ours = run_both(tmp_path, {"sender.py": SENDER, "receiver.py": RECEIVER}, dataflow)
    assert (ours.code, real.code) == (0, 0), ours
    assert len(inputs(ours, "i")) == 30
    assert inputs(ours, "i") == inputs(real, "i")
    assert others(ours) == others(real)
    assert [event["type"] for event in others(ours)] == ["INPUT_CLOSED", "STOP"]
    # what the documentation lets one expect, and only ours does: the data come first
    assert [event["type"] for (event,) in ours.records["receiver"][-2:]] == ["INPUT_CLOSED", "STOP"]


def test_several_inputs_end_one_after_the_other(tmp_path: Path) -> None:
    dataflow = """
nodes:
  - {id: a, path: sender.py, args: 10 1, outputs: [o]}
  - {id: b, path: sender.py, args: 60 2, outputs: [o]}
  - id: receiver
    path: receiver.py
    inputs:
      x: {source: a/o, queue_size: 100, queue_policy: backpressure}
      y: {source: b/o, queue_size: 100, queue_policy: backpressure}
      again: {source: b/o, queue_size: 100, queue_policy: backpressure}
"""
    real, ours = run_both(tmp_path, {"sender.py": SENDER, "receiver.py": RECEIVER}, dataflow)
    assert (ours.code, real.code) == (0, 0), ours
    for input in ("x", "y", "again"):
        assert inputs(ours, input) == inputs(real, input)
    assert others(ours)[-1] == others(real)[-1]
    assert sorted(map(str, others(ours))) == sorted(map(str, others(real)))


TICKS = """
from dora import Node
from record import say, shown
for count, event in enumerate(Node()):
    say(shown(event))
    if count == 4: break
"""


@pytest.mark.parametrize("timer", ["dora/timer/millis/20", "dora/timer/hz/40", "dora/timer/hz/62.5"])
def test_ticks(tmp_path: Path, timer: str) -> None:
    dataflow = f"nodes: [{{id: receiver, path: receiver.py, inputs: {{tick: {timer}}}}}]"
    real, ours = run_both(tmp_path, {"receiver.py": TICKS}, dataflow)
    assert ours.records == real.records
    assert (ours.code, real.code) == (0, 0), ours
    assert len(inputs(ours, "tick")) == 5


def test_data_end_while_a_timer_goes_on(tmp_path: Path) -> None:
    """A node with a timer is never told that all its inputs are closed."""
    program = """
from dora import Node
from record import say, shown
after = None
for event in Node():
    if event["id"] != "tick":
        say(shown(event))
        after = 0 if event["type"] == "INPUT_CLOSED" else after
    elif after is not None:
        after += 1
        if after == 10:
            say("ten ticks more")
            break
"""
    dataflow = """
nodes:
  - {id: sender, path: sender.py, args: 3 1, outputs: [o]}
  - id: receiver
    path: receiver.py
    inputs: {i: {source: sender/o, queue_policy: backpressure}, tick: dora/timer/millis/10}
"""
    real, ours = run_both(tmp_path, {"sender.py": SENDER, "receiver.py": program}, dataflow)
    assert (ours.code, real.code) == (0, 0), ours
    assert sorted(map(str, ours.records["receiver"])) == sorted(map(str, real.records["receiver"]))


def test_exit_when_nodes_finish(tmp_path: Path) -> None:
    dataflow = """
exit_when_nodes_finish: true
nodes:
  - {id: sender, path: sender.py, args: 3 1, outputs: [o]}
  - id: receiver
    path: receiver.py
    inputs: {i: {source: sender/o, queue_policy: backpressure}, tick: dora/timer/millis/10}
"""
    real, ours = run_both(tmp_path, {"sender.py": SENDER, "receiver.py": RECEIVER}, dataflow)
    assert (ours.code, real.code) == (0, 0), ours
    assert inputs(ours, "i") == inputs(real, "i")
    assert others(ours) == others(real)


def test_a_stop_from_outside(tmp_path: Path) -> None:
    dataflow = "nodes: [{id: receiver, path: receiver.py, inputs: {tick: dora/timer/millis/100}}]"
    real, ours = run_both(tmp_path, {"receiver.py": RECEIVER}, dataflow, "--stop-after", "2s")
    assert (ours.code, real.code) == (0, 0), ours
    assert others(ours) == others(real)
    assert [event["id"] for event in others(ours)] == ["MANUAL"]


def test_a_sender_that_fails(tmp_path: Path) -> None:
    sender = SENDER + "\ntime.sleep(0.2)\nsys.exit(3)"
    dataflow = """
nodes:
  - {id: sender, path: sender.py, args: 5 1, outputs: [o]}
  - {id: receiver, path: receiver.py, inputs: {i: {source: sender/o, queue_policy: backpressure}}}
"""
    real, ours = run_both(tmp_path, {"sender.py": sender, "receiver.py": RECEIVER}, dataflow)
    assert (ours.code, real.code) == (1, 1), ours
    assert inputs(ours, "i") == inputs(real, "i")
    told = [event for event in others(ours) if event["type"] != "NODE_FAILED"]  # which the real one drops
    assert told == [event for event in others(real) if event["type"] != "NODE_FAILED"]


def test_a_sender_that_is_restarted(tmp_path: Path) -> None:
    sender = """
import sys, time
import pyarrow as pa
from dora import Node
from record import say
node = Node()
say(node.is_restart(), node.restart_count())
event = node.next()
for n in range(3):
    node.send_output("o", pa.array([node.restart_count(), n]))
    time.sleep(0.01)
time.sleep(0.2)
sys.exit(3 if node.restart_count() < 2 else 0)
"""
    dataflow = """
nodes:
  - id: sender
    path: sender.py
    outputs: [o]
    inputs: {tick: dora/timer/millis/50}
    restart_policy: on-failure
    max_restarts: 5
  - {id: receiver, path: receiver.py, inputs: {i: {source: sender/o, queue_size: 100, queue_policy: backpressure}}}
"""
    real, ours = run_both(tmp_path, {"sender.py": sender, "receiver.py": RECEIVER}, dataflow)
    assert (ours.code, real.code) == (0, 0), ours
    assert ours.records["sender"] == real.records["sender"]
    assert inputs(ours, "i") == inputs(real, "i")
    assert others(ours) == others(real)
    assert [event["type"] for event in others(ours)].count("NODE_RESTARTED") == 2


CALLS = """
import asyncio, math
from dora import Node
from record import say, shown, refused
node = Node()
say(shown(node.next(timeout=0.05)), shown(node.next(timeout=0)), shown(node.next(0)))
say(node.try_recv(), node.drain(), node.is_empty())
for timeout in (-1, math.nan, math.inf, 1e30, "x", b"1", None and 0, [1]):
    if timeout is not None: say(refused(node.next, timeout=timeout))
async def ask():
    told = await asyncio.gather(node.recv_async(0.05), node.recv_async(timeout=0.1))
    beats = 0
    async def beat():
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.005)
    task = asyncio.create_task(beat())
    await asyncio.create_task(asyncio.wait_for(node.recv_async(0.2), 5))
    task.cancel()
    try:
        await asyncio.wait_for(node.recv_async(), 0.05)
    except asyncio.TimeoutError:
        told.append(None)
    return told, beats > 5
told, ran = asyncio.run(ask())
say([shown(event) for event in told], ran)
say(iter(node) is node, node.is_restart(), node.restart_count(), node.node_config())
say(len(node.dataflow_id()), str(node.timestamp().tzinfo), sorted(node.dataflow_descriptor()))
say([n["id"] for n in node.dataflow_descriptor()["nodes"]], node.dataflow_descriptor()["nodes"])
for call in (lambda: node.log("info"), lambda: node.log(3, "x"), lambda: node.log("info", "x", None, {"a": 1}),
             lambda: node.log("info", "x", 5), lambda: node.log_info(3),
             lambda: node.log("info", "x", fields={"a": "b"})):
    say(refused(call))
say(refused(lambda: Node(5)), type(Node("other")).__name__, type(Node()).__name__)
"""


def test_calls_of_a_node_that_gets_nothing(tmp_path: Path) -> None:
    dataflow = "nodes: [{id: alone, path: alone.py, outputs: [o], env: {A: 5}}]"
    real, ours = run_both(tmp_path, {"alone.py": CALLS}, dataflow)
    assert (ours.code, real.code) == (0, 0), ours
    for mine, theirs in zip(ours.records["alone"], real.records["alone"], strict=True):
        assert mine == theirs


ENDED = """
import asyncio
from dora import Node
from record import say, refused
node = Node()
for event in node: pass
say(node.next(), node.next(timeout=1), node.try_recv(), node.is_empty(), refused(next, node)[:2])
async def more(): return await node.recv_async(), await node.recv_async(timeout=0.5)
say(asyncio.run(more()))
say(node.send_output("o", b"late"))
"""


def test_calls_after_the_end(tmp_path: Path) -> None:
    dataflow = """
nodes:
  - {id: sender, path: sender.py, args: 3 1, outputs: [o]}
  - {id: ended, path: ended.py, inputs: {i: sender/o}, outputs: [o]}
"""
    real, ours = run_both(tmp_path, {"sender.py": SENDER, "ended.py": ENDED}, dataflow)
    assert (ours.code, real.code) == (0, 0), ours
    assert ours.records == real.records
