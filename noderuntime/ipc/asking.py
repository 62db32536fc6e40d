"""One question to the runtime of a live run, from a process that is none of its nodes."""

from __future__ import annotations

import time
from collections.abc import Mapping

from noderuntime.errors import NotRunning
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import VERSION, Answer, Ask, Edge
from noderuntime.ipc.runs import Run


def ask(run: Run, what: str, arguments: Mapping[str, object], within_s: float) -> Answer | None:
    """The answer of the runtime of `run`; None when there was none within that time. NotRunning when it is gone."""
    try:
        dealer = Dealer(run.run_dir.runtime_socket, Edge.RUNTIME_TO_COMMAND)
    except OSError:
        raise NotRunning(f"the run {run.name!r} is not running") from None
    with dealer:
        dealer.send(Ask(VERSION, what, arguments))
        until_s = time.monotonic() + within_s
        while (left_s := until_s - time.monotonic()) > 0:
            answer = dealer.receive(left_s)
            if isinstance(answer, Answer):
                return answer
        dealer.close(0)
    return None
