"""Counts what arrives. Nothing in here knows that this process is going to be killed."""

from __future__ import annotations

import os

from noderuntime import Context, Event, Operator


class Counter(Operator):
    def __init__(self) -> None:
        self.count = 0

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.count = int(state["count"])

    def on_event(self, event: Event, ctx: Context) -> None:
        if event.type == "INPUT":
            self.count += 1
            ctx.save_state("count", str(self.count).encode())
            # the process tells who it is, so that it can be killed
            ctx.send_output("count", {"count": self.count, "number": event.value, "process": os.getpid()})
