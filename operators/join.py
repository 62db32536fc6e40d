"""Join: the latest value of each of several inputs, as one message.

    inputs    those that `inputs` names
    outputs   joined: {input: value}, as soon as all have arrived and with each later message
    config    inputs: [a, b, ...]   which inputs are joined
              trigger: a            send only when this one arrives (default: whichever arrives)

Values are plain ones: no arrays and no Arrow data, which a list or dict cannot carry.
"""

from __future__ import annotations

from typing import Any

from noderuntime.operators import settings

from noderuntime import Context, Event
from noderuntime.api.values import pack, unpack


def _inputs(value: Any) -> list[str]:
    if not isinstance(value, list) or not value or len(set(map(str, value))) < len(value):
        raise ValueError(f"{value!r} is not a list of different inputs, such as [a, b]")
    return [str(name) for name in value]


def _together(config: dict[str, Any]) -> None:
    if config["trigger"] not in (None, *config["inputs"]):
        raise ValueError(f"config: trigger: {config['trigger']!r} is not one of the inputs {config['inputs']}")


CONFIG = settings.Schema(
    {"inputs": settings.Field(_inputs), "trigger": settings.Field(lambda value: value, None)}, _together
)


class Operator:
    def __init__(self, ctx: Context) -> None:
        config = CONFIG.read(ctx.config)
        self.inputs: list[str] = config["inputs"]
        self.trigger: str | None = config["trigger"]
        self.latest: dict[str, Any] = {}

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.latest = {name: unpack(saved) for name, saved in state.items()}

    def on_event(self, event: Event, ctx: Context) -> None:
        if event["type"] != "INPUT" or event["id"] not in self.inputs:
            return
        name = event["id"]
        self.latest[name] = event["value"]
        ctx.save_state(name, pack(event["value"]))
        if len(self.latest) == len(self.inputs) and self.trigger in (None, name):
            ctx.send_output("joined", {each: self.latest[each] for each in self.inputs})
