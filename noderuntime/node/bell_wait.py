"""How the threads and tasks of a custom node wait for its doorbell, which they share.

1. A waiter reads `drains` and then looks for an event.
2. If it finds none, it waits for the bell, unless the bell was drained since: then it may have missed an event.
3. The waiter that is woken drains the bell and looks. If it takes an event, it rings again (`pass_on`), so that the
   others look too.
"""

from __future__ import annotations

import asyncio
import select
import threading
import time
from collections.abc import Sized

from noderuntime.ipc import doorbell, pulse
from noderuntime.node.gate import Gate
from noderuntime.node.session import SLOW_CHECK_S, NodeSession


class BellWait:
    """The waiting threads and tasks of one node. `in_hand`: its events in hand; empty, the pulse says WAITING."""

    def __init__(self, session: NodeSession, gate: Gate, in_hand: Sized) -> None:
        self.drains = 0  # how often the bell was drained
        self._session = session
        self._gate = gate
        self._in_hand = in_hand
        self._threads = 0  # how many threads wait
        self._left = threading.Condition(gate.lock)  # notified when a waiting thread has left
        self._tasks: dict[asyncio.AbstractEventLoop, set[asyncio.Future[None]]] = {}  # waiting
        self._published = time.monotonic()

    def ring(self) -> None:
        doorbell.ring(self._session.bell)

    def pass_on(self) -> bool:
        """Ring again if other threads or tasks wait: senders ring once for many messages. Returns whether any wait."""
        if self._threads or self._tasks:
            self.ring()
            return True
        return False

    def wait(self, pause_s: float, drains: int) -> None:
        """Sleep until the bell rings or `pause_s` is over; return at once when it was drained after `drains`."""
        gate, session = self._gate, self._session
        with gate.lock:
            if self.drains != drains or gate.closing:
                return
            self._threads += 1
            if not self._in_hand:
                session.page.words[pulse.PHASE] = pulse.WAITING
        try:
            poller = select.poll()
            poller.register(session.bell, select.POLLIN)
            rung = poller.poll(pause_s * 1000)
        finally:
            with gate.lock:
                self._threads -= 1
                if gate.closing:
                    self._left.notify_all()
        if not rung:
            self._check_slowly()
        elif not gate.closing:  # the ring of a closing gate is for all waiters
            self.drain()

    async def wait_async(self, pause_s: float, drains: int) -> None:
        """As `wait`, for a task."""
        gate, session = self._gate, self._session
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        with gate.lock:
            if self.drains != drains or gate.closing:
                return
            tasks = self._tasks.get(loop)
            if tasks is None:
                tasks = self._tasks[loop] = set()
                loop.add_reader(session.bell, self._rung, tasks)
            tasks.add(woken)
        timer = loop.call_later(pause_s, _wake, woken)
        try:
            await woken
        except asyncio.CancelledError:
            if not gate.closing:
                self.ring()  # the ring may have been for a message that another waiter can take
            raise
        finally:
            timer.cancel()
            with gate.lock:
                tasks.discard(woken)
                if not tasks and self._tasks.pop(loop, None) is not None:
                    loop.remove_reader(session.bell)
        self._check_slowly()

    def _rung(self, tasks: set[asyncio.Future[None]]) -> None:
        self.drain()
        for woken in tasks:
            _wake(woken)

    def drain(self) -> None:
        """Clear the bell; waiters that looked before this look once more."""
        with self._gate.lock:
            if not self._gate.closed:
                self.drains += 1
                doorbell.drain(self._session.bell)

    def _check_slowly(self) -> None:
        now = time.monotonic()
        with self._gate.lock:
            if now - self._published < SLOW_CHECK_S or self._gate.closing:
                return
            self._published = now
            self._session.publish()

    def wake_all_locked(self) -> None:
        """The gate is closing: wake all threads and tasks, and wait until they have left.

        Tasks need their loop, which may be the caller's, so nothing waits for them.
        """
        for loop, tasks in self._tasks.items():
            if loop.is_running():
                loop.call_soon_threadsafe(self._rung, tasks.copy())
            loop.remove_reader(self._session.bell)
        self._tasks.clear()
        while self._threads:
            self.ring()
            self._left.wait()


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
