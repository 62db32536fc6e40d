"""dora's Python API (that of dora-rs 1.1.0) on noderuntime, for what `noderuntime run --dora` starts.

`from dora import Node` in a node, `from dora import DoraStatus` in an operator; `dora.builder` and `dora.testing`.
"""

from noderuntime.dora.commands import build, run
from noderuntime.dora.node import Node
from noderuntime.dora.operator_adapter import DoraStatus
from noderuntime.dora.unsupported import (
    Ros2ActionClient,
    Ros2ActionServer,
    Ros2Context,
    Ros2Durability,
    Ros2Liveliness,
    Ros2Node,
    Ros2NodeOptions,
    Ros2Publisher,
    Ros2QosPolicies,
    Ros2ServiceClient,
    Ros2ServiceServer,
    Ros2Subscription,
    Ros2Topic,
    Ros2Transport,
    start_runtime,
)

__all__ = [
    "DoraStatus",
    "Node",
    "Ros2ActionClient",
    "Ros2ActionServer",
    "Ros2Context",
    "Ros2Durability",
    "Ros2Liveliness",
    "Ros2Node",
    "Ros2NodeOptions",
    "Ros2Publisher",
    "Ros2QosPolicies",
    "Ros2ServiceClient",
    "Ros2ServiceServer",
    "Ros2Subscription",
    "Ros2Topic",
    "Ros2Transport",
    "build",
    "run",
    "start_runtime",
]
__author__ = "noderuntime"
__version__ = "1.1.0"  # of dora's API, which programs ask for
