"""The end of a run: everything is closed, nothing is left behind, and the user is told what the run came to.

It is a list of steps. Each of them happens, whatever those before it have raised: no process may be left, no socket,
and no space unless the run is to be resumed. What is decided on the way is in outcome.py.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from noderuntime.dataflow.model import Dataflow
from noderuntime.ipc import process
from noderuntime.ipc.boundary import Boundary
from noderuntime.ipc.channel import Router
from noderuntime.ipc.lock_watch import LockWatch
from noderuntime.ipc.rundir import RunDir, letters_file
from noderuntime.ipc.runs import Held, RunFile
from noderuntime.runtime import summary
from noderuntime.runtime.chaos import Chaos
from noderuntime.runtime.descriptors import Reserve
from noderuntime.runtime.keepers import ForkServerKeeper, StoreKeeper
from noderuntime.runtime.last_figures import LastFigures
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.loop import Loop
from noderuntime.runtime.nodes import NodeSupervisor
from noderuntime.runtime.observer import SummaryRow
from noderuntime.runtime.outcome import Outcome
from noderuntime.runtime.signals import Signals
from noderuntime.runtime.store_link import StoreLink
from noderuntime.runtime.taps import TapKeeper

KILL_S: Final = 5.0


@dataclass(slots=True)
class RunEnd:
    """All parts of a run that have to be closed, or know what it came to.

    `outcome` is asked when it is needed: the report of --chaos, for one, belongs to it. `keep_steps` writes the flight
    recorder's steps into the log; `notice` is called for signals that still come.
    """

    dataflow: Dataflow
    file: RunFile
    run_dir: RunDir
    held: Held
    reserve: Reserve
    log: RunLog
    signals: Signals
    loop: Loop
    router: Router
    link: StoreLink
    nodes: NodeSupervisor
    taps: TapKeeper
    store: StoreKeeper
    fork_server: ForkServerKeeper
    lock_watch: LockWatch | None
    chaos: Chaos | None
    last: LastFigures
    outcome: Callable[[], Outcome]
    keep_steps: Callable[[], None]
    notice: Callable[[], None]
    _rows: list[SummaryRow] = field(init=False, default_factory=list)
    _keep: bool = field(init=False, default=True)  # when it cannot be decided

    def carry_out(self) -> None:
        """All steps, in their order. Raises nothing; what a step raises goes to the log."""
        boundary = Boundary(self.log.warn)
        steps: list[tuple[str, Callable[[], object]]] = [
            ("releasing the reserve of descriptors", self.reserve.release),
            ("signals that come now", lambda: self.signals.end(self.notice)),
            ("the rows of the summary", self._sum_up),
            ("the rows of a run without nodes", self._sum_up_none),
            ("closing the nodes", self.nodes.close),
            ("closing the tap server", self.taps.close),
            ("closing the store", self.store.close),
            ("closing the store's socket", self.link.close),
            ("closing the fork server", self.fork_server.close),
            ("killing what is left", self._kill_left),
            ("closing the runtime's socket", lambda: self.router.close(0)),
            ("closing the lock file", lambda: None if self.lock_watch is None else self.lock_watch.close()),
            ("removing the runtime's socket", lambda: self.run_dir.runtime_socket.unlink(missing_ok=True)),
            ("removing the tap server's socket", lambda: self.run_dir.taps_socket.unlink(missing_ok=True)),
            ("removing the store's socket", lambda: self.run_dir.store_socket.unlink(missing_ok=True)),
            ("closing the loop", self.loop.close),
            ("closing the pipe of signals", self.signals.close),
            ("keeping the last steps for a replay", lambda: self.keep_steps() if self.outcome().needs_replay else None),
            ("the report of the kills", self._report_kills),
            ("deciding whether the state is kept", self._decide),
            ("what to do next", self._advise),
            ("keeping the dead letters", lambda: keep_letters(Path(self.file.log_dir), self.last.letters)),
            ("the summary", self._tell_summary),
            ("noting what became of it", lambda: note_with_logs(self.file, self.outcome().word(self._rows))),
            ("closing the logs", self.log.close),
            ("marking the run", self._mark),
            ("giving up the run's folder", lambda: self.held.release() if self._keep else self.held.remove()),
            ("releasing the run's lock", self.held.release),  # a second time does nothing
        ]
        for what, step in steps:
            boundary.call(f"at the end of the run: {what}", step)

    def _sum_up(self) -> None:
        self._rows = summary.rows(self.nodes.children.values(), self.last.nodes)

    def _sum_up_none(self) -> None:
        if not self._rows and not self.outcome().phase.gave_up:  # else the error has said it: no node has failed
            self._rows = summary.rows_of_none(self.dataflow, "stopped")

    def _kill_left(self) -> None:
        left = process.kill_descendants(KILL_S)
        if left:
            self.log.tell(f"these processes cannot be killed: {left}")

    def _report_kills(self) -> None:
        if self.chaos is not None and self.chaos.has_begun:
            report = self.chaos.finish(self.last.nodes)
            self.log.report(report.lines(), report.facts())

    def _decide(self) -> None:
        self._keep = self.outcome().is_kept

    def _advise(self) -> None:
        for text in self.outcome().advice(self.file.name, self.file.file, self._rows):
            self.log.tell(text)

    def _tell_summary(self) -> None:
        if self._rows:
            self.log.summary(self._rows, summary.lines(self._rows))

    def _mark(self) -> None:
        if self._keep and self.outcome().is_kept_as_failed:
            replace(self.file, ended="failed").write(self.run_dir)


def note_with_logs(file: RunFile, ended: str) -> None:
    """Write beside the logs which run they are of, and how it ended ("" while it runs). `ps -a` lists ended runs by it.
    """
    with contextlib.suppress(OSError):  # as with the logs, a full disk stops no run
        replace(file, ended=ended).write(RunDir(Path(file.log_dir)))


def keep_letters(log_dir: Path, letters: Sequence[Mapping[str, object]]) -> None:
    """Write dead letters beside the logs, for `dead-letters ls` and `show` of a run whose space is gone.

    If the disk is full, none are kept. Keys that are not text are shown as text.
    """
    if not letters:
        return
    with contextlib.suppress(OSError):
        kept = json.dumps([_with_text_keys(letter) for letter in letters], ensure_ascii=False, default=repr)
        file = letters_file(log_dir)
        file.touch(mode=0o600)
        file.write_text(kept, errors="replace")


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, list) else value
