"""Join: the latest value of each of several inputs, as one message.

    inputs    those that `inputs` names
    outputs   joined: {input: value}, as soon as all have arrived and with each later message
    config    inputs: [a, b, ...]   which inputs are joined
              trigger: a            send only when this one arrives (default: whichever arrives)

Values are plain ones: no arrays and no Arrow data, which a list or dict cannot carry.
"""

from __future__ import annotations

from typing import Any

from noderuntime import Context, Event
from noderuntime.values import pack, unpack


class Operator:
    def __init__(self, ctx: Context) -> None:
        if unknown := sorted(set(ctx.config) - {"inputs", "trigger"}):
            raise ValueError(f"config: {unknown[0]}: unknown field; there are inputs and trigger")
        inputs = ctx.config.get("inputs")
        if not isinstance(inputs, list) or not inputs or len(set(map(str, inputs))) < len(inputs):
            raise ValueError(f"config: inputs: {inputs!r} is not a list of different inputs, such as [a, b]")
        self.inputs = [str(name) for name in inputs]
        self.trigger = ctx.config.get("trigger")
        if self.trigger is not None and self.trigger not in self.inputs:
            raise ValueError(f"config: trigger: {self.trigger!r} is not one of the inputs {self.inputs}")
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
