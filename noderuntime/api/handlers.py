"""The methods of operators that the runtime calls. `validate` looks for them without importing the operator."""

from __future__ import annotations

from typing import Final

HANDLERS: Final = ("on_event", "restore_state", "produce", "on_key_event", "on_timer", "on_end", "key_of", "time_of")
