"""The process of an operator: read, handle, commit, ring. Floor 4.

    hello -> welcome, restore_state -> load, make, restore -> ready -> *(ticks, messages, commit) -> bye

Events that wait are handled in groups, which commit as one transaction: GROUP_EVENTS_MAX of them, or as many as are
handled in GROUP_NS. With nothing waiting, a group is one event, and its latency is that of its commit.
If an event fails, those before it in its group are committed first.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from pathlib import Path
from typing import IO, Any

from noderuntime import doorbell, pulse
from noderuntime.channel import Dealer
from noderuntime.context import OperatorContext
from noderuntime.errors import Fenced, NodeRuntimeError, OperatorError
from noderuntime.events import Event, input_event, notice, tick_event
from noderuntime.member import ROOM_CHECK_S, Member
from noderuntime.operator import POSITION_KEY, Status, make, own_state, position_of, status_of, turn
from noderuntime.protocol import (
    EXIT_FENCED,
    EXIT_RELOAD,
    VERSION,
    Bye,
    Failed,
    Hello,
    Log,
    Ready,
    Refused,
    Reload,
    ReloadFailed,
    RestoreState,
    Stop,
    StopAll,
    Welcome,
)
from noderuntime.rundir import ENV_LIFE, ENV_NODE, ENV_RUN_DIR, RunDir
from noderuntime.space import records
from noderuntime.space.commit import Input, Staged
from noderuntime.space.keys import parse_message
from noderuntime.space.mailbox import Message
from noderuntime.usercode import describe, load, user_trace
from noderuntime.wiring import Wiring

GROUP_EVENTS_MAX = 64
GROUP_NS = 1_000_000
SLOW_CHECK_S = 5.0
RELOAD_CHECK_S = 0.05
RELOAD_S_MAX = 60.0
TRACE_BYTES_MAX = 100_000
LOG_CHARACTERS_MAX = 100_000
WELCOME_S = 60.0
WAIT_WARNING_S = 10.0


class LogHandler(logging.Handler):
    """Sends log records over the control channel. ZeroMQ sockets belong to one thread: others leave theirs to it."""

    def __init__(self, dealer: Dealer) -> None:
        super().__init__()
        self._dealer = dealer
        self._thread = threading.get_ident()
        self._waiting: deque[Log] = deque(maxlen=10_000)
        self.has_sent = False  # since the last look at what the runtime has sent: see channel.py on edges

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if record.exc_info:
                text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
            text = text[:LOG_CHARACTERS_MAX].encode(errors="replace").decode()
            self._waiting.append(Log(record.created, record.levelno, text, {"logger": record.name}))
            if threading.get_ident() == self._thread:
                self.pass_on()
        except Exception:
            self.handleError(record)

    def pass_on(self) -> None:
        """Send what waits. From the thread of the socket only."""
        while self._waiting:
            self.has_sent = True
            self._dealer.send(self._waiting.popleft())


class OperatorHost:
    """One life of one operator."""

    def __init__(self, member: Member, dealer: Dealer, log: LogHandler) -> None:
        self.member = member
        self.dealer = dealer
        self.log = log
        self.words = member.page.words
        self.ctx = OperatorContext(member, member.wiring.config, logging.getLogger(member.wiring.node))
        self.operator: Any = None
        self.group: list[Staged] = []
        self.stop: Stop | None = None
        self.ended = False  # the last commit closed the outputs
        self.stop_all = False
        self.gave_up = False  # handled events were left uncommitted: nothing that follows from them may be committed
        self.exit_code: int | None = None  # set: leave between two events
        self.position: Any = None
        self.produces = False
        self.idle_until = 0.0
        self._cells = member.commits.cells.copy()  # with what is staged
        self._ahead: deque[Message] = deque()  # read, not yet handled
        self._reads_ahead = not any(item.wiring.drop_oldest for item in member.inputs.values())
        self._reload: tuple[subprocess.Popen[bytes], IO[bytes], float] | None = None
        self._poller = member.poller(dealer.fd)
        self._timers = [item for item in member.inputs.values() if item.wiring.period_ns]
        self._watched = [item for item in member.inputs.values() if item.wiring.timeout_ns]
        self._waiting_since = 0.0
        self._published = time.monotonic()

    # --- beginning --------------------------------------------------------------------------------------------------

    def prepare(self, state: dict[str, bytes]) -> None:
        """Load, make and restore the operator. Raises OperatorError."""
        code = self.member.wiring.code
        factory = load(code["path"], code["module"], code["name"])
        where = "init"
        try:
            self.operator = make(factory, self.ctx)
            self.produces = hasattr(self.operator, "produce")
            if not self.produces and not hasattr(self.operator, "on_event"):
                raise OperatorError("init", f"{code['name']} has neither on_event nor produce")
            if not self.produces and not self.member.inputs:
                raise OperatorError(
                    "init",
                    f"{code['name']} has no inputs in the dataflow file and is no Source: it would never be called",
                )
            if self.produces and self.member.mailboxes:
                names = ", ".join(item.name for item in self.member.inputs.values())
                raise OperatorError("init", f"{code['name']} is a Source, which takes no inputs; remove: {names}")
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
                self._reload[0].kill()

    def _run(self) -> int:
        self.control()
        while not self._over:
            if self.stop is not None:
                self._finish(self.stop)
                break
            worked = self._tick()
            if self._over:
                break
            worked |= self._produce() if self.produces else self._take()
            if self._over:
                break
            if not worked and self.member.all_closed:
                self._finish(Stop("ALL_INPUTS_CLOSED", 0.0))
                break
            self._wait(0.0 if worked else self._pause_s())
        if self.stop_all:
            self.dealer.send(StopAll())
        if self.exit_code is None:
            self.dealer.send(Bye(self.ended, ""))
        return self.exit_code or 0

    @property
    def _over(self) -> bool:
        """Whether nothing may be handled any more in this life."""
        return self.ended or self.stop_all or self.gave_up or self.exit_code is not None

    def _take(self) -> bool:
        """Handle the next group of messages; whether there was one."""
        ahead = self._ahead
        if not ahead:
            ahead.extend(self.member.next_messages(GROUP_EVENTS_MAX))
            if not ahead:
                return False
        deadline = time.monotonic_ns() + GROUP_NS
        while ahead:
            self._message(*ahead.popleft())
            if self._over or time.monotonic_ns() > deadline:
                break
        self._flush()
        if not self._reads_ahead:  # what was read may be dropped meanwhile
            ahead.clear()
        return True

    def _message(self, key: bytes, record: bytes) -> None:
        input = self.member.input_of(key)
        _, _, sequence, index = parse_message(key)
        if input.cell >= 0 and record[0] < records.NOTICE_MIN and self._cells[input.cell + 1]:
            self._handle(notice("INPUT_RECOVERED", input.name), cells={input.cell + 1: 0})
            if self._over:
                return
        self.member.page.take(0, input.number, sequence, index)
        lives = self.member.attempts.pop(key, 0)
        self._handle(None, message=(key, input, record), lives=lives)
        self.member.page.release(0)

    def _event_of(self, input: Input, record: bytes, lives: int) -> Event:
        kind, value, metadata, number, sent_ns = records.decode_message(record)
        if kind < records.NOTICE_MIN:
            return input_event(input.name, value, metadata, input.wiring.source, sent_ns, number, lives + 1)
        if kind == records.INPUT_CLOSED:
            self.member.closed.add(input.name)
            return notice("INPUT_CLOSED", input.name)
        return notice(records.NOTICE_TYPES[kind], value[0], value[1] or "")

    def _handle(
        self,
        event: Event | None,
        message: tuple[bytes, Input, bytes] | None = None,
        lives: int = 0,
        cells: dict[int, int] | None = None,
        ends: bool = False,
    ) -> None:
        """Run the handler for one event and stage what it changes. With `message`, the event is made of it."""
        staged = self.ctx.begin()
        staged.ends = ends
        words = self.words
        words[pulse.SINCE_NS] = time.monotonic_ns()
        words[pulse.PHASE] = pulse.HANDLING
        try:
            if message is not None:
                _, input, record = message
                staged.ack = message
                staged.attempts = lives > 0
                if input.cell >= 0:
                    cells = {input.cell: _boot_ns(), input.cell + 1: 0}
                event = self._event_of(input, record, lives)
            returned = self.operator.on_event(event, self.ctx) if hasattr(self.operator, "on_event") else None
            status = status_of(returned)
        except Fenced:
            raise
        except BaseException as error:
            self._fail("on_event", error)
        if cells is not None:
            staged.cells = cells
            for cell, number in cells.items():
                self._cells[cell] = number
        self.ctx.staged = None
        words[pulse.HANDLED] += 1
        if status is not Status.CONTINUE:
            staged.ends = True
            self.stop_all = status is Status.STOP_ALL
        self.ended |= staged.ends
        self.group.append(staged)

    def _fail(self, where: str, error: BaseException) -> None:
        """The handler raised: commit what was finished before it, say so, and end this process."""
        self.ctx.staged = None
        self.ended = self.stop_all = False
        self._flush()
        raise OperatorError(where, describe(error), user_trace(error)) from None

    def _flush(self) -> None:
        """Commit the group; waits for room as long as it has to, unless this life is to end."""
        while self.group:
            self.words[pulse.PHASE] = pulse.COMMITTING
            done = self.member.commit(self.group)
            del self.group[:done]
            if self.group and self.member.commits.waits_for:
                self._wait_for_room()
                if self.stop is not None or self.exit_code is not None:
                    # Uncommitted is undone, and will be handled in the next life. The operator has it in its memory:
                    # so it must not commit anything from here on, what it would do at the STOP event included.
                    self.gave_up = True
                    self.ended = self.stop_all = False
                    self.group.clear()
        self._waiting_since = 0.0
        self.ctx.committed()

    def _wait_for_room(self) -> None:
        now = time.monotonic()
        if not self._waiting_since:
            self._waiting_since = now
        elif now - self._waiting_since > WAIT_WARNING_S:
            self._waiting_since = now
            if "space" in self.member.commits.waits_for:
                self.ctx.log.warning(
                    "waiting for %s. Raise `state: {size: ...}`, lower queue limits, or delete what is not needed",
                    self.member.commits.waits_for,
                )
        self.member.set_phase(pulse.WAITING_FOR_ROOM)
        self._wait(ROOM_CHECK_S)

    # --- timers and timeouts ----------------------------------------------------------------------------------------

    def _tick(self) -> bool:
        """Make the ticks and timeouts that are due; whether there was one. Those missed meanwhile are one."""
        worked = False
        if self._timers:
            wall_ns, boot_ns = self.member.space.clock
            for item in self._timers:
                if self._over:
                    return worked
                elapsed = _boot_ns() - boot_ns
                number = elapsed // item.wiring.period_ns
                if number != self._cells[item.cell]:  # less: the period was changed before a resume
                    due_ns = wall_ns + number * item.wiring.period_ns
                    self._handle(tick_event(item.name, item.wiring.source, due_ns), cells={item.cell: number})
                    self._flush()
                    worked = True
        for item in self._watched:
            if not self._over and self._timeout_in_ns(item) <= 0 and not self.member.has_messages(item):
                self._handle(notice("INPUT_CLOSED", item.name), cells={item.cell + 1: 1})
                self._flush()
                worked = True
        return worked

    def _timeout_in_ns(self, item: Input) -> int:
        """Nanoseconds until `item` has been silent for too long; far away when nothing came yet, or it is known."""
        last, timed_out = self._cells[item.cell : item.cell + 2]
        if not last or timed_out or item.name in self.member.closed:
            return 1 << 62
        return last + item.wiring.timeout_ns - _boot_ns()

    def _pause_s(self) -> float:
        """How long to sleep when there is nothing to do."""
        pause_s = SLOW_CHECK_S
        boot_ns = self.member.space.clock[1]
        for item in self._timers:
            period = item.wiring.period_ns
            pause_s = min(pause_s, (period - (_boot_ns() - boot_ns) % period) / 1e9)
        for item in self._watched:
            pause_s = min(pause_s, max(0, self._timeout_in_ns(item)) / 1e9)
        if self.produces:
            pause_s = min(pause_s, max(0.0, self.idle_until - time.monotonic()))
        if self._reload is not None:
            pause_s = min(pause_s, RELOAD_CHECK_S)
        return pause_s

    # --- sources ----------------------------------------------------------------------------------------------------

    def _produce(self) -> bool:
        """Let a Source produce a group; whether it did."""
        if time.monotonic() < self.idle_until:
            return False
        deadline = time.monotonic_ns() + GROUP_NS
        while True:
            staged = self.ctx.begin()
            self.words[pulse.SINCE_NS] = time.monotonic_ns()
            self.words[pulse.PHASE] = pulse.HANDLING
            try:
                made = turn(self.operator.produce(self.position, self.ctx))
                if made.position is not None:
                    self.ctx.save_state(POSITION_KEY, made.position)
                    self.position = position_of({POSITION_KEY: made.position})
            except Fenced:
                raise
            except BaseException as error:
                self._fail("produce", error)
            self.ctx.staged = None
            self.words[pulse.HANDLED] += 1
            staged.ends = self.ended = made.ended
            if made.ended or staged.outputs or staged.private or staged.shared:
                self.group.append(staged)
            if made.idle_s:
                self.idle_until = time.monotonic() + made.idle_s
            if made.ended or made.idle_s or len(self.group) >= GROUP_EVENTS_MAX or time.monotonic_ns() > deadline:
                break
        self._flush()
        return not made.idle_s

    # --- waiting and control ----------------------------------------------------------------------------------------

    def _wait(self, pause_s: float) -> None:
        """Sleep until the bell rings, control speaks, or `pause_s` is over. With 0 it only looks."""
        self.log.pass_on()
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
            if fd == self.member.bell:
                doorbell.drain(fd)
            else:
                self.control()
        if not rung and pause_s > 0:
            self.control()
            now = time.monotonic()
            if now - self._published >= SLOW_CHECK_S:
                self._published = now
                self.member.publish()
        if self._reload is not None:
            self._look_after_reload()

    def control(self) -> None:
        """Take what the runtime has sent."""
        while (message := self.dealer.receive_nowait()) is not None:
            if isinstance(message, Stop):
                self.stop = message
            elif isinstance(message, Reload) and self._reload is None:
                self._check_code()
            elif isinstance(message, Refused):
                raise Fenced(message.why)

    def _check_code(self) -> None:
        """Import the code as it is now in a process of its own: what does not import must not replace what runs."""
        arguments = [sys.executable, "-m", "noderuntime.operator_host", "--check", json.dumps(self.member.wiring.code)]
        said = tempfile.TemporaryFile()  # noqa: SIM115  (no pipe: nobody reads it before the end)
        check = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
        self._reload = check, said, time.monotonic() + RELOAD_S_MAX

    def _look_after_reload(self) -> None:
        assert self._reload is not None
        check, said, deadline = self._reload
        if check.poll() is None:
            if time.monotonic() > deadline:
                check.kill()
            return
        self._reload = None
        with said:
            said.seek(max(0, said.seek(0, os.SEEK_END) - TRACE_BYTES_MAX))
            trace = said.read().decode(errors="replace").strip()
        if check.returncode == 0:
            self.exit_code = EXIT_RELOAD
            return
        lines = trace.splitlines() or [f"the import of the new code ended its process ({check.returncode})"]
        self.dealer.send(ReloadFailed(lines[-1], trace))
        self.control()  # a send may eat the edge

    def _finish(self, stop: Stop) -> None:
        """The STOP event. When all inputs have ended, so does this node: its outputs close in the same commit."""
        ends = stop.id == "ALL_INPUTS_CLOSED"
        self._handle(notice("STOP", stop.id), ends=ends)
        if not ends:
            self.ended = self.stop_all = False
            self.group[-1].ends = False
        self._flush()


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def main() -> int:
    """The life of the operator that the environment names; returns the exit code."""
    run_dir = RunDir(Path(os.environ[ENV_RUN_DIR]))
    node = os.environ[ENV_NODE]
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with Dealer(run_dir.runtime_socket) as dealer:
        try:
            return _live(run_dir, node, dealer)
        except Fenced:
            return EXIT_FENCED


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
        member = Member(run_dir, wiring, welcome.incarnation, welcome.attempts)
        host = OperatorHost(member, dealer, log)
        if by_reference:
            state = host.ctx.state()
        host.prepare(state)
        dealer.send(Ready(welcome.incarnation))
        code = host.run()
    except OperatorError as error:
        permanent = error.where == "import" or (error.where == "init" and not error.trace)
        dealer.send(Failed(error.where, error.error, error.trace, permanent))
        return 1
    except Fenced:
        raise
    except NodeRuntimeError as error:
        dealer.send(Failed("commit", str(error), "", False))
        return 1
    except Exception as error:  # nothing of the user's: what becomes of a commit then is unknown, so this life ends
        dealer.send(Failed("commit", describe(error), "".join(traceback.format_exception(error)), False))
        return 1
    log.pass_on()
    member.close()
    return code


def _check(code: dict[str, str]) -> int:
    try:
        load(code["path"], code["module"], code["name"])
    except OperatorError as error:
        print(error.trace or error.error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_check(json.loads(sys.argv[2])) if sys.argv[1:2] == ["--check"] else main())
