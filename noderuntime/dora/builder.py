"""`dora.builder`: a dataflow file, built by calls."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

_POLICIES = ("backpressure", "drop_oldest")


class DataflowBuilder:
    """A dataflow to be. `name` is for the program only: it is not written."""

    def __init__(self, name: str = "dora-dataflow") -> None:
        self.name = name
        self.nodes: list[Node] = []

    def add_node(self, id: str, **kwargs: Any) -> Node:
        """Add a node; further arguments are fields of it."""
        node = Node(id, **kwargs)
        self.nodes.append(node)
        return node

    def to_yaml(self, path: str | None = None) -> str | None:
        """The file's text; with `path`, it is written there, and None is returned."""
        text: str = yaml.dump({"nodes": [node.to_dict() for node in self.nodes]})
        if not path:
            return text
        Path(path).write_text(text)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        return None


class Output:
    """An output of a node, to be an input of another."""

    def __init__(self, node: Node, output_id: str) -> None:
        self.node = node
        self.output_id = output_id

    def __str__(self) -> str:
        return f"{self.node.id}/{self.output_id}"


class Node:
    """A node of a dataflow to be. Most calls return the node, so that they can be chained."""

    def __init__(self, id: str, **kwargs: Any) -> None:
        self.id = id
        self.config: dict[str, Any] = {**kwargs, "id": id}
        self.operators: list[Operator] = []

    def _with(self, **fields: Any) -> Node:
        self.config.update(fields)
        return self

    def path(self, path: str) -> Node:
        """The program."""
        return self._with(path=path)

    def args(self, args: str) -> Node:
        """Its arguments."""
        return self._with(args=args)

    def env(self, env: dict[str, Any]) -> Node:
        """Its environment."""
        return self._with(env=env)

    def build(self, build_command: str) -> Node:
        """The command that builds it."""
        return self._with(build=build_command)

    def git(self, url: str, branch: str | None = None, tag: str | None = None, rev: str | None = None) -> Node:
        """The repository of its sources."""
        named = {"branch": branch, "tag": tag, "rev": rev}
        return self._with(git=url, **{name: value for name, value in named.items() if value})

    def add_operator(self, operator: Operator) -> Node:
        """An operator in this node."""
        self.operators.append(operator)
        return self

    def add_output(self, output_id: str) -> Output:
        """An output; what is returned can be the source of an input."""
        outputs = self.config.setdefault("outputs", [])
        if output_id not in outputs:
            outputs.append(output_id)
        return Output(self, output_id)

    def add_input(
        self, input_id: str, source: str | Output, queue_size: int | None = None, queue_policy: str | None = None
    ) -> Node:
        """An input. Raises ValueError for a queue_size below 1, and for an unknown queue_policy."""
        if queue_policy is not None and queue_policy not in _POLICIES:
            raise ValueError(f"queue_policy must be one of {', '.join(_POLICIES)}, got {queue_policy!r}")
        if queue_size is not None and queue_size < 1:
            raise ValueError(f"queue_size must be >= 1, got {queue_size}")
        options = {"queue_size": queue_size, "queue_policy": queue_policy}
        given = {name: value for name, value in options.items() if value is not None}
        text = str(source) if isinstance(source, Output) else source
        self.config.setdefault("inputs", {})[input_id] = {"source": text, **given} if given else text
        return self

    def to_dict(self) -> dict[str, Any]:
        """The node as the file has it."""
        operators = [operator.to_dict() for operator in self.operators]
        return {**self.config, "operators": operators} if operators else dict(self.config)


class Operator:
    """An operator of a node to be."""

    def __init__(
        self,
        id: str,
        name: str | None = None,
        description: str | None = None,
        build: str | None = None,
        python: str | None = None,
        shared_library: str | None = None,
        send_stdout_as: str | None = None,
    ) -> None:
        self.id = id
        fields = {
            "name": name,
            "description": description,
            "build": build,
            "python": python,
            "shared-library": shared_library,
            "send_stdout_as": send_stdout_as,
        }
        self.config: dict[str, Any] = {"id": id, **{field: value for field, value in fields.items() if value}}

    def to_dict(self) -> dict[str, Any]:
        """The operator as the file has it."""
        return self.config
