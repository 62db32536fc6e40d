"""What runs in the schedules of live_schedules.py: Sources that count, and nodes that keep what they have seen.

A message says by which way it came and what may be asked of its order, so that each node can keep what it has seen of
each way, and an oracle can compare that with what was sent:

    path    the names of all nodes and inputs that it came through, with a mark of what each may do to the order
    n       its number at the Source
    key     one of a few keys, of different types, that follows from the number

A node behind a Source gets its messages in order. Behind one with `k` they are in order by key, behind one with `f` in
none, and behind a custom node, `*`, they may come again. An input `drop` may leave some out.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

import msgpack

from noderuntime import KeyedOperator, Node, Operator, Source, merges, stateful_map
from noderuntime.space.records import REPLICA_SHIFT

KEYS = 13
SHAPES = (0, 1.0, "user", ["a", "list"], None)
BALLAST = 70_000  # above the threshold for payload segments


def key_of(n: int) -> Any:
    """Keys of different types; no two of them are equal."""
    key = n % KEYS
    return SHAPES[key] if key < len(SHAPES) else f"key-{key}"


def note(seen: dict[str, Any], input: str, value: dict[str, Any]) -> None:
    """Keep that a message came. `seen`: by input and path [bits of the numbers, last numbers, what is wrong]."""
    n, path = value["n"], value["path"]
    order = -1 if "*" in path else order_of(path)
    name = f"{input}:{path}"
    bits, last, wrong = seen.get(name) or [b"", {}, ""]
    mask = bytearray(bits)
    if len(mask) <= n // 8:
        mask.extend(bytes(n // 8 + 1 - len(mask)))
    if mask[n // 8] >> n % 8 & 1 and order >= 0:
        wrong = wrong or f"{n} came twice"
    mask[n // 8] |= 1 << n % 8
    if order > 0:
        group = str(n % KEYS) if order == 1 else ""
        if n <= last.get(group, -1):
            wrong = wrong or f"{n} came after {last[group]}"
        last[group] = n
    if value["key"] != key_of(n) or len(value["ballast"]) not in (0, BALLAST):
        wrong = wrong or f"{n} is not what was sent"
    seen[name] = [bytes(mask), last, wrong]


MARKS = {"keeps": "", "keyed": "k", "mapped": "k", "free": "f", "takes": "*"}


def way(path: str, name: str, input: str, kind: str) -> str:
    """The path of what a node of that name sends, of what came to this input by `path`."""
    return f"{path}>{name}.{input}{MARKS[kind]}"


def order_of(path: str) -> int:
    """2: in order; 1: in order by key; 0: in none."""
    marks = {step[-1] for step in path.split(">")[1:]}
    return 0 if "f" in marks else 1 if "k" in marks else 2


def onward(value: dict[str, Any], input: str, name: str, kind: str) -> dict[str, Any]:
    """The message as a node sends it on."""
    return {**value, "path": way(value["path"], name, input, kind)}


def work(config: dict[str, Any]) -> None:
    if config.get("slow_ms"):
        time.sleep(random.random() * config["slow_ms"] / 500)


class Numbers(Source):
    """0, 1, 2, ... until there is a file `enough`. config: name, batch, pause_ms, large (every how many-th)."""

    def produce(self, position: int | None, ctx: Any) -> Any:
        n = position or 0
        config = ctx.config
        if Path("enough").exists():
            return Source.END
        time.sleep(config["pause_ms"] / 1000)
        for each in range(n, n + config["batch"]):
            ballast = "x" * (BALLAST if config["large"] and each % config["large"] == 7 else 0)
            message = {"path": config["name"], "n": each, "key": key_of(each)}
            ctx.send_output("out", {**message, "ballast": ballast})
        return n + config["batch"]


class Keeper(Source):
    """Keeps the run alive until there is a file `done`."""

    def produce(self, position: None, ctx: Any) -> Any:
        return Source.END if Path("done").exists() else Source.idle(0.05)


class Keeps(Operator):
    """Forwards all. Its state: `events`, `ticks`, the last number that each sender gave (`uids`), and what it has seen
    of each input and path.
    """

    def __init__(self, ctx: Any) -> None:
        if ctx.config.get("broken"):
            raise RuntimeError("it is broken")
        self.seen: dict[str, Any] = {}
        self.events = 0
        self.ticks: list[Any] = [0, 0, ""]
        self.uids: dict[str, Any] = {}

    def restore_state(self, state: dict[str, bytes]) -> None:
        for key, packed in state.items():
            value = msgpack.unpackb(packed)
            if key == "events":
                self.events = value
            elif key == "ticks":
                self.ticks = value
            elif key == "uids":
                self.uids = value
            else:
                self.seen[key.removeprefix("seen ")] = value

    def on_event(self, event: Any, ctx: Any) -> None:
        if event["type"] != "INPUT":
            return
        if "due" in event["metadata"]:
            due = int(event["metadata"]["due"].timestamp() * 1000)
            count, last, wrong = self.ticks
            self.ticks = [count + 1, due, wrong or (f"{due} after {last}" if due <= last else "")]
            ctx.save_state("ticks", msgpack.packb(self.ticks))
            return
        work(ctx.config)
        value = event["value"]
        name = f"{event['id']}:{value['path']}"
        note(self.seen, event["id"], value)
        self.events += 1
        self._number(event)
        ctx.save_state("uids", msgpack.packb(self.uids))
        ctx.save_state("events", msgpack.packb(self.events))
        ctx.save_state(f"seen {name}", msgpack.packb(self.seen[name]))
        ctx.kvs_merge(f"count/{ctx.config['name']}", merges.Add(1))
        ctx.send_output("out", onward(value, event["id"], ctx.config["name"], "keeps"))


    def _number(self, event: Any) -> None:
        """No sender, and no replica of one, gives a number twice, and they come in order."""
        number = int(event["uid"].rpartition("#")[2])
        sender = f"{event['id']} {event['source']} {number >> REPLICA_SHIFT}"
        if number <= self.uids.get(sender, 0):
            self.uids["wrong"] = f"{event['uid']} after number {self.uids[sender]}"
        self.uids[sender] = number


class Keyed(KeyedOperator):
    """The same by key, with replicas, and a timer that rings once after each event of a key."""

    ttl = 3600.0

    def __init__(self, ctx: Any) -> None:
        if ctx.config.get("broken"):
            raise RuntimeError("it is broken")

    def key_of(self, event: Any) -> Any:
        return event["value"]["key"]

    def on_key_event(self, key: Any, event: Any, state: Any, ctx: Any) -> Any:
        work(ctx.config)
        state = dict(state or {"events": 0, "rang": 0, "seen": {}})
        note(state["seen"], event["id"], event["value"])
        state["events"] += 1
        ctx.set_timer(ctx.now)
        ctx.kvs_merge(f"count/{ctx.config['name']}", merges.Add(1))
        ctx.send_output("out", onward(event["value"], event["id"], ctx.config["name"], "keyed"))
        return state

    def on_timer(self, key: Any, due: float, state: Any, ctx: Any) -> Any:
        wrong = "" if state["rang"] < state["events"] else f"it rang twice for event {state['events']}"
        return {**state, "rang": state["events"], "wrong": state.get("wrong") or wrong}


MAPPED = "mapped"  # its function is not told its config


@stateful_map(output="out", key=lambda value: value["key"], default=dict)
def mapped(key: Any, value: Any, state: Any) -> Any:
    state = dict(state or {"events": 0, "rang": 0, "seen": {}})
    note(state["seen"], "in", value)
    state["events"] += 1
    return onward(value, "in", MAPPED, "mapped"), state


class Free(Operator):
    """Keeps no state; with replicas, there is no order."""

    def on_event(self, event: Any, ctx: Any) -> None:
        if event["type"] == "INPUT":
            work(ctx.config)
            ctx.kvs_merge(f"count/{ctx.config['name']}", merges.Add(1))
            ctx.send_output("out", onward(event["value"], event["id"], ctx.config["name"], "free"))


def takes() -> None:
    """A custom node that writes down what comes, and sends it on."""
    with Node() as node, open(f"{node.config['name']}.txt", "ab", buffering=0) as file:
        for event in node:
            if event["type"] == "INPUT":
                value = event["value"]
                file.write(f"{event['id']}:{value['path']} {value['n']}\n".encode())
                node.send_output("out", onward(value, event["id"], node.config["name"], "takes"))


if __name__ == "__main__" and sys.argv[1:] == ["takes"]:
    takes()
