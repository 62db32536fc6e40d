"""What the dataflow file says about the processes of one node, as lifecycle.py needs it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from noderuntime.dataflow.model import NodeSpec


@dataclass(frozen=True, slots=True)
class Policy:
    """How to treat the processes of a node. `kind`: operator | node | dynamic. `max_restarts` 0: no limit."""

    kind: str = "operator"
    restart_policy: str = "on-failure"
    max_restarts: int = 5
    restart_window_s: float = 60.0
    restart_delay_s: float = 0.1
    max_restart_delay_s: float = 30.0
    start_timeout_s: float = 30.0
    health_check_timeout_s: float | None = None
    has_inputs: bool = True
    has_ports: bool = True  # any input or output
    together: bool = False  # its welcome may wait for the hello of other nodes: then it is not late
    plain_restarts: bool = False  # as in NodeSpec


def policy_of(spec: NodeSpec) -> Policy:
    """The policy that a node's section of the file asks for."""
    return Policy(
        kind=spec.kind,
        restart_policy=spec.restart_policy,
        max_restarts=spec.max_restarts,
        restart_window_s=spec.restart_window_s,
        restart_delay_s=spec.restart_delay_s,
        max_restart_delay_s=spec.max_restart_delay_s,
        start_timeout_s=spec.start_timeout_s,
        health_check_timeout_s=spec.health_check_timeout_s,
        has_inputs=bool(spec.inputs),
        has_ports=bool(spec.inputs or spec.outputs),
        together=spec.together,
        plain_restarts=spec.plain_restarts,
    )
