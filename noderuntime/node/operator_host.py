"""The process of an operator: read, handle, commit, ring.

    hello -> welcome, restore_state -> load, make, restore -> ready -> *(ticks, messages, commit) -> bye

Events that wait are handled in groups, which commit as one transaction: GROUP_MAX of them, or as many as are
handled in GROUP_NS. With nothing waiting, a group is one event, and its latency is that of its commit. If an event
fails, those before it in its group are committed first. If a handler takes long, a helper thread commits those before
it meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noderuntime.api.events import Event, kvs_update, notice
from noderuntime.api.operator import (
    POSITION_KEY,
    Source,
    Status,
    make,
    own_state,
    packed_position,
    position_of,
    status_of,
)
from noderuntime.errors import Fenced, NodeRuntimeError, OperatorError, StoreFull
from noderuntime.ipc import doorbell, forks, process, pulse
from noderuntime.ipc.boundary import ERROR_CHARACTERS_MAX, TRACE_CHARACTERS_MAX, cut, describe
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import (
    EXIT_FENCED,
    EXIT_RELOAD,
    VERSION,
    WELCOME_S,
    Bye,
    Edge,
    Failed,
    Hello,
    Log,
    Quiet,
    Ready,
    Refused,
    Reload,
    ReloadFailed,
    RestoreState,
    Stop,
    StopAll,
    Welcome,
)
from noderuntime.ipc.rundir import ENV_LIFE, ENV_NODE, ENV_RUN_DIR, RunDir
from noderuntime.ipc.wiring import Wiring
from noderuntime.node.commit_helper import CommitHelper
from noderuntime.node.context import OperatorContext
from noderuntime.node.inbox import event_of, is_notice
from noderuntime.node.reload_check import CodeCheck
from noderuntime.node.remote_log import LogHandler
from noderuntime.node.session import ROOM_CHECK_S, NodeSession
from noderuntime.node.timers import Counters, Timers
from noderuntime.node.user_code import load, user_trace
from noderuntime.space.keys import MAILBOX_PREFIX_BYTES
from noderuntime.space.mailbox import Message
from noderuntime.space.segments import Dropped
from noderuntime.space.staging import GROUP_MAX, Staged
from noderuntime.space.writer import Inapplicable, MessageGone

GROUP_NS = 1_000_000
SLOW_CHECK_S = 5.0
WAIT_WARNING_S = 10.0


_SAME_IN_MESSAGEPACK = frozenset({int, str, bytes, bool, float})
_POSITION = POSITION_KEY.encode()


def _with_counters(counters: Counters) -> Staged:
    """An event that sets these counters."""
    staged = Staged()
    staged.also().counters = counters
    return staged


def _ignore(event: Event, ctx: OperatorContext) -> None:
    """What a Source without on_event makes of events."""


class OperatorHost:
    """One life of one operator."""

    def __init__(self, session: NodeSession, dealer: Dealer, log: LogHandler) -> None:
        self.session = session
        self.dealer = dealer
        self.log = log
        self.words = session.page.words
        self._take_in_hand = session.page.hand(0)
        self._inputs = {item.mailbox: item for item in session.inputs.values()}
        self.ctx = OperatorContext(session, session.wiring.config, logging.getLogger(session.wiring.node))
        self.operator: Any = None
        self._on_event: Callable[[Event, OperatorContext], Any] = _ignore
        self.group: list[Staged] = []
        self.group_since_ns = 0  # when the handling of the first event of the group began
        self.helper: CommitHelper | None = None
        self._helped = False  # the helper has an eye on this group
        self.committing = threading.Lock()
        self.stop: Stop | None = None
        self.ended = False  # the last commit closed the outputs
        self.stop_all = False
        self.gave_up = False  # handled events were left uncommitted: nothing that follows from them may be committed
        self.exit_code: int | None = None  # set: leave between two events
        self.over = False  # one of these: nothing may be handled any more in this life
        self.position: Any = None
        self.produces = False
        self.idle_until = 0.0
        self._timers = Timers(session)
        self._ahead: deque[Message] = deque()  # read, not yet handled
        self._reads_ahead = not any(item.wiring.drop_oldest for item in session.inputs.values())
        self._reload: CodeCheck | None = None
        self._reload_again = False  # asked for once more, while the code was being checked
        self._poller = session.poller(dealer.fd)
        self._waiting_since = 0.0
        self._rung = False  # the bell has rung, and is not drained yet
        self.ctx.wait_for_room = self._wait_for_payload_room
        self._published = time.monotonic()
        self._is_fork = False
        forks.watch(self)

    def forked(self) -> None:
        """See noderuntime.ipc.forks. A child that comes back from the handler ends at the first use of what is gone."""
        self._is_fork = self.over = True
        self.helper, self._helped = None, False
        self.words = self.session = self._take_in_hand = self.committing = forks.GONE

    # --- beginning --------------------------------------------------------------------------------------------------

    def prepare(self, state: dict[str, bytes]) -> None:
        """Load, make and restore the operator. Raises OperatorError."""
        code = self.session.wiring.code
        factory = load(code["path"], code["module"], code["name"])
        where = "init"
        try:
            self.operator = make(factory, self.ctx)
            self.produces = hasattr(self.operator, "produce")
            if not self.produces and not hasattr(self.operator, "on_event"):
                raise OperatorError("init", f"{code['name']} has neither on_event nor produce")
            if not self.produces and not self.session.inputs:
                raise OperatorError(
                    "init",
                    f"{code['name']} has no inputs in the dataflow file and is no Source: it would never be called",
                )
            if self.produces and self.session.mailboxes:
                names = ", ".join(item.name for item in self.session.inputs.values())
                raise OperatorError("init", f"{code['name']} is a Source, which takes no inputs; remove: {names}")
            self._on_event = getattr(self.operator, "on_event", _ignore)
            where = "restore_state"
            own = own_state(state)
            if own and hasattr(self.operator, "restore_state"):
                self.operator.restore_state(own)
            self.position = position_of(state)
        except OperatorError:
            raise
        except BaseException as error:
            raise OperatorError(where, describe(error), user_trace(error)) from None

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Handle events until the end; returns the exit code."""
        try:
            return self._run()
        finally:
            if self._reload is not None:
                self._reload.kill()

    def _run(self) -> int:
        self.control()
        while True:
            if self.stop is not None:
                self.exit_code = None
                self._finish(self.stop)
                break
            if self.over:
                break
            worked = self._tick() if self._timers else False
            if self.over:
                break
            worked |= self._update()
            if self.over:
                break
            worked |= self._produce() if self.produces else self._take()
            if self.over:
                break
            if not worked and self.session.all_closed:
                self._finish(Stop("ALL_INPUTS_CLOSED", 0.0))
                break
            self._wait(0.0 if worked else self._pause_s())
        if self.stop_all:
            self.dealer.send(StopAll())
        if self.exit_code is None:
            self.dealer.send(Bye(self.ended, ""))
        return self.exit_code or 0

    def _take(self) -> bool:
        """Handle the next group of messages; whether there was one."""
        ahead = self._ahead
        if not ahead:
            ahead.extend(self.session.next_messages(GROUP_MAX))
            if not ahead:
                return False
        self.group_since_ns = time.monotonic_ns()
        deadline = self.group_since_ns + GROUP_NS
        if len(ahead) > 1:
            self._begin_group()
        self.words[pulse.SINCE_NS] = self.group_since_ns
        self.words[pulse.PHASE] = pulse.HANDLING
        message, clock, take = self._message, time.monotonic_ns, ahead.popleft
        while ahead:
            message(take())
            if self.over or clock() > deadline:  # after each: what is handled and not committed is lost to a kill
                break
        self.session.page.release(0)
        self._flush()
        if not self._reads_ahead:  # what was read may be dropped meanwhile
            ahead.clear()
        return True

    def _update(self) -> bool:
        """Hand out what has changed of the watched keys; whether there was anything."""
        updates = self.session.watch.read(GROUP_MAX)
        if not updates:
            return False
        self.group_since_ns = time.monotonic_ns()
        for item in updates:
            self.session.set_phase(pulse.HANDLING)
            staged = Staged()
            staged.also().cursor = item.revision, item.nth
            self._handle(kvs_update(item.key, item.value, item.revision), staged)
            if self.over:
                break
        self._flush()
        return True

    def _message(self, message: Message) -> None:
        """Handle one message of a mailbox."""
        key, record = message
        session = self.session
        input = self._inputs[key[:MAILBOX_PREFIX_BYTES]]
        staged = Staged()
        staged.ack = key, input, record
        if input.counter >= 0 and not is_notice(record):
            if (recovery := self._timers.recovery(input)) is not None:
                self._handle(notice("INPUT_RECOVERED", input.name), _with_counters(recovery))
                if self.over:
                    return
            staged.also().counters = self._timers.arrival(input)
        self._take_in_hand(key)
        lives = 0
        if session.attempts:
            lives = session.attempts.pop(key, 0)
            staged.also().attempts = lives > 0
        try:
            event = event_of(session, input, message, lives)
        except Dropped:
            return
        except BaseException as error:
            self._fail("on_event", error)
        self._handle(event, staged)

    def _handle(self, event: Event, staged: Staged, ends: bool | None = None) -> None:
        """Run the handler for an event; what it changes is staged in `staged`, which joins the group.

        `ends` tells whether it is the last event of this node; by default the handler's Status decides.
        """
        ctx = self.ctx
        ctx.staged = staged
        try:
            returned = self._on_event(event, ctx)
            if returned is not None and returned is not Status.CONTINUE:
                status = status_of(returned)
                if ends is None:
                    ends = True
                    staged.also().stops_all = self.stop_all = status is Status.STOP_ALL
        except Fenced:
            raise
        except BaseException as error:
            self._fail("on_event", error)
        ctx.staged = None
        if ends:
            staged.also().ends = self.ended = self.over = True
        self.group.append(staged)

    def _fail(self, where: str, error: BaseException) -> None:
        """The handler raised: commit what was finished before it, say so, and end this process."""
        if self._is_fork:
            print(user_trace(error), file=sys.stderr, flush=True)
            os._exit(1)
        self.ctx.staged = None
        self.ended = self.stop_all = False
        self._flush()
        raise OperatorError(where, describe(error), user_trace(error)) from None

    def _flush(self) -> None:
        """Commit the group; waits for room as long as it has to, unless this life is to end."""
        if self._helped and self.helper is not None:
            self._helped = False
            self.helper.committing()
        while self.group:
            try:
                self._commit()
            except Inapplicable as failed:
                self._fail_staged(failed)
            if self.group and self.session.commits.waits_for:
                self._wait_for_room()
                if self.stop is not None or self.exit_code is not None:
                    # Uncommitted is undone, and will be handled in the next life. The operator has it in its memory:
                    # so it must not commit anything from here on, what it would do at the STOP event included.
                    self.gave_up = self.over = True
                    self.ended = self.stop_all = False
                    self.session.let_go(self.group)
                    self.group.clear()
        self._waiting_since = 0.0
        self.ctx.committed()

    def _commit(self) -> None:
        with self.committing:
            if self.group:  # else the other thread was faster
                done = self.session.commit(self.group)
                self.words[pulse.HANDLED] += done
                del self.group[:done]

    def _fail_staged(self, failed: Inapplicable) -> None:
        """A handler has returned, and what it staged cannot be committed: its event fails, those before it do not."""
        bad = self.group[failed.at]
        del self.group[failed.at :]
        if bad.ack is not None:
            self._take_in_hand(bad.ack[0])
        self._fail("on_event", failed.error)

    def _commit_what_waits(self) -> bool:
        """For the helper thread: a handler takes long, so commit the events that were finished before it.

        Whether some of them still wait.
        """
        if self.group and not self.gave_up and time.monotonic_ns() - self.group_since_ns > GROUP_NS:
            try:
                self._commit()
            except Fenced:
                os._exit(EXIT_FENCED)
            except Inapplicable:
                return False  # the loop will meet it too, and can say so
            self.group_since_ns = time.monotonic_ns()
        return bool(self.group)

    def _begin_group(self) -> None:
        """What is finished is not to wait for long from here on, whatever the handlers do."""
        if self.helper is None:
            self.helper = CommitHelper(self._commit_what_waits, GROUP_NS)
        self._helped = True
        self.helper.begun()

    def close(self) -> None:
        """Let go of the space; no commit is under way afterwards."""
        if self.helper is not None:
            self.helper.stop()
        self.session.close()

    def _wait_for_payload_room(self, full: StoreFull) -> None:
        """A handler sends something large, and there is no room: let the others have what was finished before it."""
        staged = self.ctx.staged
        self._flush()
        self.ctx.staged = staged
        self.session.commits.waits_for = f"room in the space ({full.why})"
        if self.stop is not None:
            raise full
        self._wait_for_room()
        self.words[pulse.PHASE] = pulse.HANDLING

    def _wait_for_room(self) -> None:
        now = time.monotonic()
        if not self._waiting_since:
            self._waiting_since = now
        elif now - self._waiting_since > WAIT_WARNING_S:
            self._waiting_since = now
            if "space" in self.session.commits.waits_for:
                self.ctx.log.warning(
                    "waiting for %s. Raise `state: {size: ...}`, lower queue limits, or delete what is not needed",
                    self.session.commits.waits_for,
                )
        self.session.set_phase(pulse.WAITING_FOR_ROOM)
        self._wait(ROOM_CHECK_S)

    def _tick(self) -> bool:
        """Hand out the ticks and timeouts that are due; whether there was one."""
        worked = False
        for event, counters in self._timers.due():
            self.session.set_phase(pulse.HANDLING)
            self._handle(event, _with_counters(counters))
            self._flush()
            worked = True
            if self.over:
                break
        return worked

    def _pause_s(self) -> float:
        """How long to sleep when there is nothing to do."""
        pause_s = self._timers.pause_s(SLOW_CHECK_S)
        return min(pause_s, max(0.0, self.idle_until - time.monotonic())) if self.produces else pause_s

    # --- sources ----------------------------------------------------------------------------------------------------

    def _produce(self) -> bool:
        """Let a Source produce a group; whether it did."""
        if time.monotonic() < self.idle_until:
            return False
        self.group_since_ns = time.monotonic_ns()
        deadline = self.group_since_ns + GROUP_NS
        self._begin_group()
        self.session.set_phase(pulse.HANDLING)
        produce, ctx, group = self.operator.produce, self.ctx, self.group
        idle_s = 0.0
        while True:
            ctx.staged = staged = Staged()
            try:
                returned = produce(self.position, ctx)
                position = packed_position(returned)
                if position is not None:
                    same = type(returned) in _SAME_IN_MESSAGEPACK
                    self.position = returned if same else position_of({POSITION_KEY: position})
                elif returned is Source.END:
                    staged.also().ends = self.ended = self.over = True
                else:
                    idle_s = returned.seconds
            except Fenced:
                raise
            except BaseException as error:
                self._fail("produce", error)
            ctx.staged = None
            if position is not None:
                if staged.private is None:
                    staged.private = {_POSITION: position}
                else:
                    staged.private[_POSITION] = position
            if staged.private is not None or staged.outputs is not None or staged.rare is not None:
                group.append(staged)
            if self.over or idle_s or len(group) >= GROUP_MAX or time.monotonic_ns() > deadline:
                break
        if idle_s:
            self.idle_until = time.monotonic() + idle_s
        self._flush()
        return not idle_s

    # --- waiting and control ----------------------------------------------------------------------------------------

    def _wait(self, pause_s: float) -> None:
        """Sleep until the bell rings, control speaks, or `pause_s` is over. With 0 it only looks.

        The bell that woke us is drained at the next call, when what it rang for has been handled, and then it looks
        once more instead of sleeping: a ring meanwhile is not lost, and the drain is not in the way of the message.
        """
        self.log.pass_on()
        if self._rung:
            self._rung = False
            doorbell.drain(self.session.bell)
            return
        if pause_s > 0:
            if self.log.has_sent:  # that may have eaten the edge of what the runtime has sent
                self.log.has_sent = False
                self.control()
                if self.stop is not None:
                    return
            if self.words[pulse.PHASE] != pulse.WAITING_FOR_ROOM:
                self.words[pulse.PHASE] = pulse.WAITING
        rung = self._poller.poll(pause_s * 1000)
        for fd, _ in rung:
            if fd == self.session.bell:
                self._rung = True
            elif fd == self.dealer.fd:
                self.control()
            elif self._reload is not None:
                self._reload_checked(self._reload)
        if not rung and pause_s > 0:
            self.control()
            now = time.monotonic()
            if now - self._published >= SLOW_CHECK_S:
                self._published = now
                self.session.publish()

    def control(self) -> None:
        """Take what the runtime has sent."""
        while (message := self.dealer.receive_nowait()) is not None:
            if isinstance(message, Stop):
                self.stop = message
            elif isinstance(message, Reload):
                if self._reload is None:
                    self._begin_reload()
                else:
                    self._reload_again = True
            elif isinstance(message, Quiet):
                self._timers.quieten()
            elif isinstance(message, Refused):
                raise Fenced(message.why)

    def _begin_reload(self) -> None:
        self._reload_again = False
        self._reload = CodeCheck(self.session.wiring.code)
        self._poller.register(self._reload.pidfd, select.POLLIN)

    def _reload_checked(self, check: CodeCheck) -> None:
        self._poller.unregister(check.pidfd)
        self._reload = None
        failure = check.result()
        if self._reload_again:  # it has changed again meanwhile
            self._begin_reload()
        elif failure is None:
            self.exit_code, self.over = EXIT_RELOAD, True
        else:
            error, trace = failure
            self.dealer.send(ReloadFailed(cut(error, ERROR_CHARACTERS_MAX), cut(trace, TRACE_CHARACTERS_MAX)))
            self.control()  # a send may eat the edge

    def _finish(self, stop: Stop) -> None:
        """The STOP event. When all inputs have ended, so does this node: its outputs close in the same commit."""
        self.session.set_phase(pulse.HANDLING)
        self._handle(notice("STOP", stop.id), Staged(), ends=stop.id == "ALL_INPUTS_CLOSED")
        self._flush()


def main() -> int:
    """The life of the operator that the environment names; returns the exit code."""
    process.sleep_exactly()
    process.keep_heap()
    run_dir = RunDir(Path(os.environ[ENV_RUN_DIR]))
    node = os.environ[ENV_NODE]
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with Dealer(run_dir.runtime_socket, Edge.RUNTIME_TO_CHILD) as dealer:
        try:
            return _live(run_dir, node, dealer)
        except MessageGone as gone:
            dealer.send(Log(time.time(), logging.WARNING, str(gone), {}))
            return EXIT_FENCED
        except Fenced:
            return EXIT_FENCED
        except forks.Forked as forked:
            print(f"noderuntime: {forked}; it ends here", file=sys.stderr, flush=True)
            os._exit(1)


def _live(run_dir: RunDir, node: str, dealer: Dealer) -> int:
    dealer.send(Hello(VERSION, node, "operator", os.getpid(), int(os.environ.get(ENV_LIFE, "0"))))
    welcome = dealer.receive(WELCOME_S)
    if not isinstance(welcome, Welcome):
        return EXIT_FENCED
    state: dict[str, bytes] = {}
    by_reference = False
    for _ in range(welcome.states):
        part = dealer.receive(WELCOME_S)
        if not isinstance(part, RestoreState):
            return EXIT_FENCED
        state.update(part.state)
        by_reference |= part.by_reference
    wiring = Wiring.from_plain(welcome.wiring)
    log = LogHandler(dealer)
    level = logging.getLevelNamesMapping().get(os.environ.get("LOG_LEVEL", "").upper(), logging.INFO)
    logging.basicConfig(level=level, handlers=[log], force=True)
    try:
        session = NodeSession(run_dir, wiring, welcome.incarnation, welcome.attempts)
        host = OperatorHost(session, dealer, log)
        if by_reference:
            state = host.ctx.state()
        host.prepare(state)
        dealer.send(Ready(welcome.incarnation))
        code = host.run()
    except OperatorError as error:
        permanent = error.where == "import" or (error.where == "init" and not error.trace)
        _send_failed(dealer, error.where, error.error, error.trace, permanent)
        return 1
    except (Fenced, forks.Forked):
        raise
    except NodeRuntimeError as error:
        _send_failed(dealer, "commit", str(error))
        return 1
    except Exception as error:  # nothing of the user's: what becomes of a commit then is unknown, so this life ends
        _send_failed(dealer, "commit", describe(error), "".join(traceback.format_exception(error)))
        return 1
    log.pass_on()
    host.close()
    return code


def _send_failed(dealer: Dealer, where: str, error: str, trace: str = "", permanent: bool = False) -> None:
    """Say why this process ends, in a frame that is not too large whatever the user's exception says."""
    dealer.send(Failed(where, cut(error, ERROR_CHARACTERS_MAX), cut(trace, TRACE_CHARACTERS_MAX), permanent))
