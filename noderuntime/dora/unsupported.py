"""Names of dora's Python API that are refused, with a sentence that says what to use instead."""

from __future__ import annotations

from typing import Any, NoReturn


class _Ros2:
    """Something of dora's ROS 2 bridge."""

    def __init__(self, *given: Any, **named: Any) -> None:
        raise NotImplementedError(
            f"{type(self).__name__} is part of dora's ROS 2 bridge, which is not supported here: run a node of its own "
            "that uses rclpy, and hand what comes in to the dataflow with send_output or merge_external_events"
        )


class Ros2ActionClient(_Ros2): ...


class Ros2ActionServer(_Ros2): ...


class Ros2Context(_Ros2): ...


class Ros2Durability(_Ros2): ...


class Ros2Liveliness(_Ros2): ...


class Ros2Node(_Ros2): ...


class Ros2NodeOptions(_Ros2): ...


class Ros2Publisher(_Ros2): ...


class Ros2QosPolicies(_Ros2): ...


class Ros2ServiceClient(_Ros2): ...


class Ros2ServiceServer(_Ros2): ...


class Ros2Subscription(_Ros2): ...


class Ros2Topic(_Ros2): ...


class Ros2Transport(_Ros2): ...


def start_runtime() -> NoReturn:
    """Not supported: the runtime starts operators by itself."""
    raise NotImplementedError(
        "start_runtime is not supported: `noderuntime run --dora FILE` starts the processes of operators by itself"
    )
