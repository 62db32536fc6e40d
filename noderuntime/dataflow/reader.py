"""Turns the text of a dataflow file into a `Dataflow`, or raises one DataflowError that holds every separate error.

The environment and the folder are arguments; nothing is executed. The reader first checks the shape of the whole file
(fields, types, ids). Only if that is sound does it look up sources and search for cycles (links.py), so that one
mistake does not cause a dozen errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from noderuntime.dataflow.identifiers import RESERVED, id_problem
from noderuntime.dataflow.links import ERRORS_MAX, Advice, check_links
from noderuntime.dataflow.model import (
    Code,
    Dataflow,
    InputSpec,
    Kind,
    NodeSpec,
    Place,
    QueuePolicy,
    RestartPolicy,
    SnapshotSpec,
    Spawn,
    StateSpec,
)
from noderuntime.dataflow.notation import operator_code, source_of
from noderuntime.dataflow.partition import PartitionProblem, parse_partition
from noderuntime.dataflow.processes import Written, check_processes
from noderuntime.dataflow.reader_errors import NODE_FIELDS, ErrorCollector, Misspelt, raise_all
from noderuntime.dataflow.reader_state import read_snapshots, read_state
from noderuntime.dataflow.replicas import REPLICAS_MAX, check_replicas
from noderuntime.dataflow.yaml import fields as read
from noderuntime.dataflow.yaml.nodes import Fields, Scalar, Tree, fail
from noderuntime.dataflow.yaml.tree import read as read_tree
from noderuntime.errors import DataflowError

_TOP = ("env", "nodes", "state", "snapshots")
_OPERATOR = ("python", "module", "inputs", "outputs")
_INPUT = ("source", "queue_size", "queue_bytes", "queue_policy", "input_timeout")
_POLICIES: tuple[RestartPolicy, ...] = ("never", "on-failure", "always")
_POLICIES_MEANT: dict[str, RestartPolicy] = {
    "no": "never",
    "false": "never",
    "off": "never",
    "unless-stopped": "always",
}
_QUEUES: tuple[QueuePolicy, ...] = ("backpressure", "drop_oldest")
_QUEUES_MEANT: dict[str, QueuePolicy] = {
    "block": "backpressure",
    "drop": "drop_oldest",
    "latest": "drop_oldest",
}
_SPAWNS: tuple[Spawn, ...] = ("fork", "exec")

T = TypeVar("T")


def parse(
    data: bytes | str,
    *,
    file: str = "",
    folder: str = "",
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> Dataflow:
    """The dataflow that `data` describes.

    `file` and `folder` are kept in the result and named in errors. `env` is the environment for $VAR;
    `overrides` (from `--env K=V`) comes before it and wins over the `env:` of the file and of every node.
    Raises DataflowError, and nothing else whatever the data are.
    """
    overrides = overrides or {}
    try:
        tree = read_tree(data, {**(env or {}), **overrides})
        return replace(_Reader(overrides).dataflow(tree), file=file, folder=folder)
    except DataflowError as error:
        raise_all([error, *error.more], file)


class _Reader(ErrorCollector):
    """Reads the nodes of the tree; reader_state.py reads the two sections about state."""

    def __init__(self, overrides: Mapping[str, str]) -> None:
        super().__init__()
        self.overrides = overrides
        self.advice: Advice = {}
        self.written: Written = {}

    def dataflow(self, tree: Tree) -> Dataflow:
        top = read.mapping(tree, "a dataflow", "It begins with `nodes:` and a list of nodes below it.")
        self.unknown(top, _TOP, "the dataflow", "write it in each node that it is for")
        no_env: dict[str, str] = {}
        env = {**self.take(top, "env", "the dataflow", self.env, no_env), **self.overrides}
        state = self.take(top, "state", "the dataflow", partial(read_state, self), StateSpec())
        snapshots = self.take(top, "snapshots", "the dataflow", partial(read_snapshots, self), SnapshotSpec())
        found = top.get("nodes")
        nodes: list[NodeSpec] = []
        if found is None:
            hint = "Write `nodes:` and below it a list: `- id: a`, with its `path:` or `operator:`."
            self.errors.append(fail(top.place, "the dataflow has no `nodes`", hint))
        else:
            self.keep(lambda: nodes.extend(self.nodes(found, env)), None)
        if not self.errors:
            self.errors.extend(
                check_links(nodes, self.advice)
                or check_processes(nodes, self.written) + check_replicas(nodes, self.written)
            )
        if self.errors:
            first, *others = self.errors
            first.more = tuple(others)
            raise first
        return Dataflow(tuple(nodes), env, state, snapshots)

    # -- nodes

    def nodes(self, tree: Tree, env: Mapping[str, str]) -> list[NodeSpec]:
        listed = read.items(tree, "`nodes`", "Write one `- id: NAME` for each node below `nodes:`.")
        if not listed:
            raise fail(tree.place, "`nodes` is empty", "Write one `- id: NAME` for each node below `nodes:`.")
        made: dict[str, NodeSpec] = {}
        for index, item in enumerate(listed, 1):
            if len(self.errors) > ERRORS_MAX:
                break
            node = self.keep(partial(self.node, item, index, env), None)
            if node is None:
                continue
            if node.id in made:
                what = f"a second node with the id {node.id!r}; the first is in line {made[node.id].place.line}"
                self.errors.append(fail(node.place, what, "Give each node an id of its own."))
            made[node.id] = node
        return list(made.values())

    def node(self, tree: Tree, index: int, env: Mapping[str, str]) -> NodeSpec:
        fields = read.mapping(tree, f"node number {index}", "Write `- id: NAME` with its other fields below.")
        found = fields.get("id")
        if found is None:
            if "id" in self.unknown(fields, NODE_FIELDS, f"node number {index}"):
                raise Misspelt("`id` is misspelt")
            raise fail(fields.place, f"node number {index} has no `id`", "Write `id: NAME`.")
        node_id = self.identifier(found, f"the id of node number {index}", reserved=True)
        where = f"node {node_id!r}"
        no_env: dict[str, str] = {}
        meant = self.unknown(fields, NODE_FIELDS, where)
        kind, code, operator = self.code(fields, where, meant)
        spec = NodeSpec(
            id=node_id,
            kind=kind,
            code=code,
            env={**env, **self.take(fields, "env", where, self.env, no_env), **self.overrides},
            inputs=self.either(fields, operator, "inputs", where, self.inputs(node_id), ()),
            outputs=self.either(fields, operator, "outputs", where, self.outputs, ()),
            config=self.take(fields, "config", where, read.plain_mapping, {}),
            place=found.place,
            config_place=fields.fields["config"][0].place if "config" in fields.fields else found.place,
        )
        self.written[node_id] = {name: key.place for name, (key, _) in fields.fields.items()}
        spec = self.partitioned(fields, where, spec)
        return self.process(fields, where, self.supervision(fields, where, spec))

    def partitioned(self, fields: Fields, where: str, spec: NodeSpec) -> NodeSpec:
        def partition(tree: Tree, label: str) -> str:
            try:
                return str(parse_partition(read.text(tree, label)))
            except PartitionProblem as problem:
                raise fail(tree.place, f"{label}: {problem}", problem.hint) from None

        return replace(
            spec,
            replicas=self.take(fields, "replicas", where, _replicas, 1),
            partition_by=self.take(fields, "partition_by", where, partition, ""),
        )

    def process(self, fields: Fields, where: str, spec: NodeSpec) -> NodeSpec:
        found = fields.get("process")
        if found is None:
            return spec
        name = self.keep(lambda: self.identifier(found, f"`process` of {where}"), "")
        if spec.kind != "operator":
            what = f"`process` of {where}, which is no operator"
            hint = "Remove it: a custom node runs its own loop, so it has a process of its own."
            self.errors.append(fail(fields.fields["process"][0].place, what, hint))
        return replace(spec, process=name, process_place=fields.fields["process"][0].place)

    def supervision(self, fields: Fields, where: str, spec: NodeSpec) -> NodeSpec:
        def number(name: str, default: int) -> int:
            return self.take(fields, name, where, lambda tree, label: read.whole(tree, label, 0), default)

        def seconds(name: str, default: float, zero: bool = False) -> float:
            return self.take(fields, name, where, lambda tree, label: read.duration_s(tree, label, zero), default)

        policy: RestartPolicy = "on-failure" if spec.kind == "operator" else "never"
        delay_s = seconds("restart_delay", spec.restart_delay_s, zero=True)
        most_s = seconds("max_restart_delay", max(spec.max_restart_delay_s, delay_s), zero=True)
        written = fields.get("max_restart_delay")
        if written is not None and most_s < delay_s:
            what = f"`max_restart_delay` of {where} is shorter than its `restart_delay`"
            self.errors.append(fail(written.place, what, f"Make it {delay_s:g}s or longer."))
        spawn: Spawn = "fork" if spec.kind == "operator" else "exec"
        wanted = self.take(fields, "spawn", where, lambda tree, label: read.choice(tree, label, _SPAWNS), spawn)
        if wanted == "fork" and spec.kind != "operator":
            what = f"`spawn: fork` of {where}, which is no operator"
            self.errors.append(fail(fields.fields["spawn"][0].place, what, "Remove it: custom nodes are executed."))
        health = fields.get("health_check_timeout")
        return replace(
            spec,
            restart_policy=self.take(
                fields,
                "restart_policy",
                where,
                lambda tree, label: read.choice(tree, label, _POLICIES, _POLICIES_MEANT),
                policy,
            ),
            max_restarts=number("max_restarts", spec.max_restarts),
            restart_window_s=seconds("restart_window", spec.restart_window_s),
            restart_delay_s=delay_s,
            max_restart_delay_s=most_s,
            max_attempts=number("max_attempts", spec.max_attempts),
            start_timeout_s=seconds("start_timeout", spec.start_timeout_s),
            health_check_timeout_s=None if health is None else seconds("health_check_timeout", 0.0),
            spawn=wanted,
        )

    def code(self, fields: Fields, where: str, meant: set[str]) -> tuple[Kind, Code, Fields | None]:
        operator, path = fields.get("operator"), fields.get("path")
        if operator is not None and path is not None:
            hint = "Keep `operator:` for an operator, `path:` for a custom node."
            later = max(fields.fields["operator"][0].place, fields.fields["path"][0].place, key=_order)
            raise fail(later, f"{where} has both `operator` and `path`", hint)
        if operator is not None:
            args = fields.fields.get("args")
            if args is not None:
                hint = "An operator gets its settings from `config:`, as ctx.config."
                self.errors.append(fail(args[0].place, f"`args` of {where}, which is an operator", hint))
            inner = read.mapping(operator, f"`operator` of {where}", "Write `python: FILE.py` below it.")
            beside = "write it beside `operator`, not inside"
            if self.unknown(inner, _OPERATOR, f"`operator` of {where}", beside) & {"python", "module"}:
                return "operator", Code(), inner
            return "operator", self.keep(lambda: operator_code(inner, where), Code()), inner
        if path is None and meant & {"operator", "path"}:
            raise Misspelt("`path` or `operator` is misspelt")
        if path is None:
            hint = "Write `operator:` with `python: FILE.py`, or `path: FILE` for a custom node."
            at = fields.fields.get("operator") or fields.fields.get("path") or fields.fields["id"]
            raise fail(at[0].place, f"{where} has neither `operator` nor `path`", hint)
        written = self.keep(lambda: read.text(path, f"`path` of {where}"), "-")
        no_args: tuple[str, ...] = ()
        args_given = self.take(fields, "args", where, read.words, no_args)
        if written == "dynamic":
            return "dynamic", Code(place=path.place), None
        return "node", Code(written, args_given, place=path.place), None

    def either(
        self,
        fields: Fields,
        operator: Fields | None,
        name: str,
        where: str,
        reader: Callable[[Tree, str], T],
        default: T,
    ) -> T:
        """A field that may stand on the node or inside of `operator:`."""
        if operator is None or operator.get(name) is None:
            return self.take(fields, name, where, reader, default)
        if fields.get(name) is not None:
            later = max(fields.fields[name][0].place, operator.fields[name][0].place, key=_order)
            what = f"`{name}` of {where} is given twice: on the node and inside of `operator`"
            self.errors.append(fail(later, what, "Keep one of them."))
        return self.take(operator, name, where, reader, default)

    def identifier(self, tree: Tree, label: str, reserved: bool = False) -> str:
        name = read.text(tree, label)
        problem = id_problem(name)
        if problem:
            raise fail(tree.place, f"{label}: {problem}")
        if reserved and name in RESERVED:
            raise fail(
                tree.place,
                f"the node id {name!r} is reserved",
                f"Reserved are {', '.join(sorted(RESERVED))}.",
            )
        return name

    def outputs(self, tree: Tree, label: str) -> tuple[str, ...]:
        hint = f"Write [{tree.text[:40]}]." if isinstance(tree, Scalar) else "Write a list of names: [a, b]."
        made: list[str] = []
        for item in read.items(tree, label, hint):
            name = self.identifier(item, f"an output in {label}")
            if name in made:
                raise fail(item.place, f"the output {name!r} is listed twice in {label}", "Keep one of them.")
            made.append(name)
        return tuple(made)

    def inputs(self, node_id: str) -> Callable[[Tree, str], tuple[InputSpec, ...]]:
        def reader(tree: Tree, label: str) -> tuple[InputSpec, ...]:
            fields = read.mapping(tree, label, "Write one `name: node/output` for each input.")
            made = []
            for name, (key, value) in fields.fields.items():
                problem = id_problem(name)
                if problem:
                    self.errors.append(fail(key.place, f"an input in {label}: {problem}"))
                    continue
                spec = self.keep(partial(self.input, node_id, name, key, value), None)
                if spec is not None:
                    made.append(spec)
            return tuple(made)

        return reader

    def input(self, node_id: str, name: str, key: Scalar, tree: Tree) -> InputSpec:
        where = f"input {name!r} of node {node_id!r}"
        source: Tree = tree
        long: Fields | None = None
        if not isinstance(tree, Scalar):
            long = read.mapping(tree, where, "Write node/output, or {source: node/output, queue_size: 10}.")
            meant = self.unknown(long, _INPUT, where)
            found = long.get("source")
            if found is None and "source" in meant:
                raise Misspelt("`source` is misspelt")
            if found is None:
                raise fail(tree.place, f"{where} has no `source`", "Write `source: node/output`.")
            source = found
        written = read.text(source, f"the source of {where}")
        spec = source_of(name, written, source.place, where)
        if long is not None:
            spec = self.queue(long, where, spec)
        self.advice[node_id, name] = _advice(name, written, key, long)
        return spec

    def queue(self, long: Fields, where: str, spec: InputSpec) -> InputSpec:
        if spec.is_timer and long.get("input_timeout") is not None:
            at = long.fields["input_timeout"][0].place
            hint = "A timer never falls silent: remove it."
            self.errors.append(fail(at, f"`input_timeout` of the timer {where}", hint))
        return replace(
            spec,
            queue_size=self.take(long, "queue_size", where, lambda t, label: read.whole(t, label, 1), spec.queue_size),
            queue_bytes=self.take(long, "queue_bytes", where, read.size_bytes, spec.queue_bytes),
            queue_policy=self.take(
                long,
                "queue_policy",
                where,
                lambda t, label: read.choice(t, label, _QUEUES, _QUEUES_MEANT),
                spec.queue_policy,
            ),
            input_timeout_s=self.take(long, "input_timeout", where, read.duration_s, spec.input_timeout_s),
        )

    # -- sections

    def env(self, tree: Tree, label: str) -> dict[str, str]:
        made = {}
        for name, (key, value) in read.mapping(tree, label, "Write `NAME: value` lines below it.").fields.items():
            if not name or "=" in name or "\0" in name:
                raise fail(key.place, f"{name[:60]!r} in {label} cannot be the name of a variable")
            made[name] = read.as_written(value, f"`{name[:60]}` in {label}")
        return made


def _replicas(tree: Tree, label: str) -> int:
    count = read.whole(tree, label, 1)
    if count > REPLICAS_MAX:
        hint = f"Keys fall into {REPLICAS_MAX} parts, and a replica owns at least one: write {REPLICAS_MAX} or less."
        raise fail(tree.place, f"{label} is {count}", hint)
    return count


def _order(place: Place) -> tuple[int, int]:
    return place.line, place.column


def _advice(name: str, source: str, key: Scalar, long: Fields | None) -> str:
    """What to write, and where, so that this input drops old messages and never holds up its sender."""
    line = key.place.line
    if long is None:
        return f"in line {line}, write\n    {name}: {{source: {source}, queue_policy: drop_oldest}}"
    policy = long.fields.get("queue_policy")
    if policy is not None:
        return f"in line {policy[0].place.line}, write\n    queue_policy: drop_oldest"
    if long.flow:
        pairs = ((field, value) for field, (_, value) in long.fields.items())
        others = ", ".join(f"{field}: {value.text}" for field, value in pairs if isinstance(value, Scalar))
        return f"in line {line}, write\n    {name}: {{{others}, queue_policy: drop_oldest}}"
    last = long.fields["source"]
    indent = " " * (last[0].place.column - 1)
    return f"below line {last[1].place.line}, add the line\n{indent}queue_policy: drop_oldest"
