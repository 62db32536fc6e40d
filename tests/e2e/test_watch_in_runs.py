"""Watching the shared KVS in real runs: what a watcher makes of the changes is exact, whoever is killed."""

from __future__ import annotations

import random

from support.harness import Folder, kill_node

KEYS = 400

WRITER = """
import os, time
from noderuntime import Node
with Node() as node:
    for number in range(1, KEYS + 1):
        node.kvs_write(f"w/{number}", b"%d" % number)
        node.kvs_write("other", b"x")
        time.sleep(0.005)
        if number % 40 == 0:
            node.send_output("n", number)
    while not os.path.exists("enough"):
        time.sleep(0.01)
""".replace("KEYS", str(KEYS))

OPERATOR_WRITER = """
class Operator:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.kvs_write(f"w/{event['value']}", b"%d" % event["value"])
            ctx.send_output("n", event["value"])
"""

WATCHER = """
class Operator:
    def __init__(self, ctx):
        self.total = self.count = 0
        ctx.kvs.watch("w/")
    def restore_state(self, state):
        self.total, self.count = map(int, state["sums"].split())
    def on_event(self, event, ctx):
        if event["type"] == "KVS_UPDATE":
            assert event["id"] == f"w/{event['value'].decode()}", event
            self.total += int(event["value"])
            self.count += 1
            ctx.save_state("sums", b"%d %d" % (self.total, self.count))
            ctx.send_output("sum", [self.count, self.total])
"""

NODE_WATCHER = """
from noderuntime import Node
seen = {}
with Node() as node:
    node.kvs.watch("w/")
    node.send_output("ready", 1)
    for event in node:
        if event["type"] == "KVS_UPDATE":
            seen[event["id"]] = int(event["value"])
print("saw", len(seen), sum(seen.values()), flush=True)
"""

SINK = """
from noderuntime import Node
last = None
for event in Node():
    if event["type"] == "INPUT":
        last = event["value"]
print("last", last, flush=True)
"""

FLOW = """
nodes:
  - id: writer
    path: writer.py
    inputs: {ready: nodewatcher/ready}
    outputs: [n]
  - id: watcher
    operator: {python: watcher.py, inputs: {n: writer/n}, outputs: [sum]}
    max_restarts: 0
  - id: nodewatcher
    path: nodewatcher.py
    inputs: {n: {source: writer/n, queue_policy: drop_oldest}}
    outputs: [ready]
  - {id: sink, path: sink.py, inputs: {sum: watcher/sum}}
"""

OPERATOR_FLOW = """
nodes:
  - {id: count, path: count.py, outputs: [n], env: {COUNT: "1000000", PAUSE: "0.005", ENOUGH: enough}}
  - id: writer
    operator: {python: writer.py, inputs: {n: count/n}, outputs: [n]}
    max_restarts: 0
  - id: watcher
    operator: {python: watcher.py, inputs: {n: writer/n}, outputs: [sum]}
    max_restarts: 0
  - {id: sink, path: sink.py, inputs: {sum: watcher/sum}}
"""


def test_watchers_miss_nothing_while_they_and_the_store_are_killed(folder: Folder) -> None:
    folder.write(
        writer_py=WRITER.replace("with Node() as node:", "with Node() as node:\n    node.next()"),
        watcher_py=WATCHER,
        nodewatcher_py=NODE_WATCHER,
        sink_py=SINK,
    )
    running = folder.start(FLOW)
    running.wait_running()
    for victim in ("watcher", "store", "watcher", "watcher"):
        kill_node(running, victim)
    folder.write(enough="")
    assert running.finish() == 0
    total = KEYS * (KEYS + 1) // 2
    assert running.lines("sink") == [f"last [{KEYS}, {total}]"]
    assert running.lines("nodewatcher") == [f"saw {KEYS} {total}"]


def test_no_wake_up_is_lost_when_a_committing_operator_is_killed(folder: Folder) -> None:
    folder.write(writer_py=OPERATOR_WRITER, watcher_py=WATCHER, sink_py=SINK)
    running = folder.start(OPERATOR_FLOW)
    running.wait_running()
    chance = random.Random(7)
    for _ in range(8):
        kill_node(running, chance.choice(["writer", "watcher"]))
    folder.write(enough="")
    assert running.finish() == 0
    sent = running.rows()["count"]["messages"]
    assert running.lines("sink") == [f"last [{sent}, {sum(range(sent))}]"]
