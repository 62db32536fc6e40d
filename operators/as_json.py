"""A value as JSON text: one form for all sinks.

    None, bool, int, float, text, list, dict    as in JSON; NaN and infinities, which JSON does not have: null
    bytes and all that is bytes-like            text of hexadecimal digits
    datetimes                                   ISO 8601, with their zone
    numpy arrays, pyarrow arrays and tables     lists; a table is a list of its rows
"""

from __future__ import annotations

import datetime as dt
import json
import math
from decimal import Decimal
from typing import Any


def text(value: Any) -> str:
    """`value` as JSON on one line, text of other scripts as it is. Raises TypeError for what has no form there."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """What JSON knows instead of `value`; what is inside of it is asked about again."""
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return str(value)
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # numpy
        return value.astype(str).tolist() if value.dtype.kind in "mM" else value.tolist()
    if hasattr(value, "to_pylist"):  # pyarrow
        return value.to_pylist()
    try:
        return memoryview(value).hex()
    except TypeError:
        raise TypeError(f"a value of type {type(value).__name__} has no form in JSON") from None


def _finite(value: Any) -> Any:
    """`value` with None for each number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if value is None or isinstance(value, str | int):
        return value
    return _finite(_plain(value))
