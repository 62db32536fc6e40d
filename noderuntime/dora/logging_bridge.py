"""Python's `logging` in a node: records become log records of their level.

dora hooks `logging.basicConfig`, so that what a program configures itself stays. Ours does the same, and begins at
once: a record of a named logger before the first call of the root logger is not lost to stderr.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

from noderuntime.dora import log_lines

_LEVELS = ((logging.ERROR, "error"), (logging.WARNING, "warn"), (logging.INFO, "info"), (logging.DEBUG, "debug"))
_OWN = frozenset({"handlers", "stream", "filename"})


class RecordPrinter(logging.Handler):
    """Prints each record as a line of JSON."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = {"file": record.pathname, "line": str(record.lineno)}
            made = dt.datetime.fromtimestamp(record.created, dt.UTC)
            log_lines.write(log_lines.line(level_name(record.levelno), self.format(record), record.name, fields, made))
        except Exception:
            self.handleError(record)


def level_name(level: int) -> str:
    """dora's name of a level of Python."""
    return next((name for at_least, name in _LEVELS if level >= at_least), "trace")


def install() -> None:
    """Let the root logger print records, unless the program has given it a handler. A second call does nothing."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = RecordPrinter()
    root.addHandler(handler)
    if root.level == logging.WARNING:  # the level that Python starts with
        root.setLevel(logging.INFO)
    configure = logging.basicConfig

    def basic_config(**given: Any) -> None:
        if root.handlers == [handler]:  # as if there were none yet
            root.removeHandler(handler)
            if not _OWN & given.keys():
                given["handlers"] = [handler]
                given.setdefault("format", "%(message)s")
        configure(**given)

    logging.basicConfig = basic_config
