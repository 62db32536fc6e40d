"""The process of an operator: read, handle, commit, ring.

    hello -> welcome, restore_state -> load, make, restore -> ready -> *(ticks, messages, commit) -> bye

Waiting events are handled in groups, which commit as one transaction: GROUP_MAX events, or as many as are handled in
GROUP_NS. If no others wait, a group is one event, and its latency is that of its commit. If an event fails, the events
before it in its group are committed first. If a handler takes long, the commit helper commits the events before it in
the meantime.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from noderuntime.api.events import Event, kvs_update, notice
from noderuntime.api.keyed.operator import doubt_states
from noderuntime.api.operator import (
    POSITION_KEY,
    Source,
    Status,
    packed_position,
    position_of,
    status_of,
)
from noderuntime.errors import Fenced, OperatorError, StoreFull
from noderuntime.ipc import forks, pulse
from noderuntime.ipc.boundary import describe
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.fault_points import point
from noderuntime.ipc.protocol import Bye, Stop, StopAll
from noderuntime.node.context import OperatorContext
from noderuntime.node.group import GROUP_NS, Group
from noderuntime.node.host_line import HostLine
from noderuntime.node.inbox import event_of, is_notice
from noderuntime.node.making import make_operator
from noderuntime.node.remote_log import LogHandler
from noderuntime.node.session import SLOW_CHECK_S, NodeSession
from noderuntime.node.timers import Counters, Timers
from noderuntime.node.user_code import user_trace
from noderuntime.space import keys
from noderuntime.space.keys import MAILBOX_PREFIX_BYTES
from noderuntime.space.mailbox import Message
from noderuntime.space.records import INPUT_CLOSED
from noderuntime.space.routing import Rescaled
from noderuntime.space.segments import Dropped
from noderuntime.space.staging import GROUP_BYTES_MAX, GROUP_MAX, Staged
from noderuntime.space.writer import Inapplicable

_SAME_IN_MESSAGEPACK = frozenset({int, str, bytes, bool, float})


def _with_counters(counters: Counters) -> Staged:
    """A staged event that sets these counters."""
    staged = Staged()
    staged.also().counters = counters
    return staged


class OperatorHost:
    """One life of one operator."""

    def __init__(self, session: NodeSession, dealer: Dealer, log: LogHandler) -> None:
        self._session = session
        self._dealer = dealer
        self._commits = session.commits
        self._words = session.page.words
        self._take_in_hand = session.page.hand(0)
        self._inputs = {item.mailbox: item for item in session.inputs.values()}
        self.ctx = OperatorContext(session, session.wiring.config, logging.getLogger(session.wiring.node))
        self._operator: Any = None
        self._on_event: Callable[[Event, OperatorContext], Any]
        self._timers = Timers(session)
        codes = [session.wiring.code]
        self._line = HostLine(
            session, dealer, log, codes, lambda node: self._timers.quieten(), lambda: self._group.look()
        )
        self._group = Group(session, self.ctx.log, self._wait, lambda: self._line.is_leaving)
        self._add = self._group.events.append
        self._ended = False  # the last commit closed the outputs
        self._stop_all = False
        self._over = False  # this life must not handle any more events
        self._position: Any = None
        self._position_key = keys.private_prefix(session.wiring.number) + keys.user_key(POSITION_KEY)
        self._produces = False
        self._has_replicas = bool(session.wiring.replicas)
        self._idle_until = 0.0
        self._ahead: deque[Message] = deque()  # read, not yet handled
        self._reads_ahead = not session.may_drop
        self.ctx.wait_for_room = self._wait_for_payload_room
        self._is_fork = False
        self._watch = forks.Watch(self.forked)

    def forked(self) -> None:
        """See noderuntime.ipc.forks. A child that returns from the handler ends at the first use of what is closed."""
        self._is_fork = self._over = True
        self._group.forked()
        self._words = self._take_in_hand = forks.GONE
        self._session.forked()

    # --- beginning --------------------------------------------------------------------------------------------------

    def prepare(self, state: dict[str, bytes]) -> None:
        """Load, make and restore the operator. Raises OperatorError."""
        if point is not None:
            point("restore")
        made = make_operator(self._session, self.ctx, state)
        self._operator, self._on_event, self._produces, self._position = made
        if point is not None:
            point("restored")

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Handle events until the end. Returns the exit code."""
        try:
            return self._run()
        finally:
            self._line.close()

    def _run(self) -> int:
        line = self._line
        line.look()
        while True:
            try:
                if not self._step():
                    break
            except Rescaled:
                self._start_over()
        if self._stop_all:
            self._dealer.send(StopAll())
        if line.exit_code is None:
            self._dealer.send(Bye(self._ended, ""))
        return line.exit_code or 0

    def _step(self) -> bool:
        """Handle what there is, or wait for something. Returns whether to go on."""
        line = self._line
        if self._session.version != self._commits.wiring.version:
            self._follow()
        if line.stop is not None:
            line.exit_code = None
            self._finish(line.stop)
            return False
        if self._over:
            return False
        worked = self._tick() if self._timers else False
        if self._over:
            return False
        worked |= self._update()
        if self._over:
            return False
        worked |= self._produce() if self._produces else self._take()
        if self._over:
            return False
        if not worked and self._session.all_closed:
            self._finish(Stop("ALL_INPUTS_CLOSED", 0.0))
            return False
        self._wait(0.0 if worked else self._pause_s())
        return True

    def _start_over(self) -> None:
        """A commit was refused, because this replica has lost slots: what it had handled since the last one is handled
        again, there or here. Its effects outside have happened, as when a process is killed.
        """
        if point is not None:
            point("start over")
        staged, self.ctx.staged = self.ctx.staged, None
        if staged is not None:
            self._session.let_go([staged])
        self._group.start_over()
        self._ended = self._stop_all = False
        self._over = self._line.exit_code is not None
        self._timers.start_over()
        self.ctx.committed()
        self._ahead.clear()
        self._session.page.release(0)

    def _follow(self) -> None:
        """The wiring was changed: go on with the inputs of now. What was read of an input that is gone is dropped."""
        session = self._session
        if self._commits.moved:  # what was read may be with another replica now
            self._start_over()
        session.follow()
        self.ctx.follow()
        self._has_replicas = bool(session.wiring.replicas)
        doubt_states(self._operator)
        self._inputs = {item.mailbox: item for item in session.inputs.values()}
        self._reads_ahead = not session.may_drop
        self._timers.follow()
        left = [message for message in self._ahead if message[0][:MAILBOX_PREFIX_BYTES] in self._inputs]
        self._ahead.clear()
        self._ahead.extend(left)

    def _take(self) -> bool:
        """Handle the next group of messages. Returns whether there was one."""
        ahead = self._ahead
        if not ahead:
            read = self._session.read_ahead if self._reads_ahead else self._session.next_messages
            ahead.extend(read(GROUP_MAX))
            if self._has_replicas and self._has_moved():
                return True
            if not ahead:
                if self._has_replicas:  # one of them may have ended the node
                    self._session.check()
                return False
        self._group.since_ns = time.monotonic_ns()
        deadline = self._group.since_ns + GROUP_NS
        if len(ahead) > 1:
            self._group.begin_helped()
        self._words[pulse.SINCE_NS] = self._group.since_ns
        self._words[pulse.PHASE] = pulse.HANDLING
        message, clock, take = self._message, time.monotonic_ns, ahead.popleft
        for _ in range(min(len(ahead), GROUP_MAX)):
            message(take())
            if self._over or clock() > deadline:  # checked after each: a kill loses what is not committed
                break
        self._session.page.release(0)
        self._flush()
        if not self._reads_ahead:  # messages that were read may be dropped before they are handled
            ahead.clear()
        return True

    def _has_moved(self) -> bool:
        """Whether slots of the replicas have got other owners: then messages that were read may be of slots that this
        one does not know to be its own yet.
        """
        self._group.look()
        if not self._commits.moved:
            return False
        self._follow()
        return True

    def _update(self) -> bool:
        """Hand out the changes of watched keys. Returns whether there were any."""
        updates = self._session.watch.read(GROUP_MAX)
        if not updates:
            return False
        self._group.since_ns = time.monotonic_ns()
        for item in updates:
            self._session.set_phase(pulse.HANDLING)
            staged = Staged()
            staged.also().cursor = item.revision, item.nth
            self._handle(kvs_update(item.key, item.value, item.revision), staged)
            if self._over:
                break
        self._flush()
        return True

    def _message(self, message: Message) -> None:
        """Handle one message of a mailbox."""
        key, record = message
        session = self._session
        input = self._inputs[key[:MAILBOX_PREFIX_BYTES]]
        staged = Staged()
        staged.ack = key, input, record
        if input.counter >= 0 and not is_notice(record):
            if (recovery := self._timers.recovery(input)) is not None:
                self._handle(notice("INPUT_RECOVERED", input.name), _with_counters(recovery))
                if self._over:
                    return
            staged.also().counters = self._timers.arrival(input)
        self._take_in_hand(key)
        lives = 0
        if session.attempts:
            lives = session.attempts.pop(key, 0)
            staged.also().attempts = lives > 0
        if record[0] == INPUT_CLOSED:  # by a change of the dataflow, perhaps, which this process has not heard of yet
            self._group.look()
        try:
            event = event_of(session, input, message, lives)
        except Dropped:
            return
        except BaseException as error:
            self._fail("on_event", error)
        if input.wiring.leaving and event.type == "INPUT_CLOSED":  # for the operator, there is no such input any more
            self._add(staged)
            return
        self._handle(event, staged)

    def _handle(self, event: Event, staged: Staged, ends: bool | None = None) -> None:
        """Run the handler for an event. Its changes are staged in `staged`, which joins the group.

        `ends`: whether this is the last event of the node; by default the handler's Status decides.
        """
        if point is not None:
            point("handle")
        ctx = self.ctx
        ctx.staged = staged
        try:
            returned = self._on_event(event, ctx)
            if returned is not None and returned is not Status.CONTINUE:
                status = status_of(returned)
                if ends is None:
                    ends = True
                    staged.also().stops_all = self._stop_all = status is Status.STOP_ALL
                    staged.also().by_itself = True
        except (Fenced, Rescaled):
            raise
        except BaseException as error:
            self._fail("on_event", error)
        ctx.staged = None
        if ends:
            staged.also().ends = self._ended = self._over = True
        self._add(staged)
        if point is not None:
            point("handled")

    def _fail(self, where: str, error: BaseException) -> None:
        """The handler raised: commit the events before it, report the error, and end this process."""
        if self._is_fork:
            print(user_trace(error), file=sys.stderr, flush=True)
            os._exit(1)
        self.ctx.staged = None
        self._ended = self._stop_all = False
        self._flush()
        self._group.look()
        if self._commits.moved:  # the event may be with another replica
            raise Rescaled
        raise OperatorError(where, describe(error), user_trace(error)) from None

    def _flush(self) -> None:
        """Commit the group, or give it up if this life must end and there is no room."""
        try:
            if not self._group.commit():
                self._over = True
                self._ended = self._stop_all = False
        except Inapplicable as failed:
            self._fail_staged(failed)
        self.ctx.committed()

    def _fail_staged(self, failed: Inapplicable) -> None:
        """A handler has returned, but its changes cannot be committed: its event fails, those before it do not."""
        events = self._group.events
        bad = events[failed.at]
        del events[failed.at :]
        if bad.ack is not None:
            self._take_in_hand(bad.ack[0])
        self._fail("on_event", failed.error)

    def close(self) -> None:
        """Close the session with the space; no commit is under way afterwards."""
        self._group.close()
        self._session.close()

    def _wait_for_payload_room(self, full: StoreFull) -> None:
        """A handler sends something large, and there is no room: commit the events before it, then wait."""
        staged = self.ctx.staged
        self._flush()
        self.ctx.staged = staged
        self._session.commits.waits_for = f"room in the space ({full.why})"
        if self._line.stop is not None:
            raise full
        self._group.wait_for_room()
        self._words[pulse.PHASE] = pulse.HANDLING

    def _tick(self) -> bool:
        """Hand out the ticks and timeouts that are due. Returns whether there was one."""
        worked = False
        for event, counters in self._timers.due():
            self._session.set_phase(pulse.HANDLING)
            self._handle(event, _with_counters(counters))
            self._flush()
            worked = True
            if self._over:
                break
        return worked

    def _pause_s(self) -> float:
        """How long to sleep when there is nothing to do."""
        pause_s = self._timers.pause_s(SLOW_CHECK_S)
        return min(pause_s, max(0.0, self._idle_until - time.monotonic())) if self._produces else pause_s

    # --- sources ----------------------------------------------------------------------------------------------------

    def _produce(self) -> bool:
        """Let a Source produce a group. Returns whether it did."""
        if time.monotonic() < self._idle_until:
            return False
        self._group.since_ns = time.monotonic_ns()
        deadline = self._group.since_ns + GROUP_NS
        self._group.begin_helped()
        self._session.set_phase(pulse.HANDLING)
        produce, ctx, group = self._operator.produce, self.ctx, self._group.events
        idle_s = 0.0
        size = 0
        while True:
            ctx.staged = staged = Staged()
            try:
                returned = produce(self._position, ctx)
                position = packed_position(returned)
                if position is not None:
                    same = type(returned) in _SAME_IN_MESSAGEPACK
                    self._position = returned if same else position_of({POSITION_KEY: position})
                elif returned is Source.END:
                    staged.also().ends = self._ended = self._over = True
                else:
                    idle_s = returned.seconds
            except Fenced:
                raise
            except BaseException as error:
                self._fail("produce", error)
            ctx.staged = None
            if position is not None:
                if staged.private is None:
                    staged.private = {self._position_key: position}
                else:
                    staged.private[self._position_key] = position
            if staged.private is not None or staged.outputs is not None or staged.rare is not None:
                group.append(staged)
            size += staged.size
            if self._over or idle_s or len(group) >= GROUP_MAX or size >= GROUP_BYTES_MAX:
                break
            if time.monotonic_ns() > deadline:
                break
        if idle_s:
            self._idle_until = time.monotonic() + idle_s
        self._flush()
        return not idle_s

    # --- waiting and control ----------------------------------------------------------------------------------------

    def _wait(self, pause_s: float) -> None:
        """See HostLine.wait."""
        self._line.wait(pause_s)
        self._over |= self._line.exit_code is not None

    def _finish(self, stop: Stop) -> None:
        """Hand out the STOP event. If all inputs have ended, the node ends too: the same commit closes its outputs."""
        self._session.set_phase(pulse.HANDLING)
        self._handle(notice("STOP", stop.id), Staged(), ends=stop.id == "ALL_INPUTS_CLOSED")
        self._flush()
