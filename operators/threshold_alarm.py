"""Threshold alarm: raises an alarm when a metric crosses a level, clears it when it is back beyond
another one.

    inputs    any, of numbers (the metric is metadata["metric"], else the name of the input), or of mappings
              from metric to number, or from metric to a mapping in which `field` is the number
    outputs   alarm: {metric, active, value, level}, only when an alarm is raised or cleared
    config    levels: {PATTERN: {raise: NUMBER, clear: NUMBER}}; * and ? in a pattern stand for any text and
                any character; the first that fits counts. raise above clear: alarm when the value is too high;
                below: too low. Raised at `raise`, cleared past `clear`; in between nothing changes.
              field: for mappings of mappings, such as `ewma` of what the operator running_statistics sends

Active alarms are in the shared KVS, where every node of the run can see them: `alarm/METRIC` holds
MessagePack {value, level, since} while the alarm is active, and `alarms_raised` counts (a merge: several
alarm operators may count there). Nothing else is remembered: the KVS is read and written in the event's own
transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import msgpack
from noderuntime.operators import settings

from noderuntime import Context, Event
from noderuntime.merges import Add


def _levels(given: Any) -> dict[str, tuple[float, float]]:
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"{given!r} is not a mapping {{METRIC: {{raise: 90, clear: 80}}}}")
    levels = {}
    for metric, pair in given.items():
        if not isinstance(pair, Mapping) or set(pair) != {"raise", "clear"}:
            raise ValueError(f"{metric}: {pair!r} is not {{raise: NUMBER, clear: NUMBER}}")
        for name, level in pair.items():
            if isinstance(level, bool) or not isinstance(level, int | float):
                raise ValueError(f"{metric}: {name}: {level!r} is not a number")
        levels[str(metric)] = (float(pair["raise"]), float(pair["clear"]))
    return levels


CONFIG = settings.Schema({"levels": settings.Field(_levels), "field": settings.text("a name", None)})


class Operator:
    def __init__(self, ctx: Context) -> None:
        config = CONFIG.read(ctx.config)
        self.levels: dict[str, tuple[float, float]] = config["levels"]
        self.field: str | None = config["field"]

    def on_event(self, event: Event, ctx: Context) -> None:
        if event["type"] != "INPUT" or event["value"] is None:
            return
        for metric, value in self.readings(event):
            for pattern, (raise_at, clear_at) in self.levels.items():
                if fnmatchcase(metric, pattern):
                    self.judge(metric, value, raise_at, clear_at, event, ctx)
                    break

    def readings(self, event: Event) -> Iterator[tuple[str, float]]:
        value = event["value"]
        if not isinstance(value, Mapping):
            yield event["metadata"].get("metric", event["id"]), value
            return
        for metric, reading in value.items():
            yield metric, reading[self.field] if self.field and isinstance(reading, Mapping) else reading

    def judge(
        self, metric: str, value: float, raise_at: float, clear_at: float, event: Event, ctx: Context
    ) -> None:
        sign = 1 if raise_at >= clear_at else -1  # -1: the alarm is for values that are too low
        key = f"alarm/{metric}"
        active = ctx.kvs_read(key) is not None
        if not active and sign * value >= sign * raise_at:
            since = event["timestamp"].isoformat()
            ctx.kvs_write(key, msgpack.packb({"value": value, "level": raise_at, "since": since}))
            ctx.kvs_merge("alarms_raised", Add(1))
            ctx.send_output("alarm", {"metric": metric, "active": True, "value": value, "level": raise_at})
        elif active and sign * value < sign * clear_at:
            ctx.kvs_delete(key)
            ctx.send_output("alarm", {"metric": metric, "active": False, "value": value, "level": clear_at})
