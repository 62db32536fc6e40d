"""Where the messages of the replicas of one node wait, by slot. So that slots can move: see moves.py.

The slot of a message is known once it is decoded, and a million of them can wait. So they are read a part at a time,
outside of write transactions, and what is kept is the place of each: none is decoded twice, and a write transaction
decodes only what has come since. This rests on two rules of a mailbox: a message keeps its place, and what comes lies
behind all that is there. So of what was read, some may be gone by now, and nothing else can have changed.

This is memory of the store process. One that begins anew reads anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from noderuntime.api.keyed.layout import SLOTS
from noderuntime.dataflow.message_slot import message_slot
from noderuntime.dataflow.partition import parse_partition
from noderuntime.space import records, routing
from noderuntime.space.environment import Space
from noderuntime.space.keys import MAILBOX_PREFIX_BYTES, MESSAGE_KEY_BYTES
from noderuntime.space.mailbox import oldest
from noderuntime.space.records import NOTICE_MIN
from noderuntime.space.transactions import ReadTxn

READ_MESSAGES = 5000  # in one part, about: 30 ms
READ_BYTES = 32_000_000  # in one part, about; a value of a megabyte takes as long as many small ones
COUNTS_MIN = 1600  # what a small message counts in bytes: what it costs to move it does not depend on its size

_PLACE_BYTES: Final = MESSAGE_KEY_BYTES - MAILBOX_PREFIX_BYTES


class BySlot:
    """See the head of this module. `owned`: the owners of the slots, as they are known; whoever moves some says so.
    `is_all`: whether the last `read` has come to the end.
    """

    def __init__(self, space: Space, owned: routing.Owners) -> None:
        self.owned = owned
        self.is_all = False
        self._slot_of = slots_of(space, owned.partition)
        self._read: dict[bytes, bytes] = {}  # by mailbox: the key of the last message that was read
        self._places: list[dict[bytes, bytearray]] = [{} for _ in range(SLOTS)]  # by slot and mailbox
        self._bytes: list[dict[bytes, int]] = [{} for _ in range(SLOTS)]
        self._letters: dict[bytes, int] = {}

    def read(self, txn: ReadTxn, mailboxes: Iterable[bytes], is_part: bool = True) -> bool:
        """Read on in these mailboxes, a part or all. Returns `is_all`: whether `txn` has nothing that is not known."""
        self.is_all = False
        count, size = READ_MESSAGES, READ_BYTES
        for mailbox in mailboxes:
            is_end = False
            while not is_end:
                if is_part and (count <= 0 or size <= 0):
                    return False
                limit = max(1, count) if is_part else READ_MESSAGES
                found, is_end = oldest(txn, mailbox, limit, (), self._read.get(mailbox, b""))
                for key, record in found:
                    if record[0] < NOTICE_MIN:
                        self._note(mailbox, key, record)
                        size -= records.message_bytes(record)
                if found:
                    self._read[mailbox] = found[-1][0]
                    count -= len(found)
        self.is_all = True
        return True

    def _note(self, mailbox: bytes, key: bytes, record: bytes) -> None:
        slot = self._slot_of(record)
        places, sizes = self._places[slot], self._bytes[slot]
        places.setdefault(mailbox, bytearray()).extend(key[MAILBOX_PREFIX_BYTES:])
        sizes[mailbox] = sizes.get(mailbox, 0) + max(len(record), COUNTS_MIN)

    def bytes_of(self, slot: int, mailboxes: Collection[bytes]) -> int:
        """The bytes of a slot that were found in these mailboxes, COUNTS_MIN for a small message. What has been handled
        meanwhile is among them.
        """
        return sum(size for mailbox, size in self._bytes[slot].items() if mailbox in mailboxes)

    def places(self, slot: int, mailbox: bytes) -> Sequence[bytes]:
        """Where messages of a slot were found in a mailbox, in order: what follows its prefix in their keys."""
        found = self._places[slot].get(mailbox, bytearray())
        return [bytes(found[at : at + _PLACE_BYTES]) for at in range(0, len(found), _PLACE_BYTES)]

    def of_letter(self, key: bytes, message: bytes) -> int:
        """The slot of a dead letter, by its key and its message."""
        slot = self._letters.get(key)
        if slot is None:
            slot = self._letters[key] = self._slot_of(message)
        return slot


def slots_of(space: Space, partition: str) -> Callable[[bytes], int]:
    """Returns the slot of a message, by its record. `partition`: the `partition_by` of the operator."""
    by = parse_partition(partition)

    def slot_of(record: bytes) -> int:
        _, value, metadata, _, _ = records.decode_message(record, routing.body_of(space, record))
        return message_slot(by, value, metadata)

    return slot_of
