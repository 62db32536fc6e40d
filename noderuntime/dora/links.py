"""Joins the nodes of a dora file: who feeds each input, and the helpers that lines and logs need. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from noderuntime.dataflow.identifiers import HELPER
from noderuntime.dataflow.links import ERRORS_MAX, Advice, check_links
from noderuntime.dataflow.model import Code, InputSpec, NodeSpec
from noderuntime.dataflow.yaml.fields import near
from noderuntime.dataflow.yaml.nodes import fail
from noderuntime.dora.facts import END, LINES
from noderuntime.dora.nodes import DoraNode, Input, Part
from noderuntime.dora.sources import LogSource, OutputSource, TimerSource
from noderuntime.errors import DataflowError

LOGS: Final = f"dora{HELPER}logs"  # the helper that sends log records to those who subscribe to them
TICK_NS: Final = 25_000_000  # how often a helper looks for new lines


def lines_id(node: str) -> str:
    """The id of the helper that sends what a node prints and logs."""
    return f"{node}{HELPER}lines"


class Linker:
    """Joins nodes. `exposed`: outputs of modules, (module node, output) -> (node, output). `finishes`: the file's
    `exit_when_nodes_finish`.
    """

    def __init__(
        self, nodes: Sequence[DoraNode], exposed: Mapping[tuple[str, str], tuple[str, str]], finishes: bool
    ) -> None:
        self._nodes = {node.id: node for node in nodes}
        self._exposed = exposed
        self._finishes = finishes
        self._leader = {part.spec.id: node.parts[0].spec.id for node in nodes for part in node.parts}
        self._owner = {part.spec.id: node.id for node in nodes for part in node.parts}
        self._lines: dict[str, dict[str, str]] = {}  # our node -> {"stdout" or "logs": output} that somebody receives
        self._log_outputs: dict[str, dict[str, str]] = {}  # an output of the helper of logs -> what it carries
        self._log_readers: list[str] = []
        self.advice: Advice = {}
        self.errors: list[DataflowError] = []

    def specs(self) -> list[NodeSpec]:
        """Our nodes, in the order of the file, and the helpers behind them. Sets `errors`."""
        made = [self._spec(part) for node in self._nodes.values() for part in node.parts]
        helpers = [self._lines_helper(spec, self._lines[spec.id]) for spec in made if spec.id in self._lines]
        if self._log_outputs:
            helpers.append(self._logs_helper())
        watched = {*self._lines, *self._log_readers}
        made = [replace(spec, outputs=(*spec.outputs, END)) if spec.id in watched else spec for spec in made]
        forwarded = {self._leader[id] for id, outputs in self._lines.items() if "stdout" in outputs}
        made = [replace(spec, forwards_lines=spec.id in forwarded) for spec in made]
        self._unique([*made, *helpers])
        if not self.errors:
            self.errors = list(islice(check_links([*made, *helpers], self.advice), ERRORS_MAX))
        return [*made, *helpers]

    def _unique(self, specs: Sequence[NodeSpec]) -> None:
        seen: dict[str, NodeSpec] = {}
        for spec in specs:
            if spec.id in seen:
                what = f"a second node with the id {spec.id!r}; the first is in line {seen[spec.id].place.line}"
                hint = "Give each node an id of its own (operators count as NODE.OPERATOR)."
                self.errors.append(fail(spec.place, what, hint))
            seen[spec.id] = spec

    # ---- inputs

    def _spec(self, part: Part) -> NodeSpec:
        spec = part.spec
        found = [self._input(spec, item) for item in part.inputs.values()]
        inputs = tuple(item for item in found if item is not None)
        data = [item for item in inputs if not item.is_timer and item.counts]
        waits = len(data) < len(inputs) and not (self._finishes and data)
        return replace(spec, inputs=inputs, outputs=part.outputs, endless=waits)

    def _input(self, node: NodeSpec, item: Input) -> InputSpec | None:
        spec, source = item.spec, item.source
        name = f"{spec.name}: {{source: {source.written}, queue_policy: drop_oldest}}"
        self.advice[node.id, spec.name] = f"in line {item.key.line}, write\n    {name}"
        if isinstance(source, TimerSource):
            return replace(spec, source=source.written, period_ns=source.period_ns)
        if isinstance(source, LogSource):
            return self._logs_input(node, item, source)
        source = OutputSource(*self._exposed.get((source.node, source.output), (source.node, source.output)))
        part = self._part_of(source, node, spec)
        if part is None:
            return None
        output = source.output.removeprefix(part.prefix)
        for kind, carries in (("stdout", part.stdout_as), ("logs", part.logs_as)):
            if carries == output:
                self._lines.setdefault(part.spec.id, {})[kind] = output
                helper = lines_id(part.spec.id)
                return replace(spec, node=helper, output=output, source=f"{helper}/{output}")
        return replace(spec, node=part.spec.id, output=output, source=f"{part.spec.id}/{output}")

    def _part_of(self, source: OutputSource, node: NodeSpec, spec: InputSpec) -> Part | None:
        """Who sends it. None, and an error, when there is nobody."""
        where = f"input {spec.name!r} of node {node.id!r}"
        sender = self._nodes.get(source.node)
        if sender is None:
            meant = near(source.node, self._nodes)
            nodes = ", ".join([*self._nodes][:20])
            hint = f"Did you mean `{meant}/{source.output}`?" if meant else f"The nodes are: {nodes}."
            what = f"{where} comes from the node {source.node!r}, which does not exist"
            self.errors.append(fail(spec.place, what, hint))
            return None
        known: list[str] = []
        for part in sender.parts:
            if source.output in [f"{part.prefix}{output}" for output in part.outputs]:
                return part
            known += [f"{part.prefix}{output}" for output in part.outputs]
        meant = near(source.output, known)
        hint = (
            f"Its outputs are: {', '.join(known[:20])}." if known else "It declares no outputs: add `outputs: [...]`."
        )
        if meant:
            hint = f"Did you mean `{source.node}/{meant}`?"
        what = f"{where} comes from {source.written!r}, but {source.node!r} has no such output"
        self.errors.append(fail(spec.place, what, hint))
        return None

    # ---- helpers

    def _logs_input(self, node: NodeSpec, item: Input, source: LogSource) -> InputSpec | None:
        if source.node and source.node not in self._nodes:
            meant = near(source.node, self._nodes)
            hint = f"Did you mean `dora/logs/{source.level}/{meant}`?" if meant else "Name a node of this file."
            what = (
                f"input {item.spec.name!r} of node {node.id!r} wants the logs of {source.node!r}, which does not exist"
            )
            self.errors.append(fail(item.spec.place, what, hint))
            return None
        reader = self._owner[node.id]
        output = "-".join(filter(None, ("logs", source.level, source.node))) + f"-to-{reader}"
        self._log_outputs[output] = {"level": source.level, "node": source.node, "reader": reader}
        if node.id not in self._log_readers:
            self._log_readers.append(node.id)
        return replace(item.spec, node=LOGS, output=output, source=f"{LOGS}/{output}", counts=False)

    def _lines_helper(self, node: NodeSpec, outputs: Mapping[str, str]) -> NodeSpec:
        stdout, logs = outputs.get("stdout", ""), outputs.get("logs", "")
        # what operators of one process print is kept with the first of them, and so is the mark of its end
        files = dict.fromkeys((node.id, self._leader[node.id]))
        config = {"node": node.id, "process": self._leader[node.id], "nodes": self._names([*files]), "stdout": stdout}
        config["logs"] = logs
        made = self._helper(lines_id(node.id), node, "NodeLines", [node.id], [*outputs.values()], config)
        return replace(made, endless=True)  # it ends when it has read the last line, which may come after the end

    def _logs_helper(self) -> NodeSpec:
        everybody = [part.spec.id for node in self._nodes.values() for part in node.parts]
        config = {"nodes": self._names(everybody), "outputs": self._log_outputs}
        node = next(part.spec for node in self._nodes.values() for part in node.parts)
        return self._helper(LOGS, node, "AllLogs", self._log_readers, [*self._log_outputs], config)

    def _names(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Our nodes -> the node of the file that each belongs to, and the least level that it logs."""
        parts = {part.spec.id: (node, part) for node in self._nodes.values() for part in node.parts}
        return {id: {"node": parts[id][0].id, "level": parts[id][1].spec.log_level} for id in ids}

    def _helper(
        self, id: str, like: NodeSpec, name: str, until: Sequence[str], outputs: Sequence[str], config: dict[str, Any]
    ) -> NodeSpec:
        """An operator of ours that ends when the nodes in `until` have ended."""
        ends = [
            InputSpec(f"end-{index}", f"{node}/{END}", node=node, output=END, queue_policy="drop_oldest")
            for index, node in enumerate(until)
        ]
        tick = InputSpec("tick", f"timer/millis/{TICK_NS // 1_000_000}", period_ns=TICK_NS)
        return NodeSpec(
            id=id,
            kind="operator",
            code=Code(module=LINES, name=name, place=like.place),
            inputs=(*ends, tick),
            outputs=tuple(dict.fromkeys(outputs)),
            config=config,
            restart_policy="on-failure",
            helper=True,
            with_failures=True,
            spawn="fork",
            place=like.place,
        )
