"""Throttle: lets at most one message pass in each stretch of time, for each input by itself.

    inputs    any; with a timer input `tick`, what was held back last passes when its time has come
    outputs   out: the messages that pass, with their metadata and metadata["input"]
    config    every: DURATION   the shortest time between two messages of one input, such as 100ms, or 2
                                (seconds)
              latest: true      hold the newest message back instead of dropping it (needs a timer input;
                                default false)

Time is the time of sending, so the same messages pass however often a handler is repeated. Messages held back
are plain ones: no arrays and no Arrow data.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from noderuntime.operators import settings

from noderuntime import Context, Event
from noderuntime.api.values import pack, unpack

CONFIG = settings.Schema({"every": settings.duration(), "latest": settings.flag(False)})



class Operator:
    def __init__(self, ctx: Context) -> None:
        config = CONFIG.read(ctx.config)
        self.every: dt.timedelta = config["every"]
        self.latest: bool = config["latest"]
        self.passed: dict[str, dt.datetime] = {}  # input -> when its last message passed
        self.held: dict[str, tuple[Any, dict[str, Any]]] = {}  # input -> value and metadata

    def restore_state(self, state: dict[str, bytes]) -> None:
        for name, saved in state.items():
            self.passed[name], held = unpack(saved)
            if held is not None:
                self.held[name] = held[0], held[1]

    def on_event(self, event: Event, ctx: Context) -> None:
        if event["type"] == "STOP":
            for name in list(self.held):
                self.release(name, self.passed[name], ctx)
        elif event["type"] == "INPUT" and "uid" not in event:  # a tick
            for name in list(self.held):
                if event["timestamp"] - self.passed[name] >= self.every:
                    self.release(name, event["timestamp"], ctx)
        elif event["type"] == "INPUT":
            self.handle(event, ctx)

    def handle(self, event: Event, ctx: Context) -> None:
        name, now = event["id"], event["timestamp"]
        self.held[name] = event["value"], event["metadata"]
        if name not in self.passed or now - self.passed[name] >= self.every:
            self.release(name, now, ctx)
        elif self.latest:
            self.save(name, ctx)
        else:
            del self.held[name]

    def release(self, name: str, now: dt.datetime, ctx: Context) -> None:
        value, metadata = self.held.pop(name)
        ctx.send_output("out", value, {**metadata, "input": name})
        self.passed[name] = now
        self.save(name, ctx)

    def save(self, name: str, ctx: Context) -> None:
        ctx.save_state(name, pack([self.passed[name], list(self.held.get(name, ())) or None]))
