"""Samples, what is said about them, and the tables. Pure.

Machines are noisy, and the noise of one minute is not that of the next. So every question is asked in short rounds,
all sides in each round, one after the other. A figure is the median over the rounds; a ratio is the median of the
ratios of each round, whose two sides ran within seconds of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

Rounds = dict[str, list[Any]]  # side -> what each round gave; a side whose system is not installed is not in it

ABSENT = "not installed"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `reached` is None where nothing has to be reached.

    `headline`: what the line is called where it stands alone, in the README's summary; "": it does not stand there.
    """

    what: str
    ours: str
    peer: str
    ratio: str
    target: str = ""
    reached: bool | None = None
    headline: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over one axis. `x` and `y` say what the axes show, `x_as` and `y_as` what their numbers are (plots.py).

    `shows` says in words what there is to see.
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    x_as: str = "count"
    y_as: str = "count"
    log_x: bool = True
    log_y: bool = True
    shows: str = ""

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Plot:
        return cls(**plain)


@dataclass(frozen=True, slots=True)
class Section:
    """The answer to one question: its lines, and the raw figures that they were made of. `plots` are named by file."""

    title: str
    rows: list[Row]
    raw: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    plots: Mapping[str, Plot] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Section:
        """From what `plain` gave; other entries of the mapping are ignored."""
        return cls(
            plain["title"],
            [Row(**row) for row in plain["rows"]],
            plain["raw"],
            plain["notes"],
            {name: Plot.of(plot) for name, plot in plain["plots"].items()},
        )


def percentile(sample: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the sample lies."""
    ordered = sorted(sample)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def p50(sample: Sequence[float]) -> float:
    return percentile(sample, 0.5)


def p99(sample: Sequence[float]) -> float:
    return percentile(sample, 0.99)


def p999(sample: Sequence[float]) -> float:
    return percentile(sample, 0.999)


def over_rounds(rounds: Sequence[Any], figure: Callable[[Any], float] = float) -> float:
    """The median over the rounds of a figure of each round."""
    return median(figure(sample) for sample in rounds)


def ratio_over_rounds(
    over: Sequence[Any] | None, under: Sequence[Any] | None, figure: Callable[[Any], float] = float
) -> float | None:
    """The median over the rounds of the ratio of a figure of the two sides; None when one of them is not there."""
    if not over or not under:
        return None
    return median(figure(a) / figure(b) for a, b in zip(over, under, strict=True))


def said(name: str, rounds: Sequence[Any] | None, text: Callable[[float], str],
         figure: Callable[[Any], float] = float) -> str:  # fmt: skip
    """What a peer's column says: its name and the figure, or that it is not installed."""
    return f"{name} {text(over_rounds(rounds, figure))}" if rounds else f"{name}: {ABSENT}"


def at_least(ratio: float | None, least: float) -> bool | None:
    """Whether a ratio is reached; None when there was nobody to compare with."""
    return None if ratio is None else ratio >= least


def at_most(ratio: float | None, most: float) -> bool | None:
    return None if ratio is None else ratio <= most


def us(ns: float) -> str:
    """Nanoseconds as a text in microseconds, milliseconds or seconds."""
    value = ns / 1000
    if value >= 1_000_000:
        return f"{value / 1e6:.1f} s"
    if value >= 1000:
        return f"{value / 1000:.1f} ms"
    return f"{value:.0f} µs" if value >= 10 else f"{value:.2f} µs"


def times(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:.0f}x" if ratio >= 20 else f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.1f}x"


def faster(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{times(ratio)} faster" if ratio >= 1 else f"{times(1 / ratio)} slower"


def per_s(rate: float) -> str:
    """A rate as a text with three digits or so: 950/s, 12.3k/s, 123k/s, 1.23M/s."""
    if rate >= 1e6:
        return f"{rate / 1e6:.2f}M/s"
    if rate >= 1e5:
        return f"{rate / 1e3:.0f}k/s"
    return f"{rate / 1e3:.1f}k/s" if rate >= 1e3 else f"{rate:.0f}/s"


def size(count: float) -> str:
    """Bytes as a text, in units of a thousand."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            value = count / factor
            return f"{value:.0f} {unit}" if value >= 10 or value == int(value) else f"{value:.1f} {unit}"
    return f"{count:.0f} B"


def table(sections: Sequence[Section]) -> str:
    """All lines of all sections as one Markdown table."""
    lines: list[tuple[str, ...]] = []
    for section in sections:
        lines.append((f"**{section.title}**", "", "", "", "", ""))
        lines += [_cells(row, row.what) for row in section.rows]
    return _markdown(lines)


def summary(sections: Sequence[Section]) -> str:
    """The lines that have a headline, as one Markdown table."""
    return _markdown([_cells(row, row.headline) for section in sections for row in section.rows if row.headline])


def missed(sections: Sequence[Section]) -> list[str]:
    """What was to be reached and was not."""
    return [
        row.headline or f"{section.title}: {row.what or row.target}"
        for section in sections
        for row in section.rows
        if row.reached is False
    ]


def _cells(row: Row, what: str) -> tuple[str, ...]:
    mark = {None: "", True: "yes", False: "**no**"}[row.reached]
    return (what, row.ours, row.peer, row.ratio, row.target, mark)


def _markdown(lines: list[tuple[str, ...]]) -> str:
    head = ("what", "ours", "peer", "ratio", "wanted", "reached")
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    rows = [_line(head, widths), "|" + "|".join("-" * (width + 2) for width in widths) + "|"]
    rows += [_line(line, widths) for line in lines]
    return "\n".join(rows) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
