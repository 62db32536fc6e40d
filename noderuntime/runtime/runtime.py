"""The runtime: one loop that carries out what lifecycle.py and phases.py decide.

    run = hold the name, lay out the run directory, fork server, store, `open`, bells and pulses, children;
          turn the loop until every node is done; the outbox, figures, the last snapshot, `quit`, summary

It decides nothing by itself, never opens the space, and never waits for the store: a child that is stopped inside LMDB
can hold a lock of the space, and must not freeze the one process that can notice and kill it. The store, too, is a
child that may die at any time; requests to it are repeated until they are answered.

Order that matters. What a child has said is read before its death is handled: its last words may explain it. What the
store has done about a death (claim, end, touch) comes before neighbours are rung: a last commit may become visible
only then.

Beside it: phase_driver.py (turn after turn, also when one fails), signals.py, start_watch.py (`run -d`), ending.py (the
steps of the end) and outcome.py (what the run came to).
"""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

from noderuntime.dataflow.model import Dataflow
from noderuntime.dataflow.replicas import expanded
from noderuntime.errors import NodeRuntimeError, ResumeRefused
from noderuntime.ipc import process, runs, state_folders
from noderuntime.ipc.boundary import describe
from noderuntime.ipc.channel import Router
from noderuntime.ipc.homes import RunRefused
from noderuntime.ipc.lock_watch import Holding, LockWatch, Pinning
from noderuntime.ipc.protocol import TO_RUNTIME, Answer, Ask
from noderuntime.ipc.rundir import ENV_VALIDATE
from noderuntime.ipc.runs import Held, RunFile
from noderuntime.ipc.state_folders import StateFolder
from noderuntime.ipc.store_records import Done, Opened, result
from noderuntime.runtime import control, descriptors, guard
from noderuntime.runtime.applying import Applying
from noderuntime.runtime.chaos import Chaos
from noderuntime.runtime.code_watch import CodeWatch
from noderuntime.runtime.descriptors import Reserve
from noderuntime.runtime.dora_facts import write_facts
from noderuntime.runtime.ending import RunEnd, note_with_logs
from noderuntime.runtime.flight_recorder import FlightRecorder
from noderuntime.runtime.keepers import ForkServerKeeper, GaveUp, StoreKeeper
from noderuntime.runtime.last_figures import LastFigures
from noderuntime.runtime.logs import RunLog, RunLogs
from noderuntime.runtime.loop import Loop
from noderuntime.runtime.machine import Tell, Tick
from noderuntime.runtime.nodes import NodeSupervisor
from noderuntime.runtime.observer import Observer, RunOptions
from noderuntime.runtime.orders import preload_of, store_order
from noderuntime.runtime.outbox import RunOutbox
from noderuntime.runtime.outcome import Outcome, farewell
from noderuntime.runtime.phase_driver import PhaseDriver
from noderuntime.runtime.phases import (
    QUIT_S_MAX,
    WITH_NODES,
    AbortNodes,
    AskStoreToQuit,
    Deliver,
    Delivered,
    GuardDied,
    Interrupted,
    NodesBegan,
    NodesDone,
    Phase,
    ResumeWasRefused,
    RunAction,
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
from noderuntime.runtime.resuming import Opening, Resumption, wirings_of
from noderuntime.runtime.signals import Signals
from noderuntime.runtime.snapshots import RunSnapshots
from noderuntime.runtime.start_watch import StartWatch
from noderuntime.runtime.store_link import StoreLink
from noderuntime.runtime.stuck_watch import StuckWatch
from noderuntime.runtime.taps import TapKeeper

LOOK_S = 0.1
KILL_S = 5.0


def run(dataflow: Dataflow, options: RunOptions, observer: Observer) -> int:
    """Run a dataflow to its end, in this process and its main thread; returns the exit code.

    Best below a guard (`guard.run_guarded`). Raises RunRefused when the name is taken by a run that is running or was
    interrupted, and other NodeRuntimeErrors when nothing could be started.
    """
    dataflow = expanded(dataflow)
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
    reserve = Reserve()
    try:
        reserve.take()
        runtime = Runtime(dataflow, options, observer, held, reserve, state_folder)
    except BaseException as error:
        reserve.release()
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
        reserve: Reserve,
        state_folder: StateFolder,
    ) -> None:
        self._dataflow = dataflow
        self._options = options
        self._observer = observer
        self._resumption = Resumption(dataflow)
        self._held = held
        self._state_folder = state_folder
        self._reserve = reserve
        self._run_dir = held.run_dir
        process.become_subreaper()
        descriptors.raise_limit(len(dataflow.nodes))
        file = str(Path(dataflow.folder, Path(dataflow.file).name))
        log_dir = runs.new_log_folder(state_folder.folder, options.environ)
        self._log = RunLog(observer, RunLogs(log_dir))
        self._log.follow(dataflow.nodes)
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
        if options.dora is not None:
            write_facts(self._run_dir.dora_file, options.dora.facts, options.resume)
        note_with_logs(self._file, "")
        guard.announce(self._run_dir.root, farewell(options.name, file))
        self._snapshots = RunSnapshots(
            dataflow, options, self._run_dir, self._log, state_folder.folder, held.size_bytes
        )
        self._outbox = RunOutbox(dataflow, self._log)
        self._loop = Loop()
        self._router = Router(self._run_dir.runtime_socket, *TO_RUNTIME)
        self._link = StoreLink(self._loop, self._run_dir, f"runtime-{held.epoch}")
        env = {key: value for key, value in options.environ.items() if not key.startswith("NODERUNTIME_")}
        self._fork_server = ForkServerKeeper(self._loop, self._log, env, preload_of(dataflow))
        snapshots = self._snapshots.store_arguments(held.fresh)
        order = store_order(dataflow, env, self._run_dir.root, held.size_bytes, snapshots)
        self._store = StoreKeeper(self._fork_server, self._link, self._log, order, time.monotonic)
        self._nodes = NodeSupervisor(
            self._loop, self._router, self._link, self._fork_server, self._log, dataflow, options, self._run_dir,
            time.monotonic, self._stop_asked_by, self._on_ask,
        )  # fmt: skip
        clock = time.monotonic
        self._taps = TapKeeper(self._fork_server, self._link, self._log, env, self._run_dir.root, clock)
        self._stuck = StuckWatch(self._nodes, self._link, self._log, options.grace_s, clock, self._stop_because_stuck)
        parts = self._nodes, self._store, self._fork_server, self._link, self._log, self._taps
        self._chaos = None if options.chaos_s is None else Chaos(*parts, dataflow, options.chaos_s, options.seed, clock)
        self._lock_watch: LockWatch | None = None
        self._start_watch = StartWatch(self._nodes, self._log, options.name, time.monotonic())
        self._recorder = FlightRecorder(validating=bool(options.environ.get(ENV_VALIDATE)))
        self._phase = RunPhase(options.grace_s, found_space=not held.fresh, stop_after_s=options.stop_after_s)
        self._applying = Applying(self._nodes, self._link, self._log, options, clock, self._phase, self._recorder)
        self._code_watch = CodeWatch(self._nodes, self._log, self._applying.follow) if options.watch else None
        self._driver = PhaseDriver(self._phase, self._recorder, self._log, self._do, time.monotonic)
        self._last = LastFigures(self._link, self._driver.boundary)
        self._next_look_s = 0.0
        self._signals = Signals()

    # ---- the loop

    def run(self) -> int:
        """From the start to the end of the run; returns its exit code."""
        try:
            self._driver.run(self._begin, self._turn)
        finally:
            self._end()
        if self._phase.refused:
            what, _, hint = self._phase.refused.partition("\n  ")
            raise RunRefused(self._options.name, what, hint)
        return self._outcome().exit_code

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
                self._last.ask(lambda: self._snapshots.take_last(self._link))
            case StopWaiting():
                self._outbox.give_up()
                self._snapshots.give_up()
            case AskStoreToQuit():
                self._link.request("quit", {}, result(Done), lambda _: None, lambda error, text: None, QUIT_S_MAX)
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
            self._driver.feed(NodesBegan())
        if self._options.abort_on_failure and self._phase.is_up and self._nodes.failed:
            self._driver.feed(StopRequested("stopping the run, because a node failed"))
        if now_s >= self._phase.deadline_s:
            self._driver.feed(Tick())
        # both sockets' descriptors are edge-triggered, and sending consumes edges: until nothing is left
        while self._nodes.drain() | self._link.advance(now_s):
            pass
        if self._phase.is_up:
            self._start_watch.answer_launcher(now_s)
        self._applying.look(now_s)
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
        self._taps.look(now_s, self._taps.pid in stopped, holdings, pinnings)
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
        self._start_watch.show_waiting(self._phase.is_up, now_s)

    def _advance(self) -> None:
        """Whether what the phase waits for has happened."""
        phase = self._phase.state
        if phase in WITH_NODES and self._nodes.done and self._link.idle:
            self._driver.feed(NodesDone())
        elif phase is Phase.DELIVERING and self._outbox.over:
            self._driver.feed(Delivered())
        elif phase is Phase.SAVING and self._snapshots.over:
            self._driver.feed(Saved())
        elif phase is Phase.QUITTING and self._store.has_ended and self._taps.has_ended:
            self._driver.feed(StoreEnded())
        else:
            return
        if self._phase.state is not Phase.OVER:
            self._link.advance(time.monotonic())

    # ---- the beginning

    def _begin(self) -> None:
        self._loop.watch(self._router.fd, self._nodes.drain)
        self._loop.watch(self._signals.fd, self._on_signals)
        if guard.guard_pidfd() >= 0:
            self._loop.watch(guard.guard_pidfd(), self._guard_died)
        self._signals.begin()
        for notice in filter(None, (self._state_folder.notice, self._held.notice)):
            self._log.tell(notice)
        asked = Opening(self._link, self._log, self._options, self._file.file)
        asked.begin(self._dataflow, self._decided, self._opened, self._not_opened)

    def _decided(self, resumption: Resumption) -> None:
        """It is known which dataflow goes on."""
        self._resumption = resumption
        self._dataflow = self._nodes.dataflow = resumption.dataflow
        self._log.follow(resumption.dataflow.nodes)

    def _opened(self, opened: Opened) -> None:
        """The space is there: bells, pulses, children."""
        if self._phase.state is Phase.OVER:
            return  # asked to end in the same turn of the loop
        try:
            self._snapshots.opened(opened, self._held.fresh)
            self._lay_out(opened)
        except OSError as error:
            raise GaveUp(f"the run cannot begin: {error}") from error
        except Exception as error:
            raise GaveUp(f"the run cannot begin: {describe(error)}") from error
        self._driver.feed(SpaceOpened())
        self._observer.started()
        self._start_watch.spawned(time.monotonic())

    def _start_nodes(self) -> None:
        if self._nodes.done:
            self._log.tell("nothing is left to do: every node has ended")
            self._snapshots.skip_last = self._held.fresh  # then it comes from the one that says so
        self._nodes.start()
        if self._chaos is not None:
            self._chaos.start()

    def _lay_out(self, opened: Opened) -> None:
        self._lock_watch = LockWatch(self._run_dir.space / "lock.mdb")
        leaving = opened.get("leaving", ())
        for id, (spec, wiring) in wirings_of(self._resumption, self._options.name, opened).items():
            self._nodes.add(spec, wiring, id in opened["ended"], id in leaving)
        self._nodes.connect()
        self._applying.resumed(opened, self._resumption)
        self._recorder.follow_new(self._nodes.machines)
        self._log.follow(child.spec for child in self._nodes.children.values())

    def _not_opened(self, error: str, text: str) -> None:
        if error == ResumeRefused.__name__:
            self._driver.feed(ResumeWasRefused(text))
            return
        raise GaveUp(text)

    # ---- what comes from outside

    def _on_ask(self, identity: bytes, ask: Ask) -> None:
        try:
            of_run = self._file, self._phase.stopping, self._stop_asked, time.monotonic(), self._applying, self._taps
            self._router.send(identity, control.answer(ask, self._nodes, *of_run))
        except GaveUp:
            raise
        except Exception as error:
            why = f"the runtime could not answer {ask.what[:40]!r}: {describe(error)}"
            self._router.send(identity, Answer({}, why))
            raise

    def _on_signals(self) -> None:
        for number in self._signals.taken():
            if number == signal.SIGCHLD:
                self._nodes.children_changed()
                continue
            why = f"{signal.Signals(number).name}: stopping (once more: at once)"
            if getattr(self._observer, "out_is_gone", False):
                why = "nobody reads what the nodes print any more: stopping"
            self._driver.feed(Interrupted(number, why, at_once=number == signal.SIGQUIT))

    def _guard_died(self) -> None:
        """Nothing would clean up after us: end at once. The space stays, as if we had been killed too."""
        self._loop.unwatch(guard.guard_pidfd())
        self._driver.feed(GuardDied())

    def _stop_asked_by(self, node: str) -> None:
        self._driver.feed(StopRequested(f"{node} asked to stop the run"))

    def _stop_because_stuck(self, why: str) -> None:
        self._driver.feed(StopRequested(f"{why}. Stopping the run", is_error=True))

    def _stop_asked(self, drain: bool) -> None:
        why = "draining: sources stop, the others end when they have nothing left" if drain else "stopping"
        self._driver.feed(StopRequested(why, drain))

    def _show_stopping(self, grace_s: float) -> None:
        getattr(self._observer, "stopping", lambda grace_s: None)(grace_s)

    # ---- the end

    def _finish(self, hurried: bool) -> None:
        """Every node is done: shared writes that are under way have to arrive."""
        self._nodes.ending = True
        self._taps.end(time.monotonic())
        self._outbox.begin(time.monotonic(), hurried)
        if self._chaos is not None:
            self._chaos.stop()

    def _outcome(self) -> Outcome:
        """What is known now of what the run came to."""
        return Outcome(
            self._phase,
            node_failed=bool(self._nodes.failed),
            figures=self._last.nodes,
            keeps_snapshots=self._snapshots.settings.enabled,
            unsaved=self._snapshots.problem,
            undelivered=self._outbox.problem,
            lost_messages=self._chaos is not None and not self._chaos.report.is_good,
        )

    def _end(self) -> None:
        RunEnd(
            dataflow=self._dataflow, file=self._file, run_dir=self._run_dir, held=self._held, reserve=self._reserve,
            log=self._log, signals=self._signals, loop=self._loop, router=self._router, link=self._link,
            nodes=self._nodes, taps=self._taps, store=self._store, fork_server=self._fork_server,
            lock_watch=self._lock_watch, chaos=self._chaos, last=self._last, outcome=self._outcome,
            keep_steps=self._driver.keep_steps, notice=lambda: self._show_stopping(0.0),
        ).carry_out()  # fmt: skip
