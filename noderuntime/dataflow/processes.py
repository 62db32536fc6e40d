"""Checks of operators that share a process: what has to agree, and that no process can wait for itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any, Final, TypeAlias

from noderuntime.dataflow.links import find_process_cycle
from noderuntime.dataflow.model import NodeSpec, Place
from noderuntime.dataflow.yaml.nodes import fail
from noderuntime.errors import DataflowError

Written: TypeAlias = dict[str, dict[str, Place]]
"""Node -> field -> its place in the file."""

_AGREE: Final = {
    "env": "env",
    "restart_policy": "restart_policy",
    "max_restarts": "max_restarts",
    "restart_window": "restart_window_s",
    "restart_delay": "restart_delay_s",
    "max_restart_delay": "max_restart_delay_s",
    "start_timeout": "start_timeout_s",
    "spawn": "spawn",
}
"""Fields that one process has once: as they are called in the file, and in a NodeSpec."""


def processes_of(nodes: Sequence[NodeSpec]) -> dict[str, list[NodeSpec]]:
    """The operators of each named process, in the order of the file."""
    found: dict[str, list[NodeSpec]] = {}
    for node in nodes:
        if node.process:
            found.setdefault(node.process, []).append(node)
    return found


def check_processes(nodes: Sequence[NodeSpec], written: Written) -> list[DataflowError]:
    """The errors of all shared processes."""
    errors = [
        error
        for members in processes_of(nodes).values()
        for error in (*_differences(members, written), *_namesakes(members))
    ]
    cycle = None if errors else _process_cycle(nodes)
    return errors if cycle is None else [cycle]


def _differences(members: Sequence[NodeSpec], written: Written) -> Iterator[DataflowError]:
    """A process is started and restarted once, so what says how has to be the same for all its operators."""
    first, *others = members
    for other in others:
        for name, attribute in _AGREE.items():
            ours, theirs = getattr(first, attribute), getattr(other, attribute)
            if ours == theirs:
                continue
            places = [(node, written.get(node.id, {}).get(name)) for node in (other, first)]
            node, place = next(((node, place) for node, place in places if place), (other, other.process_place))
            what = (
                f"operators of the process {first.process!r} differ in `{name}`: {_shown(ours, theirs)} for "
                f"{first.id!r}, {_shown(theirs, ours)} for {other.id!r}"
            )
            hint = f"They start and restart together: write the same, or take {node.id!r} out of the process."
            yield fail(place or node.place, what, hint)


def _shown(value: Any, other: Any) -> str:
    if not isinstance(value, Mapping):
        return f"{value:g}" if isinstance(value, float) else str(value)
    own = sorted(key for key in value if key not in other or other[key] != value[key])
    return ", ".join(f"{key}={value[key]:.40}" for key in own[:5]) or "nothing of its own"


def _namesakes(members: Sequence[NodeSpec]) -> Iterator[DataflowError]:
    """One process imports a module of a name once: the second operator would run the first one's code."""
    known: dict[str, tuple[str, NodeSpec]] = {}
    for node in members:
        code = node.code
        path = PurePosixPath(normpath(code.path))
        name = path.stem if code.path else code.module.partition(".")[0]
        home = f"the folder {str(path.parent)!r}" if code.path else "an importable package"
        other, first = known.setdefault(name, (home, node))
        if other != home:
            what = (
                f"operators of the process {node.process!r} come from two modules called {name!r}: in {other} for "
                f"{first.id!r}, in {home} for {node.id!r}"
            )
            hint = f"A process has one module of a name: rename a file, or take {node.id!r} out of it."
            yield fail(code.place, what, hint)


def _process_cycle(nodes: Sequence[NodeSpec]) -> DataflowError | None:
    cycle = find_process_cycle(nodes)
    if cycle is None:
        return None
    order = {node.id: index for index, node in enumerate(nodes)}
    by_id = {node.id: node for node in nodes}
    touched = {id for node, spec in cycle for id in (node.id, spec.node) if by_id[id].process}
    candidates = sorted(touched, key=order.__getitem__, reverse=True)
    # the one whose leaving opens the cycle; where it takes several, the message of the next try names the next
    out = next((id for id in candidates if find_process_cycle(nodes, id) is None), candidates[0])
    place = next((node.process_place for node in nodes if node.id == out), Place())
    names: list[str] = []
    for node, spec in cycle:
        names += [spec.node, node.id] if not names or names[-1] != spec.node else [node.id]
    way = " -> ".join(names)
    inside: dict[str, list[str]] = {}
    for id in dict.fromkeys(names):
        if by_id[id].process:
            inside.setdefault(by_id[id].process, []).append(id)
    shared = "; ".join(f"the process {process!r} has {', '.join(ids)}" for process, ids in inside.items())
    what = f"a cycle of processes in which every input waits for room: {way} ({shared})"
    hint = (
        f"When its queues are full none of them can continue, because a process waits for room as a whole. Take "
        f"{out!r} out of the process {by_id[out].process!r}."
    )
    return fail(place, what, hint)
