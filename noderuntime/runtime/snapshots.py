"""The runtime's part in snapshots: what the store is told, what people are told, and the last one of a run.

The last one is asked for and looked after ten times a second, never waited for. A store that is killed meanwhile knows
nothing of it; then it is asked for again.
"""

from __future__ import annotations

import time
from pathlib import Path

from noderuntime.dataflow.model import Dataflow
from noderuntime.ipc.rundir import RunDir
from noderuntime.ipc.store_records import ANSWER, Opened, Progress, Resumed, Ticket, result
from noderuntime.ipc.typed import decode
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.observer import RunOptions
from noderuntime.runtime.store_link import StoreLink
from noderuntime.snapshot.guarantee import guarantee
from noderuntime.snapshot.settings import FILE, SPOOL, Settings

SAVING_SHOWN_S = 3.0


def settings_of(dataflow: Dataflow, options: RunOptions, own: Path, size_bytes: int) -> Settings:
    """Where the snapshots of this run go. `own`: its folder in the state directory. `size_bytes`: of its space."""
    spec = dataflow.snapshots
    return Settings(
        run=options.name,
        to=spec.to,
        folder=str(Path(dataflow.folder or ".").absolute()),
        spool=str((own / SPOOL).absolute()),
        every_s=spec.every_s,
        keep=spec.keep,
        options=dict(spec.options),
        size_bytes=size_bytes,
        file=str(Path(dataflow.folder or ".", Path(dataflow.file or "").name).absolute()),
    )


class RunSnapshots:
    """See the head of this module.

    `over`: the last one is safe, or there is none (`problem`: why, if one was due). `size_bytes`: of the space.
    """

    def __init__(
        self,
        dataflow: Dataflow,
        options: RunOptions,
        run_dir: RunDir,
        notes: RunLog,
        own: Path,
        size_bytes: int,
    ) -> None:
        self.settings = settings_of(dataflow, options, own, size_bytes)
        self.over = False
        self.problem = ""
        self.skip_last = False
        self._dataflow = dataflow
        self._options = options
        self._run_dir = run_dir
        self._notes = notes
        self._ticket: int | None = None
        self._asked = False
        self._began_s = 0.0
        self._shown = False

    def store_arguments(self, fresh: bool) -> list[str]:
        """Write the settings; the store's part of its command line."""
        self.settings.write(self._run_dir.snapshots_file)
        self.settings.write(Path(self.settings.spool).with_name(FILE))
        arguments = ["--snapshots", str(self._run_dir.snapshots_file)]
        if self._options.resume and fresh:
            arguments.append("--resume")
            if self._options.from_snapshot is not None:
                arguments += ["--from", str(self._options.from_snapshot)]
        return arguments

    def opened(self, opened: Opened, fresh: bool) -> None:
        """Say what was resumed, what was dropped, and what is promised."""
        tell = self._notes.tell
        resumed = decode(Resumed, opened["resumed"], ANSWER) if opened["resumed"] else None
        if self._options.resume and fresh:
            for text in resumed["skipped"] if resumed is not None else ():
                tell(f"{text}; using an older one")
            if resumed is not None:
                seconds = max(0, time.time_ns() - resumed["created_ns"]) // 1_000_000_000
                tell(f"continuing from snapshot {resumed['number']}, {seconds} s old")
                kind = self._dataflow.state.kind
                if kind != "memory":
                    tell(f"shared keys are not in snapshots: those of kind {kind!r} are as they are there now")
            else:
                tell("there is nothing to resume: starting anew")
        for text in opened["dropped"]:
            tell(text)
        if self.settings.enabled:
            text = guarantee(self._dataflow, self.settings.every_s)
            if text:
                tell(text)

    # --- the last one -----------------------------------------------------------------------------------------------

    def take_last(self, link: StoreLink) -> None:
        """Every node is done: ask for the last snapshot."""
        self._began_s = time.monotonic()
        if self.settings.enabled and not self.skip_last:
            self._ask(link)
        else:
            self.over = True

    def _ask(self, link: StoreLink) -> None:
        self._ticket = None
        self._asked = True
        link.request("snapshot_take", {"why": "end"}, result(Ticket), self._taken, self._failed)

    def _taken(self, taken: Ticket) -> None:
        self._ticket = taken["ticket"]
        self._asked = False

    def _failed(self, error: str, text: str) -> None:
        self.problem = text
        self.over = True

    def look(self, link: StoreLink) -> None:
        """Some times a second, until it is over."""
        if self.over or self._asked or self._ticket is None:
            return
        if not self._shown and time.monotonic() - self._began_s > SAVING_SHOWN_S:
            self._shown = True
            self._notes.tell("the last snapshot is being saved (Ctrl-C: leave the state in memory instead)")
        self._asked = True

        def answered(found: Progress) -> None:
            self._asked = False
            if found["state"] == "done":
                self.over = True
            elif found["state"] == "failed":
                self._failed("", found["error"])
            elif found["state"] == "unknown":
                self._ask(link)

        link.request("snapshot_status", {"ticket": self._ticket}, result(Progress), answered, self._failed)

    def give_up(self) -> None:
        """The user does not want to wait."""
        if self._began_s and not self.over:
            self._failed("", "it was given up, because the run was to stop at once")
