"""Metadata: section 4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import Outcome, run_both

SENDER = """
import collections, datetime as dt, decimal, enum, math, pathlib, time, types, uuid
import numpy as np, pyarrow as pa
from dora import Node
from record import say, refused
node = Node()
class Number(enum.IntEnum): THREE = 3
class Text(str, enum.Enum): X = "x"
class Sub(str): pass
class SubInt(int): pass
class SubFloat(float): pass
class SubList(list): pass
class SubDict(dict): pass
class Index:
    def __index__(self): return 5
    def __float__(self): return 5.5
    def __repr__(self): return "Index()"
Pair = collections.namedtuple("Pair", "a b")
NOW = dt.datetime(2026, 7, 6, 5, 4, 3, 123456)
FIVE = dt.timezone(dt.timedelta(hours=5))
VALUES = [
    1, -2**63, 2**63 - 1, 2**63, -2**63 - 1, 2**70, True, 2.5, 2.0, math.inf, math.nan, "", "a", "a\\0b", "\\ud800",
    Number.THREE, Text.X, Sub("r"), SubInt(9), SubFloat(2.5), np.float64(1.5), [1, 2], (1, 2), [1.5], ["a"], [], (),
    [2.5, 1], [1, 2.5], [1, "a"], ["a", 1], ["a", None], [1, None], [2.5, "x"], [2.5, None], [2**70], [1.5, 2**70],
    [1, True], [True, 1], [True, False], (True,), [None], [[1]], [{}], [()], [1, Number.THREE], ["a", Text.X],
    ["a", Sub("z")], [1, Index()], [1.0, Index()], Index(), Pair(1, 2), SubList([1]), [1, np.int64(2)],
    [1.0, np.float32(2)], [np.float64(2)], [np.int64(1)], [Number.THREE], [Text.X], [Sub("q")], [SubInt(4)],
    [SubFloat(1.0)], ["\\ud800"], ["a", "\\ud800"], None, {"a": 1}, {}, {"parameters": {"a": 1}}, b"ab",
    bytearray(b"a"),
    {1}, frozenset(), range(3), np.int64(3), np.float32(1.5), np.bool_(True), np.array([1, 2]), 1j, dt.date(2026, 1, 2),
    dt.time(1, 2), dt.timedelta(1), uuid.UUID(int=1), decimal.Decimal("1.50"), pathlib.Path("a"), pa.scalar(1),
    NOW, NOW.replace(fold=1), NOW.replace(tzinfo=dt.timezone.utc), NOW.replace(tzinfo=FIVE),
    dt.datetime(1960, 1, 1, 12), [NOW], dt.datetime(1, 1, 2, tzinfo=dt.timezone.utc),
    dt.datetime(9999, 12, 30, tzinfo=FIVE),
]
for at, value in enumerate(VALUES):
    say(at, refused(node.send_output, "o", b"", {"at": at, "k": value}), name="sender")
    time.sleep(0.002)
WHOLE = [
    None, {}, 5, "x", [1], types.MappingProxyType({"a": 1}), SubDict(a=1), collections.OrderedDict(a=2),
    {Text.X: 1, Sub("k"): 2, "": 3}, {1: 2}, {None: 1}, {b"a": 1}, {"\\ud800": 1}, {"timestamp": 5}, {"timestamp": NOW},
    {"open_telemetry_context": "abc", "request_id": 7}, {"timestamp": "x", "a": None},
]
for metadata in WHOLE:
    say(refused(node.send_output, "o", b"", metadata), name="sender")
    time.sleep(0.002)
given = {"a": (1, 2), "b": None}
node.send_output("o", b"", given)
say(str(given), name="sender")
time.sleep(0.5)
"""

RECEIVER = """
from dora import Node
from record import say, typed
def plain(metadata):
    stamp = metadata["timestamp"]
    metadata = {key: typed(value) for key, value in sorted(metadata.items()) if key != "timestamp"}
    own = isinstance(stamp, (int, str)) or stamp.year == 2026 and stamp.month == 7 and stamp.day == 6
    return metadata, typed(stamp) if own else [type(stamp).__name__, str(stamp.tzinfo)]
for event in Node():
    if event["type"] == "INPUT": say(plain(event["metadata"]))
"""

DATAFLOW = """
nodes:
  - {id: sender, path: sender.py, outputs: [o]}
  - {id: receiver, path: receiver.py, inputs: {i: {source: sender/o, queue_size: 1000, queue_policy: backpressure}}}
"""


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_metadata_arrive_the_same(tmp_path: Path, zone: str) -> None:
    files = {"sender.py": SENDER, "receiver.py": RECEIVER}
    dataflow = DATAFLOW.replace("outputs: [o]", f"outputs: [o], env: {{TZ: {zone}}}")
    real, ours = run_both(tmp_path, files, dataflow)
    assert (ours.code, real.code) == (0, 0), ours
    for mine, theirs in zip(ours.records["sender"], real.records["sender"], strict=True):
        assert mine == theirs
    for mine, theirs in zip(ours.records["receiver"], real.records["receiver"], strict=True):
        assert mine == theirs
    assert warned(ours) == warned(real)


def warned(outcome: Outcome) -> int:
    """How many warnings of values that became text the run has shown."""
    return (outcome.out + outcome.err).count("coercing to its string representation")


PASSES_ON = """
from dora import Node
node = Node()
for event in node:
    if event["type"] == "INPUT": node.send_output("o", event["value"], event["metadata"])
"""

TWICE = """
from dora import Node
from record import say
times = {"first": [], "second": []}
for event in Node():
    if event["type"] == "INPUT": times[event["id"]].append(event["metadata"]["timestamp"])
pairs = list(zip(*times.values(), strict=True))
say(len(pairs), all(abs((a - b).total_seconds()) < 1e-5 for a, b in pairs))
"""


def test_metadata_that_are_handed_on_keep_the_first_time(tmp_path: Path) -> None:
    sender = """
import time
from dora import Node
node = Node()
for n in range(5):
    node.send_output("o", b"", {"n": n})
    time.sleep(0.02)
time.sleep(0.5)
"""
    dataflow = """
nodes:
  - {id: sender, path: sender.py, outputs: [o]}
  - {id: middle, path: middle.py, inputs: {i: {source: sender/o, queue_policy: backpressure}}, outputs: [o]}
  - id: receiver
    path: receiver.py
    inputs:
      first: {source: sender/o, queue_policy: backpressure}
      second: {source: middle/o, queue_policy: backpressure}
"""
    files = {"sender.py": sender, "middle.py": PASSES_ON, "receiver.py": TWICE}
    real, ours = run_both(tmp_path, files, dataflow)
    assert (ours.code, real.code) == (0, 0), ours
    assert ours.records == real.records == {"receiver": [[5, True]]}

FLUSHES = """
import time
from dora import Node
node = Node()
for n in range(20):
    metadata: dict = {"n": n}
    if n == 15: metadata["flush"] = True
    node.send_output("o", bytes([n]), metadata)
    time.sleep(0.002)
time.sleep(1.0)
"""

LATE = """
import time
import pyarrow
from dora import Node
from record import say
node = Node()
time.sleep(0.6)
for event in node:
    if event["type"] == "INPUT": say(event["metadata"]["n"], event["metadata"].get("flush"))
"""


def test_flush_drops_what_waits(tmp_path: Path) -> None:
    real, ours = run_both(tmp_path, {"sender.py": FLUSHES, "receiver.py": LATE}, DATAFLOW)
    assert (ours.code, real.code) == (0, 0), ours
    expected: list[Any] = [[15, True], *([n, None] for n in range(16, 20))]
    assert ours.records["receiver"] == expected
    assert real.records["receiver"][-5:] == expected
