"""What one child has to know of the dataflow: its inputs, its outputs, and who receives them.

The runtime builds it from the dataflow file and the numbers that the store gave to nodes, inputs and outputs, and
sends it in `welcome`. Numbers are small integers, kept in the space, so that keys there are short and survive a
change of the dataflow file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class InputWiring:
    """One input. `sender` is the sending node's number (-1 for a timer); `period_ns` > 0 makes it a timer."""

    name: str
    number: int
    source: str  # "node/output", or "timer/..." as written
    sender: int
    queue_size: int
    queue_bytes: int
    drop_oldest: bool
    messages_min: int = 1  # admitted whatever their size
    period_ns: int = 0
    timeout_ns: int = 0


@dataclass(frozen=True, slots=True)
class ReceiverWiring:
    """One receiver of an output: the mailbox (node, input) and its limits."""

    node: int
    input: int
    queue_size: int
    queue_bytes: int
    drop_oldest: bool
    messages_min: int = 1


@dataclass(frozen=True, slots=True)
class OutputWiring:
    name: str
    number: int
    receivers: tuple[ReceiverWiring, ...]


@dataclass(frozen=True, slots=True)
class Wiring:
    """Everything about one node that its own process needs.

    `kind` is "operator" or "node"; `code` is for operators: {"path": FILE or "", "module": NAME or "", "name": NAME}.
    """

    run: str
    node: str
    number: int
    kind: str
    inputs: tuple[InputWiring, ...]
    outputs: tuple[OutputWiring, ...]
    config: dict[str, Any] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """A form that MessagePack can carry."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Wiring:
        return cls(
            **{
                **plain,
                "inputs": tuple(InputWiring(**item) for item in plain["inputs"]),
                "outputs": tuple(
                    OutputWiring(
                        item["name"],
                        item["number"],
                        tuple(ReceiverWiring(**receiver) for receiver in item["receivers"]),
                    )
                    for item in plain["outputs"]
                ),
            }
        )
