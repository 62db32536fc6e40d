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
import re
from typing import Any

from noderuntime import Context, Event
from noderuntime.values import pack, unpack

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Operator:
    def __init__(self, ctx: Context) -> None:
        if unknown := sorted(set(ctx.config) - {"every", "latest"}):
            raise ValueError(f"config: {unknown[0]}: unknown field; there are every and latest")
        self.every = _duration("every", ctx.config.get("every"))
        self.latest = ctx.config.get("latest", False)
        if not isinstance(self.latest, bool):
            raise ValueError(f"config: latest: {self.latest!r} is neither true nor false")
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


def _duration(field: str, value: Any) -> dt.timedelta:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:f}s"
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", value) if isinstance(value, str) else None
    span = dt.timedelta(seconds=float(found[1]) * _UNITS_S[found[2]] if found else 0)
    if not span:
        raise ValueError(f"config: {field}: {value!r} is not a duration above 0, such as 500ms, 10s or 5m")
    return span
