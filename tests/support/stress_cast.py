"""What the dataflow of the stress test is made of. The sources go on until a file `end` is there, and what each node
has to come to follows from how far they got."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from noderuntime import KeyedOperator, Node, Source, merges

POISON = 131  # each number that it divides fails its operator until a file `healed` is there
KEYS = 7
BLOB_ITEMS = 100_000


class Numbers(Source):
    """1, 2, 3, ... as often as `a_second` allows, so that nobody's queue is always full."""

    def __init__(self, ctx: Any) -> None:
        self.pause_s = 1.0 / ctx.config["a_second"]
        self.next_s = 0.0

    def produce(self, position: Any, ctx: Any) -> Any:
        now_s = time.monotonic()
        if now_s < self.next_s:
            return Source.idle(self.next_s - now_s)
        number = (position or 0) + 1
        if Path("end").exists():
            Path(f"{ctx.node_id}.count").write_text(str(number - 1))
            return Source.END
        self.next_s = max(self.next_s + self.pause_s, now_s - 0.1)
        self.send(number, ctx)
        return number

    def send(self, number: int, ctx: Any) -> None:
        ctx.send_output("n", number)


class Blobs(Numbers):
    """Payloads that lie beside the space."""

    def send(self, number: int, ctx: Any) -> None:
        blob = ctx.allocate(BLOB_ITEMS)
        blob[:] = number % 251
        ctx.send_output("blob", blob)


class ByKey(KeyedOperator):
    default = int

    def key_of(self, event: Any) -> int:
        return int(event["value"] % KEYS)

    def on_key_event(self, key: int, event: Any, state: int, ctx: Any) -> int:
        state += event["value"]
        ctx.send_output("sum", [key, event["value"], state])
        return state


class Totals:
    """A private state, the shared store, and outputs, of one event."""

    def __init__(self) -> None:
        self.total = self.blobs = 0

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.total = int(state.get("total", b"0"))
        self.blobs = int(state.get("blobs", b"0"))

    def on_event(self, event: Any, ctx: Any) -> None:
        if event["type"] != "INPUT":
            return
        value = event["value"]
        if event["id"] == "blob":
            if not (value == value[0]).all():
                raise AssertionError("a torn payload")
            self.blobs += 1
            ctx.save_state("blobs", str(self.blobs).encode())
            return
        if value % POISON == 0 and not Path("healed").exists():
            raise ValueError(f"{value} is poison")
        self.total += value
        ctx.save_state("total", str(self.total).encode())
        ctx.kvs_merge("totals/sum", merges.Add(value))
        ctx.kvs_merge("totals/count", merges.Add(1))
        ctx.kvs_write(f"totals/last/{value % KEYS}", str(value).encode())
        ctx.send_output("n", value)


def checks() -> None:
    """Write what arrives, by input: a repetition may come, a gap may not."""
    newest: dict[str, int] = {}
    with Node() as node, open("checks.txt", "a", buffering=1) as file:
        for event in node:
            if event["type"] != "INPUT":
                continue
            name, number = event["id"], int(event["uid"].rpartition("#")[2])
            if number > newest.get(name, number - 1) + 1:
                raise AssertionError(f"{event['uid']} came after {newest[name]}")
            newest[name] = max(number, newest.get(name, 0))
            value = event["value"]
            file.write(f"{name} {number} {value if name == 'n' else value[1]}\n")


if __name__ == "__main__":
    {"checks": checks}[sys.argv[1]]()
