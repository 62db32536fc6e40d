"""`Node`: what a custom node's program uses. It runs its own loop; the runtime only starts it and watches it.

Delivery is at least once: an event is acknowledged when the thread or task that took it asks for the next one. What is
sent is committed at once when nothing was sent in the last millisecond, else together with what comes within that
millisecond; in any case before the node waits, acknowledges, reads the shared store or ends.

A service thread owns the control channel and commits what waits. ZeroMQ sockets belong to one thread at a time; the
space may be used from any, one at a time (`_lock`).

Threads and tasks that wait share one bell. Whoever is rung drains it, looks, and if it took something rings again for
the others; `_drains` counts, so that who has looked before that, and is not waiting yet, looks once more.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, cast

from noderuntime.api.events import Event, kvs_update, notice
from noderuntime.errors import Fenced, NodeRuntimeError, NotRunning, StateNotAvailable, StoreFull, UnknownOutput
from noderuntime.ipc import doorbell, forks, process, pulse
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import Bye, Edge, Quiet, Ready, Refused, Stop
from noderuntime.ipc.wiring import Wiring
from noderuntime.node import inbox
from noderuntime.node.joining import end_fenced, find_run, greet
from noderuntime.node.session import ROOM_CHECK_S, NodeSession
from noderuntime.node.timerfd import OneShotTimer
from noderuntime.node.timers import Timers
from noderuntime.space.kvs import Merge
from noderuntime.space.mailbox import Message
from noderuntime.space.segments import Dropped
from noderuntime.space.staging import GROUP_MAX, Staged
from noderuntime.space.watches import Cursor, Update
from noderuntime.space.writer import MessageGone
from noderuntime.state import State

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOLD_NS: Final = 1_000_000
SLOW_CHECK_S: Final = 5.0
SWITCH_INTERVAL_S: Final = 0.0005

_NOTHING: Final = object()
_DROPPED: Final = object()  # the message was dropped in hand: look once more

Holder = threading.Thread | asyncio.Task[Any] | None  # who took an event


class _Hand:
    """An event that was taken and is not acknowledged: what its acknowledgement stages, and its slot in the pulse."""

    __slots__ = ("key", "slot", "staged", "update")

    def __init__(self, staged: Staged, key: bytes | None, slot: int, update: _Taken | None = None) -> None:
        self.staged = staged
        self.key = key
        self.slot = slot
        self.update = update


class _Taken:
    """An update of a watched key that was handed out."""

    __slots__ = ("cursor", "done")

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.done = False


class Node:
    """This process as a node of a running dataflow. Iterate over it, or call `next`.

    Without arguments, the node that the runtime started this program as. `Node("id", run="NAME")` joins a run as its
    dynamic node `id`. Raises NotRunning when there is no such run, or when it refuses.

    A fork of this process (os.fork, multiprocessing) is not the node: there, each call raises an error that says so,
    close() and the end of `with` do nothing, and the node of the parent is not affected.

    For the sake of latency it changes three settings of the whole process, for as long as that lives: threads switch
    every 0.5 ms (sys.setswitchinterval, if it was longer), freed memory of up to 16 MiB stays with the process (mallopt
    M_TRIM_THRESHOLD and M_MMAP_THRESHOLD), and sleeps of the calling thread and of those that it starts later are exact
    to a microsecond (PR_SET_TIMERSLACK).
    """

    def __init__(self, node_id: str | None = None, run: str | None = None) -> None:
        run_dir, name, dynamic = find_run(node_id, run)
        try:
            dealer = Dealer(run_dir.runtime_socket, Edge.RUNTIME_TO_CHILD)
        except OSError:
            raise NotRunning(f"there is no run {run or str(run_dir.root)!r}") from None
        welcome = greet(dealer, name, dynamic)
        wiring = Wiring.from_plain(welcome.wiring)
        try:
            self._session = session = NodeSession(run_dir, wiring, welcome.incarnation, welcome.attempts)
        except Fenced as fenced:
            end_fenced(fenced)
        except BaseException:
            dealer.close(0)
            raise
        self._dealer = dealer
        self._kvs = session.kvs
        self._config = MappingProxyType(wiring.config)
        self._outputs = session.commits.outputs
        self._lock = threading.RLock()
        self._left = threading.Condition(self._lock)  # a waiting thread has left
        self._staged: list[Staged] = []
        self._committed_ns = 0
        self._fetched: deque[Message] = deque()
        self._hands: dict[Holder, _Hand] = {}
        self._unacknowledged: set[bytes] = set()  # keys that are in hand, or whose acknowledgement is staged
        self._free_slots = list(range(pulse.HANDS_MAX - 1, -1, -1))
        self._fetch_max = 1 if any(item.wiring.drop_oldest for item in session.inputs.values()) else GROUP_MAX
        self._timers = Timers(session)
        self._recovered: deque[Message] = deque()  # a message that waits behind its INPUT_RECOVERED
        self._updates: deque[Update] = deque()  # of watched keys, read and not handed out
        self._taken: deque[_Taken] = deque()  # handed out, oldest first: the cursor stays behind the first not done
        self._update_last = False  # updates and messages take turns
        self._waiters = 0  # threads that wait for the bell
        self._sleepers: dict[asyncio.AbstractEventLoop, set[asyncio.Future[None]]] = {}  # and tasks
        self._drains = 0  # how often the bell was drained
        self._eager = False
        self._published = time.monotonic()
        self._stop: Stop | None = None
        self._gave_up = False  # what was sent could not be committed, so nothing that comes after it may be
        self._ended = False  # STOP was handed out
        self._closing = False
        self._closed = False
        self._is_fork = False
        self._hold_timer = OneShotTimer(HOLD_NS)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        process.sleep_exactly()
        process.keep_heap()
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
        dealer.send(Ready(welcome.incarnation))
        session.set_phase(pulse.WAITING)
        self._service = threading.Thread(target=self._serve, name="noderuntime", daemon=True)
        self._service.start()
        atexit.register(self._at_exit)
        forks.watch(self)

    # --- facts ------------------------------------------------------------------------------------------------------

    @property
    def node_id(self) -> str:
        """The id of this node in the dataflow file."""
        return self._session.wiring.node

    @property
    def config(self) -> Mapping[str, Any]:
        """`config:` of this node in the dataflow file; empty when it has none."""
        return self._config

    @property
    def incarnation(self) -> int:
        """Which life of this node this is, from 1."""
        return self._session.incarnation

    @property
    def is_restart(self) -> bool:
        """Whether there was a life before this one."""
        return self.incarnation > 1

    # --- events -----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Event]:
        """All events to come; ends behind the STOP event."""
        while (event := self.next()) is not None:
            yield event

    def next(self, timeout: float | None = None) -> Event | None:
        """The next event; None when the stream has ended. Acknowledges the one that this thread took before.

        Raises TimeoutError when none comes within `timeout` seconds.
        """
        holder = threading.current_thread()
        deadline = None if timeout is None else time.monotonic() + timeout
        self._check_open()
        while not self._closing:
            drains = self._drains
            event: Event | None = self._take(holder)
            if event is not _NOTHING:
                return event
            pause_s = self._timers.pause_s(SLOW_CHECK_S)
            if deadline is not None:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(f"no event for {self.node_id!r} within {timeout} seconds")
                pause_s = min(pause_s, left_s)
            self._wait(pause_s, drains)
        return None

    def try_next(self) -> Event | None:
        """The next event, or None when there is none now, or none any more."""
        self._check_open()
        event: Event | None = self._take(threading.current_thread())
        return None if event is _NOTHING else event

    async def next_async(self) -> Event | None:
        """The next event; None when the stream has ended. Acknowledges the one that this task took before."""
        holder = asyncio.current_task()
        self._check_open()
        while not self._closing:
            drains = self._drains
            event: Event | None = self._take(holder)
            if event is not _NOTHING:
                return event
            await self._wait_async(self._timers.pause_s(SLOW_CHECK_S), drains)
        return None

    def _take(self, holder: Holder) -> Any:
        """Acknowledge what `holder` has in hand, and take the next event: Event, None at the end, or _NOTHING."""
        with self._lock:
            if self._closing:
                return None
            self._acknowledge(holder)
            for other in [task for task in self._hands if isinstance(task, asyncio.Task) and _went_well(task)]:
                self._acknowledge(other)
            found = self._look_locked(holder)
        if self._staged and (found is _NOTHING or found is None or self._is_due()):
            self._drain()
            if found is _NOTHING:
                with self._lock:
                    found = None if self._closing else self._look_locked(holder)
        if found is _NOTHING and self._hands and not self._eager:
            with self._lock, contextlib.suppress(StoreFull):
                if not self._closing:
                    self._become_eager()
                    found = self._look_locked(holder)
        return found

    def _look_locked(self, holder: Holder) -> Any:
        found = self._next_locked(holder)
        if found is not _NOTHING and (self._waiters or self._sleepers):
            doorbell.ring(self._session.bell)  # senders ring once for many messages: pass it on
        return found

    def _become_eager(self) -> None:
        try:
            self._session.commits.be_eager()
        except Fenced as fenced:
            end_fenced(fenced)
        self._eager = True

    def _next_locked(self, holder: Holder) -> Any:
        while (found := self._look_once_locked(holder)) is _DROPPED:
            pass
        return found

    def _look_once_locked(self, holder: Holder) -> Any:
        session = self._session
        if self._ended:
            return None
        if self._stop is not None:
            return self._last(self._stop.id)
        event = self._due_locked(holder)
        if event is None and not self._update_last:
            event = self._update_locked(holder)
        if event is not None:
            return event
        self._update_last = False
        message = self._fetch_locked()
        if message is not None:
            return self._hand_out(holder, message)
        event = self._update_locked(holder)
        if event is not None:
            return event
        if session.all_closed and not self._others_hold():
            return self._last("ALL_INPUTS_CLOSED")
        return _NOTHING

    def _others_hold(self) -> bool:
        """Whether other threads or tasks are still at messages: then the stream has not ended yet for them."""
        return any(
            hand.key is not None and (holder.is_alive() if isinstance(holder, threading.Thread) else not holder.done())
            for holder, hand in self._hands.items()
            if holder is not None
        )

    def _last(self, id: str) -> Event:
        self._ended = True
        doorbell.ring(self._session.bell)  # the other threads are to see the end too
        return notice("STOP", id)

    def _fetch_locked(self) -> Message | None:
        if self._recovered:
            return self._recovered.popleft()
        if not self._fetched:
            self._fetched.extend(self._session.next_messages(self._fetch_max, self._unacknowledged))
        return self._fetched.popleft() if self._fetched else None

    def _hand_out(self, holder: Holder, message: Message) -> Any:
        session = self._session
        key, record = message
        input = session.input_of(key)
        timed = input.counter >= 0 and not inbox.is_notice(record)
        if timed and (recovery := self._timers.recovery(input)) is not None:
            self._recovered.append(message)
            staged = Staged()
            staged.also().counters = recovery
            self._hands[holder] = _Hand(staged, None, -1)
            return notice("INPUT_RECOVERED", input.name)
        arrival = self._timers.arrival(input) if timed else None
        lives = session.attempts.get(key, 0)
        try:
            event = inbox.event_of(session, input, message, lives)
        except Dropped:
            return _DROPPED
        except Exception:
            # no value at all, from a node in another language: were it not in hand when this program ends, it would
            # never become a dead letter
            if self._free_slots:
                session.page.take(self._free_slots[-1], key)
            raise
        staged = inbox.acknowledgement(input, message, lives)
        if arrival is not None:
            staged.also().counters = arrival
        slot = self._free_slots.pop() if self._free_slots else -1
        if slot >= 0:
            session.page.take(slot, key)
        self._hands[holder] = _Hand(staged, key, slot)
        self._unacknowledged.add(key)
        session.set_phase(pulse.HANDLING)
        return event

    def _due_locked(self, holder: Holder) -> Event | None:
        """A tick or a timeout that is due."""
        for event, counters in self._timers.due(self._unacknowledged) if self._timers else ():
            staged = Staged()
            staged.also().counters = counters
            self._hands[holder] = _Hand(staged, None, -1)
            return event
        return None

    def _update_locked(self, holder: Holder) -> Event | None:
        """The next change of a watched key."""
        if not self._updates:
            self._updates.extend(self._session.watch.read(GROUP_MAX))
            if not self._updates:
                return None
        item = self._updates.popleft()
        taken = _Taken((item.revision, item.nth))
        self._taken.append(taken)
        self._hands[holder] = _Hand(Staged(), None, -1, taken)
        self._update_last = True
        return kvs_update(item.key, item.value, item.revision)

    def _acknowledge(self, holder: Holder) -> None:
        hand = self._hands.pop(holder, None)
        if hand is None:
            return
        if hand.slot >= 0:
            self._session.page.release(hand.slot)
            self._free_slots.append(hand.slot)
        if hand.update is not None:
            hand.update.done = True
            while self._taken and self._taken[0].done:
                hand.staged.also().cursor = self._taken.popleft().cursor
        self._session.page.words[pulse.HANDLED] += 1
        self._staged.append(hand.staged)
        if len(self._staged) == 1:
            self._hold_timer.set()

    # --- waiting ----------------------------------------------------------------------------------------------------

    def _wait(self, pause_s: float, drains: int) -> None:
        """Sleep until the bell rings, or `pause_s` is over; not at all when it was drained since `drains`."""
        session = self._session
        with self._lock:
            if self._drains != drains or self._closing:
                return
            self._waiters += 1
            if not self._hands:
                session.page.words[pulse.PHASE] = pulse.WAITING
        try:
            poller = select.poll()
            poller.register(session.bell, select.POLLIN)
            rung = poller.poll(pause_s * 1000)
        finally:
            with self._lock:
                self._waiters -= 1
                if self._closing:
                    self._left.notify_all()
        if not rung:
            self._check_slowly()
        elif not self._closing:  # that ring is for all
            self._drain_bell()

    def _drain_bell(self) -> None:
        with self._lock:
            if not self._closed:
                self._drains += 1
                doorbell.drain(self._session.bell)

    def _check_slowly(self) -> None:
        now = time.monotonic()
        with self._lock:
            if now - self._published < SLOW_CHECK_S or self._closing:
                return
            self._published = now
            self._session.publish()

    async def _wait_async(self, pause_s: float, drains: int) -> None:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._drains != drains or self._closing:
                return
            sleepers = self._sleepers.get(loop)
            if sleepers is None:
                sleepers = self._sleepers[loop] = set()
                loop.add_reader(self._session.bell, self._rung_async, sleepers)
            sleepers.add(woken)
        timer = loop.call_later(pause_s, _wake, woken)
        try:
            await woken
        except asyncio.CancelledError:
            if not self._closing:
                doorbell.ring(self._session.bell)  # it may have been rung for a message that others can take
            raise
        finally:
            timer.cancel()
            with self._lock:
                sleepers.discard(woken)
                if not sleepers and self._sleepers.pop(loop, None) is not None:
                    loop.remove_reader(self._session.bell)
        self._check_slowly()

    def _rung_async(self, sleepers: set[asyncio.Future[None]]) -> None:
        self._drain_bell()
        for woken in sleepers:
            _wake(woken)

    # --- sending ----------------------------------------------------------------------------------------------------

    def send_output(self, output: str, value: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Send `value` to the receivers of `output`; waits while a receiver's queue, or the space, is full.

        Raises UnknownOutput, TypeError for what cannot travel, ValueTooLarge. Once the run is being stopped, what
        nobody has room for is given up.
        """
        waited = False
        while True:
            with self._lock:
                self._check_open()
                known = self._outputs.get(output)
                if known is None:
                    raise UnknownOutput(self.node_id, output, sorted(self._outputs))
                staged = Staged()
                try:
                    known.stage(staged, value, metadata, self._session)
                except StoreFull:
                    if self._gives_up:
                        raise
                    self._make_room_locked()
                else:
                    self._staged.append(staged)
                    due = self._is_due()
                    if not due and len(self._staged) == 1:
                        self._hold_timer.set()
                    if waited:
                        self._has_room_locked()
                    break
            time.sleep(ROOM_CHECK_S)
            waited = True
        if due:
            self._drain()

    def allocate(self, shape: int | tuple[int, ...], dtype: Any = "uint8") -> NDArray[Any]:
        """A writable array in a payload segment: fill it and hand it to `send_output`, which then copies nothing."""
        waited = False
        while True:
            with self._lock:
                self._check_open()
                try:
                    array = self._session.pool.allocate(shape, dtype)
                except StoreFull:
                    if self._gives_up:
                        raise
                    self._make_room_locked()
                else:
                    if waited:
                        self._has_room_locked()
                    return array
            time.sleep(ROOM_CHECK_S)
            waited = True

    def _make_room_locked(self) -> None:
        """There is no room for a payload: commit what waits.

        The caller then waits without the lock: another thread may hold the message whose acknowledgement makes room.
        """
        self._commit_locked()
        self._session.set_phase(pulse.WAITING_FOR_ROOM)

    def _has_room_locked(self) -> None:
        self._session.set_phase(pulse.HANDLING if self._hands else pulse.WAITING)

    def flush(self) -> None:
        """What was sent is committed when this returns."""
        self._check_open()
        self._drain()

    def _is_due(self) -> bool:
        return len(self._staged) >= GROUP_MAX or time.monotonic_ns() - self._committed_ns > HOLD_NS

    def _drain(self) -> None:
        """Commit everything that is staged, waiting for room as long as it has to."""
        session = self._session
        waited = False
        while True:
            with self._lock:
                if self._closed:
                    return
                done = self._commit_locked()
                if not done and self._gives_up:
                    self._give_up()
                    done = True
                if done:
                    if waited:
                        self._has_room_locked()
                    return
                if not waited:
                    waited = True
                    session.set_phase(pulse.WAITING_FOR_ROOM)
            poller = select.poll()
            poller.register(session.bell, select.POLLIN)
            if poller.poll(ROOM_CHECK_S * 1000):
                self._drain_bell()
                if self._waiters or self._sleepers:
                    doorbell.ring(session.bell)
                    time.sleep(ROOM_CHECK_S / 50)  # they drain it; this thread must not ring itself awake

    def _commit_locked(self) -> bool:
        """Commit what there is room for; whether that was all."""
        staged = self._staged
        if self._gave_up:
            staged.clear()
        while staged:
            try:
                done = self._session.commit(staged)
            except MessageGone:
                self._unacknowledged.difference_update(item.ack[0] for item in staged if item.ack is not None)
                self._session.forget_gone(staged)
                self._unacknowledged.update(item.ack[0] for item in staged if item.ack is not None)
                continue
            except Fenced as fenced:
                end_fenced(fenced)
            for item in staged[:done]:
                if item.ack is not None:
                    self._unacknowledged.discard(item.ack[0])
                    self._session.attempts.pop(item.ack[0], None)
            del staged[:done]
            if not done:
                return False
        self._committed_ns = time.monotonic_ns()
        return True

    @property
    def _gives_up(self) -> bool:
        """Whether nobody will make room any more: the run is being stopped, and not drained."""
        return self._stop is not None and not self._stop.drain

    def _give_up(self) -> None:
        """The run is being stopped, and nobody has room for what was sent.

        Then the event that it follows from must not be acknowledged either, and this life commits nothing more: all
        of it comes again in the next one.
        """
        self._gave_up = True
        self._session.let_go(self._staged)
        self._staged.clear()

    # --- the shared store, immediately ------------------------------------------------------------------------------

    @property
    def kvs(self) -> State:
        """The shared KVS: compare-and-set, several reads of one moment, and more."""
        self._check_open()
        self._drain()
        return self._kvs

    def kvs_read(self, key: str, default: bytes | None = None) -> bytes | None:
        """The shared value of `key`, or `default`."""
        self._check_open()
        if self._staged:
            self._drain()
        found: bytes | None = self._kvs.get_or(key, cast(Any, default))  # which it hands back, whatever it is
        return found

    def kvs_write(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """Write to the shared KVS; the value is gone `ttl` seconds from now, if given."""
        self.kvs.set(key, value, ttl)

    def kvs_delete(self, key: str) -> None:
        """Delete a shared key; one that is not there is no error."""
        self.kvs.delete(key)

    def kvs_merge(self, key: str, merge: Merge) -> None:
        """Combine a shared value with `merge` (see noderuntime.merges)."""
        self.kvs.merge(key, merge)

    def save_state(self, *_: object, **__: object) -> NoReturn:
        """Custom nodes have no private state: this and the four below raise StateNotAvailable, whatever is given."""
        raise StateNotAvailable(self.node_id, "save_state")

    def load_state(self, *_: object, **__: object) -> NoReturn:
        raise StateNotAvailable(self.node_id, "load_state")

    def delete_state(self, *_: object, **__: object) -> NoReturn:
        raise StateNotAvailable(self.node_id, "delete_state")

    def restore_state(self, *_: object, **__: object) -> NoReturn:
        raise StateNotAvailable(self.node_id, "restore_state")

    def state(self, *_: object, **__: object) -> NoReturn:
        raise StateNotAvailable(self.node_id, "state")

    # --- the service thread -----------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._serve_loop()
        except BaseException:
            # What became of the commit under way is unknown, and nobody else would ever hear of Stop.
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def _serve_loop(self) -> None:
        poller = select.poll()
        poller.register(self._dealer.fd, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        poller.register(self._hold_timer.fd, select.POLLIN)
        self._control()
        while not self._closed:
            ready = dict(poller.poll())
            self._control()
            if self._hold_timer.fd in ready:
                self._hold_timer.wait()
                with self._lock:
                    if not self._closed and not self._commit_locked():
                        self._hold_timer.set_in(int(ROOM_CHECK_S * 1e9))

    def _control(self) -> None:
        while (message := self._dealer.receive_nowait()) is not None:
            if isinstance(message, Stop):
                self._stop = message
                doorbell.ring(self._session.bell)
            elif isinstance(message, Quiet):
                with self._lock:
                    self._timers.quieten()
            elif isinstance(message, Refused):
                end_fenced(Fenced(message.why))

    # --- ending -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Acknowledge what was taken, commit what was sent, and leave. A second call does nothing."""
        self._close(finished=True)

    def _close(self, finished: bool) -> None:
        with self._lock:
            if self._closing:
                return
            if finished:
                for holder in list(self._hands):
                    self._acknowledge(holder)
            self._closing = True
        self._drain()
        with self._lock:
            for loop, sleepers in self._sleepers.items():
                if loop.is_running():
                    loop.call_soon_threadsafe(self._rung_async, sleepers.copy())
                loop.remove_reader(self._session.bell)
            self._sleepers.clear()
            while self._waiters:
                doorbell.ring(self._session.bell)
                self._left.wait()
            self._closed = True
        os.eventfd_write(self._wake, 1)
        self._service.join()
        atexit.unregister(self._at_exit)
        if finished:
            reason = "ALL_INPUTS_CLOSED" if self._ended and self._stop is None else ""
            self._dealer.send(Bye(self._stop is None, reason))
        self._dealer.close()
        os.close(self._wake)
        self._hold_timer.close()
        self._session.close()

    def _at_exit(self) -> None:
        """The program ends without close(): what it sent counts; the event in its hand is not acknowledged."""
        failed = hasattr(sys, "last_value")
        self._hands.clear()
        self._close(finished=not failed)

    def forked(self) -> None:
        """For noderuntime.ipc.forks, in the child of a fork: the node stays the parent's, and this copy is closed."""
        self._is_fork = self._closing = self._closed = True
        self._lock = threading.RLock()  # threads that are not here may hold the other one
        self._hands, self._staged = {}, []

    def _check_open(self) -> None:
        if self._is_fork:
            raise forks.Forked
        if self._closing:
            raise NodeRuntimeError(f"node {self._session.wiring.node!r} is closed: it takes and sends nothing any more")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(finished=kind is None)


def _went_well(task: asyncio.Task[Any]) -> bool:
    """Whether a task has returned. (`task.exception()` would silence asyncio's report of what nobody awaited.)"""
    return task.done() and not task.cancelled() and getattr(task, "_exception", None) is None


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
