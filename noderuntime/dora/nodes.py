"""One node of a dora file, as it is written: each field read, nothing looked up yet. Pure.

links.py joins the nodes of a file. A node with operators has one Part for each of them, any other node has one.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Any, Final

from noderuntime.dataflow.model import QUEUE_BYTES, Code, InputSpec, Kind, NodeSpec, Place, QueuePolicy, RestartPolicy
from noderuntime.dataflow.reader_errors import ErrorCollector, Misspelt
from noderuntime.dataflow.yaml import fields as read
from noderuntime.dataflow.yaml.nodes import Fields, Scalar, Tree, fail, scalar
from noderuntime.dora import fields as fields_of
from noderuntime.dora import refusals
from noderuntime.dora.env import Value, read_env, spelled
from noderuntime.dora.facts import ADAPTER
from noderuntime.dora.sources import LEVELS, Source, data_id_problem, source_of

QUEUE_SIZE: Final = 10
BYTES_MAX: Final = 1 << 50  # dora's queues count messages alone

_ANY: Final = ("id", "name", "description", "env", "cpu_affinity")
_KINDS: Final = ("path", "operator", "operators", "module")
_PORTS: Final = ("inputs", "outputs", "output_types", "output_framing", "input_types", "output_metadata", "pattern")
_LOGS: Final = ("send_stdout_as", "send_logs_as", "min_log_level", "max_log_size", "max_rotated_files")
_RESTARTS: Final = (
    "restart_policy", "max_restarts", "restart_delay", "max_restart_delay", "restart_window", "health_check_timeout",
    "startup_timeout",
)  # fmt: skip
_CUSTOM: Final = ("args", "build", "finish_grace_secs", "shared_memory_pool_size")
OURS: Final = ("max_attempts", "process")
"""Fields of noderuntime that a node of a dora file may have, too."""
FIELDS: Final = (*_ANY, *_KINDS, *_PORTS, *_LOGS, *_RESTARTS, *_CUSTOM, *OURS, "params")
_OF_OPERATOR: Final = ("id", "name", "description", "python", "build", *_PORTS, *_LOGS)
_INPUT: Final = ("source", "queue_size", "queue_policy", "input_timeout", "queue_bytes")

_POLICIES: Final[tuple[RestartPolicy, ...]] = ("never", "on-failure", "always")
_POLICIES_MEANT: Final[dict[str, RestartPolicy]] = {"no": "never", "on_failure": "on-failure"}
_QUEUES: Final[tuple[QueuePolicy, ...]] = ("drop_oldest", "backpressure")
_QUEUES_MEANT: Final[dict[str, QueuePolicy]] = {"drop-oldest": "drop_oldest", "block": "backpressure"}
_PATTERNS: Final = ("service-server", "service-client", "action-server", "action-client")


@dataclass(frozen=True, slots=True)
class Input:
    """An input, before its source is looked up. `written`: as dora shows it again."""

    spec: InputSpec
    source: Source
    written: Any
    flow: bool = False
    key: Place = field(default=Place())


@dataclass(slots=True)
class Part:
    """A node that runs: a custom node, or one operator. `operator`: its id in a node of several, else ""."""

    spec: NodeSpec
    operator: str = ""
    prefix: str = ""  # of its outputs, as others name them: "OPERATOR/" in a node with `operators`
    inputs: dict[str, Input] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    stdout_as: str = ""
    logs_as: str = ""
    build: str = ""
    shown: dict[str, Any] = field(default_factory=dict)  # its fields, as dora shows them again


@dataclass(slots=True)
class DoraNode:
    """A node of the file. `shown`: its fields, as dora shows them again; `notes`: what has no effect, to be told."""

    id: str
    place: Place
    parts: list[Part]
    env: Mapping[str, Value]
    shown: dict[str, Any]
    folder: str = ""  # of its paths, relative to the dataflow's
    notes: set[str] = field(default_factory=set)


class NodeReader:
    """Reads nodes. `environ`: for variables in `env`; `root_env` are the values of the file's own `env`, which
    `overrides` (--env) join; the `env` of a node wins over both.
    """

    def __init__(
        self, errors: ErrorCollector, environ: Mapping[str, str], root_env: Mapping[str, Value],
        overrides: Mapping[str, str], allow_shell: bool,
    ) -> None:  # fmt: skip
        self._errors = errors
        self._environ = environ
        self._root_env = root_env
        self._overrides = overrides
        self._allow_shell = allow_shell

    def node(self, tree: Fields, index: int, folder: str) -> DoraNode:
        """Read a node. Errors in single fields are collected. Raises DataflowError where there is nothing to keep."""
        errors = self._errors
        found = tree.get("id")
        if found is None:
            if "id" in errors.unknown(tree, FIELDS, f"node number {index}"):
                raise Misspelt("`id` is misspelt")
            raise fail(tree.place, f"node number {index} has no `id`", "Write `id: NAME`.")
        id = fields_of.identifier(found, f"the id of node number {index}")
        where = f"node {id!r}"
        for name, hint in refusals.NODE.items():
            if name in tree.fields and tree.get(name) is not None:
                errors.errors.append(fail(tree.fields[name][0].place, f"`{name}` of {where}", hint))
        known = {name: pair for name, pair in tree.fields.items() if name not in refusals.NODE}
        errors.unknown(Fields(known, tree.flow, tree.place), FIELDS, where)
        if tree.get("params") is not None:
            hint = "Remove it: parameters belong to a node with `module`."
            errors.errors.append(fail(tree.fields["params"][0].place, f"`params` of {where}, which is no module", hint))
        no_env: dict[str, Value] = {}
        env = errors.take(tree, "env", where, lambda value, label: read_env(value, label, self._environ), no_env)
        node = DoraNode(id, found.place, [], env, {"id": id}, folder)
        for name in ("name", "description"):
            node.shown[name] = errors.take(tree, name, where, read.text, None)
        kinds = [name for name in _KINDS if tree.get(name) is not None]
        if len(kinds) != 1:
            what = f"{where} has both `{kinds[0]}` and `{kinds[1]}`" if kinds else f"{where} has nothing to run"
            at = tree.fields[kinds[1]][0].place if kinds else found.place
            raise fail(at, what, "Write one of `path`, `operator`, `operators` and `module`.")
        spec = NodeSpec(
            id=id,
            kind="node",
            env={name: spelled(value) for name, value in {**self._root_env, **self._overrides, **env}.items()},
            cpus=errors.take(tree, "cpu_affinity", where, fields_of.cores, ()),
            max_attempts=errors.take(tree, "max_attempts", where, lambda t, label: read.whole(t, label, 0), 3),
            process=errors.take(tree, "process", where, fields_of.identifier, ""),
            place=found.place,
            config_place=found.place,
            process_place=tree.fields["process"][0].place if "process" in tree.fields else Place(),
            with_failures=True,
            plain_restarts=True,
            together=True,
        )
        spec = self._supervision(tree, where, spec, node.shown)
        if kinds == ["path"]:
            node.parts.append(self._custom(tree, where, spec, node))
        else:
            self._operators(tree, kinds[0], where, spec, node)
        if spec.cpus:
            node.shown["cpu_affinity"] = list(spec.cpus)
        return node

    # ---- what runs

    def _custom(self, tree: Fields, where: str, spec: NodeSpec, node: DoraNode) -> Part:
        errors = self._errors
        path_tree = tree.get("path")
        assert path_tree is not None
        path = errors.keep(lambda: read.text(path_tree, f"`path` of {where}"), "-")
        kind: Kind = "node"
        args_text = errors.take(tree, "args", where, fields_of.one_text, "")
        code = Code(path, place=path_tree.place)
        if path == "shell":
            code = Code("/bin/sh", ("-c", args_text), place=path_tree.place)
            if not self._allow_shell:
                errors.errors.append(fail(path_tree.place, f"{where} is a shell command", refusals.SHELL))
        elif path == "dynamic":
            kind, code = "dynamic", Code(place=path_tree.place)
        elif "://" in path:
            errors.errors.append(fail(path_tree.place, f"`path` of {where} is a URL", refusals.URL))
        else:
            path = _from(node.folder, path)
            no_args: tuple[str, ...] = ()
            args = errors.take(tree, "args", where, read.words, no_args) if args_text else no_args
            code = Code(path, args, place=path_tree.place)
        if spec.process:
            hint = "Remove it: a custom node runs its own loop, so it has a process of its own."
            errors.errors.append(fail(spec.process_place, f"`process` of {where}, which is no operator", hint))
        errors.take(tree, "finish_grace_secs", where, fields_of.seconds, 0.0)
        if "finish_grace_secs" in tree.fields:
            node.shown["finish_grace_secs"] = fields_of.number(tree.get("finish_grace_secs"))
        size = errors.take(tree, "shared_memory_pool_size", where, read.size_bytes, 0)
        if size:
            node.shown["shared_memory_pool_size"] = size
        part = Part(replace(spec, kind=kind, code=code, process="", spawn="fork", together=kind != "dynamic"))
        self._ports(tree, where, part, node)
        node.shown = {"path": "shell" if path == "shell" else path, **node.shown}
        if args_text:
            node.shown["args"] = args_text
        return part

    def _operators(self, tree: Fields, kind: str, where: str, spec: NodeSpec, node: DoraNode) -> None:
        errors = self._errors
        for name in (*_PORTS, *_LOGS, *_CUSTOM):
            if tree.get(name) is not None:
                what = f"`{name}` of {where}, which has operators"
                hint = (
                    "Write it into the operator." if name in _OF_OPERATOR else "Remove it: it belongs to custom nodes."
                )
                errors.errors.append(fail(tree.fields[name][0].place, what, hint))
        value = tree.get(kind)
        assert value is not None
        listed = [value] if kind == "operator" else read.items(value, f"`operators` of {where}")
        if not listed:
            raise fail(value.place, f"`operators` of {where} is empty", "Write one `- id: NAME` for each operator.")
        several = len(listed) > 1
        seen: set[str] = set()
        for item in listed:
            fields = read.mapping(item, f"an operator of {where}", "Write `python: FILE.py` below it.")
            id_tree = fields.get("id")
            if id_tree is None and kind == "operators":
                errors.errors.append(fail(fields.place, f"an operator of {where} has no `id`", "Write `id: NAME`."))
                continue
            id = "op"
            if id_tree is not None:
                id = errors.keep(partial(fields_of.identifier, id_tree, f"an operator of {where}"), "")
            if id in seen:
                errors.errors.append(fail(fields.place, f"a second operator {id!r} in {where}", "Give it another id."))
                continue
            seen.add(id)
            label = f"operator {id!r} of {where}" if kind == "operators" else f"`operator` of {where}"
            part = Part(replace(spec, kind="operator", spawn="fork"), operator=id if several else "")
            part.prefix = f"{id}/" if kind == "operators" else ""
            if several:
                if spec.process:
                    hint = "Remove it: the operators of one node share a process already."
                    errors.errors.append(fail(spec.process_place, f"`process` of {where}, which has several", hint))
                part.spec = replace(part.spec, id=f"{spec.id}.{id}", process=spec.id, process_place=fields.place)
            self._operator(fields, label, part, node)
            node.parts.append(part)
        shown = [part.shown for part in node.parts]
        node.shown["operator" if kind == "operator" else "operators"] = (
            shown[0] if kind == "operator" and shown else shown
        )

    def _operator(self, fields: Fields, where: str, part: Part, node: DoraNode) -> None:
        errors = self._errors
        for name, hint in refusals.OPERATOR.items():
            if fields.get(name) is not None:
                errors.errors.append(fail(fields.fields[name][0].place, f"`{name}` of {where}", hint))
        known = {name: pair for name, pair in fields.fields.items() if name not in refusals.OPERATOR}
        errors.unknown(Fields(known, fields.flow, fields.place), _OF_OPERATOR, where)
        id_tree = fields.get("id")
        part.shown["id"] = id_tree.text if isinstance(id_tree, Scalar) else None
        for name in ("name", "description"):
            part.shown[name] = errors.take(fields, name, where, read.text, None)
        python = fields.get("python")
        if python is None:
            if not any(fields.get(name) is not None for name in refusals.OPERATOR):
                errors.errors.append(fail(fields.place, f"{where} has no `python`", "Write `python: FILE.py`."))
            return
        source = python
        if isinstance(python, Fields):
            errors.unknown(python, ("source", "conda_env"), f"`python` of {where}")
            conda = python.get("conda_env")
            if conda is not None:
                errors.errors.append(
                    fail(python.fields["conda_env"][0].place, f"`conda_env` of {where}", refusals.CONDA)
                )
            found = python.get("source")
            if found is None:
                errors.errors.append(
                    fail(python.place, f"`python` of {where} has no `source`", "Write `source: FILE.py`.")
                )
                return
            source = found
        written = errors.keep(lambda: read.text(source, f"`python` of {where}"), "-")
        path = _from(node.folder, written)
        part.spec = replace(part.spec, code=Code(path, name="Operator", adapter=ADAPTER, place=source.place))
        self._ports(fields, where, part, node)
        part.shown["python"] = path

    # ---- fields

    def _ports(self, fields: Fields, where: str, part: Part, node: DoraNode) -> None:
        errors = self._errors
        shown = part.shown if part.spec.kind == "operator" else node.shown
        part.outputs = errors.take(fields, "outputs", where, self._outputs, ())
        no_inputs: dict[str, Input] = {}
        part.inputs = errors.take(
            fields, "inputs", where, lambda tree, label: self._inputs(tree, label, where), no_inputs
        )
        part.stdout_as = errors.take(fields, "send_stdout_as", where, fields_of.data_id, "")
        part.logs_as = errors.take(fields, "send_logs_as", where, fields_of.data_id, "")
        level = errors.take(
            fields, "min_log_level", where, lambda t, label: read.choice(t, label, (*LEVELS,)), "stdout"
        )
        part.spec = replace(part.spec, log_level=LEVELS[level])
        part.build = errors.take(fields, "build", where, fields_of.one_text, "")
        shown["outputs"] = sorted(part.outputs)
        no_framing: dict[str, str] = {}
        framing = errors.take(fields, "output_framing", where, fields_of.framing, no_framing)
        if framing:
            shown["output_framing"] = framing
        shown["inputs"] = {name: part.inputs[name].written for name in sorted(part.inputs)}
        for name in ("send_stdout_as", "send_logs_as", "min_log_level", "max_log_size", "max_rotated_files", "build"):
            value = fields.get(name)
            if isinstance(value, Scalar):
                shown[name] = value.text if name != "max_rotated_files" else scalar(value)
        errors.take(fields, "max_log_size", where, read.size_bytes, 0)
        errors.take(fields, "max_rotated_files", where, lambda t, label: read.whole(t, label, 0), 0)
        if {"max_log_size", "max_rotated_files"} & fields.fields.keys():
            node.notes.add(refusals.LOG_FILES)
        for name in refusals.ANNOTATIONS:
            value = fields.get(name)
            if value is None:
                continue
            node.notes.add(refusals.UNCHECKED)
            if name == "pattern":
                shown[name] = errors.keep(partial(read.choice, value, f"`pattern` of {where}", _PATTERNS), None)
            else:
                ports = part.inputs if name == "input_types" else part.outputs
                shown[name] = errors.take(fields, name, where, partial(fields_of.annotated, ports), {})

    def _outputs(self, tree: Tree, label: str) -> tuple[str, ...]:
        hint = f"Write [{tree.text[:40]}]." if isinstance(tree, Scalar) else "Write a list of names: [a, b]."
        return tuple(
            dict.fromkeys(fields_of.data_id(item, f"an output in {label}") for item in read.items(tree, label, hint))
        )

    def _inputs(self, tree: Tree, label: str, where: str) -> dict[str, Input]:
        made: dict[str, Input] = {}
        fields = read.mapping(tree, label, "Write one `name: node/output` for each input.")
        for name, (key, value) in fields.fields.items():
            problem = data_id_problem(name)
            if problem:
                self._errors.errors.append(fail(key.place, f"an input in {label}: {problem}"))
                continue
            label = f"input {name!r} of {where}"
            found = self._errors.keep(partial(self._input, name, value, label, key.place), None)
            if found is not None:
                made[name] = found
        return made

    def _input(self, name: str, tree: Tree, where: str, key: Place) -> Input:
        errors = self._errors
        source_tree = tree
        spec = InputSpec(name, "", queue_size=QUEUE_SIZE, queue_bytes=BYTES_MAX, queue_policy="drop_oldest")
        long: Fields | None = None
        if not isinstance(tree, Scalar):
            long = read.mapping(tree, where, "Write node/output, or {source: node/output, queue_size: 10}.")
            meant = errors.unknown(long, _INPUT, where)
            found = long.get("source")
            if found is None:
                if "source" in meant:
                    raise Misspelt("`source` is misspelt")
                raise fail(tree.place, f"{where} has no `source`", "Write `source: node/output`.")
            source_tree = found
        source = source_of(read.text(source_tree, f"the source of {where}"), source_tree.place, where)
        spec = replace(spec, place=source_tree.place)
        written: Any = fields_of.written_source(source)
        if long is not None:
            size = errors.take(long, "queue_size", where, lambda t, label: read.whole(t, label, 0), QUEUE_SIZE)
            policy = errors.take(
                long, "queue_policy", where, lambda t, label: read.choice(t, label, _QUEUES, _QUEUES_MEANT), _QUEUES[0]
            )
            timeout_s = errors.take(long, "input_timeout", where, fields_of.seconds, None)
            waits = policy == "backpressure"
            spec = replace(
                spec,
                queue_policy=policy,
                queue_size=max(10 * size, 100) if waits else max(size, 1),
                queue_bytes=errors.take(
                    long, "queue_bytes", where, read.size_bytes, QUEUE_BYTES if waits else BYTES_MAX
                ),
                input_timeout_s=timeout_s,
            )
            options: dict[str, Any] = {"source": written}
            if "queue_size" in long.fields:
                options["queue_size"] = size
            if timeout_s is not None:
                options["input_timeout"] = timeout_s
            if "queue_policy" in long.fields:
                options["queue_policy"] = policy
            written = options if len(options) > 1 else written
        return Input(spec, source, written, long is not None and long.flow, key)

    def _supervision(self, tree: Fields, where: str, spec: NodeSpec, shown: dict[str, Any]) -> NodeSpec:
        errors = self._errors

        def seconds(name: str) -> float | None:
            value = errors.take(tree, name, where, fields_of.seconds, None)
            if value is not None:
                shown[name] = value
            return value

        policy = errors.take(
            tree,
            "restart_policy",
            where,
            lambda t, label: read.choice(t, label, _POLICIES, _POLICIES_MEANT),
            _POLICIES[0],
        )
        shown["restart_policy"] = policy
        shown["max_restarts"] = errors.take(tree, "max_restarts", where, lambda t, label: read.whole(t, label, 0), 0)
        delay_s = seconds("restart_delay") or 0.0
        most_s, window_s = seconds("max_restart_delay"), seconds("restart_window")
        health_s, startup_s = seconds("health_check_timeout"), seconds("startup_timeout")
        return replace(
            spec,
            restart_policy=policy,
            max_restarts=shown["max_restarts"],
            restart_window_s=window_s or inf,
            restart_delay_s=delay_s,
            max_restart_delay_s=read.DURATION_S_MAX if most_s is None else most_s,
            start_timeout_s=startup_s or read.DURATION_S_MAX,
            health_check_timeout_s=health_s or None,
        )


def _from(folder: str, path: str) -> str:
    """A path in a file of that folder, as it is from the folder of the dataflow."""
    return posixpath.normpath(posixpath.join(folder, path)) if folder else path
