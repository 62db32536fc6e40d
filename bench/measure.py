"""Samples, what is said about them, and the table. Pure.

Machines are noisy, and the noise of one minute is not that of the next. So every question is asked in short rounds,
all sides in each round, one after the other. A figure is the median over the rounds; a ratio is the median of the
ratios of each round, whose two sides ran within seconds of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

Rounds = dict[str, list[Any]]  # side -> what each round gave


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `reached` is None where nothing has to be reached."""

    what: str
    ours: str
    peer: str
    ratio: str
    target: str = ""
    reached: bool | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """The answer to one question: its lines, and the raw figures that they were made of."""

    title: str
    rows: list[Row]
    raw: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def percentile(sample: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the sample lies."""
    ordered = sorted(sample)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def p50(sample: Sequence[float]) -> float:
    return percentile(sample, 0.5)


def p99(sample: Sequence[float]) -> float:
    return percentile(sample, 0.99)


def over_rounds(rounds: Sequence[Sequence[float]], figure: Callable[[Sequence[float]], float]) -> float:
    """The median over the rounds of a figure of each round."""
    return median(figure(sample) for sample in rounds)


def ratio_over_rounds(
    over: Sequence[Sequence[float]],
    under: Sequence[Sequence[float]],
    figure: Callable[[Sequence[float]], float],
) -> float:
    """The median over the rounds of the ratio of a figure of the two sides."""
    return median(figure(a) / figure(b) for a, b in zip(over, under, strict=True))


def us(ns: float) -> str:
    """Nanoseconds as a text in microseconds, or milliseconds from a thousand of them on."""
    value = ns / 1000
    if value >= 1000:
        return f"{value / 1000:.1f} ms"
    return f"{value:.0f} µs" if value >= 10 else f"{value:.2f} µs"


def times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 20 else f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.1f}x"


def table(sections: Sequence[Section]) -> str:
    """All sections as one Markdown table."""
    head = ("", "noderuntime", "peer", "ratio", "to reach", "")
    lines: list[tuple[str, ...]] = []
    for section in sections:
        lines.append((f"**{section.title}**", "", "", "", "", ""))
        for row in section.rows:
            mark = {None: "", True: "yes", False: "**no**"}[row.reached]
            lines.append((row.what, row.ours, row.peer, row.ratio, row.target, mark))
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    rows = [_line(head, widths), "|" + "|".join("-" * (width + 2) for width in widths) + "|"]
    rows += [_line(line, widths) for line in lines]
    return "\n".join(rows) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
