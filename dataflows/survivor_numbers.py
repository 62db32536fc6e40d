"""A Source of the numbers from 1 on, `per_second` of them (config), for as long as the run lasts."""

from __future__ import annotations

import time
from typing import Any

from noderuntime import Context, Source


class Operator(Source):
    def __init__(self, ctx: Context) -> None:
        self.pause_s = 1.0 / ctx.config.get("per_second", 200)
        self.due_s = time.monotonic()

    def produce(self, position: Any, ctx: Context) -> Any:
        wait_s = self.due_s - time.monotonic()
        if wait_s > 0:
            return Source.idle(wait_s)
        self.due_s = max(self.due_s, time.monotonic() - 1.0) + self.pause_s
        number = 1 if position is None else position + 1
        ctx.send_output("number", number)
        return number
