"""Modules of dora: a node with `module: FILE` stands for the nodes of that file, with `params` and wired inputs. Pure.

Expansion works on the tree, before a node is read, so that what is wrong in a module's file is told with its own file
and line. The rules are dora's: ids get the prefix `ID.`; `_mod/PORT` is what the outer node wired to that input (an
optional one that is not wired is left out); `ID/OUTPUT` of the outer file is the output of the one inner node that has
it; `$PARAM_NAME` in `args` is a parameter, and each inner node finds the parameters in its environment; `env` of the
outer node joins that of the inner ones, which win; `build` of the outer node and of the file run before theirs.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from noderuntime.dataflow.model import Place
from noderuntime.dataflow.reader_errors import ErrorCollector
from noderuntime.dataflow.yaml import fields as read
from noderuntime.dataflow.yaml.nodes import Fields, Items, Scalar, Tree, fail
from noderuntime.dora.sources import data_id_problem
from noderuntime.errors import DataflowError

DEPTH_MAX: Final = 8
NODES_MAX: Final = 5_000
MODULES_MAX: Final = 1_000
_OUTER: Final = ("id", "name", "description", "module", "inputs", "params", "env", "build")
_TOP: Final = ("module", "nodes", "build")
_HEAD: Final = ("name", "inputs", "inputs_optional", "outputs")
_PORT: Final = "_mod/"
_PARAMETER: Final = re.compile(r"\$(PARAM_[A-Z0-9_]+)(?![A-Za-z0-9_])")

ReadTree = Callable[[str], Tree]
"""Path, relative to the folder of the dataflow -> its tree. Raises DataflowError."""


@dataclass(slots=True)
class Expanded:
    """The nodes of a file with all modules replaced: each with the file that it stands in, relative to the dataflow's
    folder ("": the dataflow itself). `outputs`: (module node, output) -> (inner node, its output).
    """

    nodes: list[tuple[Fields, str]] = field(default_factory=list)
    outputs: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)


def expand(errors: ErrorCollector, listed: list[Tree], read_tree: ReadTree, beside: str) -> Expanded:
    """The nodes in `listed`, those of modules included. `beside`: the folder of the dataflow, as the user named it."""
    made = Expanded()
    expansion = _Expansion(errors, read_tree, made, beside)
    for index, item in enumerate(listed, 1):
        errors.keep(partial(expansion.add, item, index, "", ()), None)
    return made


class _Expansion:
    def __init__(self, errors: ErrorCollector, read_tree: ReadTree, made: Expanded, beside: str) -> None:
        self._errors = errors
        self._read = read_tree
        self._made = made
        self._beside = beside
        self._modules = 0

    def add(self, tree: Tree, index: int, file: str, around: tuple[str, ...]) -> None:
        """Add a node of `file`, or the nodes of the module that it names."""
        fields = read.mapping(tree, f"node number {index}", "Write `- id: NAME` with its other fields below.")
        if fields.get("module") is None:
            if len(self._made.nodes) >= NODES_MAX:
                raise fail(fields.place, f"modules expand to more than {NODES_MAX} nodes", "Split the dataflow.")
            self._made.nodes.append((fields, file))
            return
        id_tree = fields.get("id")
        if not isinstance(id_tree, Scalar):
            raise fail(fields.place, f"node number {index} has no `id`", "Write `id: NAME`.")
        id, where = id_tree.text, f"node {id_tree.text!r}"
        for name, (key, _) in fields.fields.items():
            if name not in _OUTER:
                hint = (
                    "Write it into the nodes of the module; of a node with `module`, "
                    + ", ".join(_OUTER)
                    + " are known."
                )
                self._errors.errors.append(fail(key.place, f"`{name[:60]}` of {where}, which is a module", hint))
        module_tree = fields.get("module")
        assert module_tree is not None
        inner_file = self._path(read.text(module_tree, f"`module` of {where}"), file, module_tree.place, where)
        if inner_file in around or len(around) >= DEPTH_MAX:
            why = "contains itself" if inner_file in around else f"is more than {DEPTH_MAX} levels deep"
            raise fail(module_tree.place, f"the module {inner_file!r} {why}", "Take one level out.")
        self._modules += 1
        if self._modules > MODULES_MAX:
            raise fail(module_tree.place, f"the dataflow has more than {MODULES_MAX} modules", "Split the dataflow.")
        wired = self._wired(fields, where)
        no_params: dict[str, Scalar] = {}
        params = self._errors.take(fields, "params", where, _params, no_params)
        shown = posixpath.join(self._beside, inner_file)
        try:
            inner = in_file(self._read(inner_file), shown)
        except DataflowError as error:
            if error.line:
                raise fail(Place(error.line, error.column, shown), error.what, error.hint) from None
            hint = error.hint or "Paths of modules are relative to the file that names them."
            raise fail(module_tree.place, f"`module` of {where}: {inner_file!r}: {error.what}", hint) from None
        self._module(inner, inner_file, id, fields, wired, params, around)

    def _path(self, written: str, file: str, place: Place, where: str) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(file), written))
        if written.startswith("/") or path.startswith(".."):
            hint = "Put it into the folder of the dataflow file, or below."
            raise fail(place, f"`module` of {where} is outside of the folder of the dataflow: {written[:80]!r}", hint)
        return path

    def _wired(self, fields: Fields, where: str) -> dict[str, tuple[Scalar, Tree]]:
        tree = fields.get("inputs")
        if tree is None:
            return {}
        return dict(read.mapping(tree, f"`inputs` of {where}", "Write one `name: node/output` for each input.").fields)

    # ---- the file of a module

    def _module(
        self, tree: Tree, file: str, id: str, outer: Fields, wired: dict[str, tuple[Scalar, Tree]],
        params: Mapping[str, Scalar], around: tuple[str, ...],
    ) -> None:  # fmt: skip
        errors = self._errors
        top = read.mapping(tree, "a module", "It begins with `module:` and `nodes:`.")
        head_tree, nodes_tree = top.get("module"), top.get("nodes")
        if head_tree is None:
            hint = "Begin with `module: {name: NAME, inputs: [...]}`."
            raise fail(top.place, "a module has no `module`", hint)
        if nodes_tree is None:
            raise fail(top.place, "a module has no `nodes`", "Write `nodes:` and a list of nodes below it.")
        head = read.mapping(head_tree, "`module`")
        for fields, known, where in ((top, _TOP, "a module"), (head, _HEAD, "`module`")):
            for name, (key, _) in fields.fields.items():
                if name not in known:
                    hint = f"Known are {', '.join(known)}."
                    errors.errors.append(fail(key.place, f"unknown field `{name[:60]}` in {where}", hint))
        if head.get("name") is None:
            errors.errors.append(fail(head.place, "`module` has no `name`", "Write `name: NAME`."))
        no_names: tuple[str, ...] = ()
        ports = [errors.take(head, name, "`module`", _names, no_names) for name in _HEAD[1:]]
        needed, optional, outputs = ports
        for port in needed:
            if port not in wired:
                what = f"node {id!r} wires no input {port!r}, which the module needs"
                errors.errors.append(fail(outer.place, what, f"Write `{port}: node/output` into its `inputs`."))
        for port, (key, _) in wired.items():
            if port not in (*needed, *optional):
                what = f"the module of node {id!r} has no input {port[:60]!r}"
                hint = f"Its inputs are: {', '.join((*needed, *optional)) or 'none'}."
                errors.errors.append(fail(key.place, what, hint))
        listed = read.items(nodes_tree, "`nodes`", "Write one `- id: NAME` for each node.")
        ids = {_id_of(item) for item in listed} - {""}
        change = _Change(id, ids, wired, (*needed, *optional), params, outer, top.get("build"))
        for index, item in enumerate(listed, 1):
            changed = errors.keep(partial(change.node, item, index), None)
            if changed is not None:
                errors.keep(partial(self.add, changed, index, file, (*around, file)), None)
        for output in outputs:
            self._expose(id, output, listed, head)

    def _expose(self, id: str, output: str, listed: list[Tree], head: Fields) -> None:
        for item in listed:
            if not _id_of(item):
                continue
            assert isinstance(item, Fields)
            inner = f"{id}.{_id_of(item)}"
            found = self._made.outputs.get((inner, output)) or _output_of(item, inner, output)
            if found is not None:
                self._made.outputs[id, output] = found
                return
        hint = "Declare it in `outputs` of one of its nodes."
        self._errors.errors.append(fail(head.place, f"no node of the module has its output {output!r}", hint))


def in_file(tree: Tree, file: str) -> Tree:
    """The tree, whose places say from now on that they are in that file."""
    todo = [tree]
    while todo:
        part = todo.pop()
        part.place = replace(part.place, file=file)
        if isinstance(part, Items):
            todo += part.items
        elif isinstance(part, Fields):
            for pair in part.fields.values():
                todo += pair
    return tree


@dataclass(slots=True)
class _Change:
    """What becomes of the nodes of a module's file in the outer one."""

    id: str
    ids: set[str]
    wired: Mapping[str, tuple[Scalar, Tree]]
    ports: tuple[str, ...]
    params: Mapping[str, Scalar]
    outer: Fields
    build: Tree | None

    def node(self, tree: Tree, index: int) -> Fields:
        fields = read.mapping(tree, f"node number {index}", "Write `- id: NAME` with its other fields below.")
        made = dict(fields.fields)
        if not _id_of(fields):
            raise fail(fields.place, f"node number {index} has no `id`", "Write `id: NAME`.")
        key, id_tree = made["id"]
        assert isinstance(id_tree, Scalar)
        made["id"] = key, replace(id_tree, text=f"{self.id}.{id_tree.text}", plain=False)
        self._ports_of(made)
        for kind in ("operator", "operators"):
            if kind in made:
                key, value = made[kind]
                if isinstance(value, Items):
                    made[kind] = key, replace(value, items=[self._operator(item) for item in value.items])
                else:
                    made[kind] = key, self._operator(value)
        if "args" in made and isinstance(made["args"][1], Scalar):
            key, args = made["args"]
            assert isinstance(args, Scalar)
            made["args"] = key, replace(args, text=_PARAMETER.sub(self._parameter, args.text))
        self._surround(made, key)
        return Fields(made, fields.flow, fields.place)

    def _operator(self, tree: Tree) -> Tree:
        if not isinstance(tree, Fields):
            return tree
        made = dict(tree.fields)
        self._ports_of(made)
        return Fields(made, tree.flow, tree.place)

    def _ports_of(self, made: dict[str, tuple[Scalar, Tree]]) -> None:
        if "inputs" not in made or not isinstance(made["inputs"][1], Fields):
            return
        key, inputs = made["inputs"]
        assert isinstance(inputs, Fields)
        changed: dict[str, tuple[Scalar, Tree]] = {}
        for name, (name_key, value) in inputs.fields.items():
            found = self._input(value)
            if found is not None:
                changed[name] = name_key, found
        made["inputs"] = key, Fields(changed, inputs.flow, inputs.place)

    def _input(self, tree: Tree) -> Tree | None:
        """The input with its source as the outer file knows it; None when an optional port is not wired."""
        if isinstance(tree, Fields) and "source" in tree.fields and isinstance(tree.fields["source"][1], Scalar):
            key, source = tree.fields["source"]
            assert isinstance(source, Scalar)
            found = self._source(source)
            if isinstance(found, Fields):  # wired with options of its own: those of the inner node come first
                return Fields({**found.fields, **tree.fields, "source": found.fields["source"]}, tree.flow, tree.place)
            return None if found is None else Fields({**tree.fields, "source": (key, found)}, tree.flow, tree.place)
        return self._source(tree) if isinstance(tree, Scalar) else tree

    def _source(self, tree: Scalar) -> Tree | None:
        if tree.text.startswith(_PORT):
            port = tree.text[len(_PORT) :]
            if port not in self.ports:
                known = ", ".join(self.ports) or "none"
                raise fail(tree.place, f"the module declares no input {port[:60]!r}", f"Its inputs are: {known}.")
            return self.wired[port][1] if port in self.wired else None
        node, slash, output = tree.text.partition("/")
        if slash and node in self.ids:
            return replace(tree, text=f"{self.id}.{node}/{output}", plain=False)
        return tree

    def _parameter(self, match: re.Match[str]) -> str:
        found = self.params.get(match[1])
        return match[0] if found is None else found.text

    def _surround(self, made: dict[str, tuple[Scalar, Tree]], key: Scalar) -> None:
        """Parameters, env and build of the outer node and of the file."""
        env: dict[str, tuple[Scalar, Tree]] = {  # `$$`: what is in a parameter does not expand
            name: (value, replace(value, text=value.text.replace("$", "$$"))) for name, value in self.params.items()
        }
        outer_env = self.outer.get("env")
        if isinstance(outer_env, Fields):
            env.update(outer_env.fields)
        own = made.get("env")
        if own is not None and isinstance(own[1], Fields):
            env.update(own[1].fields)
        if env and (own is None or isinstance(own[1], Fields)):
            made["env"] = key, Fields(env, False, key.place)
        builds = [self.outer.get("build"), self.build]
        self.outer.fields.pop("build", None)  # once: before the first node
        self.build = None
        lines = [tree.text for tree in builds if isinstance(tree, Scalar)]
        if lines:
            if "build" in made and isinstance(made["build"][1], Scalar):
                lines.append(made["build"][1].text)
            made["build"] = key, replace(key, text="\n".join(lines), plain=False)


def _names(tree: Tree, label: str) -> tuple[str, ...]:
    """Names of inputs or outputs."""
    made = []
    for item in read.items(tree, label, "Write a list of names: [a, b]."):
        name = read.as_written(item, f"an item of {label}")
        problem = data_id_problem(name)
        if problem:
            raise fail(item.place, f"{label}: {problem}")
        made.append(name)
    return tuple(made)


def _params(tree: Tree, label: str) -> dict[str, Scalar]:
    made = {}
    for name, (key, value) in read.mapping(tree, label, "Write `name: value` lines below it.").fields.items():
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise fail(key.place, f"{name[:60]!r} in {label} is no name of a parameter", "Use letters, digits and '_'.")
        read.as_written(value, f"`{name[:60]}` in {label}")
        assert isinstance(value, Scalar)
        made[f"PARAM_{name.upper()}"] = replace(value, plain=False)
    return made


def _id_of(tree: Tree) -> str:
    """The id of a node or operator; "" when it has none."""
    found = tree.get("id") if isinstance(tree, Fields) else None
    return found.text if isinstance(found, Scalar) else ""


def _output_of(node: Fields, id: str, output: str) -> tuple[str, str] | None:
    """(node, output) when a node of the file, or its operator, declares this output."""
    if _declares(node, output):
        return id, output
    operator = node.get("operator")
    if isinstance(operator, Fields) and _declares(operator, output):
        return id, output
    operators = node.get("operators")
    for item in operators.items if isinstance(operators, Items) else ():
        if isinstance(item, Fields) and _declares(item, output) and _id_of(item):
            return id, f"{_id_of(item)}/{output}"
    return None


def _declares(fields: Fields, output: str) -> bool:
    outputs = fields.get("outputs")
    listed = outputs.items if isinstance(outputs, Items) else []
    return any(isinstance(item, Scalar) and item.text == output for item in listed)
