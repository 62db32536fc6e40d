"""Slots: which of SLOTS parts of an operator's keyed state a key belongs to.

A slot has one owner at a time; what the state of a key costs does not depend on its slot. The slot is a fixed hash of
the key's MessagePack: it is part of the layout of the space, so it never changes. Numbers that are equal are one here
(7, 7.0, numpy.int64(7)), also within lists and dicts, because a sender that reads 7.0 and an operator that makes 7 of
it mean the same key. True is not 1.
"""

from __future__ import annotations

import math
from typing import Any, Final
from zlib import crc32

from noderuntime.api.keyed.codecs import NOT_PLAIN, pack_plain, packable, packed_exactly
from noderuntime.api.keyed.layout import SLOTS

_SIMPLE: Final = frozenset({str, int, bool, bytes, type(None)})


def slot_of(key: Any) -> int:
    """The slot of `key`, from 0. Raises TypeError for a key that MessagePack cannot carry."""
    if type(key) in _SIMPLE:
        try:
            return crc32(pack_plain(key)) & SLOTS - 1
        except NOT_PLAIN:
            pass
    return crc32(packed_exactly(_equal(packable(key)))) & SLOTS - 1


def _equal(value: Any) -> Any:
    """`value`, of exact types, as all values that are equal to it."""
    if type(value) is float:
        if math.isnan(value):
            return math.nan
        return int(value) if value.is_integer() and -(2.0**63) <= value < 2.0**64 else value
    if type(value) is list:
        return [_equal(item) for item in value]
    if type(value) is dict:
        made = {_equal(name): _equal(item) for name, item in value.items()}
        return {name: made[name] for name in sorted(made, key=lambda name: (type(name).__name__, name))}
    return value
