"""Raw samples, services, threads: sections 5 and 12."""

from __future__ import annotations

from pathlib import Path

from harness import run_both

DATAFLOW = """
nodes:
  - {id: sender, path: sender.py, outputs: [o]}
  - {id: receiver, path: receiver.py, inputs: {i: {source: sender/o, queue_size: 1000, queue_policy: backpressure}}}
"""

RECEIVER = """
from dora import Node
from record import say, shown
for event in Node():
    if event["type"] == "INPUT":
        told = shown(event)
        if told["metadata"].get("request_id"): told["metadata"]["request_id"] = len(told["metadata"]["request_id"][1])
        say(told)
"""

RAW = """
import time
import numpy as np
from dora import Node
from record import say, refused
node = Node()
with node.send_output_raw("o", 3, {"k": 1}) as buffer:
    view = memoryview(buffer)
    say(view.format, view.readonly, bytes(view), len(view))
    view[1] = 7
    view.release()
sample = node.send_output_raw("o", 2)
view = sample.as_memoryview()
view[:] = b"ab"
say(refused(sample.send)[:2], "open")
view.release()
say(refused(sample.send), refused(sample.send), refused(sample.as_memoryview), refused(sample.__enter__))
sample = node.send_output_raw("o", 4)
array = np.frombuffer(sample.as_memoryview(), np.uint8)
array[:] = 5
say(refused(sample.send)[:2], "numpy")
del array
say(refused(sample.send))
say(refused(node.send_output_raw("o", 0).send))
node.send_output_raw("o", 5)
try:
    with node.send_output_raw("o", 6): raise ValueError
except ValueError: say("raised")
raw = node.send_output_raw
say(refused(raw, "nope", 3), refused(raw, "o", -1), refused(raw, "o"), refused(raw, "o", "3")[:2])
say(refused(raw, 5, 3), refused(raw, "o", 1, 5), refused(raw, "o", 1, {1: 2}))
node.send_output("o", b"end")
time.sleep(0.5)
"""


def test_raw_samples(tmp_path: Path) -> None:
    real, ours = run_both(tmp_path, {"sender.py": RAW, "receiver.py": RECEIVER}, DATAFLOW)
    assert (ours.code, real.code) == (0, 0), ours
    for mine, theirs in zip(ours.records["sender"], real.records["sender"], strict=True):
        assert mine == theirs
    assert ours.records["receiver"] == real.records["receiver"]


SERVICE = """
import time, uuid
from dora import Node
from record import say, refused
node = Node()
ids = [node.send_service_request("o", b"q"), node.send_service_request("o", b"q", {"request_id": "own", "k": 1}),
       node.send_service_request("nope", b"q")]
say([[type(id).__name__, uuid.UUID(id).version, id != "own"] for id in ids], len(set(ids)))
ask, answer = node.send_service_request, node.send_service_response
say(refused(answer, "o", b"r", {"request_id": "x"}), refused(answer, "o", b"r", {}))
say(refused(answer, "o", b"r", None), refused(answer, "o", b"r"))
say(refused(answer, "o", [1], {}), refused(ask, "o", [1]))
say(refused(answer, "nope", b"", {}), refused(ask, 5, b""))
say(refused(ask, "o", b"", 5), refused(ask, "o", b"", {1: 2}))
time.sleep(0.5)
"""


def test_services(tmp_path: Path) -> None:
    real, ours = run_both(tmp_path, {"sender.py": SERVICE, "receiver.py": RECEIVER}, DATAFLOW)
    assert (ours.code, real.code) == (0, 0), ours
    for mine, theirs in zip(ours.records["sender"], real.records["sender"], strict=True):
        assert mine == theirs
    assert ours.records["receiver"] == real.records["receiver"]


ASKS = """
from dora import Node
from record import say
import pyarrow as pa
node = Node()
waiting = {}
for n in range(5): waiting[node.send_service_request("question", pa.array([n]))] = n
while waiting:
    event = node.next(timeout=20)
    if event["type"] != "INPUT": break
    n = waiting.pop(event["metadata"]["request_id"])
    say(n, event["value"].to_pylist())
"""

ANSWERS = """
from dora import Node
import pyarrow as pa
node = Node()
for event in node:
    if event["type"] == "INPUT":
        node.send_service_response("answer", pa.array([event["value"][0].as_py() * 10]), event["metadata"])
"""


def test_a_service_and_its_client(tmp_path: Path) -> None:
    dataflow = """
nodes:
  - {id: asks, path: asks.py, outputs: [question], inputs: {a: answers/answer}}
  - {id: answers, path: answers.py, inputs: {q: asks/question}, outputs: [answer]}
"""
    real, ours = run_both(tmp_path, {"asks.py": ASKS, "answers.py": ANSWERS}, dataflow)
    assert (ours.code, real.code) == (0, 0), ours
    assert ours.records == real.records == {"asks": [[n, [n * 10]] for n in range(5)]}


THREADS = """
import threading, time
import pyarrow as pa
from dora import Node
node = Node()
def send(mark):
    for n in range(50):
        node.send_output("o", pa.array([mark, n]))
        time.sleep(0.001)
threads = [threading.Thread(target=send, args=(mark,)) for mark in range(4)]
for thread in threads: thread.start()
while any(thread.is_alive() for thread in threads): node.next(timeout=0.05)
time.sleep(0.5)
"""


def test_threads_send_while_another_waits(tmp_path: Path) -> None:
    real, ours = run_both(tmp_path, {"sender.py": THREADS, "receiver.py": RECEIVER}, DATAFLOW)
    for outcome in (real, ours):
        assert outcome.code == 0, outcome
        taken = [event["value"][1] for (event,) in outcome.records["receiver"]]
        assert len(taken) == 200
        for mark in range(4):
            assert [n for other, n in taken if other == mark] == list(range(50))
        assert {event["value"][0] for (event,) in outcome.records["receiver"]} == {"int64"}


MIXED = """
import time
from dora import Node
node = Node()
for n in range(24):
    metadata = {"request_id": str(n)} if 4 <= n < 12 else {}
    node.send_output("o", bytes([n]), metadata)
    time.sleep(0.002)
time.sleep(1.5)
"""

LATE = """
import time
import pyarrow
from dora import Node
from record import say
node = Node()
time.sleep(1.0)
for event in node:
    if event["type"] == "INPUT": say(event["value"][0].as_py(), "request_id" in event["metadata"])
"""


def test_requests_are_not_dropped_while_other_messages_wait(tmp_path: Path) -> None:
    dataflow = """
nodes:
  - {id: sender, path: sender.py, outputs: [o]}
  - {id: receiver, path: receiver.py, inputs: {i: sender/o}}
"""
    real, ours = run_both(tmp_path, {"sender.py": MIXED, "receiver.py": LATE}, dataflow)
    assert (ours.code, real.code) == (0, 0), ours
    for outcome in (real, ours):
        assert [n for n, spared in outcome.records["receiver"] if spared] == list(range(4, 12))
    assert [n for n, spared in ours.records["receiver"] if not spared] == [22, 23]  # exactly the queue_size of 10
