"""Plots as small SVG files, drawn from nothing but their numbers: the same numbers give the same file. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from itertools import cycle

from bench.measure import Plot, per_s, size, us

WIDTH, HEIGHT = 680, 400
LEFT, RIGHT, TOP, BOTTOM = 76, 36, 78, 52
COLOURS = ("#1f5fbf", "#2a9d8f", "#8a4fbf", "#5b8a2a")
PEER = "dora"
PEER_COLOURS = ("#d9541e", "#e6a117")
MARKED_MAX = 40  # a line of more points is drawn without marks
TICKS_FEW = 4
STYLE = "font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;font-size:12px"

SHOWN: dict[str, Callable[[float], str]] = {
    "count": lambda value: f"{value:,.0f}" if value >= 1 else f"{value:g}",
    "rate": lambda value: per_s(value).replace(".0k", "k").replace(".00M", "M"),
    "share": lambda value: f"{value:.0%}",
    "size": lambda value: size(value),
    "time": lambda value: us(value).replace(".00 ", " ").replace(".0 ", " "),
    "times": lambda value: f"{value:g}x",
}


class Axis:
    """From values to pixels; `ticks` are the values that are named."""

    def __init__(self, values: Sequence[float], log: bool, begin: float, end: float) -> None:
        self.log = log
        self.begin, self.end = begin, end
        if log:
            self.low, self.high, self.ticks = _decades(min(values), max(values))
        else:
            self.low, self.high, self.ticks = _steps(min(0.0, *values), max(values))

    def at(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 1)


def _decades(low: float, high: float) -> tuple[float, float, list[float]]:
    """A range that holds both, and its ticks: powers of ten, and 2 and 5 of them where these are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if math.log10(high / low) < TICKS_FEW - 1 else (1,)
    every = 1 if len(steps) > 1 or last - first < 2 * TICKS_FEW else 2
    grid = [step * 10.0**power for power in range(first, last + 1, every) for step in steps]
    under = max((tick for tick in grid if tick <= low), default=low)
    over = min((tick for tick in grid if tick >= high), default=high)
    if under == over:
        over = under * 10
    return under, over, [tick for tick in grid if under <= tick <= over]


def _steps(low: float, high: float) -> tuple[float, float, list[float]]:
    """The same for an even axis."""
    rough = ((high - low) or 1.0) / (TICKS_FEW + 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough)
    begin = math.floor(low / step) * step
    count = math.ceil((high - begin) / step) or 1
    return begin, begin + count * step, [begin + number * step for number in range(count + 1)]


def svg(plot: Plot) -> str:
    """The plot as the text of an SVG file."""
    points = [point for line in plot.lines.values() for point in line]
    across = Axis([x for x, _ in points], plot.log_x, LEFT, WIDTH - RIGHT)
    upward = Axis([y for _, y in points], plot.log_y, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" style="{STYLE}">',
        f"<title>{escape(plot.title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#fff"/>',
        _text(LEFT, 24, plot.title, 'font-size="15" font-weight="600"'),
    ]
    for tick in across.ticks:
        x = across.at(tick)
        parts.append(f'<path d="M{x} {TOP}V{HEIGHT - BOTTOM}" stroke="#e6e6e6"/>')
        parts.append(_text(x, HEIGHT - BOTTOM + 17, SHOWN[plot.x_as](tick), 'text-anchor="middle" fill="#555"'))
    for tick in upward.ticks:
        y = upward.at(tick)
        parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#e6e6e6"/>')
        parts.append(_text(LEFT - 8, y + 4, SHOWN[plot.y_as](tick), 'text-anchor="end" fill="#555"'))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, plot.x, 'text-anchor="middle"'))
    parts.append(_text(LEFT, TOP - 8, plot.y, 'fill="#555"'))
    begin = float(LEFT)
    ours, peers = cycle(COLOURS), cycle(PEER_COLOURS)
    for name, line in plot.lines.items():
        colour = next(peers if name.startswith(PEER) else ours)
        places = [(across.at(x), upward.at(y)) for x, y in line]
        drawn = "L".join(f"{x} {y}" for x, y in places)
        parts.append(f'<path d="M{drawn}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>')
        if len(places) <= MARKED_MAX:
            parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places]
        parts.append(f'<path d="M{begin} 45h16" stroke="{colour}" stroke-width="3"/>')
        parts.append(_text(begin + 21, 49, name))
        begin += 38 + 6.6 * len(name)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {more}>{escape(text)}</text>'
