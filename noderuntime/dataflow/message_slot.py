"""The slot of a message. Not in partition.py, so that what only reads a dataflow file need not load MessagePack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from noderuntime.api.keyed.slots import slot_of
from noderuntime.dataflow.partition import Partition

_NULL_SLOT: Final = slot_of(None)


def message_slot(partition: Partition, value: Any, metadata: Mapping[str, Any] | None) -> int:
    """The slot of a message. What has no such part, or one that no key can be, goes to the slot of null: it is for the
    receiver to refuse it, not for the sender.
    """
    try:
        return slot_of(partition.key(value, metadata))
    except TypeError:
        return _NULL_SLOT
