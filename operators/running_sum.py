"""Running sum: adds up the numbers that arrive.

    inputs    any, of numbers
    outputs   sum: the sum so far, after each number
    config    start: a number to begin with (default 0)

Whole numbers add exactly, however large; what is sent has to fit 64 bits.
"""

from __future__ import annotations

import json

from noderuntime import Context, Event


class Operator:
    def __init__(self, ctx: Context) -> None:
        self.total: int | float = ctx.config.get("start", 0)
        if isinstance(self.total, bool) or not isinstance(self.total, int | float):
            raise ValueError(f"config: start: {self.total!r} is not a number")
        if unknown := sorted(set(ctx.config) - {"start"}):
            raise ValueError(f"config: {unknown[0]}: unknown field; there is only start")

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.total = json.loads(state["total"])

    def on_event(self, event: Event, ctx: Context) -> None:
        if event["type"] == "INPUT":
            self.total += event["value"]
            ctx.save_state("total", json.dumps(self.total).encode())
            ctx.send_output("sum", self.total)
