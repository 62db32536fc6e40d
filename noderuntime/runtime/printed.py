"""A printed line that is a log record in dora's form. Pure.

A node of a dora dataflow logs by printing JSON objects, one a line: `level`, `message` and `timestamp` (RFC 3339), and
where it has them `target` and `fields`, whose values are texts. A line that is any other JSON is a line like others.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import Final

from noderuntime.runtime.observer import LogRecord

LEVELS: Final = {"trace": 5, "debug": 10, "info": 20, "warn": 30, "error": 40}
LINE_CHARACTERS_MAX: Final = 1 << 20


def record_in(node: str, line: str) -> LogRecord | None:
    """The record that a node has printed; None when the line is none."""
    text = line.strip()
    if not text.startswith("{") or not text.endswith("}") or len(text) > LINE_CHARACTERS_MAX:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    level, message, at = found.get("level"), found.get("message"), found.get("timestamp")
    target, fields = found.get("target"), found.get("fields")
    if not (isinstance(level, str) and isinstance(message, str) and isinstance(at, str)):
        return None
    if not isinstance(target, str | None) or not isinstance(fields, dict | None):
        return None
    number, time_s = LEVELS.get(level.lower()), _seconds(at)
    if number is None or time_s is None or not all(isinstance(value, str) for value in (fields or {}).values()):
        return None
    told = dict(fields or {})
    if target is not None:
        told = {"target": target, **told}
    return LogRecord(time_s, node, number, message, told)


def _seconds(timestamp: str) -> float | None:
    """Since the epoch; None for what is no time, or has no zone."""
    try:
        found = dt.datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    return None if found.tzinfo is None else found.timestamp()
