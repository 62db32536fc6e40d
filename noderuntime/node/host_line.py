"""The line between a process of operators and its runtime, and how the loop of that process sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from noderuntime.errors import Fenced
from noderuntime.ipc import doorbell, pulse
from noderuntime.ipc.boundary import ERROR_CHARACTERS_MAX, TRACE_CHARACTERS_MAX, cut
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import (
    EXIT_RELOAD,
    Quiet,
    QuietMember,
    Refused,
    Reload,
    ReloadFailed,
    Rewired,
    Stop,
    StopMember,
)
from noderuntime.node.reload_check import Reloads
from noderuntime.node.remote_log import LogHandler
from noderuntime.node.session import SLOW_CHECK_S, NodeSession

Code = dict[str, str]


class HostLine:
    """`stop` is set when the run ends, `exit_code` when this life must end between two events. `ending` are operators
    that have to end, with the id of their STOP event. `quieten(node)` is told to make no more ticks; "": all.
    `rewired()` is called when the inputs or outputs have changed.
    """

    def __init__(
        self,
        session: NodeSession,
        dealer: Dealer,
        log: LogHandler,
        codes: Sequence[Code],
        quieten: Callable[[str], None],
        rewired: Callable[[], None],
    ) -> None:
        self.stop: Stop | None = None
        self.exit_code: int | None = None
        self.ending: dict[str, str] = {}
        self._session = session
        self._words = session.page.words
        self._dealer = dealer
        self._log = log
        self._quieten = quieten
        self._rewired = rewired
        self._poller = session.poller(dealer.fd)
        self._reloads = Reloads(codes, self._poller)
        self._rung = False  # the bell has rung and is not drained yet
        self._published = time.monotonic()

    @property
    def is_leaving(self) -> bool:
        return self.stop is not None or self.exit_code is not None

    def wait(self, pause_s: float) -> None:
        """Sleep until the bell rings, the runtime sends something, or `pause_s` is over. With 0 it only looks.

        The bell that woke this process is drained at the next call, after the message was handled, so that draining
        does not delay the message. That call then looks once more instead of sleeping, so no ring is lost.
        """
        self._log.pass_on()
        if self._rung:
            self._rung = False
            doorbell.drain(self._session.bell)
            return
        if pause_s > 0:
            if self._log.has_sent:  # sending may have consumed the edge of a message from the runtime
                self._log.has_sent = False
                self.look()
                if self.stop is not None or self.ending:
                    return
            if self._words[pulse.PHASE] != pulse.WAITING_FOR_ROOM:
                self._words[pulse.PHASE] = pulse.WAITING
        rung = self._poller.poll(pause_s * 1000)
        for fd, _ in rung:
            if fd == self._session.bell:
                self._rung = True
            elif fd == self._dealer.fd:
                self.look()
            else:
                self._reload_checked()
        if not rung and pause_s > 0:
            self.look()
            now = time.monotonic()
            if now - self._published >= SLOW_CHECK_S:
                self._published = now
                self._session.publish()

    def look(self) -> None:
        """Take the messages from the runtime."""
        while (message := self._dealer.receive_nowait()) is not None:
            match message:
                case Stop():
                    self.stop = message
                case StopMember():
                    self.ending[message.node] = message.id
                case Reload():
                    self._reloads.ask()
                case Quiet():
                    self._quieten("")
                case QuietMember():
                    self._quieten(message.node)
                case Rewired():
                    self._rewired()
                case Refused():
                    raise Fenced(message.why)

    def _reload_checked(self) -> None:
        verdict = self._reloads.take_verdict()
        if verdict is None:
            return
        if verdict.imports:
            self.exit_code = EXIT_RELOAD
        else:
            error, trace = cut(verdict.error, ERROR_CHARACTERS_MAX), cut(verdict.trace, TRACE_CHARACTERS_MAX)
            self._dealer.send(ReloadFailed(error, trace))
            self.look()  # sending may consume the edge

    def close(self) -> None:
        self._reloads.close()
