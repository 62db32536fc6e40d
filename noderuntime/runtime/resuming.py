"""Which dataflow a resumed run goes on with: that of its file, or one that was applied while it ran; and the first
requests to the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from noderuntime.dataflow import plain
from noderuntime.dataflow.changes import compare
from noderuntime.dataflow.files import digest_of
from noderuntime.dataflow.model import Dataflow, NodeSpec
from noderuntime.dataflow.processes import processes_of
from noderuntime.dataflow.replicas import expanded, scaled, written
from noderuntime.ipc.change_records import InForce
from noderuntime.ipc.store_records import Opened, result
from noderuntime.ipc.wiring import Wiring
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.observer import RunOptions
from noderuntime.runtime.plan import plan, store_nodes, trial_wiring
from noderuntime.runtime.store_link import StoreLink

OPEN_S_MAX: Final = 3600.0  # a large snapshot may have to be fetched


@dataclass(frozen=True, slots=True)
class Resumption:
    """`dataflow` goes on; `as_applied`: it is the one in force in the space, and `leaving` has nodes that still drain.
    `told`: for people, "" for nothing.

    `scaled`: by node, the number of replicas that `scale` has set and that the run begins with; `applied`: the file
    that was applied, and its dataflow, with the numbers that rule again as soon as the run is up.
    """

    dataflow: Dataflow
    as_applied: bool = False
    leaving: Dataflow | None = None
    told: tuple[str, ...] = ()
    scaled: Mapping[str, int] = field(default_factory=dict)
    applied: tuple[str, Dataflow] | None = None


def decide(found: InForce, file: Dataflow, digest: str, insists: bool = False) -> Resumption:
    """`file`: the dataflow of the file that the user has named, with a node for each replica; `digest`: of that file.
    `insists`: the user has said what may be dropped or renamed for its sake. Raises ValueError when the one in force
    cannot be read.
    """
    told = []
    if found["changing"]:
        told.append(f"a change to {found['changing']} was interrupted before it was in force, and is undone")
    if not found["applied"]:
        return Resumption(file, told=(*told, *_numbers_again(found, file, file.file)))
    applied = plain.from_text(found["dataflow"])
    same = not compare(applied, written(file)).changes
    if same or (digest == found["digest"] and not insists):
        leaving = plain.from_text(found["leaving"]) if found["leaving"] else None
        if not same:
            told.append(
                f"going on with the dataflow of {found['file']}, which was applied; {file.file} is as at the last start"
            )
        applied = replace(applied, state=file.state, snapshots=file.snapshots)
        told += _numbers_again(found, applied, found["file"])
        now = applied
        for node, replicas in found.get("scaled", {}).items():
            now = scaled(now, node, replicas)
        rest = (found["file"], applied) if now != applied else None
        by_scale = found.get("scaled", {}) if rest is not None else {}
        return Resumption(expanded(now), True, leaving, tuple(told), by_scale, rest)
    not_with = f"the dataflow of {found['file']}, which was applied"
    if Path(file.folder, Path(file.file).name) == Path(found["file"]):
        not_with = "what was applied of it before"
    changed = "" if insists else ", which has changed since the last start"
    told.append(f"going on with {file.file}{changed}, and not with {not_with}")
    return Resumption(file, told=(*told, *_numbers_again(found, file, file.file)))


def _numbers_again(found: InForce, dataflow: Dataflow, file: str) -> list[str]:
    """What is told of nodes whose number of replicas is that of a file again."""
    before = found.get("scaled", {})
    return [
        f"node {node.id!r} gets {node.replicas} replica{'s' if node.replicas > 1 else ''} again, as in {file}: the "
        f"{before[node.id]} of `scale` held until this resume"
        for node in dataflow.nodes
        if not node.replica and before.get(node.id, node.replicas) != node.replicas
    ]


def which(found: InForce, resumption: Resumption, file: str, of_snapshot: bool) -> str:
    """What is said of the dataflow that goes on, when `decide` did not have to choose; "" for nothing: it has always
    been that of the file. `of_snapshot`: the run goes on from one that the user has named.
    """
    if any(text.startswith("going on with ") for text in resumption.told):
        return ""
    if resumption.as_applied:
        number = found["changes"]
        return f"going on with the dataflow of {found['file']}, after {number} change{'s' if number > 1 else ''}"
    return f"going on with the dataflow of {file}" if of_snapshot and not found["applied"] else ""


class Opening:
    """Asks the store to open the space: at a resume, after it has said which dataflow is in force there."""

    def __init__(self, link: StoreLink, log: RunLog, options: RunOptions, file: str) -> None:
        self._link = link
        self._log = log
        self._options = options
        self._file = file

    def begin(
        self,
        dataflow: Dataflow,
        decided: Callable[[Resumption], None],
        opened: Callable[[Opened], None],
        refused: Callable[[str, str], None],
    ) -> None:
        """Ask; `dataflow` is that of the file. `decided` gets which one goes on, `opened` the store's answer, `refused`
        the name of an error and its text.
        """
        digest = digest_of(dataflow)

        def ask(resumption: Resumption) -> None:
            arguments = self._arguments(resumption, digest)
            self._link.request("open", arguments, result(Opened), opened, refused, OPEN_S_MAX)

        def found(in_force: InForce) -> None:
            insists = bool(self._options.drop or self._options.rename)
            try:
                resumption = decide(in_force, dataflow, digest, insists)
            except ValueError as error:
                refused("StoreError", f"the dataflow that was applied cannot be read: {error}")
                return
            said = which(in_force, resumption, self._file, self._options.from_snapshot is not None)
            for text in filter(None, (*resumption.told, said)):
                self._log.tell(text)
            decided(resumption)
            ask(resumption)

        if self._options.resume:
            self._link.request("in_force", {}, result(InForce), found, refused, OPEN_S_MAX)
        else:
            ask(Resumption(dataflow))

    def _arguments(self, resumption: Resumption, digest: str) -> dict[str, Any]:
        dataflow = resumption.dataflow
        return {
            "nodes": store_nodes(dataflow),
            "as_applied": resumption.as_applied,
            "fingerprint": dataflow.fingerprint(),
            "resume": self._options.resume,
            "drop": list(self._options.drop),
            "rename": dict(self._options.rename),
            "digest": digest,
            "dataflow": plain.to_text(written(dataflow)),
            "file": self._file,
        }


def wirings_of(resumption: Resumption, run: str, opened: Opened) -> dict[str, tuple[NodeSpec, Wiring]]:
    """The nodes of the run and their wiring, those that are leaving included."""
    numbers = opened["numbers"]
    made = plan(resumption.dataflow, run, numbers)
    found = {spec.id: (spec, made[spec.id]) for spec in resumption.dataflow.nodes}
    left = resumption.leaving
    for id in opened.get("leaving", ()):
        if left is not None:
            spec = left.node(id)
            found[id] = spec, trial_wiring(left, run, spec, numbers[id]["number"])
    together = [] if left is None else processes_of([spec for spec in left.nodes if spec.id in found]).values()
    for first, *others in together:
        spec, wiring = found[first.id]
        found[first.id] = spec, replace(wiring, others=tuple(found[other.id][1] for other in others))
    for id, (version, ports) in opened.get("ports", {}).items():
        spec, wiring = found[id]
        found[id] = spec, wiring.rewired(ports, version)
    for id, (spec, wiring) in list(found.items()):
        if wiring.others:
            found[id] = spec, replace(wiring, others=tuple(found[other.node][1] for other in wiring.others))
    return found
