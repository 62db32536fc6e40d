"""Parses the notations of a dataflow file: `node/output`, `timer/millis/100`, `FILE:NAME`."""

from __future__ import annotations

import keyword
import re

from noderuntime.dataflow.identifiers import id_problem
from noderuntime.dataflow.model import Code, InputSpec, Place
from noderuntime.dataflow.yaml import fields as read
from noderuntime.dataflow.yaml.nodes import Fields, fail

TIMER_NS_MIN = 100_000
_TIMER_UNITS_NS = {"millis": 1_000_000, "secs": 1_000_000_000}
_TIMER_HINT = "Timers are timer/millis/100, timer/secs/1 and timer/hz/30."


def operator_code(fields: Fields, where: str) -> Code:
    python, module = fields.get("python"), fields.get("module")
    if python is not None and module is not None:
        hint = "Keep `python: FILE` or `module: NAME`."
        raise fail(fields.fields["module"][0].place, f"{where} has both `python` and `module`", hint)
    if module is not None:
        written = read.text(module, f"`module` of {where}")
        dotted, colon, name = written.partition(":")
        for part in (*dotted.split("."), *([name] if colon else [])):
            if not part.isidentifier() or keyword.iskeyword(part):
                what = f"`module` of {where}: {part[:60]!r} in {written[:80]!r} is no Python name"
                raise fail(module.place, what, "Write package.module or package.module:Name.")
        return Code(module=dotted, name=name or "Operator", place=module.place)
    if python is None:
        hint = "Write `python: FILE.py`, `python: FILE.py:Name` or `module: package.module:Name`."
        raise fail(fields.place, f"`operator` of {where} has neither `python` nor `module`", hint)
    written = read.text(python, f"`python` of {where}")
    # The last colon splits off a name, unless what follows cannot be one: then it belongs to the file name.
    path, colon, name = written.rpartition(":")
    if colon and path and name.isidentifier() and not keyword.iskeyword(name):
        return Code(path=path, name=name, place=python.place)
    if colon and (path.endswith(".py") or not name):
        what = f"`python` of {where}: {name[:60]!r} after the colon is no Python name"
        raise fail(python.place, what, "Write FILE.py or FILE.py:Name.")
    return Code(path=written, name="Operator", place=python.place)


def source_of(name: str, written: str, place: Place, where: str) -> InputSpec:
    plain = written.removeprefix("dora/")
    if plain.split("/")[0] == "timer":
        return InputSpec(name, plain, period_ns=_period_ns(plain, place, where), place=place)
    if plain != written:
        raise fail(place, f"the source of {where}, {written[:80]!r}, is no timer", _TIMER_HINT)
    node, slash, output = written.partition("/")
    if not slash or id_problem(node) or id_problem(output):
        what = f"the source of {where}, {written[:80]!r}, is not of the form node/output"
        raise fail(place, what, f"Write the id of a node, a slash, and one of its outputs. {_TIMER_HINT}")
    return InputSpec(name, written, node=node, output=output, place=place)


def _period_ns(plain: str, place: Place, where: str) -> int:
    parts = plain.split("/")
    label = f"the timer of {where}, {plain[:60]!r},"
    if len(parts) != 3:
        raise fail(place, f"{label} has {len(parts)} parts, not three", _TIMER_HINT)
    _, unit, count = parts
    if unit != "hz" and unit not in _TIMER_UNITS_NS:
        near = read.near(unit, ("millis", "secs", "hz"))
        hint = f"Did you mean `timer/{near}/{count[:20]}`? {_TIMER_HINT}" if near else _TIMER_HINT
        raise fail(place, f"{label} has the unknown unit {unit[:40]!r}", hint)
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", count) or not float(count):
        raise fail(place, f"{label} needs a number above 0, not {count[:40]!r}", _TIMER_HINT)
    period_ns = round(1e9 / float(count)) if unit == "hz" else round(float(count) * _TIMER_UNITS_NS[unit])
    if not TIMER_NS_MIN <= period_ns <= read.DURATION_S_MAX * 1_000_000_000:
        raise fail(place, f"{label} must tick between 10,000 times a second and once in a hundred years")
    return period_ns
