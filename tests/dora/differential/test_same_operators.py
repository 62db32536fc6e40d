"""Operators: section 10."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import run_both, run_ours, write

SENDER = """
import time
import pyarrow as pa
from dora import Node
node = Node()
for n in range(10):
    node.send_output("o", pa.array([n]), {"n": n})
    time.sleep(0.01)
time.sleep(0.5)
"""

RECEIVER = """
from dora import Node
from record import say, shown
for event in Node(): say(shown(event), name="receiver")
"""

DATAFLOW = """
nodes:
  - {id: sender, path: sender.py, outputs: [o]}
  - id: op
    operator:
      python: op.py
      inputs: {i: {source: sender/o, queue_size: 100, queue_policy: backpressure}}
      outputs: [o]
  - {id: receiver, path: receiver.py, inputs: {i: {source: op/o, queue_size: 100, queue_policy: backpressure}}}
"""

WHOLE = """
import os, threading
from dora import DoraStatus
from record import say, shown, refused
IMPORTED = [__name__, threading.current_thread() is threading.main_thread()]
class Operator:
    def __init__(self):
        say("made", hasattr(self, "dataflow_descriptor"), IMPORTED, sorted(os.listdir())[:2], name="op")
        self.total = 0
    def on_event(self, any_name, send):
        say(shown(any_name), name="op")
        if any_name["type"] != "INPUT": return DoraStatus.CONTINUE
        n = any_name["value"][0].as_py()
        self.total += n
        if n == 0:
            say([node["id"] for node in self.dataflow_descriptor["nodes"]], name="op")
            say(refused(send, "nope", b""), refused(send, "o", [1]), refused(send, 5, b""), refused(send, "o"),
                refused(send, "o", b"k", {1: 2}), refused(send, "o", b"k", 5), refused(send, "o", b"k", {"a": 2**64}),
                refused(send), refused(send, output="nope", data=b""), refused(send, "o", b"", {"a": [1, 2.5]}),
                name="op")
        send("o", bytes([self.total]), any_name["metadata"])
        return DoraStatus.CONTINUE
"""


def plain(records: list[Any]) -> list[Any]:
    """Data before the rest: with the real one, other events overtake them. (And its operators say "must by".)"""
    spelt = json.loads(json.dumps(records).replace("must by `PyBytes`", "must be `PyBytes`"))
    return sorted(spelt, key=lambda told: isinstance(told[0], dict) and told[0]["type"] != "INPUT")


def test_an_operator_between_nodes(tmp_path: Path) -> None:
    files = {"sender.py": SENDER, "op.py": WHOLE, "receiver.py": RECEIVER}
    real, ours = run_both(tmp_path, files, DATAFLOW)
    assert (ours.code, real.code) == (0, 0), ours
    for mine, theirs in zip(plain(ours.records["op"]), plain(real.records["op"]), strict=True):
        assert mine == theirs
    for mine, theirs in zip(plain(ours.records["receiver"]), plain(real.records["receiver"]), strict=True):
        assert mine == theirs


RETURNS = """
import enum
from dora import DoraStatus
from record import say
class Own(enum.Enum):
    CONTINUE = 0
    STOP = 1
class Operator:
    def on_event(self, event, send):
        if event["type"] == "INPUT":
            send("o", event["value"])
            if event["value"][0].as_py() == 3: return RETURNED
        return Own.CONTINUE
"""


@pytest.mark.parametrize(
    ("returned", "code"),
    [("DoraStatus.STOP", 0), ("Own.STOP", 0), ("1", 1), ("None", 1), ("'x'", 1)],
)
def test_what_an_operator_returns(tmp_path: Path, returned: str, code: int) -> None:
    files = {"sender.py": SENDER, "op.py": RETURNS.replace("RETURNED", returned), "receiver.py": RECEIVER}
    dataflow = DATAFLOW.replace("  - id: op\n", "  - id: op\n    restart_policy: never\n")
    real, ours = run_both(tmp_path, files, dataflow)
    assert (ours.code, real.code) == (code, code), ours
    sent = [[event["value"][1] for (event,) in o.records["receiver"] if event["type"] == "INPUT"] for o in (real, ours)]
    # of the event that failed, ours has sent nothing: it did not happen
    assert sent == [[[0], [1], [2], [3]], [[0], [1], [2], [3]] if code == 0 else [[0], [1], [2]]]


def test_an_exception_fails_the_node_and_the_others_go_on(tmp_path: Path) -> None:
    files = {"sender.py": SENDER, "op.py": RETURNS.replace("RETURNED", "1 / 0"), "receiver.py": RECEIVER}
    dataflow = DATAFLOW.replace("  - id: op\n", "  - id: op\n    restart_policy: never\n")
    real, ours = run_both(tmp_path, files, dataflow)
    assert (ours.code, real.code) == (1, 1), ours
    for outcome in (real, ours):
        assert "ZeroDivisionError" in outcome.out + outcome.err
        kinds = [event["type"] for (event,) in outcome.records["receiver"] if event["type"] != "NODE_FAILED"]
        assert {"INPUT_CLOSED", "STOP"} <= set(kinds)


def test_stop_all_stops_the_run_with_ours_only(tmp_path: Path) -> None:
    """The real one fails the node: STOP_ALL is not implemented there."""
    endless = SENDER.replace("range(10)", "range(100_000)")
    files = {"sender.py": endless, "op.py": RETURNS.replace("RETURNED", "DoraStatus.STOP_ALL"), "receiver.py": RECEIVER}
    ours = run_ours(write(tmp_path / "ours", files, DATAFLOW))
    assert ours.code == 0, ours


TIMED = """
from dora import DoraStatus
from record import say, shown
class Operator:
    count = 0
    def on_event(self, event, send):
        say(shown(event), name="op")
        self.count += 1
        return DoraStatus.STOP if self.count == 3 else DoraStatus.CONTINUE
"""


def test_an_operator_with_a_timer(tmp_path: Path) -> None:
    dataflow = "nodes: [{id: op, operator: {python: op.py, inputs: {tick: dora/timer/millis/20}}}]"
    real, ours = run_both(tmp_path, {"op.py": TIMED}, dataflow)
    assert (ours.code, real.code) == (0, 0), ours
    assert ours.records == real.records


def test_an_operator_that_is_stopped(tmp_path: Path) -> None:
    program = TIMED.replace("self.count == 3", 'event["type"] == "STOP"').replace(
        "say(shown(event)", 'if event["type"] != "INPUT": say(shown(event)'
    )
    dataflow = "nodes: [{id: op, operator: {python: op.py, inputs: {tick: dora/timer/millis/20}}}]"
    real, ours = run_both(tmp_path, {"op.py": program}, dataflow, "--stop-after", "2s")
    assert (ours.code, real.code) == (0, 0), ours
    assert ours.records == real.records
