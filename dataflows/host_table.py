"""Shows the statistics of this machine: a live table on a terminal, a line every two seconds elsewhere.

A line that starts with ESC [ 2 J paints a frame: `noderuntime run` keeps the newest one on the screen, its rows
separated by carriage returns. $NODERUNTIME_TERMINAL is "COLUMNSxLINES" when the run is shown on a terminal.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgpack

from noderuntime import Node

FRAME_S, LINE_S = 0.2, 2.0  # how often
RATES = {"disk.read": "disk read/s", "disk.write": "disk write/s", "net.in": "net in/s", "net.out": "net out/s"}
SHARES = {"cpu": "cpu", "memory": "memory", "swap": "swap"}
LABEL, FIGURES = 13, 50  # widths of the first column, and of the columns behind the bar
SPARKS = "▁▂▃▄▅▆▇█"
BARS = " ▏▎▍▌▋▊▉█"
GREEN, YELLOW, RED, DIM, BOLD, PLAIN = (f"\x1b[{code}m" for code in ("32", "33", "1;31", "2", "1", "0"))


@dataclass
class View:
    """What the table shows."""

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    processes: list[dict[str, Any]] = field(default_factory=list)
    alarms: dict[str, dict[str, Any]] = field(default_factory=dict)


def amount(count: float) -> str:
    """Bytes for a person, with a unit of two characters."""
    for unit in ("B ", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B " else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def bar(share: float, width: int) -> str:
    """A horizontal bar, exact to an eighth of a character; `share` from 0 to 1."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (BARS[rest] if rest else "")).ljust(width)


def spark(percent: float) -> str:
    return SPARKS[min(int(percent / 100 * len(SPARKS)), len(SPARKS) - 1)]


def rows(view: View, columns: int = 80, colour: bool = False, now: datetime | None = None) -> list[str]:
    """The table. At most `columns` wide where that is 64 or more."""

    def paint(text: str, code: str) -> str:
        return f"{code}{text}{PLAIN}" if colour else text

    metrics = view.metrics
    width = max(columns - LABEL - FIGURES - 1, 0)
    width = width if width >= 5 else 0
    samples = int(metrics["cpu"]["count"]) if "cpu" in metrics else 0
    title = f"this machine, {samples} samples" + (f", {now:%H:%M:%S}" if now else "")
    table = [
        paint(title.ljust(LABEL + width)[: LABEL + width] if width else "", BOLD)
        + paint(f"{'now':>10}{'average':>10}{'mean':>10}{'±':>10}{'max':>10}", DIM)
    ]
    if not width:
        table.insert(0, paint(title, BOLD))

    for metric, label in SHARES.items():
        if metric in metrics:
            each = metrics[metric]
            level = RED if metric in view.alarms else YELLOW if each["ewma"] >= 70 else GREEN
            table.append(
                f"{label:<{LABEL}}{paint(bar(each['last'] / 100, width), level)}"
                f"{each['last']:>8.1f} %{each['ewma']:>8.1f} %{each['mean']:>8.1f} %"
                f"{math.sqrt(each['variance']):>8.1f} %{each['max']:>8.1f} %"
            )
        if metric == "cpu":
            cores = [core["ewma"] for name, core in metrics.items() if name.startswith("cpu.")]
            sparks = "".join(map(spark, cores[: max(columns - LABEL - 1, 1)]))
            table += [f"{f'{len(cores)} cores':<{LABEL}}{paint(sparks, GREEN)}"] if cores else []
    for metric, label in RATES.items():
        if metric in metrics:
            each = metrics[metric]
            share = each["last"] / each["max"] if each["max"] > 0 else 0.0
            figures = (each["last"], each["ewma"], each["mean"], math.sqrt(each["variance"]), each["max"])
            cells = "".join(f"{amount(figure):>10}" for figure in figures)
            table.append(f"{label:<{LABEL}}{paint(bar(share, width), GREEN)}{cells}")
    for metric, alarm in sorted(view.alarms.items()):
        since = f"{alarm['since'][11:19]} UTC"
        table.append(paint(f"ALARM  {metric} reached {alarm['level']:g} % at {since}: {alarm['value']:.1f} %", RED))
    if view.processes:
        table.append(paint(f"{'process':<{LABEL + width}}{'pid':>10}{'cpu':>10}{'memory':>10}", DIM))
    for process in view.processes:
        name = process["name"][: LABEL + width - 1].ljust(LABEL + width)
        table.append(f"{name}{process['pid']:>10}{process['cpu']:>8.1f} %{amount(process['memory']):>10}")
    return table


def line(view: View) -> str:
    """All that matters, on one line."""
    metrics = view.metrics

    def figure(metric: str, name: str) -> float:
        return metrics[metric][name] if metric in metrics else 0.0

    parts = [
        f"cpu {figure('cpu', 'ewma'):5.1f} % (mean {figure('cpu', 'mean'):.1f}, max {figure('cpu', 'max'):.1f})",
        f"memory {figure('memory', 'last'):.1f} %",
    ]
    for device, one, other in (("disk", "read", "write"), ("net", "in", "out")):
        if f"{device}.{one}" in metrics:
            rates = (f"{way} {amount(figure(f'{device}.{way}', 'ewma')).strip()}/s" for way in (one, other))
            parts.append(f"{device} {', '.join(rates)}")
    if view.processes:
        parts.append(f"busiest {view.processes[0]['name'][:24]} {view.processes[0]['cpu']:.0f} %")
    if view.alarms:
        parts.append(f"ALARM: {', '.join(sorted(view.alarms))}")
    return " | ".join(parts)


def show(node: Node, view: View, terminal: str) -> None:
    if not terminal:
        print(line(view), flush=True)
        return
    columns = int(terminal.partition("x")[0])
    colour = "NO_COLOR" not in os.environ
    print("\x1b[2J" + "\r".join(rows(view, columns, colour, datetime.now())), flush=True)


def active_alarms(node: Node) -> dict[str, dict[str, Any]]:
    """What the operator `alarms` keeps in the shared KVS."""
    entries: Mapping[str, Any] = node.kvs.get_root()
    return {
        key.removeprefix("alarm/"): msgpack.unpackb(entry.value)
        for key, entry in entries.items()
        if key.startswith("alarm/")
    }


def main() -> None:
    terminal = os.environ.get("NODERUNTIME_TERMINAL", "")
    every_s = FRAME_S if terminal else LINE_S
    view = View()
    shown_s = 0.0
    with Node() as node:
        for event in node:
            if event.type != "INPUT":
                continue
            if event.id == "statistics":
                view.metrics |= event.value
            elif event.id == "processes":
                view.processes = event.value
            elif event.id == "alarm":
                word = "raised" if event.value["active"] else "cleared"
                print(f"alarm {word}: {event.value['metric']} at {event.value['value']:.1f} %", flush=True)
            if time.monotonic() - shown_s >= every_s and view.metrics:
                shown_s = time.monotonic()
                view.alarms = active_alarms(node)
                show(node, view, terminal)
    if view.metrics and not terminal:
        print("\n".join(rows(view)), flush=True)


if __name__ == "__main__":
    main()
