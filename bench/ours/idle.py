"""An operator that does nothing; one that is idle is one of these."""

from __future__ import annotations

from typing import Any

from noderuntime import Operator


class Idle(Operator):
    def on_event(self, event: Any, ctx: Any) -> None:
        pass
