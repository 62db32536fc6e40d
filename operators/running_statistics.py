"""Running statistics: count, mean, variance, extremes and a moving average, for each metric.

    inputs    any, of numbers (the metric is metadata["metric"], else the name of the input),
              or of mappings from metric to number
    outputs   statistics: {metric: {count, last, mean, variance, min, max, ewma}} for the metrics of each
              message
    config    alpha: weight of the newest value in `ewma`, above 0 and at most 1 (default 0.1)

Mean and variance (of the sample, divided by n - 1; 0 for one value) follow Welford, Technometrics 4 (1962)
419-420: one pass, no sum of squares that could cancel. The moving average starts at the first value. NaN and
infinities are left out. Each metric is saved under its own key, 56 bytes, so an event writes only what it
changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from struct import Struct
from typing import Any

from noderuntime.operators import settings

from noderuntime import Context, Event

_SAVED = Struct("<q6d")


def _weight(value: Any) -> float:
    if not 0 < settings.is_number(value) <= 1:
        raise ValueError(f"{value!r} is not a number above 0 and at most 1")
    return float(value)


CONFIG = settings.Schema({"alpha": settings.Field(_weight, 0.1)})


@dataclass
class Summary:
    """What is known of one metric. `spread` is the sum of squared distances from the mean."""

    count: int = 0
    last: float = 0.0
    mean: float = 0.0
    spread: float = 0.0
    min: float = math.inf
    max: float = -math.inf
    ewma: float = 0.0

    def add(self, value: float, alpha: float) -> None:
        self.count += 1
        distance = value - self.mean
        self.mean += distance / self.count
        self.spread += distance * (value - self.mean)
        self.min = min(self.min, value)
        self.max = max(self.max, value)
        self.ewma = value if self.count == 1 else self.ewma + alpha * (value - self.ewma)
        self.last = value

    def figures(self) -> dict[str, float]:
        """What is sent."""
        figures = asdict(self)
        spread = figures.pop("spread")
        return {**figures, "variance": spread / (self.count - 1) if self.count > 1 else 0.0}


class Operator:
    def __init__(self, ctx: Context) -> None:
        self.alpha: float = CONFIG.read(ctx.config)["alpha"]
        self.metrics: dict[str, Summary] = {}

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.metrics = {metric: Summary(*_SAVED.unpack(saved)) for metric, saved in state.items()}

    def on_event(self, event: Event, ctx: Context) -> None:
        if event["type"] != "INPUT" or event["value"] is None:
            return
        value = event["value"]
        if not isinstance(value, Mapping):
            value = {event["metadata"].get("metric", event["id"]): value}
        changed = {}
        for metric, number in value.items():
            if not math.isfinite(number):
                continue
            summary = self.metrics.setdefault(metric, Summary())
            summary.add(float(number), self.alpha)
            ctx.save_state(metric, _SAVED.pack(*astuple(summary)))
            changed[metric] = summary.figures()
        if changed:
            ctx.send_output("statistics", changed)
