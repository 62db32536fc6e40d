"""Log records of a node: printed as one JSON object a line, which the runtime takes for a record of that level."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from collections.abc import Mapping

LEVELS = ("error", "warn", "info", "debug", "trace")


def line(
    level: str,
    message: str,
    target: str | None = None,
    fields: Mapping[str, str] | None = None,
    now: dt.datetime | None = None,
) -> str:
    """A record as a line of JSON, without its end. An unknown level becomes info."""
    stamp = (now or dt.datetime.now(dt.UTC)).astimezone(dt.UTC).isoformat(timespec="microseconds")
    known = level.lower()
    record = {
        "timestamp": stamp.replace("+00:00", "Z"),
        "level": (known if known in LEVELS else "info").upper(),
        "message": message,
        "target": target,
        "fields": dict(fields) if fields else None,
    }
    return json.dumps(record)


def write(text: str) -> None:
    """Print a line at once, in order with what is printed. One write: lines of several threads do not mix."""
    out = sys.__stdout__
    if out is not None and not out.closed:
        out.flush()
    os.write(1, f"{text}\n".encode())


class LogCalls:
    """One call for each level, on top of `log`."""

    def log(self, level: str, message: str, target: str | None = None, fields: Mapping[str, str] | None = None) -> None:
        """A log record of `level`."""
        raise NotImplementedError

    def log_error(self, message: str) -> None:
        """A log record of level error."""
        self.log("error", message)

    def log_warn(self, message: str) -> None:
        """A log record of level warn."""
        self.log("warn", message)

    def log_info(self, message: str) -> None:
        """A log record of level info."""
        self.log("info", message)

    def log_debug(self, message: str) -> None:
        """A log record of level debug."""
        self.log("debug", message)

    def log_trace(self, message: str) -> None:
        """A log record of level trace."""
        self.log("trace", message)
