"""Runs the handlers of operators that share a process: that of the event that enters, then those of what it makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from noderuntime.api.events import Event, message_of, notice
from noderuntime.api.operator import Status, status_of
from noderuntime.errors import Fenced
from noderuntime.ipc import forks
from noderuntime.ipc.fault_points import point
from noderuntime.ipc.pulse import CALLS, MEMBER
from noderuntime.node.chain import Chain, InnerInput
from noderuntime.node.chain_member import Member
from noderuntime.space.records import encode_message
from noderuntime.space.staging import Input, Staged

_MEMBER: Final[int] = MEMBER  # of this module: compiled, they are read without a lookup by name
_CALLS: Final[int] = CALLS


class MemberFailed(Exception):
    """A handler of `member` has raised the `cause`. `where`: on_event or produce."""

    def __init__(self, member: Member, where: str, cause: BaseException) -> None:
        self.member = member
        self.where = where
        self.cause = cause
        super().__init__(f"{where} of {member.name}")


class Calls:
    """The calls of one life. `just_ended` are operators that end with an event that is not committed yet; `stop_all`:
    one of them asked for the end of the run. `words`: of the pulse, which shows whose handler runs.
    """

    def __init__(
        self,
        members: Sequence[Member],
        links: dict[bytes, InnerInput[Member]],
        chain: Chain[Member],
        words: memoryview,
        event_bytes_max: int,
    ) -> None:
        self.just_ended: list[Member] = []
        self.stop_all = False
        self._members = members
        self._links = links
        self._chain = chain
        self._words = words
        self._bytes_max = event_bytes_max
        self._count = 0

    def forked(self) -> None:
        """See noderuntime.ipc.forks. What was sent inside is handled by the parent; no handler begins in the child."""
        self._chain.queue.clear()
        self._words = forks.GONE

    def begin(self, member: Member) -> None:
        """The handler of this operator is about to run."""
        self._words[_MEMBER] = member.place
        self._count += 1
        self._words[_CALLS] = self._count

    def call(self, member: Member, event: Event, staged: Staged) -> None:
        """Run the handler of one operator. Raises MemberFailed."""
        self.begin(member)
        member.calls += 1
        ctx = member.ctx
        ctx.staged = staged
        try:
            returned = member.on_event(event, ctx)
            if returned is not None and returned is not Status.CONTINUE:
                self.ends(member, staged, status_of(returned))
        except Fenced:
            raise
        except BaseException as error:
            raise MemberFailed(member, "on_event", error) from None
        ctx.staged = None

    def work_off(self, staged: Staged) -> None:
        """Handle the messages that an event made inside, in their order. Raises MemberFailed.

        What `call` does is here once more, without a call of ours: each hop inside a process pays for it.
        """
        queue = self._chain.queue
        take, words, count, bytes_max, hook = queue.popleft, self._words, self._count, self._bytes_max, point
        inside: list[Input] = []
        staged.inside = inside
        if hook is not None:
            hook("handle inside")
        while queue:
            to, event = take()
            member = to.receiver
            if member.ended:
                self._discard(staged, to, event)
                continue
            if to.is_timed:
                self._arrived(member, to.input, staged)
            inside.append(to.input)
            if hook is not None:
                hook("pass on")
            words[_MEMBER] = member.place
            count += 1
            words[_CALLS] = count
            member.calls += 1
            ctx = member.ctx
            if staged.size:  # the limit of an event is for what one handler sends, not for what came before it
                member.session.event_bytes_max = bytes_max + staged.size
            ctx.staged = staged
            try:
                returned = member.on_event(event, ctx)
                if returned is not None and returned is not Status.CONTINUE:
                    self.ends(member, staged, status_of(returned))
            except Fenced:
                raise
            except BaseException as error:
                raise MemberFailed(member, "on_event", error) from None
            ctx.staged = None
            if staged.size:
                member.session.event_bytes_max = bytes_max
            if hook is not None:
                hook("passed on")
        self._count = count
        if hook is not None:
            hook("handled inside")

    def _discard(self, staged: Staged, to: InnerInput[Member], event: Event) -> None:
        """A message for an operator that has ended meanwhile: its mailbox, which the commit closes, counts it."""
        value, metadata, number, sent_ns = message_of(event)
        record, _ = encode_message(value, metadata, number, sent_ns)
        staged.outputs = [*(staged.outputs or ()), (to.alone, record, number, None)]

    def _arrived(self, member: Member, input: Input, staged: Staged) -> None:
        """A message for an input with a timeout: INPUT_RECOVERED before it, when it had timed out."""
        if member.timers.recovery(input) is not None:
            self.call(member, notice("INPUT_RECOVERED", input.name), staged)
        rare = staged.also()
        rare.counters = {**(rare.counters or {}), **member.timers.arrival(input)}

    def ends(self, member: Member, staged: Staged, status: Status) -> None:
        """An operator ends with the event in hand; the others continue."""
        if status is Status.CONTINUE or member.ended:
            return
        rare = staged.also()
        rare.ending = (*(rare.ending if rare.ends else ()), member.place)
        rare.ends = True
        if status is Status.STOP_ALL:
            rare.stops_all = self.stop_all = True
        member.ended = True
        self.just_ended.append(member)
        for link in self._links.values():
            if link.receiver is member:
                link.drops = True
                if link.waits:
                    self._chain.emptied(link)
        for other in self._members:
            for route in other.routes.values():
                route.look()

    def forget(self) -> None:
        """The event in hand has failed, or is given up."""
        for member in self._members:
            member.ctx.staged = None
        self.just_ended.clear()
        self.stop_all = False
