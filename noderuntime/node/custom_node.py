"""`Node`: what a custom node's program uses. The program runs its own loop; the runtime only starts and watches it.

Delivery is at least once: an event is acknowledged when the thread or task that took it asks for the next one.

The parts of a `Node` share one lock (gate.py): the events in hand (hands.py), messages sent but not yet committed
(sender.py), and the threads and tasks that wait for the doorbell (bell_wait.py). A service thread owns the control
channel, because a ZeroMQ socket belongs to one thread, and commits messages that were held long enough.
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
from collections.abc import Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, cast

from noderuntime.api.events import Event
from noderuntime.api.values import Decode
from noderuntime.errors import Fenced, NotRunning, StateNotAvailable
from noderuntime.ipc import forks, process, pulse
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import Bye, Edge, Quiet, Ready, Refused, Rewired, Stop
from noderuntime.ipc.wiring import Wiring
from noderuntime.node.bell_wait import BellWait
from noderuntime.node.gate import Gate
from noderuntime.node.hands import NOTHING, Hand, Hands, Holder
from noderuntime.node.joining import end_fenced, find_run, greet
from noderuntime.node.sender import Sender
from noderuntime.node.session import NodeSession
from noderuntime.space.kvs import Merge
from noderuntime.state import State

if TYPE_CHECKING:
    from numpy.typing import NDArray

SWITCH_INTERVAL_S: Final = 0.0005


class Node:
    """This process as a node of a running dataflow. Iterate over it, or call `next`.

    Without arguments, the node that the runtime started this program as. `Node("id", run="NAME")` joins a run as its
    dynamic node `id`. Raises NotRunning when there is no such run, or when it refuses.

    A fork of this process (os.fork, multiprocessing) is not the node: there, each call raises an error that says so,
    close() and the end of `with` do nothing, and the node of the parent is not affected.

    To lower latency it changes three settings of the whole process, until the process ends: threads switch
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
        in_hand: dict[Holder, Hand] = {}
        self._in_hand = in_hand
        self._gate = gate = Gate(wiring.node)
        self._waiters = BellWait(session, gate, in_hand)
        self._sender = Sender(session, gate, self._waiters, in_hand)
        self._hands = Hands(session, gate, self._sender, self._waiters, in_hand)
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
        """The number of this life of the node, from 1."""
        return self._session.incarnation

    @property
    def is_restart(self) -> bool:
        """Whether there was a life before this one."""
        return self.incarnation > 1

    # --- events -----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Event]:
        """All events to come; ends after the STOP event."""
        while (event := self.next()) is not None:
            yield event

    def next(self, timeout: float | None = None) -> Event | None:
        """The next event; None when the stream has ended. Acknowledges the event that this thread took before.

        Raises TimeoutError when no event comes within `timeout` seconds.
        """
        holder = threading.current_thread()
        deadline = None if timeout is None else time.monotonic() + timeout
        self._gate.check()
        while not self._gate.closing:
            drains = self._waiters.drains
            event = self._hands.take(holder)
            if event is not NOTHING:
                return event
            pause_s = self._hands.pause_s()
            if deadline is not None:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(f"no event for {self.node_id!r} within {timeout} seconds")
                pause_s = min(pause_s, left_s)
            self._waiters.wait(pause_s, drains)
        return None

    def try_next(self) -> Event | None:
        """The next event; None when there is none now, or the stream has ended."""
        self._gate.check()
        event = self._hands.take(threading.current_thread())
        return None if event is NOTHING else event

    def take_all(self) -> list[Event]:
        """All events that are there now. Acknowledges the event that this thread took before, not these."""
        self._gate.check()
        return self._hands.take_all(threading.current_thread())

    def is_waiting(self) -> bool:
        """Whether `try_next` would return an event now. Takes nothing."""
        self._gate.check()
        own: list[Holder] = [threading.current_thread()]
        with contextlib.suppress(RuntimeError):  # no loop runs in this thread
            own.append(asyncio.current_task())
        return self._hands.is_waiting(own)

    def decode_with(self, decode: Decode) -> None:
        """From now on `decode` makes the values that are views of a message's memory: arrays and bytes-like objects."""
        self._hands.decode = decode

    def put_event(self, event: Event) -> None:
        """Hand out `event` of another origin, to one of the threads or tasks that ask, before what waits."""
        self._gate.check()
        self._hands.put(event)

    async def next_async(self) -> Event | None:
        """The next event; None when the stream has ended. Acknowledges the event that this task took before."""
        holder = asyncio.current_task()
        self._gate.check()
        while not self._gate.closing:
            drains = self._waiters.drains
            event = self._hands.take(holder)
            if event is not NOTHING:
                return event
            await self._waiters.wait_async(self._hands.pause_s(), drains)
        return None

    # --- sending ----------------------------------------------------------------------------------------------------

    def send_output(
        self, output: str, value: Any, metadata: Mapping[str, Any] | None = None, flush: bool = False
    ) -> None:
        """Send `value` to the receivers of `output`; waits while a receiver's queue, or the space, is full.

        With `flush`, what waits of this output from before is dropped, and counted, whatever its queue_policy.
        Raises UnknownOutput, ValueTooLarge, and TypeError for a value that cannot be sent. While the run is being
        stopped, messages that find no room are given up.
        """
        self._sender.send(output, value, metadata, flush)

    def allocate(self, shape: int | tuple[int, ...], dtype: Any = "uint8") -> NDArray[Any]:
        """A writable array in a payload segment: fill it and hand it to `send_output`, which then copies nothing."""
        return self._sender.allocate(shape, dtype)

    def flush(self) -> None:
        """Commit everything that was sent, before this returns."""
        self._gate.check()
        self._sender.drain()

    # --- the shared store, immediately ------------------------------------------------------------------------------

    @property
    def kvs(self) -> State:
        """The shared KVS: compare-and-set, several reads of one moment, and more."""
        self._gate.check()
        self._sender.drain()
        return self._kvs

    def kvs_read(self, key: str, default: bytes | None = None) -> bytes | None:
        """The shared value of `key`, or `default`."""
        self._gate.check()
        if self._sender.staged:
            self._sender.drain()
        found: bytes | None = self._kvs.get_or(key, cast(Any, default))  # which it hands back, whatever it is
        return found

    def kvs_write(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """Write to the shared KVS. With `ttl`, the value expires that many seconds from now."""
        self.kvs.set(key, value, ttl)

    def kvs_delete(self, key: str) -> None:
        """Delete a shared key. A missing key is not an error."""
        self.kvs.delete(key)

    def kvs_merge(self, key: str, merge: Merge) -> None:
        """Combine a shared value with `merge` (see noderuntime.merges)."""
        self.kvs.merge(key, merge)

    def save_state(self, *_: object, **__: object) -> NoReturn:
        """Custom nodes have no private state: this and the next four raise StateNotAvailable for any arguments."""
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
            # The outcome of the commit under way is unknown, and only this thread would hear of Stop.
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def _serve_loop(self) -> None:
        poller = select.poll()
        poller.register(self._dealer.fd, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        poller.register(self._sender.hold_timer.fd, select.POLLIN)
        self._control()
        while not self._gate.closed:
            ready = dict(poller.poll())
            self._control()
            if self._sender.hold_timer.fd in ready:
                self._sender.commit_held()

    def _control(self) -> None:
        while (message := self._dealer.receive_nowait()) is not None:
            if isinstance(message, Stop):
                self._sender.note_stop(message)
                self._hands.stop = message
                self._waiters.ring()
            elif isinstance(message, Quiet):
                with self._gate.lock:
                    self._hands.quieten_locked()
            elif isinstance(message, Rewired):
                with self._gate.lock:
                    self._session.commits.look()
                self._waiters.ring()  # a thread that waits has to look into other mailboxes now
            elif isinstance(message, Refused):
                end_fenced(Fenced(message.why))

    # --- ending -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Acknowledge the events taken, commit what was sent, and leave the run. A second call does nothing."""
        self._close(finished=True)

    def _close(self, finished: bool) -> None:
        gate = self._gate
        with gate.lock:
            if gate.closing:
                return
            if finished:
                for holder in list(self._in_hand):
                    self._hands.acknowledge_locked(holder)
            gate.closing = True
        self._sender.drain()
        with gate.lock:
            self._waiters.wake_all_locked()
            gate.closed = True
        os.eventfd_write(self._wake, 1)
        self._service.join()
        atexit.unregister(self._at_exit)
        if finished:
            stopped = self._hands.stop is not None
            self._dealer.send(Bye(not stopped, "ALL_INPUTS_CLOSED" if self._hands.ended and not stopped else ""))
        self._dealer.close()
        os.close(self._wake)
        self._sender.close()
        self._session.close()

    def _at_exit(self) -> None:
        """The program ends without close(): commit what it sent, but do not acknowledge the events in hand."""
        failed = hasattr(sys, "last_value")
        self._in_hand.clear()
        self._close(finished=not failed)

    def forked(self) -> None:
        """For noderuntime.ipc.forks, in the child of a fork: the node stays the parent's, and this copy is closed."""
        self._gate.forked()
        self._in_hand.clear()
        self._sender.staged.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(finished=kind is None)
