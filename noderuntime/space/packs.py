"""The layout of a pack: messages of one commit to one mailbox, in one record. Pure; mailbox.py is the only user.

    count (16 bits), count x distance (32 bits), count x length (16 bits), then the messages' records; little-endian

A pack lies under the key of its first message with a mark behind it (keys.PACK_MARK). All its messages have the
sequence of that key. The index of a message is that of the key plus the message's distance. So one pack serves all
receivers of an output: their indexes differ, the distances do not.

A pack is at most PACK_BYTES_MAX long: with LMDB's header that is exactly four pages. Messages whose body lies in a
segment, and notices, are never in a pack. Messages of more than MESSAGE_BYTES_MAX lie alone, unless few of them come
with many small ones: LMDB gives each of them pages of its own, and to take it out of a pack is one more copy.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from noderuntime.space import keys

PACK_BYTES_MAX: Final = 4 * 4096 - 16
MESSAGE_BYTES_MAX: Final = 2048  # half a page: measured, packs save a tenth at 1500 bytes and cost a tenth at 3000

COUNT_MAX: Final = 0xFFFF

_COUNT_BYTES: Final = 2
_ENTRY_BYTES: Final = 6  # distance and length of one message
_TABLES: Final[dict[int, struct.Struct]] = {}

Parcel = tuple[int, bytes, bool]  # index of its first message, the record, and whether that is a pack


def _table(count: int) -> struct.Struct:
    found = _TABLES.get(count)
    if found is None:
        found = _TABLES[count] = struct.Struct(f"<H{count}I{count}H")
    return found


def pack(indexes: Sequence[int], records: Sequence[bytes]) -> bytes:
    """The pack of these messages, which must fit."""
    count, first = len(indexes), indexes[0]
    distances = [index - first for index in indexes]
    return b"".join((_table(count).pack(count, *distances, *map(len, records)), *records))


def parcels(indexes: Sequence[int], records: Sequence[bytes], size: int, lone: bool) -> list[Parcel]:
    """The records that hold these messages, in order: packs, and messages alone where there is nothing to pack.

    `size`: the bytes of all records; `lone`: whether there are messages among them that must not be packed.
    """
    count = len(indexes)
    is_small = count > 1 and size <= MESSAGE_BYTES_MAX * count
    if not lone and is_small and size + _COUNT_BYTES + _ENTRY_BYTES * count <= PACK_BYTES_MAX:
        return [(indexes[0], pack(indexes, records), True)]
    found: list[Parcel] = []
    start, size = 0, _COUNT_BYTES
    for at in range(count + 1):
        needs = PACK_BYTES_MAX
        if at < count and not records[at][1] and len(records[at]) <= MESSAGE_BYTES_MAX:
            needs = _ENTRY_BYTES + len(records[at])
        if size + needs > PACK_BYTES_MAX:
            if at - start > 1:
                found.append((indexes[start], pack(indexes[start:at], records[start:at]), True))
            elif at > start:
                found.append((indexes[start], records[start], False))
            start, size = at, _COUNT_BYTES
        size += needs
    return found


def messages(key: bytes, record: bytes, start: int = 0, limit: int = COUNT_MAX) -> list[tuple[bytes, bytes]]:
    """(key, record) of up to `limit` messages of a pack from the position `start` on; the key is what a message has
    alone.
    """
    prefix, first = key[: keys.SEQUENCE_PREFIX_BYTES], keys.index_of(key)
    count = record[0] | record[1] << 8
    numbers: tuple[int, ...] = _table(count).unpack_from(record)
    at = _COUNT_BYTES + _ENTRY_BYTES * count
    if start:
        at += sum(numbers[count + 1 : count + 1 + start])
    ends, ends_max = keys.PLACE_ENDS, keys.PLACE_ENDS_MAX
    found: list[tuple[bytes, bytes]] = []
    stop = min(count, start + limit)
    lengths = numbers[count + 1 + start : count + 1 + stop]
    for distance, length in zip(numbers[start + 1 : stop + 1], lengths, strict=True):
        index = first + distance
        end = at + length
        found.append((prefix + (ends[index] if index < ends_max else keys.place_end(index)), record[at:end]))
        at = end
    return found


def whole(key: bytes, record: bytes) -> tuple[int, int, int]:
    """Of a pack: how many messages it has, the bytes of their records, and the index of the last one."""
    count = record[0] | record[1] << 8
    distance = int.from_bytes(record[4 * count - 2 : 4 * count + 2], "little")
    return count, len(record) - _COUNT_BYTES - _ENTRY_BYTES * count, keys.index_of(key) + distance


class Pack:
    """A pack as it lies in the space. Positions count its messages from 0."""

    __slots__ = ("_starts", "count", "distances", "first", "key", "record")

    def __init__(self, key: bytes, record: bytes) -> None:
        self.key = key
        self.record = record
        self.first = keys.index_of(key)
        self.count = count = record[0] | record[1] << 8
        numbers: tuple[int, ...] = _table(count).unpack_from(record)
        self.distances = numbers[1 : count + 1]
        self._starts = list(accumulate(numbers[count + 1 :], initial=_COUNT_BYTES + _ENTRY_BYTES * count))

    @property
    def last(self) -> int:
        """The index of its last message."""
        return self.first + self.distances[-1]

    def index(self, position: int) -> int:
        return self.first + self.distances[position]

    def position(self, index: int) -> int:
        """Where the message of an index is; -1 if it is not in this pack."""
        at = bisect_right(self.distances, index - self.first) - 1
        return at if at >= 0 and self.distances[at] == index - self.first else -1

    def up_to(self, index: int) -> int:
        """How many messages have an index of at most `index`."""
        return bisect_right(self.distances, index - self.first)

    def record_of(self, position: int) -> bytes:
        starts = self._starts
        return self.record[starts[position] : starts[position + 1]]

    def size(self, start: int, end: int) -> int:
        """The bytes of the records of the positions from `start` on and before `end`."""
        return self._starts[end] - self._starts[start]

    def parcels(self, positions: Sequence[int]) -> list[Parcel]:
        """What the messages of these positions go into when this pack is split."""
        found = [self.record_of(at) for at in positions]
        return parcels([self.index(at) for at in positions], found, sum(map(len, found)), lone=False)
