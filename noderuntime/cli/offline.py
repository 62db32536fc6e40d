"""Runs that have ended, and whose space is gone: a command works on the last snapshot instead.

The space is made from it as `run --resume` would, under the run's lock, for this one command. What the command changes
is taken as a new snapshot, which the next `run --resume` continues from; then the space goes again. A command that is
cut off has changed nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from noderuntime.cli import output
from noderuntime.cli.choose import choose, known_runs
from noderuntime.cli.client import StoreClient, take_snapshot
from noderuntime.cli.one_store import one_store
from noderuntime.cli.output import CommandError
from noderuntime.cli.snapshot import known_settings
from noderuntime.cli.text import duration
from noderuntime.errors import NotRunning
from noderuntime.ipc import runs
from noderuntime.ipc.runs import Run
from noderuntime.snapshot.format import Manifest
from noderuntime.snapshot.settings import Settings

RESTORED_WITHIN_S = 3600.0  # a large snapshot may have to be fetched
NEVER_S = 1e9  # who only reads takes no snapshot


@dataclass(frozen=True, slots=True)
class Ended:
    """A run without a space. `last`: its newest snapshot that can be read at all."""

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


@contextlib.contextmanager
def open_ended(ended: Ended, writes: bool) -> Iterator[StoreClient]:
    """A client of a store on the last snapshot. With `writes`, what was changed is a new one at the end."""
    settings = ended.settings
    held = runs.hold(
        ended.name, os.environ, resume=True, fresh=False, size_bytes=settings.size_bytes or None, file="FILE"
    )
    if not held.fresh:  # begun and interrupted since we looked: it has a space of its own
        held.release()
        raise CommandError(f"the run {ended.name!r} has just been interrupted; try again")
    try:
        replace(settings, every_s=NEVER_S).write(held.run_dir.snapshots_file)
        arguments = ["--size", str(held.size_bytes), "--snapshots", str(held.run_dir.snapshots_file), "--resume"]
        with one_store(ended.name, held.run_dir, held.fd, arguments, RESTORED_WITHIN_S) as store:
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
