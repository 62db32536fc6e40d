"""What a `stateful_map` does with a message.

A module of its own, because it is compiled: users derive from the classes of stateful_map.py, so that one is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from noderuntime.api.events import Event, is_message, message_of
from noderuntime.api.keyed.states import KeyedStates


class Mapper:
    """Calls the function for one value after the other, and sends what it returns.

    `new_state()` makes the state of a new key; `refuse(returned)` is the error for what is no pair.
    """

    def __init__(
        self,
        keyed: KeyedStates,
        function: Callable[[Any, Any, Any], Any],
        key: Callable[[Any], Any] | None,
        output: str,
        new_state: Callable[[], Any],
        refuse: Callable[[Any], TypeError],
    ) -> None:
        self._keyed = keyed
        self._function = function
        self._key = key
        self._output = output
        self._new_state = new_state
        self._refuse = refuse

    def handle(self, event: Any, ctx: Any) -> bool:
        """Handle an event where there is neither a clock nor a batch. Returns False if it is no message."""
        if not isinstance(event, Event) or not is_message(event):
            return False
        value, _, _, _ = message_of(event)
        keyed = self._keyed
        keyed.begin(ctx)
        keyed.now = keyed.time
        self.call(value, keyed.now, ctx)
        keyed.save(ctx)
        return True

    def call(self, value: Any, at: float, ctx: Any) -> None:
        """Call the function for a value that came at that time."""
        key = None if self._key is None else self._key(value)
        slot = self._keyed.open(key, at, ctx)
        returned = self._function(key, value, self._new_state() if slot.state is None else slot.state)
        if type(returned) is not tuple or len(returned) != 2:
            raise self._refuse(returned)
        message, slot.state = returned
        if message is not None:
            ctx.send_output(self._output, message, {"key": list(key) if isinstance(key, tuple) else key})
