"""One question to the runtime of a live run, from a process that is none of its nodes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Final

from noderuntime.errors import NotRunning
from noderuntime.ipc import runs
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import VERSION, Answer, Ask, Edge
from noderuntime.ipc.runs import Run

LOOK_S: Final = 0.5


def ask(run: Run, what: str, arguments: Mapping[str, object], within_s: float) -> Answer | None:
    """The answer of the runtime of `run`; None when there was none within that time. NotRunning when it is gone, also
    when it goes before it has answered: its socket stays when it was killed.
    """
    try:
        dealer = Dealer(run.run_dir.runtime_socket, Edge.RUNTIME_TO_COMMAND)
    except OSError:
        raise _not_running(run) from None
    with dealer:
        dealer.send(Ask(VERSION, what, arguments))
        until_s = time.monotonic() + within_s
        while (left_s := until_s - time.monotonic()) > 0:
            answer = dealer.receive(min(left_s, LOOK_S))
            if isinstance(answer, Answer):
                return answer
            if answer is None and not runs.is_running(run, os.environ):
                dealer.close(0)
                raise _not_running(run)
        dealer.close(0)
    return None


def _not_running(run: Run) -> NotRunning:
    return NotRunning(f"the run {run.name!r} is not running")
