"""Log records of an operator, on their way to the run's log over the control channel."""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from noderuntime.ipc import forks
from noderuntime.ipc.boundary import cut, describe, plain
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import Log, LogOf

LOG_CHARACTERS_MAX = 100_000
FIELD_CHARACTERS_MAX = 10_000
FIELDS_MAX = 100

_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class LogHandler(logging.Handler):
    """Sends records to the runtime. A ZeroMQ socket belongs to one thread: other threads queue their records for it."""

    def __init__(self, dealer: Dealer) -> None:
        super().__init__()
        self._dealer = dealer
        self._thread = threading.get_ident()
        self._waiting: deque[Log | LogOf] = deque(maxlen=10_000)
        self._is_fork = False
        self.whose: Callable[[str], str] | None = None  # which operator of a shared process, by the name of the logger
        self.has_sent = False  # since the last look for messages from the runtime: see channel.py on edges

        forks.watch(self)

    def forked(self) -> None:
        """See noderuntime.ipc.forks. In the child, records go to stderr, which also ends up in the run's log."""
        self._is_fork = True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = _text(record)
            if record.exc_info:
                text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
            text = cut(text, LOG_CHARACTERS_MAX)
            if self._is_fork:
                print(text, file=sys.stderr, flush=True)
                return
            found = [item for item in vars(record).items() if item[0] not in _ATTRIBUTES]
            extra = plain({name: _scalar(value) for name, value in found[:FIELDS_MAX]}, FIELD_CHARACTERS_MAX)
            fields = {"logger": cut(str(record.name), FIELD_CHARACTERS_MAX), **extra}
            created, level = float(record.created), int(record.levelno)
            if self.whose is None:
                self._waiting.append(Log(created, level, text, fields))
            else:
                self._waiting.append(LogOf(self.whose(record.name), created, level, text, fields))
            if threading.get_ident() == self._thread:
                self.pass_on()
        except Exception:
            self.handleError(record)

    def pass_on(self) -> None:
        """Send the queued records. Only for the thread of the socket."""
        while self._waiting:
            self.has_sent = True
            log = self._waiting.popleft()
            try:
                self._dealer.send(log)
            except Exception as error:  # a log record must never end an operator
                text = f"a log record could not be sent: {describe(error)}"
                self._dealer.send(replace(log, level=logging.WARNING, text=text, fields={}))


def _text(record: logging.LogRecord) -> str:
    """Its message with the arguments put in; where that fails, which call it was and why."""
    try:
        return record.getMessage()
    except Exception as error:
        call = f"{_repr(record.msg)} with {_repr(record.args)}" if record.args else _repr(record.msg)
        return f"{record.pathname}:{record.lineno}: no text can be made of {call}: {describe(error)}"


def _scalar(value: Any) -> Any:
    """A value of `extra=`; anything but a scalar as text."""
    return value if value is None or isinstance(value, bool | int | float | str) else _repr(value)


def _repr(value: object) -> str:
    """For a log record: its __repr__ may raise."""
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
