"""What all the nodes of a run share: one record, which each `Child` has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from noderuntime.dataflow.model import Dataflow
from noderuntime.ipc.channel import Router
from noderuntime.ipc.rundir import RunDir
from noderuntime.ipc.store_records import Read
from noderuntime.runtime.keepers import ForkServerKeeper, GaveUp
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.loop import Loop
from noderuntime.runtime.observer import RunOptions
from noderuntime.runtime.processes import Proc
from noderuntime.runtime.start_barrier import StartBarrier
from noderuntime.runtime.store_link import Arguments, StoreLink

R = TypeVar("R")


@dataclass(slots=True)
class Services:
    """What all the nodes of a run share.

    `dataflow` is the one in force, which `apply` replaces. `clock` gives monotonic seconds; `stop_all(node)` is called
    when an operator returns STOP_ALL; `drain` takes all messages that have come, of whatever node.
    """

    loop: Loop
    router: Router
    link: StoreLink
    fork_server: ForkServerKeeper
    run_log: RunLog
    dataflow: Dataflow
    options: RunOptions
    run_dir: RunDir
    clock: Callable[[], float]
    stop_all: Callable[[str], None]
    drain: Callable[[], bool]
    stopped: set[int] = field(default_factory=set)  # pids of children of ours that are stopped now
    barrier: StartBarrier = field(default_factory=StartBarrier)
    procs: set[Proc] = field(default_factory=set)  # nodes' processes that have not been reaped

    def ask(self, operation: str, arguments: Arguments, read: Read[R], then: Callable[[R], None]) -> None:
        """Ask the store for what a node cannot do without: a refusal is the end of the run."""

        def refused(error: str, text: str) -> None:
            raise GaveUp(f"the store refused {operation!r}: {text} ({error})")

        self.link.request(operation, arguments, read, then, refused)
