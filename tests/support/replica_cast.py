"""What runs in the schedules of replica_schedules.py."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from noderuntime import KeyedOperator, Operator, Source, stateful_map

KEYS = 13


def key_of(number: int) -> Any:
    """Keys of different types; some are equal numbers, and one."""
    key = number * 7 % KEYS
    return [key, float(key), f"user-{key}", [key, "list"], None][key % 5]


class Numbers(Source):
    """config: count, batch, pause_ms."""

    def produce(self, position: int | None, ctx: Any) -> Any:
        number = position or 0
        if number >= ctx.config["count"]:
            return Source.END
        time.sleep(ctx.config["pause_ms"] / 1000)
        last = min(number + ctx.config["batch"], ctx.config["count"])
        for each in range(number, last):
            ctx.send_output("out", {"key": key_of(each), "n": each, "ballast": "x" * (70_000 if each % 50 == 7 else 1)})
        return last


@stateful_map(output="out", key=lambda value: value["key"], default=int, ttl=3600.0)
def sums(key: Any, value: Any, total: int) -> Any:
    total += value["n"]
    return {"other": value["n"] % 4, "key": key, "n": value["n"], "total": total}, total


class Counts(KeyedOperator):
    """Counts by another key, and lets a timer of each key ring once for each event."""

    default = list

    def key_of(self, event: Any) -> Any:
        return event["value"]["other"]

    def on_key_event(self, key: Any, event: Any, state: Any, ctx: Any) -> Any:
        ctx.set_timer(ctx.now)
        ctx.send_output("out", {**event["value"], "count": len(state) + 1})
        return [*state, event["value"]["n"]]

    def on_timer(self, key: Any, due: float, state: Any, ctx: Any) -> Any:
        ctx.send_output("rang", [key, len(state)])
        return state


class Free(Operator):
    """Keeps no state."""

    def on_event(self, event: Any, ctx: Any) -> None:
        if event["type"] == "INPUT":
            ctx.send_output("out", event["value"])


class Sink(Operator):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.seen = json.loads(state["seen"])

    def on_event(self, event: Any, ctx: Any) -> None:
        if event["type"] == "INPUT":
            self.seen.append([event["id"], event["uid"], event["value"]])
            ctx.save_state("seen", json.dumps(self.seen).encode())
        elif event["type"] == "STOP" and event["id"] == "ALL_INPUTS_CLOSED":
            with open("result.tmp", "w") as file:
                json.dump(self.seen, file)
            Path("result.tmp").rename("result.json")
