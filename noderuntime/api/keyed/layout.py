"""How many slots there are. Here, so that what only reads a dataflow file need not load MessagePack."""

from __future__ import annotations

from typing import Final

SLOTS: Final = 256
