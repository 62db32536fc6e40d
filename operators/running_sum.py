"""Running sum: adds up the numbers that arrive.

    inputs    any, of numbers
    outputs   sum: the sum so far, after each number
    config    start: a number to begin with (default 0)

Whole numbers add exactly, however large; what is sent has to fit 64 bits.
"""

from __future__ import annotations

import json

from noderuntime.operators import settings

from noderuntime import Context, Event

CONFIG = settings.Schema({"start": settings.number(0)})


class Operator:
    def __init__(self, ctx: Context) -> None:
        self.total: int | float = CONFIG.read(ctx.config)["start"]

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.total = json.loads(state["total"])

    def on_event(self, event: Event, ctx: Context) -> None:
        if event["type"] == "INPUT":
            self.total += event["value"]
            ctx.save_state("total", json.dumps(self.total).encode())
            ctx.send_output("sum", self.total)
