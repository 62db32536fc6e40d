"""A dora file -> our model. Pure: the environment, the folder and the files of modules are arguments.

    tree (dataflow/yaml) -> modules expanded (modules.py) -> nodes read (nodes.py) -> joined (links.py) -> Dataflow

Defaults are dora's: queue_size 10 with drop_oldest, and no restarts. Each documented field is honoured, refused with a
sentence that says what to do instead, or an annotation (refusals.py). Fields of noderuntime that a dora file may have
too, so that its nodes gain what dora has not: `state`, `snapshots`; in a node `max_attempts` and `process`,
and the restart fields also for operators; in an input `queue_bytes`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from noderuntime.dataflow.links import ERRORS_MAX
from noderuntime.dataflow.model import Dataflow, SnapshotSpec, StateSpec
from noderuntime.dataflow.processes import check_processes
from noderuntime.dataflow.reader_errors import ErrorCollector, raise_all
from noderuntime.dataflow.reader_state import read_snapshots, read_state
from noderuntime.dataflow.yaml import fields as read
from noderuntime.dataflow.yaml.nodes import Fields, Tree, fail, plain_value
from noderuntime.dataflow.yaml.tree import read as read_tree
from noderuntime.dora import refusals
from noderuntime.dora.descriptor import descriptor_of
from noderuntime.dora.env import Value, read_env, spelled
from noderuntime.dora.facts import OPTIONS, NodeFacts
from noderuntime.dora.links import Linker
from noderuntime.dora.modules import expand
from noderuntime.dora.nodes import DoraNode, NodeReader
from noderuntime.errors import DataflowError

TOP: Final = (
    "nodes", "env", "debug", "health_check_interval", "strict_types", "exit_when_nodes_finish", "type_rules", "state",
    "snapshots",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Build:
    """What builds a node: commands, one a line; run in the dataflow's folder with the environment of the node."""

    node: str
    commands: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DoraFile:
    """A dora file. `notes`: what is accepted and has no effect, to be told. `descriptor`, `nodes`: see facts.py."""

    dataflow: Dataflow
    builds: tuple[Build, ...]
    notes: tuple[str, ...]
    descriptor: Mapping[str, Any]
    nodes: Mapping[str, NodeFacts]


def parse(
    data: bytes | str,
    *,
    file: str = "",
    folder: str = "",
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
    read_module: Callable[[str], bytes] | None = None,
    finishes: bool | None = None,
    allow_shell: bool = False,
) -> DoraFile:
    """The dataflow that `data` describes.

    `env`: the environment for variables; `overrides` (from `--env K=V`) join the file's `env`. `read_module`: a path
    relative to `folder` -> the content of that file; it raises DataflowError. `finishes` wins over
    `exit_when_nodes_finish` of the file. Raises DataflowError, and nothing else whatever the data are.
    """
    try:
        reader = _Reader(env or {}, overrides or {}, read_module or _no_module, allow_shell)
        return reader.read(read_tree(data, None), file, folder, finishes)
    except DataflowError as error:
        raise_all([error, *error.more], file)


def _no_module(path: str) -> bytes:
    raise DataflowError("modules cannot be read here")


class _Reader(ErrorCollector):
    def __init__(
        self,
        environ: Mapping[str, str],
        overrides: Mapping[str, str],
        read_module: Callable[[str], bytes],
        allow_shell: bool,
    ) -> None:
        super().__init__()
        self._environ = environ
        self._overrides = overrides
        self._read_module = read_module
        self._allow_shell = allow_shell

    def read(self, tree: Tree, file: str, folder: str, finishes: bool | None) -> DoraFile:
        top = read.mapping(tree, "a dataflow", "It begins with `nodes:` and a list of nodes below it.")
        notes: dict[str, None] = {}
        root_env = self._root(top, notes)
        written = self.take(top, "exit_when_nodes_finish", "the dataflow", _boolean, False)
        state = self.take(top, "state", "the dataflow", partial(read_state, self), StateSpec())
        snapshots = self.take(top, "snapshots", "the dataflow", partial(read_snapshots, self), SnapshotSpec())
        found = top.get("nodes")
        if found is None:
            hint = "Write `nodes:` and below it a list: `- id: a`, with its `path:` or `operator:`."
            raise fail(top.place, "the dataflow has no `nodes`", hint)
        hint = "Write one `- id: NAME` for each node below `nodes:`."
        listed = read.items(found, "`nodes`", hint)
        if not listed:
            raise fail(found.place, "`nodes` is empty", hint)
        expanded = expand(
            self, listed, lambda path: read_tree(self._read_module(path), None), posixpath.dirname(file)
        )
        reader = NodeReader(self, self._environ, root_env, self._overrides, self._allow_shell)
        nodes: list[DoraNode] = []
        for index, (fields, of_file) in enumerate(expanded.nodes, 1):
            if len(self.errors) > ERRORS_MAX:
                break
            node = self.keep(partial(reader.node, fields, index, of_file.rpartition("/")[0]), None)
            if node is None:
                continue
            first = next((other for other in nodes if other.id == node.id), None)
            if first is not None:
                what = f"a second node with the id {node.id!r}; the first is in line {first.place.line}"
                self.errors.append(fail(node.place, what, "Give each node an id of its own."))
                continue
            nodes.append(node)
        self._raise()
        linker = Linker(nodes, expanded.outputs, written if finishes is None else finishes)
        specs = linker.specs()
        self.errors += linker.errors
        if not self.errors:
            self.errors += check_processes(specs, {})
        self._raise()
        for node in nodes:
            notes.update(dict.fromkeys(sorted(node.notes)))
        builds = _builds(nodes)
        if builds:
            notes[f"`build` is run by `noderuntime build {file}`, not by `run`"] = None
        env = {name: spelled(value) for name, value in {**root_env, **self._overrides}.items()}
        return DoraFile(
            Dataflow(tuple(specs), env, state, snapshots, file, folder),
            builds,
            tuple(notes),
            descriptor_of(nodes, root_env, self._shown(top, written)),
            {part.spec.id: _facts(node, part.operator, part.spec.id) for node in nodes for part in node.parts},
        )

    def _root(self, top: Fields, notes: dict[str, None]) -> dict[str, Value]:
        where = "the dataflow"
        for name, hint in refusals.ROOT.items():
            if top.get(name) is not None:
                self.errors.append(fail(top.fields[name][0].place, f"`{name}` of {where}", hint))
        known = {name: pair for name, pair in top.fields.items() if name not in refusals.ROOT}
        self.unknown(Fields(known, top.flow, top.place), TOP, where)
        if self.take(top, "strict_types", where, _boolean, False):
            self.errors.append(fail(top.fields["strict_types"][0].place, "`strict_types: true`", refusals.STRICT_TYPES))
        if top.get("type_rules") is not None:
            notes[refusals.UNCHECKED] = None
        self.take(top, "debug", where, self._debug, None)
        self.take(top, "health_check_interval", where, read.duration_s, 5.0)
        no_env: dict[str, Value] = {}
        return self.take(top, "env", where, lambda tree, label: read_env(tree, label, self._environ), no_env)

    def _debug(self, tree: Tree, label: str) -> None:
        fields = read.mapping(tree, label, "Write {enable_debug_inspection: true}.")
        self.unknown(fields, ("enable_debug_inspection",), label)
        self.take(fields, "enable_debug_inspection", label, _boolean, False)

    def _shown(self, top: Fields, finishes: bool) -> dict[str, Any]:
        """Fields of the file, as the descriptor has them."""
        debug, interval, rules = top.get("debug"), top.get("health_check_interval"), top.get("type_rules")
        inspects = bool(plain_value(debug).get("enable_debug_inspection")) if isinstance(debug, Fields) else False
        shown: dict[str, Any] = {
            "deploy": None,
            "debug": {"enable_debug_inspection": inspects},
            "health_check_interval": None if interval is None else read.duration_s(interval, ""),
        }
        if "exit_when_nodes_finish" in top.fields:
            shown["exit_when_nodes_finish"] = finishes
        if rules is not None:
            shown["type_rules"] = plain_value(rules)
        return shown

    def _raise(self) -> None:
        if self.errors:
            first, *others = self.errors
            first.more = tuple(others)
            raise first


def _boolean(tree: Tree, label: str) -> bool:
    value = plain_value(tree)
    if not isinstance(value, bool):
        raise fail(tree.place, f"{label} must be true or false")
    return value


def _builds(nodes: list[DoraNode]) -> tuple[Build, ...]:
    made = []
    for node in nodes:
        for part in node.parts:
            commands = tuple(line.strip() for line in part.build.splitlines() if line.strip())
            if commands:
                made.append(Build(part.spec.id, commands, part.spec.env))
    return tuple(made)


def _facts(node: DoraNode, operator: str, id: str) -> NodeFacts:
    part = next(part for part in node.parts if part.spec.id == id)
    inputs = {name: part.inputs[name].written for name in sorted(part.inputs)}
    shown = part.shown if part.spec.kind == "operator" else node.shown
    options: dict[str, Any] = {name: shown[name] for name in OPTIONS if name in shown}
    outputs = sorted(part.outputs)
    return {"node": node.id, "operator": operator, "inputs": inputs, "outputs": outputs, "options": options}
