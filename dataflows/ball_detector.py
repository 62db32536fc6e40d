"""Finds the bright ball in a frame: sends {x, y, pixels, frame, taken}. No state: frames are independent."""

from __future__ import annotations

import numpy as np

from noderuntime import Context, Event


class Operator:
    def __init__(self, ctx: Context) -> None:
        self.threshold = ctx.config.get("threshold", 200)

    def on_event(self, event: Event, ctx: Context) -> None:
        if event["type"] != "INPUT":
            return
        rows, columns = np.nonzero(event["value"] >= self.threshold)
        if len(rows):
            place = {"x": float(columns.mean()), "y": float(rows.mean()), "pixels": len(rows)}
            ctx.send_output("detection", {**place, **event["metadata"]})
