"""The runtime: one loop that carries out what supervision decides.

    run = hold the name, lay out the run directory, fork server, store, `open`, bells and pulses, children;
          turn the loop until every node is done; the outbox, figures, the last snapshot, `quit`, summary

It decides nothing by itself, never opens the space, and never waits for the store: a child that is stopped inside LMDB
can hold a lock of the space, and must not freeze the one process that can notice and kill it. The store, too, is a
child that may die at any time; requests to it are repeated until they are answered.

Order that matters. What a child has said is read before its death is handled: its last words may explain it. What the
store has done about a death (claim, end, touch) comes before neighbours are rung: a last commit may become visible
only then.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import Any

from noderuntime.dataflow.model import Dataflow
from noderuntime.errors import NodeRuntimeError, ResumeRefused
from noderuntime.ipc import entrypoints, process, runs, state_folders
from noderuntime.ipc.boundary import Boundary, all_of, describe
from noderuntime.ipc.channel import Router
from noderuntime.ipc.homes import RunRefused
from noderuntime.ipc.lock_watch import Holding, LockWatch, Pinning
from noderuntime.ipc.protocol import TO_RUNTIME, Answer, Ask, Message
from noderuntime.ipc.rundir import ENV_VALIDATE, RunDir
from noderuntime.ipc.runs import Held, RunFile
from noderuntime.ipc.state_folders import StateFolder
from noderuntime.runtime import control, guard, summary
from noderuntime.runtime.chaos import Chaos
from noderuntime.runtime.code_watch import CodeWatch
from noderuntime.runtime.flight_recorder import THE_RUN, FlightRecorder
from noderuntime.runtime.forkserver import Order
from noderuntime.runtime.keepers import ForkServerKeeper, GaveUp, StoreKeeper
from noderuntime.runtime.logs import RunLog, RunLogs
from noderuntime.runtime.loop import Loop
from noderuntime.runtime.machine import NEVER, Tell, Tick
from noderuntime.runtime.nodes import NodeSupervisor
from noderuntime.runtime.observer import Observer, RunOptions, SummaryRow
from noderuntime.runtime.orders import preload_of
from noderuntime.runtime.outbox import RunOutbox
from noderuntime.runtime.phases import (
    QUIT_S_MAX,
    WITH_NODES,
    AbortNodes,
    AskStoreToQuit,
    CannotContinue,
    Deliver,
    Delivered,
    GuardDied,
    Interrupted,
    NodesBegan,
    NodesDone,
    Phase,
    ResumeWasRefused,
    RunAction,
    RunEvent,
    RunPhase,
    Save,
    Saved,
    ShowStopping,
    SpaceOpened,
    StartNodes,
    StopNodes,
    StopRequested,
    StopWaiting,
    StoreEnded,
)
from noderuntime.runtime.plan import plan, store_nodes
from noderuntime.runtime.snapshots import RunSnapshots
from noderuntime.runtime.store_link import StoreLink
from noderuntime.runtime.stuck_watch import StuckWatch

LOOK_S = 0.1
WAITING_SHOWN_S = 0.3
OPEN_S_MAX = 3600.0  # a large snapshot may have to be fetched
KILL_S = 5.0
FAILED_TURNS_MAX = 100  # in a row: then something fails in each, and the run gets nowhere
RESERVED_DESCRIPTORS = 8
DESCRIPTORS, DESCRIPTORS_PER_NODE, DESCRIPTORS_MAX = 64, 14, 65536
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

OK, FAILED = 0, 1


def run(dataflow: Dataflow, options: RunOptions, observer: Observer) -> int:
    """Run a dataflow to its end, in this process and its main thread; returns the exit code.

    Best below a guard (`guard.run_guarded`). Raises RunRefused when the name is taken by a run that is running or was
    interrupted, and other NodeRuntimeErrors when nothing could be started.
    """
    file = Path(dataflow.folder, Path(dataflow.file).name)
    there = runs.find_run(options.name, options.environ) if options.resume else None
    kept_file = there.file.file if there is not None and there.trusted else ""
    state_folder = state_folders.choose(options.name, file, options.environ, options.resume, kept_file)
    held = runs.hold(
        options.name,
        options.environ,
        resume=options.resume,
        fresh=options.fresh,
        from_snapshot=options.from_snapshot is not None,
        size_bytes=dataflow.state.size_bytes,
        file=dataflow.file or "FILE",
    )
    reserve: list[int] = []
    try:
        # where descriptors run out, cleaning up needs some too
        reserve.extend(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(RESERVED_DESCRIPTORS))
        runtime = Runtime(dataflow, options, observer, held, reserve, state_folder)
    except BaseException as error:
        _close_all(reserve)
        process.kill_descendants(KILL_S)
        if held.fresh:
            held.remove()
        else:
            held.release()
        if isinstance(error, OSError):
            raise NodeRuntimeError(f"the run cannot begin: {error.strerror or error}") from error
        raise
    return runtime.run()


class Runtime:
    """One run, from its directory to its summary."""

    def __init__(
        self,
        dataflow: Dataflow,
        options: RunOptions,
        observer: Observer,
        held: Held,
        reserve: list[int],
        state_folder: StateFolder,
    ) -> None:
        self._dataflow = dataflow
        self._options = options
        self._observer = observer
        self._held = held
        self._state_folder = state_folder
        self._reserve = reserve
        self._run_dir = held.run_dir
        process.become_subreaper()
        _raise_descriptor_limit(len(dataflow.nodes))
        file = str(Path(dataflow.folder, Path(dataflow.file).name))
        log_dir = runs.new_log_folder(state_folder.folder, options.environ)
        self._log = RunLog(observer, RunLogs(log_dir, [spec.id for spec in dataflow.nodes]))
        self._file = RunFile(
            name=options.name,
            pid=os.getpid(),
            guard=guard.guard_pid(),
            file=file,
            started=time.time(),
            boot_id=runs.boot_id(),
            log_dir=str(log_dir),
            epoch=held.epoch,
        )
        self._file.write(self._run_dir)
        self._note_with_logs("")
        guard.announce(self._run_dir.root, _farewell(options.name, file))
        self._snapshots = RunSnapshots(
            dataflow, options, self._run_dir, self._log, state_folder.folder, held.size_bytes
        )
        self._outbox = RunOutbox(dataflow, self._log)
        self._loop = Loop()
        self._router = Router(self._run_dir.runtime_socket, *TO_RUNTIME)
        self._link = StoreLink(self._loop, self._run_dir, f"runtime-{held.epoch}")
        env = {key: value for key, value in options.environ.items() if not key.startswith("NODERUNTIME_")}
        self._fork_server = ForkServerKeeper(self._loop, self._log, env, preload_of(dataflow))
        arguments = [
            str(self._run_dir.root),
            "--size", str(held.size_bytes),
            "--purge-interval", str(dataflow.state.purge_interval_s),
            "--history", str(dataflow.state.history),
            *self._snapshots.store_arguments(held.fresh),
            "--state", json.dumps(dataflow.state.to_plain()),
        ]  # fmt: skip
        order = Order("nr-store", env, dataflow.folder or "/", entry=entrypoints.STORE, arguments=arguments)
        self._store = StoreKeeper(self._fork_server, self._link, self._log, order, time.monotonic)
        self._nodes = NodeSupervisor(
            self._loop, self._router, self._link, self._fork_server, self._log, dataflow, options, self._run_dir,
            time.monotonic, self._stop_asked_by, self._on_message,
        )  # fmt: skip
        # what our own code or the store raises: the loop turns on, and gives up only when it no longer gets anywhere
        self._boundary = Boundary(self._tell_failure, passes=(GaveUp, OSError))
        self._failed_turns = 0
        self._stuck = StuckWatch(
            self._nodes, self._link, self._log, dataflow, options.grace_s, time.monotonic, self._stop_because_stuck
        )
        self._chaos: Chaos | None = None
        if options.chaos_s is not None:
            seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
            self._chaos = Chaos(
                self._nodes, self._store, self._fork_server, self._link, self._log, dataflow, options.chaos_s, seed,
                time.monotonic,
            )  # fmt: skip
        self._code_watch = CodeWatch(self._nodes, self._log, dataflow) if options.watch else None
        self._lock_watch: LockWatch | None = None
        self._began_s = time.monotonic()
        self._spawned_s = NEVER
        self._phase = RunPhase(options.grace_s, found_space=not held.fresh, stop_after_s=options.stop_after_s)
        self._recorder = FlightRecorder(validating=bool(options.environ.get(ENV_VALIDATE)))
        self._recorder.follow(THE_RUN, self._phase)
        self._shown_waiting: list[str] = []
        self._next_look_s = 0.0
        self._figures: summary.Figures = {}
        self._dead_letters: list[dict[str, Any]] = []
        self._signals, self._signalled = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    # ---- the loop

    def run(self) -> int:
        """From the start to the end of the run; returns its exit code."""
        try:
            self._begin()
            while self._phase.state is not Phase.OVER:
                try:
                    error = self._boundary.call("a turn of the runtime's loop", self._turn)
                    self._failed_turns = 0 if error is None else self._failed_turns + 1
                    if error is not None and self._failed_turns > FAILED_TURNS_MAX:
                        self._feed(CannotContinue(f"the runtime cannot go on: {describe(error)}"))
                except GaveUp as error:
                    self._feed(CannotContinue(str(error)))
                except OSError as error:  # descriptors or memory ran out where we cannot do without
                    self._feed(CannotContinue(f"the runtime cannot go on: {error.strerror or error}"))
        except Exception as error:
            error.add_note("\n".join(self._recorder.lines()))  # for the report of a bug
            raise
        finally:
            self._end()
        if self._phase.refused:
            what, _, hint = self._phase.refused.partition("\n  ")
            raise RunRefused(self._options.name, what, hint)
        unlucky = self._chaos is not None and not self._chaos.report.is_good
        failed = self._phase.gave_up or self._nodes.failed or unlucky or self._outbox.problem
        return self._phase.code or (FAILED if failed else OK)

    def _feed(self, event: RunEvent) -> None:
        """Hand an event to the run's phase, and carry out what it says."""
        before = self._phase.state
        actions = self._phase.handle(event, time.monotonic())
        if self._phase.state is not before:
            self._log.keep(f"the run is {self._phase.state.value} ({type(event).__name__})")
        all_of(partial(self._do, action) for action in actions)

    def _do(self, action: RunAction) -> None:
        match action:
            case Tell(text, is_error):
                self._log.tell(text, logging.ERROR if is_error else logging.INFO)
            case StartNodes():
                self._start_nodes()
            case ShowStopping(grace_s):
                self._show_stopping(grace_s)
            case StopNodes(drain):
                if self._chaos is not None and not drain:
                    self._chaos.stop()
                self._stuck.draining = drain
                self._nodes.stop(self._options.grace_s, drain)
            case AbortNodes():
                self._nodes.abort()
            case Deliver(hurried):
                self._finish(hurried)
            case Save():
                self._link.request("figures", {}, self._last_figures, lambda error, text: self._last_figures({}))
            case StopWaiting():
                self._outbox.give_up()
                self._snapshots.give_up()
            case AskStoreToQuit():
                self._link.request("quit", {}, lambda _: None, lambda error, text: None, QUIT_S_MAX)
                self._store.may_end = True

    def _turn(self) -> None:
        now_s = time.monotonic()
        keepers_due_s = min(self._fork_server.due_s, self._store.due_s)
        due_s = min(self._next_look_s, keepers_due_s, self._nodes.deadline_s(), self._phase.deadline_s)
        if self._chaos is not None:
            due_s = min(due_s, self._chaos.deadline_s())
        # a node that is being stopped must not wait for a reader of what it prints
        self._loop.pause(not self._phase.stopping and getattr(self._observer, "congested", False))
        self._loop.turn(due_s - now_s)
        now_s = time.monotonic()
        self._nodes.tick(now_s)
        if now_s >= min(self._next_look_s, self._fork_server.due_s, self._store.due_s):
            self._next_look_s = now_s + LOOK_S
            self._look(now_s)
        if self._chaos is not None:
            self._chaos.turn(now_s)
        if self._phase.awaits_begin and self._nodes.has_begun():
            self._feed(NodesBegan())
        if self._options.abort_on_failure and self._phase.is_up and self._nodes.failed:
            self._feed(StopRequested("stopping the run, because a node failed"))
        if now_s >= self._phase.deadline_s:
            self._feed(Tick())
        # both sockets' descriptors are edge-triggered, and sending consumes edges: until nothing is left
        while self._nodes.drain() | self._link.advance(now_s):
            pass
        if guard.is_waited_for() and self._phase.is_up:
            self._look_who_is_up(now_s)
        self._advance()
        self._log.flush()

    def _look(self, now_s: float) -> None:
        """Some times a second: who hangs, who is stopped, who holds a lock?"""
        holdings: list[tuple[int, Holding]] = []
        pinnings: list[Pinning] = []
        if self._lock_watch is not None:
            pinnings = self._lock_watch.look_at_readers(now_s)
            for holding in self._lock_watch.look(now_s):
                holdings.append((process.process_of_thread(holding.thread) or 0, holding))
        stopped = self._nodes.stopped
        store_pid = self._store.pid
        lock_s = max((held.held_s for pid, held in holdings if pid == store_pid), default=0.0)
        self._fork_server.look(now_s, stopped)
        self._store.look(now_s, store_pid in stopped, lock_s)
        self._nodes.look(now_s, holdings, pinnings)
        if not self._fork_server.busy:
            self._nodes.reap_orphans()
        if self._phase.is_up:
            self._stuck.look(now_s)
            if self._code_watch is not None:
                self._code_watch.look(now_s)
        if self._phase.state is Phase.DELIVERING:
            self._outbox.look(self._link, now_s)
        if self._phase.state is Phase.SAVING:
            self._snapshots.look(self._link)
        self._show_waiting(now_s)

    def _look_who_is_up(self, now_s: float) -> None:
        """Detached: the launched process may go when every node is ready, or when it is clear that one will not be. A
        run that is about to end tells it by its own end."""
        wait, missing = summary.standing(self._nodes.children.values(), now_s - self._spawned_s)
        if wait or (missing and self._nodes.done):
            return
        for line in missing:
            self._log.tell(line, logging.ERROR)
        if missing:
            self._log.tell(f"the run goes on; `noderuntime stop {quote(self._options.name)}` stops it")
        guard.started(not missing)

    def _advance(self) -> None:
        """Whether what the phase waits for has happened."""
        phase = self._phase.state
        if phase in WITH_NODES and self._nodes.done and self._link.idle:
            self._feed(NodesDone())
        elif phase is Phase.DELIVERING and self._outbox.over:
            self._feed(Delivered())
        elif phase is Phase.SAVING and self._snapshots.over:
            self._feed(Saved())
        elif phase is Phase.QUITTING and self._store.has_ended:
            self._feed(StoreEnded())
        else:
            return
        if self._phase.state is not Phase.OVER:
            self._link.advance(time.monotonic())

    def _show_waiting(self, now_s: float) -> None:
        waiting = self._nodes.not_ready() if self._phase.is_up else []
        if waiting != self._shown_waiting and (now_s - self._began_s > WAITING_SHOWN_S or not waiting):
            self._shown_waiting = waiting
            self._log.waiting(waiting)

    # ---- the beginning

    def _begin(self) -> None:
        self._loop.watch(self._router.fd, self._nodes.drain)
        self._loop.watch(self._signals, self._on_signals)
        if guard.guard_pidfd() >= 0:
            self._loop.watch(guard.guard_pidfd(), self._guard_died)
        signal.set_wakeup_fd(self._signalled, warn_on_full_buffer=False)
        for number in (*SIGNALS, signal.SIGCHLD):
            signal.signal(number, _noted)
        for notice in filter(None, (self._state_folder.notice, self._held.notice)):
            self._log.tell(notice)
        arguments = {
            "nodes": store_nodes(self._dataflow),
            "fingerprint": self._dataflow.fingerprint(),
            "fresh": self._held.fresh,
            "resume": self._options.resume,
            "drop": list(self._options.drop),
            "rename": dict(self._options.rename),
        }
        self._link.request("open", arguments, self._opened, self._not_opened, OPEN_S_MAX)

    def _opened(self, result: dict[str, Any]) -> None:
        """The space is there: bells, pulses, children."""
        if self._phase.state is Phase.OVER:
            return  # asked to end in the same turn of the loop
        try:
            self._snapshots.opened(result, self._held.fresh)
            self._lay_out(result)
        except OSError as error:
            raise GaveUp(f"the run cannot begin: {error}") from error
        except Exception as error:
            raise GaveUp(f"the run cannot begin: {describe(error)}") from error
        self._feed(SpaceOpened())
        self._observer.started()
        self._spawned_s = time.monotonic()

    def _start_nodes(self) -> None:
        if self._nodes.done:
            self._log.tell("nothing is left to do: every node has ended")
            self._snapshots.skip_last = self._held.fresh  # then it comes from the one that says so
        self._nodes.start()
        if self._chaos is not None:
            self._chaos.start()

    def _lay_out(self, result: dict[str, Any]) -> None:
        self._lock_watch = LockWatch(self._run_dir.space / "lock.mdb")
        wirings = plan(self._dataflow, self._options.name, result["numbers"])
        ended = set(result["ended"])
        for spec in self._dataflow.nodes:
            self._nodes.add(spec, wirings[spec.id], spec.id in ended)
            self._recorder.follow(spec.id, self._nodes.children[spec.id].machine)
        self._nodes.connect()

    def _not_opened(self, error: str, text: str) -> None:
        if error == ResumeRefused.__name__:
            self._feed(ResumeWasRefused(text))
            return
        raise GaveUp(text)

    # ---- what comes from outside

    def _on_message(self, identity: bytes, message: Message) -> None:
        if isinstance(message, Ask):
            facts = {
                "run": self._file.name,
                "pid": self._file.pid,
                "file": self._file.file,
                "started": self._file.started,
                "state": "stopping" if self._phase.stopping else "running",
            }
            try:
                answer = control.answer(message, self._nodes, facts, self._stop_asked, time.monotonic())
                self._router.send(identity, answer)
            except GaveUp:
                raise
            except Exception as error:
                why = f"the runtime could not answer {message.what[:40]!r}: {describe(error)}"
                self._router.send(identity, Answer({}, why))
                raise
        else:
            self._nodes.receive(identity, message)

    def _on_signals(self) -> None:
        for number in os.read(self._signals, 4096):
            if number == signal.SIGCHLD:
                self._children_changed()
                continue
            why = f"{signal.Signals(number).name}: stopping (once more: at once)"
            if getattr(self._observer, "out_is_gone", False):
                why = "nobody reads what the nodes print any more: stopping"
            self._feed(Interrupted(number, why, at_once=number == signal.SIGQUIT))

    def _children_changed(self) -> None:
        """A child was stopped, goes on, or has ended (which its pidfd tells, unless it is an orphan)."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)) is not None:
                if found.si_code == os.CLD_STOPPED:
                    self._nodes.stopped.add(found.si_pid)
                else:
                    self._nodes.stopped.discard(found.si_pid)
        self._nodes.reap_orphans()

    def _guard_died(self) -> None:
        """Nobody would clean up after us: end at once. The space stays, as if we had been killed too."""
        self._loop.unwatch(guard.guard_pidfd())
        self._feed(GuardDied())

    def _stop_asked_by(self, node: str) -> None:
        self._feed(StopRequested(f"{node} asked to stop the run"))

    def _stop_because_stuck(self, why: str) -> None:
        self._feed(StopRequested(f"{why}. Stopping the run", is_error=True))

    def _stop_asked(self, drain: bool) -> None:
        draining = "draining: sources stop, the others end when they have nothing left"
        self._feed(StopRequested(draining if drain else "stopping", drain))

    def _show_stopping(self, grace_s: float) -> None:
        tell = getattr(self._observer, "stopping", None)
        if tell is not None:
            tell(grace_s)

    def _tell_failure(self, text: str) -> None:
        """Something of ours failed, and the run goes on. What led to the first failure is kept for a replay."""
        self._log.warn(text)
        if self._boundary.caught == 1:
            self._keep_steps()

    def _keep_steps(self) -> None:
        for line in self._recorder.lines():
            self._log.keep(line)

    # ---- the end

    def _finish(self, hurried: bool) -> None:
        """Every node is done: what they wrote elsewhere has to arrive there."""
        self._nodes.ending = True
        self._outbox.begin(time.monotonic(), hurried)
        if self._chaos is not None:
            self._chaos.stop()

    def _last_figures(self, result: dict[str, Any]) -> None:
        self._figures = result.get("nodes", {})
        self._boundary.call("asking for dead letters", self._ask_for_letters)
        self._snapshots.take_last(self._link)

    def _ask_for_letters(self) -> None:
        for node in summary.dead_letters(self._figures):
            arguments = {"node": node, "uids": []}
            self._link.request("letters_show", arguments, self._keep_letters, lambda error, text: None)

    def _keep_letters(self, result: dict[str, Any]) -> None:
        self._dead_letters.extend(result["letters"])

    def _end(self) -> None:
        """Leave nothing behind: no process, no socket, and no space unless the run is to be resumed.

        A list of steps: each of them happens, whatever those before it have raised.
        """
        rows: list[SummaryRow] = []
        keep = True  # when it cannot be decided
        ending = Boundary(self._log.warn)

        def sum_up() -> None:
            rows.extend(summary.rows(self._nodes.children.values(), self._figures))

        def sum_up_none() -> None:
            if not rows and not self._phase.gave_up:  # else the error has said it: no node has failed
                rows.extend(summary.rows_of_none(self._dataflow, "stopped"))

        def decide() -> None:
            nonlocal keep
            keep = self._has_to_be_kept()

        _close_all(self._reserve)
        steps: list[tuple[str, Callable[[], object]]] = [
            ("signals that come now", self._mind_signals),
            ("the summary", sum_up),
            ("the summary", sum_up_none),
            ("letting go of the nodes", self._nodes.close),
            ("letting go of the store", self._store.close),
            ("letting go of the store's socket", self._link.close),
            ("letting go of the fork server", self._fork_server.close),
            ("killing what is left", self._kill_left),
            ("letting go of the runtime's socket", lambda: self._router.close(0)),
            ("letting go of the lock file", lambda: self._lock_watch.close() if self._lock_watch is not None else None),
            ("removing the runtime's socket", lambda: self._run_dir.runtime_socket.unlink(missing_ok=True)),
            ("removing the store's socket", lambda: self._run_dir.store_socket.unlink(missing_ok=True)),
            ("closing the loop", self._loop.close),
            ("closing the pipe of signals", lambda: _close_all([self._signals, self._signalled])),
            ("keeping the last steps for a replay", lambda: self._keep_steps() if self._has_failed() else None),
            ("the report of the kills", self._report_kills),
            ("deciding whether the state is kept", decide),
            ("what to do next", lambda: None if self._phase.refused else self._tell_what_next(rows, keep)),
            ("keeping the dead letters", self._write_letters),
            ("the summary", lambda: self._log.summary(rows, summary.lines(rows)) if rows else None),
            ("noting what became of it", lambda: self._note_outcome(rows)),
            ("closing the logs", self._log.close),
            ("marking the run", lambda: self._mark(keep)),
            ("letting go of the run", lambda: self._held.release() if keep else self._held.remove()),
            ("letting go of the run's lock", self._held.release),  # a second time does nothing
        ]
        for what, step in steps:
            ending.call(f"at the end of the run: {what}", step)

    def _mind_signals(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:  # to the end of the process: it ends already, and must not die on the way
            signal.signal(number, lambda number, frame: self._show_stopping(0.0))

    def _has_failed(self) -> bool:
        phase = self._phase
        return phase.state is not Phase.OVER or bool(phase.gave_up and not phase.refused) or bool(self._nodes.failed)

    def _kill_left(self) -> None:
        left = process.kill_descendants(KILL_S)
        if left:
            self._log.tell(f"these processes cannot be killed: {left}")

    def _report_kills(self) -> None:
        if self._chaos is not None and self._chaos.has_begun:
            report = self._chaos.finish(self._figures)
            self._log.report(report.lines(), report.facts())

    def _tell_what_next(self, rows: list[SummaryRow], keep: bool) -> None:
        if self._snapshots.problem:
            kept = ". The state is kept in memory; `--resume` continues from it" if keep else ""
            self._log.tell(f"there is no last snapshot: {self._snapshots.problem}{kept}")
        if self._outbox.problem:
            why = self._outbox.problem
            self._log.tell(f"shared writes have not arrived: {why}. They are kept; `--resume` delivers them")
        resumable = keep or (self._snapshots.settings.enabled and summary.made_progress(self._figures))
        for hint in summary.hints(self._file.name, self._file.file, rows, self._figures, resumable):
            self._log.tell(hint)

    def _write_letters(self) -> None:
        if self._dead_letters:
            summary.keep_letters(Path(self._file.log_dir), self._dead_letters)

    def _note_outcome(self, rows: list[SummaryRow]) -> None:
        self._note_with_logs(summary.outcome(rows, bool(self._phase.gave_up)))

    def _note_with_logs(self, ended: str) -> None:
        """Keep with the logs whose they are, and what became of the run: `ps -a` knows by it what has ended."""
        with contextlib.suppress(OSError):  # as with the logs, a full disk stops no run
            replace(self._file, ended=ended).write(RunDir(Path(self._file.log_dir)))

    def _mark(self, keep: bool) -> None:
        if keep and self._nodes.failed and not self._phase.gave_up and not self._outbox.problem:
            replace(self._file, ended="failed").write(self._run_dir)

    def _has_to_be_kept(self) -> bool:
        """Whether the space stays, for `--resume`: of a run that was cut short, or failed and has no last snapshot."""
        if not self._phase.has_space:
            return False  # there was never anything
        if self._phase.was_cut_short or self._outbox.problem:
            return True
        if self._snapshots.problem:  # of a finished run, too: `state` reads it there, and `--resume` saves it
            return True
        # a failed run goes on from its last snapshot; where it keeps none, from its space
        without = not self._snapshots.settings.enabled
        return without and bool(self._nodes.failed) and summary.made_progress(self._figures)


def _noted(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor tells the loop."""


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


def _farewell(name: str, file: str) -> str:
    named = "" if Path(file).stem == name else f" --name {quote(name)}"
    return (
        f"noderuntime: the runtime of {name!r} was killed. All its processes were ended, its state is kept.\n"
        f"  Continue with `noderuntime run {quote(file)}{named} --resume`, or remove it with "
        f"`noderuntime clean {quote(name)}`."
    )


def _raise_descriptor_limit(nodes: int) -> None:
    """Each child costs some descriptors, and the usual soft limit is low. Where the hard one is, too, say so now:
    ZeroMQ ends its process when it cannot accept a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    needed = DESCRIPTORS + DESCRIPTORS_PER_NODE * nodes
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise NodeRuntimeError(
            f"this process may open {soft} files, too few for {nodes} nodes, which need about {needed}. "
            f"Raise the limit: `ulimit -n {needed}`."
        )
