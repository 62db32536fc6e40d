"""The transaction of a process of several operators: from the event that enters to the commit of its group.

All that an event changes, at whichever operator, is one `Staged`; group.py commits it as it does that of one operator.
What fails is the event that entered. Its key is in hand (pulse.py) from its beginning to its end. If it is a message,
its attempts count, and it becomes the dead letter. If it is not, the claim counts it all the same, and the next life
handles it unfused (chain.py).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from noderuntime.api.events import Event
from noderuntime.errors import OperatorError, StoreFull
from noderuntime.ipc import forks, pulse
from noderuntime.ipc.boundary import describe
from noderuntime.ipc.fault_points import point
from noderuntime.node.chain import Chain
from noderuntime.node.chain_calls import Calls, MemberFailed
from noderuntime.node.chain_links import ChainLinks
from noderuntime.node.chain_member import Member
from noderuntime.node.group import Group
from noderuntime.node.host_line import HostLine
from noderuntime.node.session import NodeSession
from noderuntime.node.user_code import user_trace
from noderuntime.space.keys import MAILBOX_PREFIX_BYTES, attempts
from noderuntime.space.mailbox import queue_of
from noderuntime.space.records import QUEUED
from noderuntime.space.staging import Staged
from noderuntime.space.writer import Inapplicable

_CRAMPED_S: Final = 2.0  # for how long an event that brings new work may keep the process from taking messages


class GaveUp(Exception):
    """An event found no room, and this life ends: the next one handles it again, and it has not failed."""


class ChainGroup:
    """The events of a process that are not committed yet, and the one in hand.

    `over`: this life must not handle any more events; `gave_up`: because the group found no room. `tight`: an event
    that brings new work has found no room for a payload. `unfused`: events are handled unfused until the mailboxes
    inside are empty. `tell_ended(members)` is called when their end is committed.
    """

    def __init__(
        self,
        session: NodeSession,
        members: Sequence[Member],
        links: ChainLinks,
        chain: Chain[Member],
        line: HostLine,
        tell_ended: Callable[[list[Member]], None],
    ) -> None:
        self.calls = Calls(members, links.inner, chain, session.page.words, session.event_bytes_max)
        self.over = False
        self.gave_up = False
        self._session = session
        self._words = session.page.words
        self._members = members
        self._inputs = links.inputs
        self._links = links.inner
        self._chain = chain
        self._line = line
        self._tell_ended = tell_ended
        self._holder = members[0]  # whose message is in hand
        self._group = Group(session, members[0].ctx.log, line.wait, self._gives_up)
        self.events = self._group.events
        self.begin_helped = self._group.begin_helped
        self._fresh_since = 0.0  # set while an event in the group brings new work only
        is_again = session.incarnation > 1 and any(member.is_fresh for member in members)
        self.tight = is_again and not session.pool.has_room()  # an earlier life may have ended because of that
        self._is_fork = False
        self._version = session.commits.wiring.version
        for member in members:
            member.ctx.wait_for_room = self._wait_for_payload_room
        self._look_at_mailboxes()
        # What an earlier life has left in the mailboxes inside may be what it failed on, or comes from that.
        self.unfused = bool(chain.waiting) and session.incarnation > 1

    def forked(self) -> None:
        """See noderuntime.ipc.forks. A child that returns from the handler ends at the first use of what is closed."""
        self._is_fork = self.over = True
        self._group.forked()
        self.calls.forked()
        self._words = forks.GONE  # not the session: compiled, an attribute takes nothing of another class

    # --- an event ---------------------------------------------------------------------------------------------------

    def begin(self) -> int:
        """A group begins. Returns when (ns, monotonic)."""
        self._group.since_ns = since_ns = time.monotonic_ns()
        self._words[pulse.SINCE_NS] = since_ns
        self._words[pulse.PHASE] = pulse.HANDLING
        return since_ns

    def hold(self, member: Member, key: bytes) -> None:
        """The message or event under `key` is in hand: it is to blame if this process ends now."""
        if self._holder is not member:
            self._holder.session.page.release(0)
            self._holder = member
        member.take_in_hand(key)

    def let_go(self) -> None:
        self._holder.session.page.release(0)

    def open(self, member: Member, fused: bool = True, attempt: int = 1) -> None:
        """An event enters at `member`."""
        self._chain.enter(fused and not self.unfused, attempt)
        if member.is_fresh and not self._fresh_since:
            self._fresh_since = time.monotonic()

    def enter(self, member: Member, event: Event, staged: Staged, attempt: int = 1, fused: bool = True) -> None:
        """Handle an event, and what it makes inside. Its changes are staged in `staged`, which joins the group."""
        self.open(member, fused, attempt)
        if point is not None:
            point("handle")
        try:
            self.calls.call(member, event, staged)
            if self._chain.queue:
                self.calls.work_off(staged)
        except MemberFailed as failed:
            self.fail(failed)
        self.events.append(staged)
        if point is not None:
            point("handled")

    def add(self, member: Member, key: bytes, staged: Staged) -> None:
        """An item of a Source has been handled: its changes join the group."""
        if staged.rare is not None:
            staged.rare.member, staged.rare.event = member.place, key
        self.events.append(staged)

    def has_failed(self, member: Member, key: bytes, staged: Staged) -> bool:
        """Whether this event, which is no message, has failed before. Then it is handled unfused, and its commit
        forgets that.
        """
        if key not in member.unfused:
            return False
        member.unfused.discard(key)
        self.unfused = True
        staged.private = {**(staged.private or {}), attempts(key): None}
        return True

    def fail(self, failed: MemberFailed) -> NoReturn:
        """A handler raised: commit the events before the one that entered, and end this process. Raises OperatorError;
        GaveUp, when the handler raised because there was no room.
        """
        error = failed.cause
        if self._is_fork:
            print(user_trace(error), file=sys.stderr, flush=True)
            os._exit(1)
        self.calls.forget()
        if self.gave_up:
            raise GaveUp
        self.flush()
        raise OperatorError(failed.where, describe(error), user_trace(error), failed.member.name) from None

    # --- the commit -------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Commit the group, or give it up if this life must end and there is no room."""
        try:
            if not self._group.commit():
                self.over = self.gave_up = True
                self.calls.forget()
        except Inapplicable as inapplicable:
            self._fail_staged(inapplicable)
        self._fresh_since = 0.0
        for member in self._members:
            member.ctx.committed()
            member.tell_calls()
        if self.calls.just_ended:
            ended, self.calls.just_ended = self.calls.just_ended, []
            self._tell_ended(ended)
        if (self._chain.waiting or self.unfused) and not self.gave_up:
            self._look_at_mailboxes()

    def _fail_staged(self, inapplicable: Inapplicable) -> None:
        """Handlers have returned, but their changes cannot be committed: that event fails, those before it do not."""
        bad = self.events[inapplicable.at]
        rare = bad.also()
        del self.events[inapplicable.at :]
        if bad.ack is not None:
            member, _ = self._inputs[bad.ack[0][:MAILBOX_PREFIX_BYTES]]
            self.hold(member, bad.ack[0])
        elif rare.event:
            self.hold(self._members[rare.member], rare.event)
        writer = self._members[rare.writers[inapplicable.write]]
        self.fail(MemberFailed(writer, "on_event", inapplicable.error))

    def _look_at_mailboxes(self) -> None:
        """Which mailboxes inside have messages, now that everything that was handled is committed."""
        with self._session.space.read() as txn:
            for link in self._links.values():
                if not link.drops:
                    if queue_of(txn, link.input.queue_key)[QUEUED]:
                        self._chain.passed_on(link)
                    elif link.waits:
                        self._chain.emptied(link)
        if not self._chain.waiting:
            self.unfused = False

    @property
    def has_old_wiring(self) -> bool:
        """Whether the commits have taken up another wiring than that which events enter with."""
        return self._version != self._session.commits.wiring.version

    def look(self) -> bool:
        """Look whether the wiring has changed, before a commit does. See `has_old_wiring`."""
        self._group.look()
        return self.has_old_wiring

    def follow(self) -> None:
        """Events enter with the wiring of now, which the operators and their inputs have taken up."""
        self._version = self._session.commits.wiring.version
        self._look_at_mailboxes()

    def is_crowded(self) -> bool:
        """Whether events that only bring new work have to wait, because the space is that full."""
        session = self._session
        return session.commits.crowded() or (self.tight and not session.pool.has_room())

    def _gives_up(self) -> bool:
        """Whether the group need not wait for room any more.

        A Source's event that waits for room in the space keeps the operators beside it from making some.
        """
        cramped = "space" in self._session.commits.waits_for and self._fresh_since
        return self._line.is_leaving or bool(cramped and time.monotonic() - self._fresh_since > _CRAMPED_S)

    def _wait_for_payload_room(self, full: StoreFull) -> None:
        """A handler sends something large, and there is no room: commit the events before it, then wait."""
        self._group.commit()
        self._session.commits.waits_for = f"room in the space ({full.why})"
        self.tight |= bool(self._fresh_since)
        if self._gives_up():
            self.over = self.gave_up = True
            raise full
        self._group.wait_for_room()
        self._words[pulse.PHASE] = pulse.HANDLING

    def close(self) -> None:
        """Stop what commits in the background."""
        self._group.close()
