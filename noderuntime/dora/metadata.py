"""Metadata as dora's Python API takes it, and as our messages carry it. Pure.

`outgoing` accepts, converts and refuses what dora 1.1.0 does: int of 64 bits, float, bool, str, datetime and flat lists
of one kind go through; anything else becomes the text `str()` makes of it, with a warning. The first element of a
list decides its kind, and only by its exact type.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from operator import index
from typing import Any

INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1

TIMESTAMP = "timestamp"
REQUEST_ID = "request_id"
FLUSH = "flush"

Warn = Callable[[str], None]


def outgoing(metadata: Any, warn: Warn) -> dict[str, Any]:
    """The metadata to send. `warn` is told of each value that becomes text.

    Raises TypeError, OverflowError, RuntimeError, UnicodeEncodeError and ValueError, with dora's first lines.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise TypeError(f"'{type(metadata).__name__}' object is not an instance of 'dict'")
    return {_key(key): _value(key, value, warn) for key, value in metadata.items()}


def incoming(metadata: Mapping[str, Any], sent: dt.datetime) -> dict[str, Any]:
    """The metadata of an event: as it was sent, and the time of sending unless the sender gave a `timestamp` itself."""
    return {TIMESTAMP: sent, **metadata}


def _key(key: Any) -> str:
    if not isinstance(key, str):
        cause = f"TypeError: '{type(key).__name__}' object is not an instance of 'str'"
        raise RuntimeError(f"Parsing metadata keys\n\nCaused by:\n    {cause}")
    exact = str.__str__(key)
    try:
        exact.encode()
    except UnicodeEncodeError as error:
        raise RuntimeError(f"Parsing metadata keys\n\nCaused by:\n    UnicodeEncodeError: {error}") from None
    return exact


def _value(key: str, value: Any, warn: Warn) -> Any:
    kind = type(value)
    if kind is bool or kind is float:
        return value
    if isinstance(value, int):
        return _int(int.__int__(value))
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list | tuple):
        if not value:
            return []
        items = _items(value)
        if items is not None:
            return items
    if isinstance(value, dt.datetime):
        return _moment(value)
    text = str(value)
    warn(f"unsupported metadata value type for key `{key}`; coercing to its string representation: {text}")
    return _text(text)


def _items(values: list[Any] | tuple[Any, ...]) -> list[Any] | None:
    """A list of int, float or str; None when its first element is none of these."""
    kind = type(values[0])
    if kind is int:
        return [_int(index(item)) for item in values]
    if kind is float:
        return [_float(item) for item in values]
    if kind is str:
        return [_exact_text(item) for item in values]
    return None


def _int(value: int) -> int:
    if not INT_MIN <= value <= INT_MAX:
        raise OverflowError("Python int too large to convert to C long")
    return value


def _float(value: Any) -> float:
    if isinstance(value, str | bytes | bytearray):  # float() would parse them
        raise TypeError(f"must be real number, not {type(value).__name__}")
    try:
        return float(value)
    except TypeError:
        raise TypeError(f"must be real number, not {type(value).__name__}") from None


def _exact_text(value: Any) -> str:
    if not isinstance(value, str):
        name = "None" if value is None else type(value).__name__
        raise TypeError(f"'{name}' {'' if value is None else 'object '}is not an instance of 'str'")
    return _text(value)


def _text(value: str) -> str:
    exact = str.__str__(value)
    exact.encode()  # raises UnicodeEncodeError for what is no text
    return exact


def _moment(value: dt.datetime) -> dt.datetime:
    """In UTC; one without a zone is in the local time of this process."""
    try:
        return value.astimezone(dt.UTC)
    except OverflowError as error:
        raise ValueError(f"{value!r} has no UTC form: {error}") from None
