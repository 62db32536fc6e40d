"""The content of a dataflow file, as frozen data with every default filled in.

yaml/tree.py turns text into a tree in which every part knows its line, reader.py turns that tree into this model,
files.py reads the file from disk, and runtime/plan.py joins the model with the numbers that the store gave to its
parts.

Names carry their unit: `_s` seconds, `_ns` nanoseconds, `_bytes` bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

QUEUE_SIZE = 1000
QUEUE_BYTES = 64 * 1024 * 1024
QUEUE_MESSAGES_MIN = 2

Kind = Literal["operator", "node", "dynamic"]
RestartPolicy = Literal["never", "on-failure", "always"]
QueuePolicy = Literal["backpressure", "drop_oldest"]
Spawn = Literal["fork", "exec"]


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the file, counted from 1; 0 means nowhere. `file`: where it is not the dataflow file itself."""

    line: int = 0
    column: int = 0
    file: str = ""


@dataclass(frozen=True, slots=True)
class Code:
    """What a node runs.

    An operator has `path` (as written, relative to the file's folder) or `module` (dotted), and `name`, the
    class or function in it. A custom node has `path` and `args`; a dynamic node has neither. `adapter`, a
    "module:function", makes an operator of ours of what `name` is; "" where that is one already.
    """

    path: str = ""
    args: tuple[str, ...] = ()
    module: str = ""
    name: str = ""
    adapter: str = ""
    place: Place = field(default=Place(), compare=False)

    def __str__(self) -> str:
        if self.name:
            return f"{self.path or self.module}:{self.name}"
        return " ".join((self.path, *self.args)) or "dynamic"


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a node: fed by `output` of `node`, or by a timer when `period_ns` > 0 (then both are "").

    `source` is "node/output" or "timer/UNIT/N". `input_timeout_s` is None for no timeout. One that does not `count` is
    like a timer: the node ends when all others have ended. `senders` is the id of `node`, or those of its replicas.
    """

    name: str
    source: str
    node: str = ""
    output: str = ""
    period_ns: int = 0
    queue_size: int = QUEUE_SIZE
    queue_bytes: int = QUEUE_BYTES
    queue_policy: QueuePolicy = "backpressure"
    input_timeout_s: float | None = None
    counts: bool = True
    replicas: int = 1  # of `node`
    place: Place = field(default=Place(), compare=False)

    @property
    def senders(self) -> tuple[str, ...]:
        if self.is_timer:
            return ()
        return (self.node, *(f"{self.node}[{replica}]" for replica in range(1, self.replicas)))

    @property
    def is_timer(self) -> bool:
        return self.period_ns > 0

    @property
    def queue_messages_min(self) -> int:
        """How many messages are admitted regardless of their size: the default in bytes must not block large ones."""
        return QUEUE_MESSAGES_MIN if self.queue_bytes == QUEUE_BYTES else 1

    @property
    def drop_oldest(self) -> bool:
        return self.queue_policy == "drop_oldest"


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node. `env` includes the file's `env`; the node's own entries override it. Operators with the same `process`
    share a process and its transactions; "" is a process of its own. `partition_by` says which of its `replicas` gets a
    message ("": any); `replica` is the number of one of them (see replicas.py).

    0 in `max_restarts` and `max_attempts` means no limit; a `health_check_timeout_s` of None means none.

    For dataflows of dora (noderuntime.dora): an `endless` node does not end because its inputs have; none that starts
    `together` with others is ready before all of them have said hello; one whose inputs end `with_failures` takes a
    sender that failed for one that ended; with `plain_restarts` the first restart waits, too, and progress does not
    renew the budget; `cpus` are the cores that it may run on, () all; lines and records below `log_level` (of
    `logging`; a plain line has 0) are not shown, nor kept unless a helper `forwards_lines`.
    A `helper` is not in the file.
    """

    id: str
    kind: Kind
    code: Code = Code()
    env: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[InputSpec, ...] = ()
    outputs: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    restart_policy: RestartPolicy = "never"
    max_restarts: int = 5
    restart_window_s: float = 60.0
    restart_delay_s: float = 0.1
    max_restart_delay_s: float = 30.0
    max_attempts: int = 3
    start_timeout_s: float = 30.0
    health_check_timeout_s: float | None = None
    spawn: Spawn = "exec"
    process: str = ""
    replicas: int = 1
    partition_by: str = ""
    replica: int = 0
    endless: bool = False
    together: bool = False
    with_failures: bool = False
    plain_restarts: bool = False
    cpus: tuple[int, ...] = ()
    log_level: int = 0
    forwards_lines: bool = False
    helper: bool = False
    place: Place = field(default=Place(), compare=False)
    process_place: Place = field(default=Place(), compare=False)
    config_place: Place = field(default=Place(), compare=False)  # the place of the node if it has no config

    def input(self, name: str) -> InputSpec:
        """The input of that name. Raises KeyError."""
        for spec in self.inputs:
            if spec.name == name:
                return spec
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class StateSpec:
    """The `state:` section. `options` are the fields that belong to the kind, such as `url` or `path`.

    `size_bytes` is None where the file gives none: the caller derives it from the machine. `seed_file` or
    `seed_command` (or neither) says where first values come from.
    """

    kind: str = "memory"
    size_bytes: int | None = None
    ttl_s: float | None = None
    purge_interval_s: float = 60.0
    seed_file: str = ""
    seed_command: tuple[str, ...] = ()
    history: int = 10_000
    options: Mapping[str, Any] = field(default_factory=dict)
    place: Place = field(default=Place(), compare=False)

    def to_plain(self) -> dict[str, Any]:
        """The part that the store process needs, in a form that JSON can carry."""
        return {
            "kind": self.kind,
            "options": dict(self.options),
            "history": self.history,
            "ttl": self.ttl_s,
            "seed_file": self.seed_file,
            "seed_command": list(self.seed_command),
        }


@dataclass(frozen=True, slots=True)
class SnapshotSpec:
    """The `snapshots:` section. `to`: "" is the run's folder in the state directory, "none" no snapshots."""

    every_s: float = 60.0
    to: str = ""
    keep: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)
    place: Place = field(default=Place(), compare=False)


@dataclass(frozen=True, slots=True)
class Dataflow:
    """A whole dataflow. `file` is the file as the user named it, `folder` the working directory of nodes."""

    nodes: tuple[NodeSpec, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    state: StateSpec = StateSpec()
    snapshots: SnapshotSpec = SnapshotSpec()
    file: str = field(default="", compare=False)
    folder: str = field(default="", compare=False)

    def node(self, node_id: str) -> NodeSpec:
        """The node of that id. Raises KeyError."""
        for spec in self.nodes:
            if spec.id == node_id:
                return spec
        raise KeyError(node_id)

    def receivers(self, node_id: str, output: str) -> list[tuple[NodeSpec, InputSpec]]:
        """Every input that receives from this output, in the order of the file; of replicas, each one's."""
        of_file = node_id.partition("[")[0]
        return [
            (node, spec) for node in self.nodes for spec in node.inputs if (spec.node, spec.output) == (of_file, output)
        ]

    def members(self, node_id: str) -> tuple[NodeSpec, ...]:
        """The operators that share the process of this node, itself included, in the order of the file."""
        spec = self.node(node_id)
        return tuple(node for node in self.nodes if node.process == spec.process) if spec.process else (spec,)

    def fingerprint(self) -> str:
        """A digest of everything that decides whether kept state still fits: nodes, inputs, outputs, code references.

        Limits, policies, environment, config and processes are left out: they do not change what stored data mean.
        The order of nodes, inputs and outputs does not matter.
        """
        parts = sorted(
            [
                node.id,
                node.kind,
                [node.code.path, node.code.module, node.code.name],
                sorted([spec.name, spec.source] for spec in node.inputs),
                sorted(node.outputs),
            ]
            for node in self.nodes
            if not node.replica
        )
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
