"""What earlier versions kept: keyed states among the private state, without slots and an index of what is due. Pure."""

from __future__ import annotations

from typing import NamedTuple

from noderuntime.api.keyed.codecs import TAG_KINDS, UNPACK_ERRORS, key_tag, take_apart, unpack_stored, with_due
from noderuntime.api.keyed.slots import slot_of
from noderuntime.api.keyed.states import ENDS, NEVER, TIMERS


class Converted(NamedTuple):
    """The value of a key as it is kept now, in its slot. With `due`, the index has an entry for it in `queue`."""

    slot: int
    value: bytes
    queue: int
    due: float | None


def converted(tag: str, value: bytes) -> Converted | None:
    """What a private value becomes; None if it is not that of a key.

    An operator's own values are recognised safely: one of a key holds the key, whose tag is the name that it is under.
    When the time to live of a key ends, only its operator knows. So its entry is for the time of its latest event, and
    the operator corrects it, as any entry that comes too early.
    """
    kind, _, text = tag.partition(":")
    if kind not in TAG_KINDS:
        return None
    try:
        saved = take_apart(value)
        own = key_tag(saved.key)
        slot = slot_of(saved.key)
        if tag != own and not _is_old_tag(kind, text, own):
            return None
    except (TypeError, ValueError, *UNPACK_ERRORS):
        return None
    due = saved.due
    if due is None:
        due = saved.timer
    if due is None and saved.last != NEVER:
        due = saved.last
    return Converted(slot, with_due(saved, due), ENDS if saved.timer is None else TIMERS, due)


def _is_old_tag(kind: str, text: str, own: str) -> bool:
    """Whether version 0.1 gave the tag to the key that has the tag `own` now: see old_tag."""
    if kind == "sha256":  # of which key, cannot be seen
        return len(text) == 64
    return kind == "msgpack" and key_tag(unpack_stored(bytes.fromhex(text))) == own
