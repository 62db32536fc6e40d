"""A store for one command, for runs that are not running.

`open_store` gives a client of the run's store. For an interrupted run, a store process is started on its space, under
the run's lock, so that the run can be neither resumed nor cleaned meanwhile. For an ended run, the space is first made
from the last snapshot, as `run --resume` would; what the command changes is then taken as a new snapshot, from which
the next `run --resume` continues, and the space is removed again. A command that is cut off has changed nothing.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from noderuntime.cli import output
from noderuntime.cli.choose import RUNNING, choose, hold, known_runs
from noderuntime.cli.client import STORE_ANSWERS_WITHIN_S, StoreClient, take_snapshot
from noderuntime.cli.output import CommandError
from noderuntime.cli.text import duration
from noderuntime.errors import NotRunning
from noderuntime.ipc import entrypoints, runs
from noderuntime.ipc.rundir import RunDir, state_home
from noderuntime.ipc.runs import Run
from noderuntime.snapshot.format import Manifest
from noderuntime.snapshot.settings import FILE, Settings

WRITES = ("set", "rm", "replay", "drop")  # operations of `state` and `dead-letters` that change something
RESTORED_WITHIN_S = 3600.0  # a large snapshot may have to be fetched
STORE_ENDS_WITHIN_S = 15.0
NEVER_S = 1e9  # a command that only reads takes no snapshot


@dataclass(frozen=True, slots=True)
class Ended:
    """A run without a space. `last`: its newest readable snapshot."""

    settings: Settings
    last: Manifest
    state: str = "ended"

    @property
    def name(self) -> str:
        return self.settings.run


def choose_kept(name: str | None) -> Run | Ended:
    """The run of that name, or the only one: with a space, or else with a snapshot. Raises NotRunning."""
    try:
        return choose(name, interrupted=True)
    except NotRunning:
        if name is None and known_runs():  # several of them
            raise
        ended = _find(name)
        if ended is None:
            raise
        return ended


def _find(name: str | None) -> Ended | None:
    known = [item for item in known_settings() if item.enabled and name in (None, item.run)]
    if len(known) != 1:
        return None
    backend = known[0].open()
    try:
        last = next((item.manifest for item in backend.snapshots() if item.manifest is not None), None)
    finally:
        backend.close()
    return None if last is None else Ended(known[0], last)


def known_settings() -> list[Settings]:
    """Where the last run of each name kept its snapshots, by name."""
    paths = sorted(state_home(os.environ).glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime_ns)
    last = {settings.run: settings for path in paths if (settings := Settings.read(path))}
    return [last[name] for name in sorted(last)]


@contextlib.contextmanager
def open_store(run: Run | Ended, operation: str) -> Iterator[StoreClient]:
    """A client of the run's store for one operation; where no store is running, one is started for it."""
    if isinstance(run, Ended):
        with _open_ended(run, operation in WRITES) as client:
            yield client
        return
    if run.state == RUNNING:
        with StoreClient(run.name, run.run_dir.store_socket) as client:
            yield client
        return
    if not run.trusted:
        raise CommandError(f"the machine was restarted since {run.name!r} was interrupted: its space is not trusted")
    # size 0: the one that the space already has
    with hold(run) as lock, _started_store(run.name, run.run_dir, lock, ["--size", "0"]) as client:
        yield client


@contextlib.contextmanager
def _open_ended(ended: Ended, writes: bool) -> Iterator[StoreClient]:
    """A client of a store on the last snapshot. With `writes`, the changes are taken as a new snapshot at the end."""
    settings = ended.settings
    held = runs.hold(
        ended.name, os.environ, resume=True, fresh=False, size_bytes=settings.size_bytes or None, file="FILE"
    )
    if not held.fresh:  # started and interrupted since we looked: it has a space of its own
        held.release()
        raise CommandError(f"the run {ended.name!r} has just been interrupted; try again")
    try:
        replace(settings, every_s=NEVER_S).write(held.run_dir.snapshots_file)
        arguments = ["--size", str(held.size_bytes), "--snapshots", str(held.run_dir.snapshots_file), "--resume"]
        with _started_store(ended.name, held.run_dir, held.fd, arguments, RESTORED_WITHIN_S) as store:
            resumed = store.request("resumed", {})
            for problem in resumed["skipped"]:
                output.tell(f"{problem}; using an older one")
            age = duration(max(0.0, (time.time_ns() - resumed["created_ns"]) / 1e9))
            output.tell(f"{ended.name} has ended: this is its snapshot {resumed['number']}, {age} old")
            yield store
            if writes:
                taken = take_snapshot(store, ended.last.why)
                output.tell(f"`run --resume` continues from snapshot {taken['number']}, which has the change")
    finally:
        held.remove()


@contextlib.contextmanager
def _started_store(
    run: str, run_dir: RunDir, lock: int, arguments: Sequence[str], within_s: float = STORE_ANSWERS_WITHIN_S
) -> Iterator[StoreClient]:
    """A client of a store process that lives for one command, and ends when this process does, in whatever way.

    `lock`: the descriptor of the run's lock. The store inherits it, so no other process can open the space before the
    store has ended.
    """
    command = entrypoints.command(entrypoints.STORE, str(run_dir.root), "--parent", str(os.getpid()), *arguments)
    process = subprocess.Popen(command, pass_fds=[lock], stdin=subprocess.DEVNULL)
    try:
        with StoreClient(run, run_dir.store_socket, within_s, lost=lambda: _ended(process)) as client:
            yield client
            client.request("quit", {})
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STORE_ENDS_WITHIN_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _ended(process: subprocess.Popen[bytes]) -> str:
    code = process.poll()
    return "" if code is None else f"the store process ended with code {code} before it answered"
