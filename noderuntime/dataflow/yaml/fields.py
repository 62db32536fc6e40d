"""Reads one field as a typed value, or raises a DataflowError that names the field, its value and what is allowed.

Each reader takes the field's tree and a label such as "`max_restarts` of node 'sums'".
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from heapq import nlargest
from itertools import islice, takewhile
from typing import Any, TypeVar

from noderuntime.dataflow.identifiers import nearest
from noderuntime.dataflow.model import Place
from noderuntime.dataflow.yaml.nodes import Fields, Items, Scalar, Tree, describe, fail, is_null, plain_value, scalar
from noderuntime.errors import DataflowError

DURATION_S_MAX = 100 * 365 * 86_400
SIZE_BYTES_MAX = 1 << 60
WHOLE_MAX = 1 << 53
_UNIT_TEXT_MAX = 60
_KNOWN_MAX = 1000  # names compared with a wrong one, and their length: enough to help, and quick
_CANDIDATES_MAX = 50
_NAME_MAX = 60

_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|µs|ms|s|min|m|h|d)")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)I?B?", re.IGNORECASE)
_FACTOR = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATION_HINT = "Write seconds, or a number with a unit: 500ms, 10s, 5m, 2h."
_SIZE_HINT = "Write bytes, or a number with a unit: 64KB, 10MB, 1GB."

T = TypeVar("T", bound=str)


def near(name: str, known: Iterable[str]) -> str | None:
    """The known name nearest to this one, in bounded time: what begins or ends alike is compared thoroughly."""
    if len(name) > _NAME_MAX:
        return None

    def alike(other: str) -> int:
        ends = zip(reversed(name), reversed(other), strict=False)
        both = (zip(name, other, strict=False), ends)
        return sum(1 for pairs in both for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    short = (other for other in islice(known, _KNOWN_MAX) if len(other) <= _NAME_MAX)
    return nearest(name, nlargest(_CANDIDATES_MAX, short, key=alike))


def _wrong(tree: Tree, label: str, wanted: str, hint: str = "") -> DataflowError:
    return fail(tree.place, f"{label} must be {wanted}, not {describe(tree)}", hint)


def mapping(tree: Tree, label: str, hint: str = "") -> Fields:
    if not isinstance(tree, Fields):
        raise _wrong(tree, label, "a mapping", hint or "Write `name: value` lines below it, or {name: value}.")
    return tree


def items(tree: Tree, label: str, hint: str = "") -> list[Tree]:
    if not isinstance(tree, Items):
        raise _wrong(tree, label, "a list", hint or "Write `- item` lines below it, or [item, item].")
    return tree.items


def text(tree: Tree, label: str) -> str:
    """A text that is not empty and that an operating system can take."""
    if isinstance(tree, Scalar) and tree.expanded and tree.tag != "binary":
        value: Any = tree.text
    else:
        value = scalar(tree) if isinstance(tree, Scalar) else None
    if not isinstance(value, str):
        quoted = isinstance(tree, Scalar) and tree.tag == "" and value is not None
        hint = f'Put it in quotes: "{tree.text[:40]}".' if quoted and isinstance(tree, Scalar) else ""
        raise _wrong(tree, label, "a text", hint)
    return _plain_text(value, tree.place, label, empty=False)


def as_written(tree: Tree, label: str) -> str:
    """A text, number or boolean as it is written in the file: for environments and arguments."""
    if not isinstance(tree, Scalar) or tree.tag == "binary" or is_null(tree):
        hint = 'Write "" for an empty text.' if is_null(tree) else ""
        raise _wrong(tree, label, "a text, a number or a boolean", hint)
    return _plain_text(tree.text, tree.place, label, empty=True)


def _plain_text(value: str, place: Place, label: str, empty: bool) -> str:
    if "\0" in value:
        raise fail(place, f"{label} holds a NUL character", "No file name, argument or variable can hold one.")
    if not value and not empty:
        raise fail(place, f"{label} must not be empty")
    return value


def words(tree: Tree, label: str) -> tuple[str, ...]:
    """Arguments: a list, or one text that is split as a shell would."""
    if isinstance(tree, Items):
        return tuple(as_written(item, f"an item of {label}") for item in tree.items)
    written = as_written(tree, label)
    try:
        return tuple(shlex.split(written))
    except ValueError:
        hint = "Close it, or write a list: [a, b]."
        raise fail(tree.place, f"{label} has a quote that is never closed", hint) from None


def whole(tree: Tree, label: str, least: int) -> int:
    """A whole number of at least `least`."""
    value = scalar(tree, unquote=True) if isinstance(tree, Scalar) else None
    if isinstance(value, bool) or not isinstance(value, int):
        hint = "Write it without quotes." if isinstance(value, str) and value.isdigit() else ""
        raise _wrong(tree, label, "a whole number", hint)
    if not least <= value <= WHOLE_MAX:
        raise fail(tree.place, f"{label} is {value}; it must be {least} or more" + _at_most(value, WHOLE_MAX))
    return value


def duration_s(tree: Tree, label: str, zero: bool = False) -> float:
    """Seconds: a number, or a text with units such as `500ms` or `1m30s`."""
    value = _number_or_text(tree, label, "a duration", _DURATION_HINT)
    if isinstance(value, str):
        parts = _DURATION_PART.findall(value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            raise fail(tree.place, f"{label} is no duration: {value[:40]!r}", _DURATION_HINT)
        value = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not (value >= 0 if zero else value > 0) or value > DURATION_S_MAX:
        wanted = ("0 or more" if zero else "more than 0") + _at_most(value, DURATION_S_MAX, " seconds")
        raise fail(tree.place, f"{label} must be {wanted}, not {_written(tree)}", _DURATION_HINT)
    return float(value)


def size_bytes(tree: Tree, label: str) -> int:
    """Bytes: a whole number, or a text such as `64KB` (units of 1024, as docker compose counts)."""
    value = _number_or_text(tree, label, "a size", _SIZE_HINT)
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if not match:
            raise fail(tree.place, f"{label} is no size: {value[:40]!r}", _SIZE_HINT)
        value = float(match[1]) * _FACTOR[match[2].upper()]
    if not 1 <= value <= SIZE_BYTES_MAX:
        wanted = "1 byte or more" + _at_most(value, SIZE_BYTES_MAX)
        raise fail(tree.place, f"{label} must be {wanted}, not {_written(tree)}", _SIZE_HINT)
    return int(value)


def choice(tree: Tree, label: str, options: Sequence[T], meant: dict[str, T] | None = None) -> T:
    """One of some words. `meant` maps words that people bring from elsewhere."""
    if not isinstance(tree, Scalar):
        raise _wrong(tree, label, "one of " + ", ".join(options))
    for option in options:
        if tree.text == option:
            return option
    other = (meant or {}).get(tree.text.lower()) or near(tree.text, options)
    known = ", ".join(f"`{option}`" for option in options)
    hint = f"Did you mean `{other}`? Known are {known}." if other else f"Known are {known}."
    raise fail(tree.place, f"{label} cannot be {tree.text[:40]!r}", hint)


def plain_mapping(tree: Tree, label: str) -> dict[str, Any]:
    """Any mapping, as plain values."""
    value = plain_value(mapping(tree, label))
    assert isinstance(value, dict)
    return value


def _number_or_text(tree: Tree, label: str, wanted: str, hint: str) -> int | float | str:
    value = scalar(tree, unquote=True) if isinstance(tree, Scalar) else None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _wrong(tree, label, wanted, hint)
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(tree, label, wanted, hint)
    if isinstance(value, str) and len(value) > _UNIT_TEXT_MAX:
        raise _wrong(tree, label, wanted, hint)
    return value


def _at_most(value: float, most: int, unit: str = "") -> str:
    return f" and at most {most}{unit}" if value > most else ""


def _written(tree: Tree) -> str:
    return tree.text[:40] if isinstance(tree, Scalar) else describe(tree)
