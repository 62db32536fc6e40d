"""Log records of an operator, on their way to the run's log over the control channel. Floor 3."""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from typing import Any

from noderuntime import forks
from noderuntime.channel import Dealer
from noderuntime.protocol import Log

LOG_CHARACTERS_MAX = 100_000

_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class LogHandler(logging.Handler):
    """Sends records to the runtime. ZeroMQ sockets belong to one thread: others leave theirs to it."""

    def __init__(self, dealer: Dealer) -> None:
        super().__init__()
        self._dealer = dealer
        self._thread = threading.get_ident()
        self._waiting: deque[Log] = deque(maxlen=10_000)
        self._is_fork = False
        self.has_sent = False  # since the last look at what the runtime has sent: see channel.py on edges

        forks.watch(self)

    def forked(self) -> None:
        """See noderuntime.forks: in the child records go to stderr, which is in the run's log, too."""
        self._is_fork = True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if record.exc_info:
                text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
            text = text[:LOG_CHARACTERS_MAX].encode(errors="replace").decode()
            if self._is_fork:
                print(text, file=sys.stderr, flush=True)
                return
            extra = {name: _plain(value) for name, value in vars(record).items() if name not in _ATTRIBUTES}
            self._waiting.append(Log(record.created, record.levelno, text, {"logger": record.name, **extra}))
            if threading.get_ident() == self._thread:
                self.pass_on()
        except Exception:
            self.handleError(record)

    def pass_on(self) -> None:
        """Send what waits. From the thread of the socket only."""
        while self._waiting:
            self.has_sent = True
            self._dealer.send(self._waiting.popleft())


def _plain(value: Any) -> Any:
    """What `extra=` holds, as something that MessagePack can carry."""
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
