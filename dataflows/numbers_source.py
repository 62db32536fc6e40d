"""A Source of the whole numbers from 0 to `last` (config, default 100); `pause_ms` waits between two of them."""

from __future__ import annotations

from typing import Any

from noderuntime import Context, Source


class Operator(Source):
    def __init__(self, ctx: Context) -> None:
        self.last = ctx.config.get("last", 100)
        self.pause_s = ctx.config.get("pause_ms", 0) / 1000
        self.paused = False

    def produce(self, position: Any, ctx: Context) -> Any:
        number = 0 if position is None else position + 1
        if number > self.last:
            return Source.END
        self.paused = not self.paused and self.pause_s > 0
        if self.paused:
            return Source.idle(self.pause_s)
        ctx.send_output("n", number)
        return number
