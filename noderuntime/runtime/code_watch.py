"""`--watch`: operators are reloaded when a file that they are made of changes, and a changed dataflow file is applied.

Files are looked at some times a second (their time, size and inode); a change counts once it has been still for one
look, since editors write in several steps. The rest is the way of `noderuntime reload`: the operator tries the import,
and a new life takes over between two events; what does not import is reported, and the old code continues.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from noderuntime.dataflow.imports import files_of
from noderuntime.dataflow.model import Dataflow
from noderuntime.runtime import lifecycle_events as su
from noderuntime.runtime.children import Child
from noderuntime.runtime.lifecycle_events import DONE, LifecycleState
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.nodes import NodeSupervisor

LOOK_S = 0.25

Stamp = tuple[int, int, int] | None  # None: there is no such file now
WILLING = frozenset({LifecycleState.RUNNING, LifecycleState.BACKOFF, LifecycleState.FAILED})


class Changes:
    """Which of some files have changed, and have been still since. `look` at regular times."""

    def __init__(self) -> None:
        self._known: dict[Path, Stamp] = {}
        self._moving: dict[Path, Stamp] = {}

    def watch(self, files: set[Path]) -> None:
        """Watch these too; as they are now, they are not changed."""
        for path in files:
            if path not in self._known:
                self._known[path] = stamp(path)

    def look(self) -> set[Path]:
        """The files that have changed and are still. One that was removed is waited for: an editor may be saving it."""
        changed = set()
        for path, known in self._known.items():
            now = stamp(path)
            if now == known or now is None:
                self._moving.pop(path, None)
            elif self._moving.get(path) == now:
                del self._moving[path]
                self._known[path] = now
                changed.add(path)
            else:
                self._moving[path] = now
        return changed


def stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class CodeWatch:
    """The files of one run's nodes. `apply(file)` begins to make the run what its dataflow file says now; false while
    another change is under way.
    """

    def __init__(self, supervisor: NodeSupervisor, run_log: RunLog, apply: Callable[[Path], bool]) -> None:
        self._apply = apply
        self._is_due = False  # the dataflow file has changed
        self._supervisor = supervisor
        self._run_log = run_log
        self._changes = Changes()
        self._due: set[str] = set()
        self._next_s = 0.0
        self._follow(supervisor.dataflow)

    def _follow(self, dataflow: Dataflow) -> None:
        """This dataflow is in force from now on."""
        self._dataflow = dataflow
        self._files: dict[str, set[Path]] = {}  # of operators
        self._file = Path(dataflow.folder, Path(dataflow.file).name)
        self._others: dict[Path, str] = {}  # of custom nodes
        for spec in dataflow.nodes:
            if spec.kind == "operator":
                self._files[spec.id] = files_of(dataflow, spec)
                self._changes.watch(self._files[spec.id])
            elif spec.kind == "node" and spec.code.path.endswith(".py"):
                self._others[Path(dataflow.folder, spec.code.path)] = spec.id
        self._changes.watch({self._file, *self._others})

    def look(self, now_s: float) -> None:
        """See what has changed, and reload whom it concerns."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + LOOK_S
        if self._dataflow is not self._supervisor.dataflow:
            self._follow(self._supervisor.dataflow)
        for path in self._changes.look():
            concerned = [node for node, files in self._files.items() if path in files]
            if concerned:
                together = {member.id for node in concerned for member in self._dataflow.members(node)}
                beside = [node for node in self._files if node in together.difference(concerned)]
                with_them = f", and with them {', '.join(beside)}, in the same process" if beside else ""
                self._run_log.tell(f"{path.name} has changed: reloading {', '.join(concerned)}{with_them}")
                self._due.update(concerned)
            if path in self._others:
                node = self._others[path]
                self._run_log.tell(f"{path.name} has changed; `noderuntime node restart {node}` takes it up")
            self._is_due = self._is_due or path == self._file
        if self._is_due and self._apply(self._file):
            self._is_due = False
        asked: set[str] = set()  # operators that share a process are reloaded together, once
        self._due &= self._supervisor.children.keys()
        for node in sorted(self._due):
            self._reload(self._supervisor.children[node], asked)

    def _reload(self, child: Child, asked: set[str]) -> None:
        leader = child.leader
        state = leader.machine.state
        if state in WILLING:
            if leader.id not in asked:
                asked.add(leader.id)
                leader.feed(su.ReloadAsked())
            # it may import what it did not before
            self._files[child.id] |= files_of(self._dataflow, child.spec)
            self._changes.watch(self._files[child.id])
        if state in WILLING or state in DONE:
            self._due.discard(child.id)
