"""What `config:` of the ready-made operators may hold: each declares its fields once, as `CONFIG`.

An operator reads its config with `CONFIG.read(ctx.config)`; `noderuntime validate` calls the same on the config of
the dataflow file, without making the operator. So a declaration is pure: it looks at values, never at files.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

_UNITS_US = {"us": 1, "ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
_REQUIRED: Any = object()


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `check` turns what is written into a value, and raises ValueError with what is wrong with it."""

    check: Callable[[Any], Any]
    default: Any = _REQUIRED  # taken as it is; without one, None is handed to `check`, which says what is missing


class Schema:
    """All fields of one operator, and `together`: a check of what concerns several of them."""

    def __init__(
        self, fields: Mapping[str, Field], together: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.fields = dict(fields)
        self.together = together

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The value of every field. Raises ValueError that begins with `config: FIELD: `."""
        for name in config:
            if name not in self.fields:
                near = get_close_matches(str(name), self.fields, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.fields)}"
                raise ValueError(f"config: {name}: unknown field; {hint}")
        values = {}
        for name, field in self.fields.items():
            if name not in config and field.default is not _REQUIRED:
                values[name] = field.default
                continue
            try:
                values[name] = field.check(config.get(name))
            except ValueError as error:
                raise ValueError(f"config: {name}: {error}") from None
        if self.together is not None:
            self.together(values)
        return values


def text(what: str, default: Any = _REQUIRED) -> Field:
    """A text that is not empty; `what` it is, such as "the name of a file"."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not value or "\0" in value:
            raise ValueError(f"{value!r} is not {what}")
        return value

    return Field(check, default)


def match(pattern: str, what: str, default: Any = _REQUIRED) -> Field:
    """A text that fits a regular expression as a whole."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"{value!r} is not {what}")
        return value

    return Field(check, default)


def whole(least: int, default: Any = _REQUIRED) -> Field:
    """A whole number of at least `least`."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{value!r} is not a whole number above {least - 1}")
        return value

    return Field(check, default)


def number(default: Any = _REQUIRED) -> Field:
    """A number."""
    return Field(is_number, default)


def is_number(value: Any) -> int | float:
    """The number that `value` is. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    return value


def flag(default: bool) -> Field:
    """true or false."""

    def check(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is neither true nor false")
        return value

    return Field(check, default)


def choice(*words: str) -> Field:
    """One of several words; the first is the default."""

    def check(value: Any) -> str:
        if value not in words:
            raise ValueError(f"{value!r} is neither {' nor '.join(words)}")
        return str(value)

    return Field(check, words[0])


def encoding() -> Field:
    """An encoding that a file can be read line by line in; default utf-8."""

    def check(name: Any) -> str:
        try:
            # lines are found by their last byte, which rules out UTF-16 and the like
            if b"a\n".decode(name) == "a\n":
                return str(name)
        except (LookupError, TypeError, ValueError):
            pass
        raise ValueError(f"{name!r} cannot be read line by line; try utf-8 or latin-1")

    return Field(check, "utf-8")


def duration(default: Any = _REQUIRED) -> Field:
    """A time above 0 (500ms, 10s, or a number of seconds), as a timedelta."""

    def check(value: Any) -> dt.timedelta:
        return dt.timedelta(microseconds=microseconds(value))

    return Field(check, default)


def microseconds(value: Any) -> int:
    """How long a duration is. Raises ValueError."""
    written = f"{value:f}s" if isinstance(value, int | float) and not isinstance(value, bool) else value
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)", written) if isinstance(written, str) else None
    span = round(float(found[1]) * _UNITS_US[found[2]]) if found else 0
    if span < 1:
        raise ValueError(f"{value!r} is not a duration above 0, such as 500ms, 10s or 5m")
    return span
