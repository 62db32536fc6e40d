"""The messages and acknowledgements of a custom node: staged, held for a moment, and committed.

They are committed at once if nothing was committed within the last HOLD_NS, otherwise together with those that follow
within HOLD_NS; in any case before the node waits, reads the shared KVS or ends. Acknowledgements alone are held up to
HOLD_ACKNOWLEDGEMENTS_NS: nobody waits for them while the node has more to handle.
"""

from __future__ import annotations

import select
import time
from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Any, Final

from noderuntime.errors import Fenced, StoreFull, UnknownOutput
from noderuntime.ipc import pulse
from noderuntime.ipc.protocol import Stop
from noderuntime.node.bell_wait import BellWait
from noderuntime.node.gate import Gate
from noderuntime.node.joining import end_fenced
from noderuntime.node.session import ROOM_CHECK_S, NodeSession
from noderuntime.node.timerfd import OneShotTimer
from noderuntime.space.staging import GROUP_MAX, Staged
from noderuntime.space.writer import MessageGone

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOLD_NS: Final = 1_000_000
HOLD_ACKNOWLEDGEMENTS_NS: Final = 5_000_000


class Sender:
    """What is staged but not committed. `in_hand`: the events in hand, for the phase that the pulse shows after a wait.

    A method whose name ends in _locked is called with the gate's lock held.
    """

    def __init__(self, session: NodeSession, gate: Gate, waiters: BellWait, in_hand: Sized) -> None:
        self.staged: list[Staged] = []
        self.unacknowledged: set[bytes] = set()  # keys of messages in hand, or whose acknowledgement is staged
        self.hold_timer = OneShotTimer(HOLD_NS)  # goes off when staged messages have been held long enough
        self._session = session
        self._gate = gate
        self._waiters = waiters
        self._in_hand = in_hand
        self._outputs = session.outputs
        self._committed_ns = 0
        self._has_sent = False  # not only acknowledgements are staged
        self._stopping = False  # the run is being stopped, not drained: no receiver will make room any more
        self._gave_up = False  # a message could not be committed, so nothing after it may be

    def note_stop(self, stop: Stop) -> None:
        self._stopping = not stop.drain

    # --- staging ----------------------------------------------------------------------------------------------------

    def send(self, output: str, value: Any, metadata: Mapping[str, Any] | None, flush: bool = False) -> None:
        """See Node.send_output."""
        waited = False
        due = self._stage(output, value, metadata, flush, waited)
        while due is None:
            time.sleep(ROOM_CHECK_S)
            waited = True
            due = self._stage(output, value, metadata, flush, waited)
        if due:
            self.drain()

    def _stage(
        self, output: str, value: Any, metadata: Mapping[str, Any] | None, flush: bool, waited: bool
    ) -> bool | None:
        """Stage a message. Returns whether to commit what is staged now; None when there was no room for it."""
        with self._gate.lock:
            self._gate.check()
            known = self._outputs.get(output)
            if known is None:
                raise UnknownOutput(self._session.wiring.node, output, sorted(self._outputs))
            staged = Staged()
            try:
                known.stage(staged, value, metadata, self._session)
            except StoreFull:
                if self._stopping:
                    raise
                self._make_room_locked()
                return None
            if flush:
                staged.also().flush = [(known, 0)]
                self._session.commits.flushes = True
            self.staged.append(staged)
            is_first, self._has_sent = not self._has_sent, True
            due = self.is_due()
            if not due and is_first:
                self.hold_timer.set()
            if waited:
                self._has_room_locked()
            return due

    def allocate(self, shape: int | tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """See Node.allocate."""
        waited = False
        while True:
            with self._gate.lock:
                self._gate.check()
                try:
                    array = self._session.pool.allocate(shape, dtype)
                except StoreFull:
                    if self._stopping:
                        raise
                    self._make_room_locked()
                else:
                    if waited:
                        self._has_room_locked()
                    return array
            time.sleep(ROOM_CHECK_S)
            waited = True

    def acknowledge_locked(self, staged: Staged) -> None:
        """Add the acknowledgement of a handled event to what is committed next."""
        self.staged.append(staged)
        if len(self.staged) == 1:
            self.hold_timer.set_in(HOLD_ACKNOWLEDGEMENTS_NS)

    def _make_room_locked(self) -> None:
        """There is no room for a payload: commit what is staged.

        The caller then waits without the lock: another thread may have the message whose acknowledgement makes room.
        """
        self.commit_locked()
        self._session.set_phase(pulse.WAITING_FOR_ROOM)

    def _has_room_locked(self) -> None:
        self._session.set_phase(pulse.HANDLING if self._in_hand else pulse.WAITING)

    # --- committing -------------------------------------------------------------------------------------------------

    def is_due(self) -> bool:
        """Whether to commit what is staged now instead of holding it."""
        hold_ns = HOLD_NS if self._has_sent else HOLD_ACKNOWLEDGEMENTS_NS
        return len(self.staged) >= GROUP_MAX or time.monotonic_ns() - self._committed_ns > hold_ns

    def drain(self) -> None:
        """Commit everything that is staged, waiting for room as long as it takes."""
        session = self._session
        waited = False
        while True:
            with self._gate.lock:
                if self._gate.closed:
                    return
                done = self.commit_locked()
                if not done and self._stopping:
                    self._give_up_locked()
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
                self._waiters.drain()
                if self._waiters.pass_on():
                    time.sleep(ROOM_CHECK_S / 50)  # other threads drain the bell; do not ring this thread awake

    def commit_locked(self) -> bool:
        """Commit as much as there is room for. Returns whether that was all."""
        staged = self.staged
        if self._gave_up:
            staged.clear()
        while staged:
            try:
                done = self._session.commit(staged)
            except MessageGone:
                self.unacknowledged.difference_update(item.ack[0] for item in staged if item.ack is not None)
                self._session.forget_gone(staged)
                self.unacknowledged.update(item.ack[0] for item in staged if item.ack is not None)
                continue
            except Fenced as fenced:
                end_fenced(fenced)
            for item in staged[:done]:
                if item.ack is not None:
                    self.unacknowledged.discard(item.ack[0])
                    self._session.attempts.pop(item.ack[0], None)
            del staged[:done]
            if not done:
                return False
        self._committed_ns = time.monotonic_ns()
        self._has_sent = False
        return True

    def commit_held(self) -> None:
        """For the service thread: the hold timer went off."""
        self.hold_timer.wait()
        with self._gate.lock:
            if not self._gate.closed and not self.commit_locked():
                self.hold_timer.set_in(int(ROOM_CHECK_S * 1e9))

    def _give_up_locked(self) -> None:
        """The run is being stopped, and there is no room for what was sent.

        Then the event that caused it must not be acknowledged either, and this life commits nothing more: the next life
        handles all of it again.
        """
        self._gave_up = True
        self._session.let_go(self.staged)
        self.staged.clear()

    def close(self) -> None:
        self.hold_timer.close()
