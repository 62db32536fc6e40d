"""The group of an operator: handled events that are not committed yet, and become one transaction.

Two threads commit it, one at a time: the loop of the operator when a group is complete, and the commit helper while a
slow handler keeps the loop busy, so that finished events do not wait for the handler. A group that finds no room (in a
receiver's queue, or in the space) waits. If this life must end in the meantime, the group is given up, and the next
life handles it again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from noderuntime.errors import Fenced
from noderuntime.ipc import forks, pulse
from noderuntime.ipc.protocol import EXIT_FENCED
from noderuntime.node.commit_helper import CommitHelper
from noderuntime.node.session import ROOM_CHECK_S, NodeSession
from noderuntime.space.routing import Rescaled
from noderuntime.space.staging import Staged
from noderuntime.space.writer import Inapplicable

GROUP_NS: Final = 1_000_000
WAIT_WARNING_S: Final = 10.0


class Group:
    """The events staged since the last commit. `events` stays the same list object.

    `wait(seconds)` is how the loop sleeps: it also handles messages from the runtime. `is_leaving()` tells whether this
    life must end, so that the loop does not wait for room.
    """

    def __init__(
        self, session: NodeSession, log: logging.Logger, wait: Callable[[float], None], is_leaving: Callable[[], bool]
    ) -> None:
        self.events: list[Staged] = []
        self.since_ns = 0  # when the handling of the first event began
        self._session = session
        self._words = session.page.words
        self._log = log
        self._wait = wait
        self._is_leaving = is_leaving
        self._helper: CommitHelper | None = None  # started with the first group of more than one event
        self._helped = False  # the helper's timer runs for this group
        self._committing = threading.Lock()
        self._gave_up = False  # events were left uncommitted: no later event may be committed
        self._waiting_since = 0.0

    def forked(self) -> None:
        """For noderuntime.ipc.forks: the helper and the lock belong to the parent."""
        self._helper, self._helped = None, False
        self._words = self._committing = forks.GONE

    def begin_helped(self) -> None:
        """From now on, finished events wait for at most GROUP_NS, however long a handler takes."""
        if self._helper is None:
            self._helper = CommitHelper(self._commit_what_waits, GROUP_NS)
        self._helped = True
        self._helper.begun()

    def commit(self) -> bool:
        """Commit all events, waiting for room as long as it takes. Returns False if they were given up instead.

        Raises Fenced; Rescaled, when the events must be given up (`start_over`); and Inapplicable, which names the
        event that cannot be committed; the events before it are.
        """
        if self._helped and self._helper is not None:
            self._helped = False
            self._helper.committing()
        while self.events:
            self._commit_once()
            if self.events and self._session.commits.waits_for:
                self.wait_for_room()
                if self._is_leaving():
                    # The next life handles the uncommitted events again. But this life's operator has their effects in
                    # memory, so it must not commit anything more, not even what it does at the STOP event.
                    self._gave_up = True
                    self._session.let_go(self.events)
                    self.events.clear()
                    return False
        self._waiting_since = 0.0
        return True

    def look(self) -> None:
        """The runtime says that the wiring has changed: take it up before the next commit would."""
        with self._committing:
            self._session.commits.look()

    def start_over(self) -> None:
        """Give up the events, which must not be committed: this replica no longer owns all of its slots."""
        with self._committing:
            self._session.let_go(self.events)
            self.events.clear()
            self._session.start_over()

    def _commit_once(self) -> None:
        with self._committing:
            if self.events:  # otherwise the other thread has committed them
                done = self._session.commit(self.events)
                self._words[pulse.HANDLED] += done
                del self.events[:done]

    def _commit_what_waits(self) -> bool:
        """Called by the helper thread when a handler takes long. Returns whether some events still wait."""
        if self.events and not self._gave_up and time.monotonic_ns() - self.since_ns > GROUP_NS:
            try:
                self._commit_once()
            except Fenced:
                os._exit(EXIT_FENCED)
            except (Inapplicable, Rescaled):
                return False  # the loop will get the same error, and can deal with it
            self.since_ns = time.monotonic_ns()
        return bool(self.events)

    def wait_for_room(self) -> None:
        """Sleep for a moment, and log a warning now and then if the space is full."""
        now = time.monotonic()
        waits_for = self._session.commits.waits_for
        if not self._waiting_since:
            self._waiting_since = now
        elif now - self._waiting_since > WAIT_WARNING_S:
            self._waiting_since = now
            if "space" in waits_for:
                self._log.warning(
                    "waiting for %s. Raise `state: {size: ...}`, lower queue limits, or delete what is not needed",
                    waits_for,
                )
        self._session.set_phase(pulse.WAITING_FOR_ROOM)
        self._wait(ROOM_CHECK_S)

    def close(self) -> None:
        """Stop the helper, so that no commit is under way afterwards."""
        if self._helper is not None:
            self._helper.stop()
