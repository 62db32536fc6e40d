"""Sources of inputs in a dora file: `node/output`, `dora/timer/millis/100`, `dora/logs/info/camera`. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from noderuntime.dataflow.model import Place
from noderuntime.dataflow.notation import TIMER_NS_MIN
from noderuntime.dataflow.yaml import fields as read
from noderuntime.dataflow.yaml.nodes import fail

UNITS_NS: Final = {"secs": 1_000_000_000, "millis": 1_000_000, "micros": 1_000, "nanos": 1}
LEVELS: Final = {"stdout": 0, "trace": 5, "debug": 10, "info": 20, "warn": 30, "error": 40}
"""dora's levels and those of `logging`. `stdout` is below all others: what is printed is a record of that level."""

_TIMERS = "Timers are dora/timer/secs/1, dora/timer/millis/100, micros, nanos, and dora/timer/hz/30."
_LOGS = f"Write dora/logs, dora/logs/LEVEL or dora/logs/LEVEL/NODE; levels are {', '.join(LEVELS)}."
_NODE_ID = re.compile(r"[A-Za-z0-9_.-]+")
_DATA_ID = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*")
ID_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class TimerSource:
    """A tick each `period_ns`."""

    period_ns: int

    @property
    def written(self) -> str:
        """As our own files write it, in the largest unit that fits."""
        unit = next(unit for unit, ns in UNITS_NS.items() if self.period_ns % ns == 0)
        return f"timer/{unit}/{self.period_ns // UNITS_NS[unit]}"


@dataclass(frozen=True, slots=True)
class LogSource:
    """The log records of all nodes, or of `node`, from `level` on ("": all, printed lines included)."""

    level: str = ""
    node: str = ""

    @property
    def written(self) -> str:
        return "/".join(filter(None, ("dora/logs", self.level, self.node)))


@dataclass(frozen=True, slots=True)
class OutputSource:
    """An output of a node; `output` may be OPERATOR/OUTPUT."""

    node: str
    output: str

    @property
    def written(self) -> str:
        return f"{self.node}/{self.output}"


Source: TypeAlias = TimerSource | LogSource | OutputSource


def node_id_problem(name: str) -> str:
    """Why `name` cannot be the id of a node; "" when it can."""
    if not _NODE_ID.fullmatch(name):
        return f"the id {name[:80]!r} may hold only letters, digits, '_', '.' and '-'"
    if name.startswith("."):
        return f"the id {name[:80]!r} must not start with '.'"
    return _too_long(name)


def data_id_problem(name: str) -> str:
    """Why `name` cannot be the id of an input or output; "" when it can."""
    if not _DATA_ID.fullmatch(name):
        return f"the id {name[:80]!r} may hold only letters, digits, '_', '.', '-', and '/' between them"
    return _too_long(name)


def _too_long(name: str) -> str:
    return (
        f"the id {name[:40]!r}... has more than {ID_CHARACTERS_MAX} characters" if len(name) > ID_CHARACTERS_MAX else ""
    )


def source_of(written: str, place: Place, where: str) -> Source:
    """What an input is fed by. `where` names the input. Raises DataflowError."""
    node, slash, output = written.partition("/")
    if node == "dora" and slash:
        kind, *rest = output.split("/")
        if kind == "timer":
            return _timer(rest, written, place, where)
        if kind == "logs":
            return _logs(rest, written, place, where)
        what = f"the source of {where}, {written[:80]!r}, is neither a timer nor logs"
        raise fail(place, what, f"{_TIMERS} {_LOGS}")
    if not slash or node_id_problem(node) or data_id_problem(output):
        what = f"the source of {where}, {written[:80]!r}, is not of the form node/output"
        raise fail(place, what, f"Write the id of a node, a slash, and one of its outputs. {_TIMERS}")
    return OutputSource(node, output)


def _timer(parts: list[str], written: str, place: Place, where: str) -> TimerSource:
    label = f"the timer of {where}, {written[:60]!r},"
    if len(parts) != 2:
        raise fail(place, f"{label} has not the form dora/timer/UNIT/N", _TIMERS)
    unit, count = parts
    if unit != "hz" and unit not in UNITS_NS:
        near = read.near(unit, (*UNITS_NS, "hz"))
        hint = f"Did you mean `dora/timer/{near}/{count[:20]}`? {_TIMERS}" if near else _TIMERS
        raise fail(place, f"{label} has the unknown unit {unit[:40]!r}", hint)
    if unit == "hz":
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", count) or not float(count):
            raise fail(place, f"{label} needs a number above 0, not {count[:40]!r}", _TIMERS)
        period_ns = round(1e9 / float(count))
    else:
        if not re.fullmatch(r"[0-9]{1,15}", count) or not int(count):
            hint = f"Only dora/timer/hz/N takes a fraction. {_TIMERS}"
            raise fail(place, f"{label} needs a whole number above 0, not {count[:40]!r}", hint)
        period_ns = int(count) * UNITS_NS[unit]
    if not TIMER_NS_MIN <= period_ns <= read.DURATION_S_MAX * 1_000_000_000:
        raise fail(place, f"{label} must tick between 10,000 times a second and once in a hundred years", _TIMERS)
    return TimerSource(period_ns)


def _logs(parts: list[str], written: str, place: Place, where: str) -> LogSource:
    label = f"the source of {where}, {written[:60]!r},"
    if len(parts) > 2:
        raise fail(place, f"{label} has too many parts", _LOGS)
    level, node = [*parts, "", ""][:2]
    if parts and level not in LEVELS:
        near = read.near(level, LEVELS)
        hint = f"Did you mean `dora/logs/{near}`? {_LOGS}" if near else _LOGS
        raise fail(place, f"{label} has the unknown level {level[:40]!r}", hint)
    if len(parts) == 2 and node_id_problem(node):
        raise fail(place, f"{label} names no node", _LOGS)
    return LogSource(level, node)
