"""Window: collects values, tumbling or sliding, by count or by time.

    inputs    any; ticks (a timer input) only move the time forward
    outputs   window: {"values": [...], "start": ..., "end": ...}: by time two UTC datetimes,
              by count the numbers of the first and the last value, from 1
    config    count: N, or time: DURATION    how large a window is
              every: N or DURATION           how far it moves each time; default: its own size (tumbling)

Windows by count are sent when full. Windows by time start at multiples of `every` since the epoch, hold what
was sent in start <= t < end, and go out with the first message or tick behind their end; empty ones never do.
A message that comes late counts as sent when the newest so far was. When all inputs have ended, what is left
goes out.

Each value lies under its own key of the private state, so an event writes only what it adds. Values are plain
ones: no arrays and no Arrow data, which a list cannot carry.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from typing import Any

from noderuntime.operators import settings

from noderuntime import Context, Event
from noderuntime.api.values import pack, unpack

_EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


def _together(config: dict[str, Any]) -> None:
    if (config["count"] is None) == (config["time"] is None):
        raise ValueError("config: count: give either count: N or time: DURATION")
    if config["every"] is not None:  # measured as the window is
        measure = settings.whole(1).check if config["time"] is None else settings.microseconds
        try:
            config["every"] = measure(config["every"])
        except ValueError as error:
            raise ValueError(f"config: every: {error}") from None


CONFIG = settings.Schema(
    {
        "count": settings.whole(1, None),
        "time": settings.Field(settings.microseconds, None),
        "every": settings.Field(lambda value: value, None),
    },
    _together,
)


class Operator:
    def __init__(self, ctx: Context) -> None:
        config = CONFIG.read(ctx.config)
        self.by_time: bool = config["time"] is not None
        self.size: int = config["time"] or config["count"]
        self.every: int = config["every"] or self.size

        self.kept: deque[tuple[int, int, Any]] = deque()  # (number, time, value), the oldest first
        self.number = 0  # of the newest value
        self.now = 0  # in microseconds since the epoch, the newest that was seen
        self.done = 0  # by time: the end of the last window that went out

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.number, self.now, self.done = unpack(state.pop("progress"))
        kept = [(int(key), *unpack(saved)) for key, saved in state.items()]
        self.kept = deque(sorted(kept, key=lambda item: item[0]))

    def on_event(self, event: Event, ctx: Context) -> None:
        if event["type"] == "INPUT":
            self.now = max(self.now, (event["timestamp"] - _EPOCH) // _MICROSECOND)
            if self.by_time:
                self.send_finished(self.now, ctx)
            if "uid" in event:  # a tick has none
                self.keep(event["value"], ctx)
                if not self.by_time:
                    self.send_full(ctx)
        elif event["type"] == "STOP" and event["id"] == "ALL_INPUTS_CLOSED":
            self.send_rest(ctx)
        else:
            return
        ctx.save_state("progress", pack([self.number, self.now, self.done]))

    def keep(self, value: Any, ctx: Context) -> None:
        self.number += 1
        self.kept.append((self.number, self.now, value))
        ctx.save_state(f"{self.number:020}", pack([self.now, value]))

    def forget(self, ctx: Context, *, before_number: int = 0, before_time: int = 0) -> None:
        while self.kept and (self.kept[0][0] < before_number or self.kept[0][1] < before_time):
            number, _, _ = self.kept.popleft()
            ctx.delete_state(f"{number:020}")

    def send_full(self, ctx: Context) -> None:
        past = self.number - self.size
        if past >= 0 and past % self.every == 0:
            self.send(list(self.kept), ctx)
            self.done = self.number
        # the next window ends at the first multiple to come; what lies before its start is of no use
        coming = self.size + (past // self.every + 1) * self.every if past >= 0 else self.size
        self.forget(ctx, before_number=coming - self.size + 1)

    def send_finished(self, until: int, ctx: Context) -> None:
        """Send the windows that end by then, oldest first, and forget what no later window needs."""
        while self.kept:
            end = self.first_end_after(max(self.kept[0][1], self.done))
            if end > until:
                return
            inside = [item for item in self.kept if end - self.size <= item[1] < end]
            if inside:
                self.send(inside, ctx, end)
            self.done = end
            self.forget(ctx, before_time=end + self.every - self.size)

    def first_end_after(self, moment: int) -> int:
        return (moment - self.size) // self.every * self.every + self.every + self.size

    def send_rest(self, ctx: Context) -> None:
        if self.by_time:
            if self.kept:
                self.send_finished(self.kept[-1][1] + self.size, ctx)
        elif self.kept and self.number > self.done:
            self.send(list(self.kept), ctx)
            self.done = self.number
        self.forget(ctx, before_number=self.number + 1)

    def send(self, items: list[tuple[int, int, Any]], ctx: Context, end: int = 0) -> None:
        if self.by_time:
            start, stop = _EPOCH + (end - self.size) * _MICROSECOND, _EPOCH + end * _MICROSECOND
            ctx.send_output("window", {"values": [item[2] for item in items], "start": start, "end": stop})
        else:
            numbers = {"start": items[0][0], "end": items[-1][0]}
            ctx.send_output("window", {"values": [item[2] for item in items], **numbers})
