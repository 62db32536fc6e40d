"""The events that the threads and tasks of a custom node have in hand, and which event to hand out next.

An event is in hand from when a thread or task, its holder, takes it until the holder asks for the next one; then its
acknowledgement is staged. The pulse shows the messages in hand, so that the next life can count their attempts.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import threading
import time
from collections import deque
from collections.abc import Collection
from typing import Any, Final, Literal

from noderuntime.api import values
from noderuntime.api.events import Event, kvs_update, notice
from noderuntime.errors import Fenced, StoreFull
from noderuntime.ipc import pulse
from noderuntime.ipc.fault_points import point
from noderuntime.ipc.protocol import Stop
from noderuntime.node import inbox
from noderuntime.node.bell_wait import BellWait
from noderuntime.node.gate import Gate
from noderuntime.node.joining import end_fenced
from noderuntime.node.sender import Sender
from noderuntime.node.session import SLOW_CHECK_S, NodeSession
from noderuntime.node.timers import Timers
from noderuntime.space.mailbox import Message
from noderuntime.space.records import INPUT_CLOSED
from noderuntime.space.segments import Dropped
from noderuntime.space.staging import GROUP_MAX, Staged
from noderuntime.space.watches import Cursor, Update

Holder = threading.Thread | asyncio.Task[Any] | None  # the thread or task that took an event


CHECK_NS: Final = 200_000  # how old the knowledge may be that what was read still waits


class Look(enum.Enum):
    """What `take` may return instead of an event."""

    NOTHING = enum.auto()  # there is no event now
    DROPPED = enum.auto()  # the message was dropped in hand: call again


NOTHING: Final = Look.NOTHING
DROPPED: Final = Look.DROPPED

Found = Event | None | Literal[Look.NOTHING]  # None: the stream has ended


class _Handed:
    """An update of a watched key that was handed out."""

    __slots__ = ("cursor", "done")

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.done = False


class Hand:
    """An event that was taken but not acknowledged: what its acknowledgement stages, and its slot in the pulse.

    `before`: the event that was taken before it and is acknowledged with it (see `take_all`).
    """

    __slots__ = ("before", "key", "slot", "staged", "update")

    def __init__(self, staged: Staged, key: bytes | None = None, slot: int = -1, update: _Handed | None = None) -> None:
        self.staged = staged
        self.before: Hand | None = None
        self.key = key  # the message's; None for ticks, updates and timeouts
        self.slot = slot
        self.update = update


class Hands:
    """The events in hand (`in_hand`), and those that were read but not handed out yet.

    A method whose name ends in _locked is called with the gate's lock held.
    """

    def __init__(
        self, session: NodeSession, gate: Gate, sender: Sender, waiters: BellWait, in_hand: dict[Holder, Hand]
    ) -> None:
        self.stop: Stop | None = None  # the runtime asked for the end
        self.ended = False  # STOP was handed out
        self.decode: values.Decode = values.decode  # makes the values of messages that are views
        self._session = session
        self._gate = gate
        self._sender = sender
        self._waiters = waiters
        self._in_hand = in_hand
        self._free_slots = list(range(pulse.HANDS_MAX - 1, -1, -1))
        self._checked_ns = 0
        self._find_out_drops()
        self._fetched: deque[Message] = deque()
        self._recovered: deque[Message] = deque()  # a message that waits behind its INPUT_RECOVERED
        self._put: deque[Event] = deque()  # handed out before what waits in the mailboxes
        self._timers = Timers(session)
        self._has_timers = bool(self._timers)
        self._updates: deque[Update] = deque()  # of watched keys, read and not handed out
        self._handed: deque[_Handed] = deque()  # handed out, oldest first: the cursor never passes one not done
        self._update_last = False  # updates and messages take turns
        self._eager = False  # senders ring for each commit, because several threads or tasks take messages

    def quieten_locked(self) -> None:
        self._timers.quieten()

    def _find_out_drops(self) -> None:
        """Whether what was read may be dropped before it is taken."""
        session = self._session
        self._fetch_max = 1 if session.drops_oldest else GROUP_MAX
        self._checks_fetched = session.may_drop and not session.drops_oldest

    def _follow_locked(self) -> None:
        """The wiring was changed: go on with the inputs of now."""
        session = self._session
        session.follow()
        self._find_out_drops()
        self._timers.follow()
        for waiting in (self._fetched, self._recovered):
            left = [message for message in waiting if session.knows(message[0])]
            waiting.clear()
            waiting.extend(left)

    def pause_s(self) -> float:
        """How long to sleep when there is nothing to take."""
        return self._timers.pause_s(SLOW_CHECK_S)

    def put(self, event: Event) -> None:
        """Hand out `event` before what waits in the mailboxes. From any thread."""
        self._put.append(event)
        self._waiters.ring()

    def is_waiting(self, own: Collection[Holder]) -> bool:
        """Whether `take` would return an event to `own` now. Takes nothing, and acknowledges nothing."""
        with self._gate.lock:
            if self._gate.closing or self.ended:
                return False
            if self.stop is not None or self._put or self._recovered or self._fetched or self._updates:
                return True
            if self._session.version != self._session.commits.wiring.version:
                self._follow_locked()
            session, taken = self._session, self._sender.unacknowledged
            if self._timers.is_due(taken) or session.next_messages(1, taken):
                return True
            return session.all_closed and not self._others_hold(own)

    # --- taking -----------------------------------------------------------------------------------------------------

    def take(self, holder: Holder) -> Found:
        """Acknowledge what `holder` has in hand, and take the next event."""
        if point is not None:
            point("take")
        found = self._take(holder)
        if point is not None:
            point("taken")
        return found

    def _take(self, holder: Holder) -> Found:
        gate, sender = self._gate, self._sender
        with gate.lock:
            if gate.closing:
                return None
            if self._in_hand:
                self.acknowledge_locked(holder)
            if self._in_hand:
                for other in [task for task in self._in_hand if isinstance(task, asyncio.Task) and _went_well(task)]:
                    self.acknowledge_locked(other)
            found = self._look_locked(holder)
        if sender.staged and (found is NOTHING or found is None or sender.is_due()):
            sender.drain()
            if found is NOTHING:
                with gate.lock:
                    found = None if gate.closing else self._look_locked(holder)
        if found is NOTHING and self._in_hand and not self._eager:
            with gate.lock, contextlib.suppress(StoreFull):
                if not gate.closing:
                    self._become_eager()
                    found = self._look_locked(holder)
        return found

    def take_all(self, holder: Holder) -> list[Event]:
        """Acknowledge what `holder` has in hand, and take all events that are there now. They stay in hand together."""
        taken: list[Event] = []
        found = self.take(holder)
        while isinstance(found, Event):
            taken.append(found)
            found = self._take_beside(holder)
        return taken

    def _take_beside(self, holder: Holder) -> Found:
        """Take the next event, and keep what `holder` has in hand."""
        with self._gate.lock:
            if self._gate.closing:
                return None
            before = self._in_hand.get(holder)
            found = self._look_locked(holder)
            if before is not None and isinstance(found, Event):
                last = self._in_hand.get(holder)
                if last is before or last is None:  # STOP has no hand of its own
                    self._in_hand[holder] = before
                else:
                    last.before = before
            return found

    def _look_locked(self, holder: Holder) -> Found:
        found = self._look_once_locked(holder)
        while found is DROPPED:
            found = self._look_once_locked(holder)
        if found is not NOTHING:
            self._waiters.pass_on()
        return found

    def _become_eager(self) -> None:
        try:
            self._session.commits.be_eager()
        except Fenced as fenced:
            end_fenced(fenced)
        self._eager = True

    def _look_once_locked(self, holder: Holder) -> Event | Look | None:
        if self.ended:
            return None
        if self.stop is not None:
            return self._last(self.stop.id)
        if self._put:
            self._in_hand[holder] = Hand(Staged())
            return self._put.popleft()
        if self._session.version != self._session.commits.wiring.version:
            self._follow_locked()
        event = self._due_locked(holder)
        if event is None and not self._update_last:
            event = self._update_locked(holder)
        if event is not None:
            return event
        self._update_last = False
        message = self._fetch_locked()
        if message is not None:
            return self._hand_out_locked(holder, message)
        event = self._update_locked(holder)
        if event is not None:
            return event
        if self._session.all_closed and not self._others_hold((holder,)):
            return self._last("ALL_INPUTS_CLOSED")
        return NOTHING

    def _others_hold(self, own: Collection[Holder]) -> bool:
        """Whether threads or tasks other than `own` have messages in hand: then the stream has not ended for them."""
        return any(
            hand.key is not None and (holder.is_alive() if isinstance(holder, threading.Thread) else not holder.done())
            for holder, hand in self._in_hand.items()
            if holder is not None and holder not in own
        )

    def _last(self, id: str) -> Event:
        self.ended = True
        self._waiters.ring()  # so that the other threads see the end too
        return notice("STOP", id)

    def _fetch_locked(self) -> Message | None:
        if self._recovered:
            return self._recovered.popleft()
        if self._fetched and self._checks_fetched and time.monotonic_ns() - self._checked_ns > CHECK_NS:
            self._checked_ns = time.monotonic_ns()
            if self._session.was_flushed():
                self._fetched.clear()
        if not self._fetched:
            self._fetched.extend(self._session.next_messages(self._fetch_max, self._sender.unacknowledged))
        return self._fetched.popleft() if self._fetched else None

    def _hand_out_locked(self, holder: Holder, message: Message) -> Event | Literal[Look.DROPPED]:
        session = self._session
        key, record = message
        input = session.input_of(key)
        timed = input.counter >= 0 and not inbox.is_notice(record)
        if timed and (recovery := self._timers.recovery(input)) is not None:
            self._recovered.append(message)
            staged = Staged()
            staged.also().counters = recovery
            self._in_hand[holder] = Hand(staged)
            return notice("INPUT_RECOVERED", input.name)
        if record[0] == INPUT_CLOSED:  # by a change of the dataflow, perhaps, which this process has not heard of yet
            session.commits.look()
        arrival = self._timers.arrival(input) if timed else None
        lives = session.attempts.get(key, 0)
        try:
            event = inbox.event_of(session, input, message, lives, self.decode)
        except Dropped:
            return DROPPED
        except Exception:
            # Bytes that are not a value, from a node in another language. The message must be in hand when this program
            # ends because of it: otherwise it would never become a dead letter.
            if self._free_slots:
                session.page.take(self._free_slots[-1], key)
            raise
        staged = inbox.acknowledgement(input, message, lives)
        if input.wiring.leaving and event.type == "INPUT_CLOSED":  # for the program, there is no such input any more
            self._sender.unacknowledged.add(key)
            self._sender.acknowledge_locked(staged)
            return DROPPED
        if arrival is not None:
            staged.also().counters = arrival
        slot = self._free_slots.pop() if self._free_slots else -1
        if slot >= 0:
            session.page.take(slot, key)
        self._in_hand[holder] = Hand(staged, key, slot)
        self._sender.unacknowledged.add(key)
        session.set_phase(pulse.HANDLING)
        return event

    def _due_locked(self, holder: Holder) -> Event | None:
        """A tick or a timeout that is due."""
        if not self._has_timers:
            return None
        for event, counters in self._timers.due(self._sender.unacknowledged):
            staged = Staged()
            staged.also().counters = counters
            self._in_hand[holder] = Hand(staged)
            return event
        return None

    def _update_locked(self, holder: Holder) -> Event | None:
        """The next change of a watched key."""
        if not self._updates:
            watch = self._session.watch
            if watch:
                self._updates.extend(watch.read(GROUP_MAX))
            if not self._updates:
                return None
        item = self._updates.popleft()
        handed = _Handed((item.revision, item.nth))
        self._handed.append(handed)
        self._in_hand[holder] = Hand(Staged(), update=handed)
        self._update_last = True
        return kvs_update(item.key, item.value, item.revision)

    # --- acknowledging ----------------------------------------------------------------------------------------------

    def acknowledge_locked(self, holder: Holder) -> None:
        """Stage the acknowledgement of the event that `holder` has in hand, if any."""
        hand = self._in_hand.pop(holder, None)
        if hand is None:
            return
        if hand.before is None:
            self._put_back_locked(hand)
            return
        hands = [hand]
        while hands[-1].before is not None:
            hands.append(hands[-1].before)
        for each in reversed(hands):
            self._put_back_locked(each)

    def _put_back_locked(self, hand: Hand) -> None:
        if hand.slot >= 0:
            self._session.page.release(hand.slot)
            self._free_slots.append(hand.slot)
        if hand.update is not None:
            hand.update.done = True
            while self._handed and self._handed[0].done:
                hand.staged.also().cursor = self._handed.popleft().cursor
        self._session.page.words[pulse.HANDLED] += 1
        self._sender.acknowledge_locked(hand.staged)


def _went_well(task: asyncio.Task[Any]) -> bool:
    """Whether a task has returned. (`task.exception()` would silence asyncio's report of an exception not awaited.)"""
    return task.done() and not task.cancelled() and getattr(task, "_exception", None) is None
