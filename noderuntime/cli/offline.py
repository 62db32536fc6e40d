"""A store for one command, for runs that are not running.

`open_store` gives a client of the run's store. For an interrupted run, a store process is started on its space, under
the run's lock, so that the run can be neither resumed nor cleaned meanwhile. For an ended run, the space is first made
from the last snapshot, as `run --resume` would; what the command changes is then taken as a new snapshot, from which
the next `run --resume` continues, and the space is removed again. A command that is cut off has changed nothing.

A run that others have followed is reached by a snapshot (`--from`). What a command changes of it is a snapshot that
is kept aside (see snapshot/retention.py): from that one only `run --from` continues.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from shlex import quote

from noderuntime.cli import output
from noderuntime.cli.choose import RUNNING, choose, hold, known_runs
from noderuntime.cli.client import STORE_ANSWERS_WITHIN_S, StoreClient, take_snapshot
from noderuntime.cli.output import CommandError
from noderuntime.cli.text import duration
from noderuntime.dataflow.identifiers import nearest
from noderuntime.errors import NotRunning
from noderuntime.ipc import entrypoints, runs
from noderuntime.ipc.rundir import RunDir, state_home
from noderuntime.ipc.runs import Run
from noderuntime.ipc.store_records import Done, Resumed, result
from noderuntime.snapshot.backend import Listed
from noderuntime.snapshot.format import DROPPED, REPLAYED, Manifest
from noderuntime.snapshot.older import Looked
from noderuntime.snapshot.retention import newest, unsettled
from noderuntime.snapshot.settings import FILE, Settings

WRITES = ("set", "rm", "replay", "drop")  # operations of `state` and `dead-letters` that change something
RESTORED_WITHIN_S = 3600.0  # a large snapshot may have to be fetched
STORE_ENDS_WITHIN_S = 15.0
NEVER_S = 1e9  # a command that only reads takes no snapshot
LOOK_RETRY_S = 2.0  # for what is told besides: a place that cannot be reached must not hold up the command


@dataclass(frozen=True, slots=True)
class Ended:
    """A run without a space. `last`: its newest readable snapshot. `earlier`: another run has followed it."""

    settings: Settings
    last: Manifest
    state: str = "ended"
    earlier: bool = False

    @property
    def name(self) -> str:
        return self.settings.run


@dataclass(slots=True)
class Change:
    """What a command does. `made`: whether it has changed anything; the command says so. `snapshot`: the number of the
    one that has the change; set by open_store at its end, if the run has ended."""

    made: bool = True
    snapshot: int = 0


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
    with contextlib.closing(known[0].open()) as backend:
        last = next(iter(newest(_readable(backend.snapshots()))), None)
    return None if last is None else Ended(known[0], last)


def _readable(listed: Sequence[Listed]) -> list[Manifest]:
    return [item.manifest for item in listed if item.manifest is not None]


def choose_snapshot(name: str | None, number: int, operation: str) -> Ended:
    """The run that this snapshot is of. Raises CommandError when `operation` cannot be carried out on it."""
    settings = settings_of(name)
    with contextlib.closing(settings.open()) as backend:
        listed = backend.snapshots()
        found = next((item for item in listed if item.number == number), None)
        if found is None or found.manifest is None:
            what = f"there is no snapshot {number}" if found is None else f"snapshot {number} is damaged"
            hint = f"`noderuntime snapshot ls --run {quote(settings.run)}` lists them"
            raise CommandError(f"{what} in {backend.place}; {hint}")
        if operation not in WRITES:
            return Ended(settings, found.manifest, earlier=True)
        facts, all_readable = Looked(backend), _readable(listed)
        run_id = facts(found.manifest).run_id
        last = next(manifest for manifest in all_readable if facts(manifest).run_id == run_id)
    if last.number != number:
        raise CommandError(
            f"snapshot {number} is not the last one of its run: snapshot {last.number} is, and what it holds counts"
        )
    there = runs.find_run(settings.run, os.environ)
    if there is not None:
        raise CommandError(_in_the_way(there))
    return Ended(settings, last, earlier=last not in newest(all_readable)[:1])


def _in_the_way(there: Run) -> str:
    waits = "what an earlier one left can be changed once"
    if there.state == RUNNING:
        return f"the run {there.name!r} is running: {waits} it has ended (`noderuntime stop {quote(there.name)}`)"
    what = "was interrupted" if there.state == "interrupted" else "has failed"
    return (
        f"the run {there.name!r} {what}, and its state is kept: {waits} that is continued (`run --resume`), or removed "
        f"(`noderuntime clean {quote(there.name)}`)"
    )


def left_unsettled(settings: Settings, run_id: str | None) -> list[Manifest]:
    """The last snapshot of each run but one that holds dead letters, or messages put back, the newest first. The one
    is `run_id`, or the run that `--resume` continues. Raises SnapshotUnavailable."""
    with contextlib.closing(settings.open(LOOK_RETRY_S)) as backend:
        facts, manifests = Looked(backend), _readable(backend.snapshots())
        if run_id is None:
            run_id = next((facts(manifest).run_id for manifest in newest(manifests)), None)
        return [manifest for manifest in unsettled(manifests, facts) if facts(manifest).run_id != run_id]


def settings_of(name: str | None) -> Settings:
    """Where the snapshots are of the run of that name, or of the only one there is."""
    if name is None:
        live = [run.name for run in known_runs()]
        if len(live) == 1:
            name = live[0]
    known = known_settings()
    if name is not None:
        found = next((item for item in known if item.run == name), None)
        if found is not None:
            return found
    if name is None and len(known) == 1:
        return known[0]
    names = [settings.run for settings in known]
    if name is None:
        if not names:
            raise NotRunning("there was no run yet")
        raise CommandError(f"which run? Say --run with one of: {', '.join(names)}", output.USAGE)
    near = nearest(name, names)
    known_names = f"There were: {', '.join(names)}." if names else ""
    raise NotRunning(f"there was no run {name!r}", f"Did you mean {near!r}?" if near else known_names)


def known_settings() -> list[Settings]:
    """Where the last run of each name kept its snapshots, by name."""
    paths = sorted(state_home(os.environ).glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime_ns)
    last = {settings.run: settings for path in paths if (settings := Settings.read(path))}
    return [last[name] for name in sorted(last)]


@contextlib.contextmanager
def open_store(run: Run | Ended, operation: str, change: Change | None = None) -> Iterator[StoreClient]:
    """A client of the run's store for one operation; where no store is running, one is started for it."""
    if isinstance(run, Ended):
        with _open_ended(run, operation, change or Change()) as client:
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
def _open_ended(ended: Ended, operation: str, change: Change) -> Iterator[StoreClient]:
    """A client of a store on the last snapshot. What an operation that writes has changed becomes a new snapshot."""
    settings = ended.settings
    writes = operation in WRITES
    # what an earlier run left is looked at while a later one of its name runs, too
    name = ended.name if writes or not ended.earlier else f"{ended.name}@{ended.last.number}"
    held = runs.hold(name, os.environ, resume=True, fresh=False, size_bytes=settings.size_bytes or None, file="FILE")
    if not held.fresh:  # started and interrupted since we looked: it has a space of its own
        held.release()
        raise CommandError(f"the run {ended.name!r} has just been interrupted; try again")
    try:
        replace(settings, every_s=NEVER_S).write(held.run_dir.snapshots_file)
        arguments = ["--size", str(held.size_bytes), "--snapshots", str(held.run_dir.snapshots_file), "--resume"]
        if ended.earlier:
            arguments += ["--from", str(ended.last.number)]
        with _started_store(ended.name, held.run_dir, held.fd, arguments, RESTORED_WITHIN_S) as store:
            resumed = store.request("resumed", {}, result(Resumed))
            for problem in resumed["skipped"]:
                output.tell(f"{problem}; using an older one")
            age = duration(max(0.0, (time.time_ns() - resumed["created_ns"]) / 1e9))
            its = f"of an earlier run {ended.name}" if ended.earlier else f"{ended.name} has ended"
            output.tell(f"{its}: this is its snapshot {resumed['number']}, {age} old")
            yield store
            if writes and change.made:
                change.snapshot = take_snapshot(store, _why(ended, operation))["number"]
                if not ended.earlier:
                    output.tell(f"`run --resume` continues from snapshot {change.snapshot}, which has the change")
    finally:
        held.remove()


def _why(ended: Ended, operation: str) -> str:
    """The reason of the new snapshot: that of the last one, or that it is kept aside."""
    if not ended.earlier:
        return ended.last.why
    return REPLAYED if operation == "replay" or ended.last.why == REPLAYED else DROPPED


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
            client.request("quit", {}, result(Done))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STORE_ENDS_WITHIN_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _ended(process: subprocess.Popen[bytes]) -> str:
    code = process.poll()
    return "" if code is None else f"the store process ended with code {code} before it answered"
