"""What the dataflows of the fault tests are made of. Every operator is a pure `step` and a log of what it was given.

The log is the operator's private state: one entry for each event, in the order in which the events took effect, with
what an oracle cannot know: the order of arrival among inputs, the value where the sender is no operator, and the dice.
With it the oracle (oracle.py) recomputes every state and every output.
"""

from __future__ import annotations

import os
import random
import struct
import time
from typing import Any

ENTRY = struct.Struct("<BIIB")  # input (index in the config), number of the message, value, dice
CHUNK = 32  # entries in one key of the log
MODULUS = 1 << 31
TICK = 255
LARGE_ITEMS = 20_000  # of 4 bytes: above the threshold for payload segments


def source_value(seed: int, number: int) -> int:
    """What a source sends as its message `number`, from 1."""
    return (seed * 7919 + number * 104_729) % 1_000_003


Sent = list[tuple[str, int]]


def step(kind: str, outputs: list[str], total: int, input: int, value: int, dice: int) -> tuple[int, Sent]:
    """The new total, and what is sent, of one event. Pure: the oracle calls it too."""
    total = (total * 31 + value + input) % MODULUS
    if kind == "sum":
        return total, [(name, total) for name in outputs]
    if kind == "split":  # to one output or none
        place = value % (len(outputs) + 1)
        return total, [(outputs[place], value)] if place < len(outputs) else []
    if kind == "many":
        return total, [(name, (value + times) % MODULUS) for times in range(3) for name in outputs]
    if kind == "dice":
        return total, [(name, (value * 3 + dice) % MODULUS) for name in outputs for _ in range(dice % 3)]
    if kind == "forward":
        return total, [(name, value) for name in outputs]
    if kind == "loop":  # what comes from outside goes round, what comes back goes on
        return total, [(outputs[0], value)] if input == 0 else [(name, value) for name in outputs[1:]]
    return total, []


class Log:
    """The entries so far, and the keys under which they are kept."""

    def __init__(self) -> None:
        self.count = 0
        self._chunk = b""

    def restore(self, state: dict[str, bytes]) -> None:
        chunks = sorted(key for key in state if key.startswith("log"))
        self.count = sum(len(state[key]) for key in chunks) // ENTRY.size
        self._chunk = state[chunks[-1]] if chunks and self.count % CHUNK else b""

    def add(self, ctx: Any, *entry: int) -> None:
        self._chunk += ENTRY.pack(*entry)
        ctx.save_state(f"log{self.count // CHUNK:08}", self._chunk)
        self.count += 1
        if self.count % CHUNK == 0:
            self._chunk = b""


def number_of(value: Any) -> int:
    """The number that a value carries; a large one must be whole."""
    if isinstance(value, int):
        return value
    import numpy as np

    first = int(value[0])
    if not np.all(value == first):
        raise AssertionError(f"a torn payload: {set(value.tolist())}")
    return first


class Worker:
    """config: kind, inputs (names in order), outputs, large (every how many-th message), slow_ms, keep."""

    def __init__(self, ctx: Any) -> None:
        self.config = ctx.config
        self.total = 0
        self.log = Log()
        self.open = 0  # of a loop: what went round and has not come back
        self.closed = False
        self.kept: list[tuple[Any, int]] = []

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.total = int(state.get("total", b"0"))
        self.open = int(state.get("open", b"0"))
        self.closed = "closed" in state and self.config["kind"] == "loop"
        self.log.restore(state)

    def on_event(self, event: Any, ctx: Any) -> Any:
        from noderuntime import Status
        from noderuntime.merges import Add

        if event["type"] == "INPUT":
            self._input(event, ctx)
            ctx.kvs_merge(f"count/{ctx.node_id}", Add(1))
            ctx.kvs_merge("count", Add(1))
        elif event["type"] == "INPUT_CLOSED" and event["id"] == self.config["inputs"][0]:
            self.closed = self.config["kind"] == "loop"
            ctx.save_state("closed", b"1")
        return Status.STOP if self.closed and not self.open else None

    def _input(self, event: Any, ctx: Any) -> None:
        config = self.config
        if "due" in event["metadata"]:
            input, number, value = TICK, int(event["metadata"]["due"].timestamp() * 1000) % (1 << 32), 1
        else:
            input, number = config["inputs"].index(event["id"]), int(event["uid"].rpartition("#")[2])
            value = number_of(event["value"])
        if config.get("slow_ms"):
            time.sleep(random.random() * config["slow_ms"] / 500)
        for view, expected in self.kept:
            if number_of(view) != expected:
                raise AssertionError("a payload changed below its reader")
        if config.get("keep") and not isinstance(event["value"], int | None):
            self.kept = [*self.kept, (event["value"], value)][-config["keep"] :]
        dice = random.randrange(256)
        self.total, sent = step(config["kind"], config["outputs"], self.total, input, value, dice)
        for at, (output, payload) in enumerate(sent):
            self._send(ctx, output, payload, at)
        if config["kind"] == "loop":
            self.open += 1 if input == 0 else -1
            ctx.save_state("open", str(self.open).encode())
        ctx.save_state("total", str(self.total).encode())
        self.log.add(ctx, input, number, value, dice)

    def _send(self, ctx: Any, output: str, payload: int, at: int) -> None:
        large = self.config.get("large", 0)
        if not large or (self.log.count + at) % large:
            ctx.send_output(output, payload)
            return
        if at % 2:
            import numpy as np

            array = np.full(LARGE_ITEMS, payload, dtype=np.uint32)
        else:
            array = ctx.allocate(LARGE_ITEMS, "uint32")
            array[:] = payload
        ctx.send_output(output, array)


DIGEST = (1 << 61) - 1


def digest(before: int, value: int) -> int:
    """Of a sequence: the one of what came before, and the next value."""
    return (before * 1_000_003 + value + 1) % DIGEST


class Adder:
    """Sums and passes on, for long runs: its state is a few numbers, digests of all that came and went among them."""

    STATE = struct.Struct("<5Q")  # how many, sum, digest of the inputs, of their numbers, of the outputs

    def __init__(self) -> None:
        self.numbers = (0, 0, 0, 0, 0)

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.numbers = self.STATE.unpack(state["numbers"])

    def on_event(self, event: Any, ctx: Any) -> None:
        if event["type"] == "INPUT":
            count, total, came, order, went = self.numbers
            value = event["value"]
            total = (total + value) % MODULUS
            number = int(event["uid"].rpartition("#")[2])
            self.numbers = count + 1, total, digest(came, value), digest(order, number), digest(went, total)
            ctx.save_state("numbers", self.STATE.pack(*self.numbers))
            ctx.send_output("o0", total)


class Numbers:
    """A source of `count` numbers; a few at a time."""

    def __init__(self, ctx: Any) -> None:
        self.config = ctx.config

    def produce(self, position: Any, ctx: Any) -> Any:
        from noderuntime import Source

        at = position or 0
        count, large = self.config["count"], self.config.get("large", 0)
        if at >= count:
            return Source.END
        for number in range(at + 1, min(at + self.config["batch"], count) + 1):
            value: Any = source_value(self.config["seed"], number)
            if large and number % large == 0:
                array = ctx.allocate(LARGE_ITEMS, "uint32")
                array[:] = value
                value = array
            for output in self.config["outputs"]:
                ctx.send_output(output, value)
        if self.config.get("pause_ms") and at % 16 == 0:
            time.sleep(self.config["pause_ms"] / 1000)
        return min(at + self.config["batch"], count)


def counting() -> None:
    """A custom node that sends numbers, from the first one in each of its lives."""
    from noderuntime import Node

    with Node() as node:
        config = node.config
        for number in range(1, config["count"] + 1):
            for output in config["outputs"]:
                node.send_output(output, source_value(config["seed"], number))
            if config.get("pause_ms") and number % 16 == 0:
                time.sleep(config["pause_ms"] / 1000)


def writing() -> None:
    """A custom node that writes down what it takes: input, number, value, attempt, life."""
    from noderuntime import Node

    with Node() as node, open(node.config["file"], "ab", buffering=0) as file:
        for event in node:
            if event["type"] == "INPUT":
                number = event["uid"].rpartition("#")[2]
                value = number_of(event["value"])
                file.write(f"{event['id']} {number} {value} {event['attempt']} {node.incarnation}\n".encode())


def keeping() -> None:
    """A program without ports that keeps the run alive until somebody makes a file."""
    while not os.path.exists(os.environ["KEEP_UNTIL"]):  # noqa: PTH110
        time.sleep(0.01)


if __name__ == "__main__":
    import sys

    {"counting": counting, "writing": writing, "keeping": keeping}[sys.argv[1]]()
