"""What is killed in recovery.yml, what sends to it, and what watches it. The same as dora/*.py, as operators."""

from __future__ import annotations

import importlib
import os
import time
from pathlib import Path
from typing import Any

from measured import VALUE, leave

from noderuntime import Operator, Source

OUT = Path(os.environ["BENCH_OUT"])
if os.environ.get("BENCH_IMPORT"):
    importlib.import_module(os.environ["BENCH_IMPORT"])


class Send(Source):
    """Sends a numbered value every BENCH_PAUSE_S until BENCH_OUT/enough exists."""

    def __init__(self) -> None:
        self.due_s = time.monotonic() + 1.0
        self.pause_s = float(os.environ["BENCH_PAUSE_S"])

    def produce(self, position: int | None, ctx: Any) -> Any:
        number = position or 0
        early_s = self.due_s - time.monotonic()
        if early_s > 0:
            return Source.idle(early_s)
        self.due_s += self.pause_s
        if not number % 50 and (OUT / "enough").exists():
            leave("sent", number)
            return Source.END
        ctx.send_output("out", VALUE.pack(time.monotonic_ns(), number))
        return number + 1


class Victim(Operator):
    """Counts and sends on; is killed. At its first event each life adds a line "pid, ns" to BENCH_OUT/lives."""

    def __init__(self) -> None:
        self.count = 0
        self.first = True

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.count = int.from_bytes(state["count"], "little")

    def on_event(self, event: Any, ctx: Any) -> None:
        if event.type != "INPUT":
            return
        if self.first:
            now_ns = time.monotonic_ns()
            self.first = False
            with (OUT / "lives").open("a") as lives:
                lives.write(f"{os.getpid()} {now_ns}\n")
            if not self.count:
                for number in range(int(os.environ.get("BENCH_KEYS") or 0)):
                    ctx.save_state(f"key {number}", bytes(64))
        self.count += 1
        ctx.save_state("count", self.count.to_bytes(8, "little"))
        ctx.send_output("out", VALUE.pack(VALUE.unpack(event.value)[1], self.count))


class Watch(Operator):
    """Notes (when, number, count) of all that the victim sends."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def on_event(self, event: Any, ctx: Any) -> None:
        if event.type == "INPUT":
            self.seen.append((time.monotonic_ns(), *VALUE.unpack(event.value)))
        elif event.type == "STOP":
            leave("watch", self.seen)
