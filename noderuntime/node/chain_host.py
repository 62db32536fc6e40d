"""The process of several operators: what an event makes them send to each other is handled in its transaction.

    hello -> welcome, restore_state -> load, make, restore each -> ready -> *(ticks, messages, commit) -> bye

As operator_host.py, with more than one operator. chain.py says which messages between them are handled inside,
chain_calls.py runs the handlers, chain_group.py commits. The first operator's session has the space, the bell and the
pulse of the process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from noderuntime.api.events import Event, kvs_update, notice
from noderuntime.api.operator import POSITION_KEY, Source, Status, packed_position, position_of
from noderuntime.errors import Fenced, OperatorError
from noderuntime.ipc import forks, pulse
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.fault_points import point
from noderuntime.ipc.protocol import EXIT_FENCED, Bye, MemberEnded, StopAll
from noderuntime.node.chain import Chain, InnerInput
from noderuntime.node.chain_calls import MemberFailed
from noderuntime.node.chain_group import ChainGroup, GaveUp
from noderuntime.node.chain_links import ChainLinks
from noderuntime.node.chain_member import FELL_SILENT, PRODUCED, STOPPED, TICKED, UPDATED, Member
from noderuntime.node.group import GROUP_NS
from noderuntime.node.host_line import HostLine
from noderuntime.node.inbox import event_of, is_notice
from noderuntime.node.remote_log import LogHandler
from noderuntime.node.session import ROOM_CHECK_S, SLOW_CHECK_S, NodeSession
from noderuntime.node.timers import Counters
from noderuntime.node.user_code import refuse_namesakes
from noderuntime.space.ahead import Ahead
from noderuntime.space.environment import scan
from noderuntime.space.keys import MAILBOX_PREFIX_BYTES, private_prefix
from noderuntime.space.mailbox import Message, next_messages
from noderuntime.space.records import PRIVATE_BYTES
from noderuntime.space.segments import Dropped
from noderuntime.space.staging import GROUP_BYTES_MAX, GROUP_MAX, Staged

_SAME_IN_MESSAGEPACK = frozenset({int, str, bytes, bool, float})


class ChainHost:
    """One life of the operators of one process. `sessions` has one for each, in the order of the file."""

    def __init__(self, sessions: Sequence[NodeSession], dealer: Dealer, log: LogHandler) -> None:
        self._session = session = sessions[0]
        self._dealer = dealer
        self._words = session.page.words
        self._chain: Chain[Member] = Chain(session.event_bytes_max)
        self._members: list[Member] = []
        for place, own in enumerate(sessions):
            first = self._members[0] if self._members else None
            self._members.append(Member(place, own, self._chain, first))
        self._links = ChainLinks(self._members, self._chain)
        self._inputs = self._links.inputs
        self._links.connect(session.commits.statuses)
        self._live = [member for member in self._members if not member.ended]
        codes = [own.wiring.code for own in sessions]
        self._line = HostLine(session, dealer, log, codes, self._quieten, self._look)
        self._group = ChainGroup(session, self._members, self._links, self._chain, self._line, self._tell_ended)
        self._ahead: deque[Message] = deque()  # read, not yet handled
        self._from: list[InnerInput[Member]] = []  # the inputs inside that these are of; empty: they are of all inputs
        self._reader = self._new_reader()
        self._outside_next = False  # before the next ticks, messages from outside have a turn
        self._reads_ahead = not any(session.may_drop for session in sessions)
        log.whose = self._whose
        self._watch = forks.Watch(self.forked)

    def forked(self) -> None:
        """See noderuntime.ipc.forks."""
        self._group.forked()
        self._words = forks.GONE  # the session is made that by its operator's ctx

    def _whose(self, logger: str) -> str:
        """Whose record a logger makes: an operator's own, or that of the operator whose handler runs."""
        if any(member.name == logger for member in self._members):
            return logger
        return self._members[self._words[pulse.MEMBER]].name

    # --- beginning --------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Load, make and restore the operators. Raises OperatorError, which names the operator."""
        if point is not None:
            point("restore")
        states = []
        with self._session.space.read() as txn:  # all states are those of one moment
            for member in self._members:
                prefix = private_prefix(member.session.wiring.number)
                found = scan(txn, prefix)
                states.append({key[len(prefix) :].decode(): value[PRIVATE_BYTES:] for key, value in found})
        for member, state in zip(self._members, states, strict=True):
            if member.ended:
                continue
            self._words[pulse.MEMBER] = member.place
            try:
                member.prepare(state)
            except OperatorError as error:
                error.node = member.name
                raise
        refuse_namesakes([member.session.wiring.code["path"] for member in self._members])
        if point is not None:
            point("restored")

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Handle events until the end. Returns the exit code."""
        line, group = self._line, self._group
        try:
            line.look()
            while True:
                if line.stop is not None and not group.gave_up:
                    self._stop(line.stop.id)
                    break
                if group.over or line.exit_code is not None or not self._live:
                    break
                worked = self._work()
                if group.over:
                    break
                if not worked:
                    self._end_those_without_inputs()
                line.wait(0.0 if worked else self._pause_s())
        except GaveUp:
            pass
        finally:
            line.close()
        if group.calls.stop_all:
            self._dealer.send(StopAll())
        if group.gave_up and not line.is_leaving:
            return EXIT_FENCED
        if line.stop is not None or line.exit_code is None:
            self._dealer.send(Bye(not self._live, ""))
            return 0
        return line.exit_code

    def _work(self) -> bool:
        """One round: what is due of each operator, then messages, then Sources. Returns whether there was anything.

        While a mailbox inside has messages, these come first: they belong to events that are committed already. When
        they are those of a tick, messages from outside come next: the next tick may be due by then, each time.
        """
        chain, group = self._chain, self._group
        if group.has_old_wiring:
            self._follow()
        worked = self._end_those_asked()
        crowded = group.is_crowded()
        if not chain.waiting and not self._outside_next:
            for member in self._live[:]:
                if member.timers and not (member.is_fresh and crowded):
                    worked |= self._tick(member)
                worked |= not group.over and self._update(member)
                if group.over:
                    return True
            self._outside_next = bool(chain.waiting)
        elif not chain.waiting:
            self._outside_next = False
        worked |= self._take()
        if group.over or chain.waiting or crowded:
            return worked
        for member in self._live[:]:
            if member.produces:
                worked |= self._produce(member)
                if group.over or chain.waiting:
                    return True
        return worked

    # --- a wiring that changes --------------------------------------------------------------------------------------

    def _look(self) -> None:
        """The runtime says that the wiring has changed."""
        self._group.look()

    def _looked(self) -> bool:
        """Look whether the wiring has changed, before the next event enters. If so, it is taken up."""
        if not self._group.look():
            return False
        self._follow()
        return True

    def _follow(self) -> None:
        """Take up the wiring that the commits have taken up. Not while anything is staged."""
        for member in self._members:
            member.follow()
        self._links.connect(self._session.commits.statuses)
        self._reads_ahead = not any(member.session.may_drop for member in self._members)
        self._forget_read()
        self._group.follow()

    # --- messages ---------------------------------------------------------------------------------------------------

    def _new_reader(self) -> Ahead:
        mailboxes = [mailbox for member in self._live for mailbox in member.session.mailboxes]
        return Ahead(self._session.space, mailboxes)

    def _forget_read(self) -> None:
        """Read again what was read, and is not handled."""
        self._ahead.clear()
        self._reader = self._new_reader()

    def _read(self) -> list[Message]:
        """The next messages: of the mailboxes inside that come first now, or else of all."""
        if self._from:
            return next_messages(self._session.space, [link.input.mailbox for link in self._from], GROUP_MAX)
        return self._reader.read(GROUP_MAX)

    def _take(self) -> bool:
        """Handle the next group of messages. Returns whether there was one."""
        ahead, chain, group = self._ahead, self._chain, self._group
        first = chain.first() if chain.waiting else []
        if first != self._from or not self._reads_ahead:  # others come first now, or some may have been dropped
            self._from = first
            self._forget_read()
        if not ahead:
            if point is not None:
                point("take")
            ahead.extend(self._read())
            if point is not None:
                point("taken")
            if self._looked():  # what was sent after a change is handled with the wiring that it has made
                return True
            if not ahead:
                return False
        inside = len(chain.waiting)
        deadline = group.begin() + GROUP_NS
        if len(ahead) > 1:
            group.begin_helped()
        message, clock, take, calls = self._message, time.monotonic_ns, ahead.popleft, group.calls
        for _ in range(min(len(ahead), GROUP_MAX)):
            message(take())
            if group.over or group.unfused or calls.just_ended or len(chain.waiting) != inside:
                break
            if clock() > deadline:  # checked after each: a kill loses what is not committed
                break
        group.let_go()
        group.flush()
        return True

    def _message(self, message: Message) -> None:
        """Handle one message of a mailbox."""
        key, record = message
        member, input = self._inputs[key[:MAILBOX_PREFIX_BYTES]]
        if member.ended:  # the commit of its end has emptied its mailboxes
            return
        session, group = member.session, self._group
        staged = Staged()
        staged.ack = key, input, record
        group.hold(member, key)
        if input.counter >= 0 and not is_notice(record):
            recovery = member.timers.recovery(input)
            if recovery is not None:
                group.enter(member, notice("INPUT_RECOVERED", input.name), _counting(member, recovery))
                if member.ended:
                    return
            staged.also().counters = member.timers.arrival(input)
        lives = 0
        if session.attempts:
            lives = session.attempts.pop(key, 0)
            staged.also().attempts = lives > 0
        try:
            event = event_of(session, input, message, lives)
        except Dropped:
            return
        except BaseException as error:
            group.fail(MemberFailed(member, "on_event", error))
        if input.wiring.leaving and event.type == "INPUT_CLOSED":  # for the operator, there is no such input any more
            group.events.append(staged)
            return
        alone = lives > 0 and is_notice(record)  # it cannot become a dead letter, but what it makes inside can
        group.unfused |= alone
        group.enter(member, event, staged, lives + 1, fused=not alone)

    # --- events that are no messages --------------------------------------------------------------------------------

    def _tick(self, member: Member) -> bool:
        """Hand out the ticks and timeouts of an operator that are due. Returns whether there was one."""
        if not member.timers.is_due():
            return False
        worked = self._looked()
        for event, counters in member.timers.due():
            what = TICKED if event.type == "INPUT" else FELL_SILENT
            input = next(item for item in member.session.inputs.values() if item.name == event.id)
            self._alone(member, event, _counting(member, counters), member.event_key(input, what))
            worked = True
            if self._group.over or member.ended or self._chain.waiting or self._group.has_old_wiring:
                break
        return worked

    def _update(self, member: Member) -> bool:
        """Hand out the changes of keys that an operator watches. Returns whether there were any."""
        updates = [] if member.ended else member.session.watch.read(GROUP_MAX)
        for item in updates:
            self._looked()
            staged = Staged()
            rare = staged.also()
            rare.cursor = item.revision, item.nth
            rare.member = member.place
            event = kvs_update(item.key, item.value, item.revision)
            self._alone(member, event, staged, member.event_key(None, UPDATED))
            if self._group.over or member.ended:
                break
        return bool(updates)

    def _alone(self, member: Member, event: Event, staged: Staged, key: bytes, fused: bool = True) -> None:
        """Handle an event that is no message, and commit it."""
        group = self._group
        group.begin()
        group.hold(member, key)
        failed_before = group.has_failed(member, key, staged)
        group.enter(member, event, staged, fused=fused and not failed_before)
        if staged.rare is not None:
            staged.rare.member, staged.rare.event = member.place, key
        group.let_go()
        group.flush()

    def _produce(self, member: Member) -> bool:
        """Let a Source produce a group. Returns whether it did."""
        if time.monotonic() < member.idle_until:
            return False
        group, calls, chain = self._group, self._group.calls, self._chain
        self._looked()
        key = member.event_key(None, PRODUCED)
        deadline = group.begin() + GROUP_NS
        group.hold(member, key)
        group.begin_helped()
        produce, ctx, events = member.operator.produce, member.ctx, group.events
        idle_s = 0.0
        size = 0
        while True:
            staged = Staged()
            alone = bool(member.unfused) and group.has_failed(member, key, staged)
            group.open(member)
            calls.begin(member)
            ctx.staged = staged
            try:
                returned = produce(member.position, ctx)
                position = packed_position(returned)
                if position is not None:
                    same = type(returned) in _SAME_IN_MESSAGEPACK
                    member.position = returned if same else position_of({POSITION_KEY: position})
                elif returned is Source.END:
                    calls.ends(member, staged, Status.STOP)
                else:
                    idle_s = returned.seconds
            except Fenced:
                raise
            except BaseException as error:
                group.fail(MemberFailed(member, "produce", error))
            ctx.staged = None
            if position is not None:
                if staged.private is None:
                    staged.private = {member.position_key: position}
                else:
                    staged.private[member.position_key] = position
            if chain.queue:
                try:
                    calls.work_off(staged)
                except MemberFailed as failed:
                    group.fail(failed)
            if staged.private is not None or staged.numbers is not None or staged.rare is not None:
                group.add(member, key, staged)
                member.calls += 1
            size += staged.size
            if alone or idle_s or calls.just_ended or chain.waiting or group.tight:
                break
            if len(events) >= GROUP_MAX or size >= GROUP_BYTES_MAX:
                break
            if time.monotonic_ns() > deadline:
                break
        if idle_s:
            member.idle_until = time.monotonic() + idle_s
        group.let_go()
        group.flush()
        return not idle_s

    # --- ends -------------------------------------------------------------------------------------------------------

    def _tell_ended(self, ended: list[Member]) -> None:
        for member in ended:
            self._dealer.send(MemberEnded(member.name))
        self._live = [member for member in self._members if not member.ended]
        self._forget_read()

    def _end_those_asked(self) -> bool:
        """End the operators that the runtime has asked to end. Returns whether there was one."""
        asked, self._line.ending = self._line.ending, {}
        found = [member for member in self._live if member.name in asked]
        for member in found:
            self._finish(member, asked[member.name], ends=True)
        return bool(found)

    def _end_those_without_inputs(self) -> None:
        for member in self._live[:]:
            if member.session.all_closed and not self._group.over:
                self._finish(member, "ALL_INPUTS_CLOSED", ends=True)

    def _stop(self, id: str) -> None:
        """The run stops: the STOP event for each. What is in the mailboxes stays there for `--resume`."""
        for member in self._live[:]:
            if not self._group.over:
                self._finish(member, id, ends=id == "ALL_INPUTS_CLOSED")

    def _finish(self, member: Member, id: str, ends: bool) -> None:
        """Hand out the STOP event. What an operator sends then goes through the mailboxes, before its INPUT_CLOSED."""
        self._looked()
        staged = Staged()
        staged.also().member = member.place
        if ends:  # before the handler, so that its own Status changes nothing
            self._group.calls.ends(member, staged, Status.STOP)
        self._alone(member, notice("STOP", id), staged, member.event_key(None, STOPPED), fused=False)

    # --- waiting ----------------------------------------------------------------------------------------------------

    def _quieten(self, node: str) -> None:
        for member in self._members:
            if not node or member.name == node:
                member.timers.quieten()

    def _pause_s(self) -> float:
        """How long to sleep when there is nothing to do."""
        pause_s = SLOW_CHECK_S
        crowded = self._group.is_crowded()
        now = time.monotonic()
        for member in self._live:
            if crowded and member.is_fresh:
                pause_s = min(pause_s, ROOM_CHECK_S)
                continue
            pause_s = member.timers.pause_s(pause_s)
            if member.produces:
                pause_s = min(pause_s, max(0.0, member.idle_until - now))
        return pause_s

    def close(self) -> None:
        """Close the sessions; no commit is under way afterwards."""
        self._group.close()
        for member in reversed(self._members):
            member.session.close()


def _counting(member: Member, counters: Counters) -> Staged:
    """A staged event that sets these counters."""
    staged = Staged()
    rare = staged.also()
    rare.counters = counters
    rare.member = member.place
    return staged
