"""One operator of a shared process: its session, its context, and what its process has to know of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from noderuntime.api.operator import POSITION_KEY
from noderuntime.ipc import pulse
from noderuntime.node.chain import Chain, InnerInput
from noderuntime.node.chain_context import ChainContext
from noderuntime.node.making import make_operator
from noderuntime.node.route import Route
from noderuntime.node.session import NodeSession
from noderuntime.node.timers import Timers
from noderuntime.space import keys
from noderuntime.space.staging import Input

PRODUCED, STOPPED, UPDATED = range(3)
TICKED, FELL_SILENT = range(2)  # of an input


class Member:
    """The operator at `place` in its process. `first` is the one at place 0; None for that one itself.

    `entered` and `calls` count what it has handled in this life. `unfused` are keys of events that are no messages, and
    have failed: they are committed alone.
    """

    def __init__(self, place: int, session: NodeSession, chain: Chain[Member], first: Member | None) -> None:
        self.place = place
        self.session = session
        self.name = session.wiring.node
        log = logging.getLogger(self.name)
        shared: ChainContext | None = None if first is None else first.ctx
        self.ctx: ChainContext = ChainContext(session, session.wiring.config, log, chain, place, shared)
        self.timers = Timers(session)
        self.take_in_hand = session.page.hand(0)
        self.words = session.page.words
        self.calls = 0
        self.ended = False
        # It only brings new messages into the space: such an operator waits first when that fills up.
        self.is_fresh = not session.mailboxes
        self.idle_until = 0.0  # of a Source
        self.position_key = keys.private_prefix(session.wiring.number) + keys.user_key(POSITION_KEY)
        self.unfused = {key for key in session.attempts if self._is_own(key) and not keys.parse_message(key)[2]}
        self.routes: dict[str, Route] = {}
        self.on_event: Callable[..., Any]
        self.operator: Any = None
        self.produces = False
        self.position: Any = None

    def _is_own(self, key: bytes) -> bool:
        return keys.parse_message(key)[0] == self.session.wiring.number

    def prepare(self, state: dict[str, bytes]) -> None:
        """Load, make and restore the operator. Raises OperatorError."""
        made = make_operator(self.session, self.ctx, state)
        self.operator, self.on_event, self.produces, self.position = made

    def connect(self, links: dict[bytes, InnerInput[Member]]) -> None:
        """Find out which of its messages stay in the process. `links`: the inputs in the process, by mailbox."""
        self.routes = {}
        for name, output in self.session.outputs.items():
            receivers = [receiver.mailbox for receiver in output.receivers]
            inner = [links[mailbox] for mailbox in receivers if mailbox in links]
            self.routes[name] = Route(output, inner)
            for link in inner:
                link.alone = output.without([mailbox for mailbox in receivers if mailbox != link.input.mailbox])
        self.ctx.connect(self.routes)

    def follow(self) -> None:
        """The wiring was changed: its inputs are those of now."""
        self.session.follow()
        self.timers.follow()
        self.is_fresh = not self.session.mailboxes

    def event_key(self, input: Input | None, what: int) -> bytes:
        """The key under which the failure of an event is counted that is no message."""
        number = keys.NO_INPUT if input is None else input.number
        return keys.message(self.session.wiring.number, number, 0, what)

    def tell_calls(self) -> None:
        """Show in its pulse how many events it has handled."""
        self.words[pulse.HANDLED] = self.calls
