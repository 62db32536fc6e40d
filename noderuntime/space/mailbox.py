"""Mailboxes: the only module that reads, finds and removes messages by their place.

A mailbox is one input of a node. Its records are messages and notices, each alone under its key, and packs (packs.py),
each of which holds several messages of one commit. All other modules see messages alone: `Message` is the key that a
message has, or would have if it were alone, and its record. node/inbox.py turns messages into events.

Messages are mostly removed from the front. Then a pack stays as it is, and the mark in the queue record (records.py)
says how far it is taken; with its last message it is deleted. One mark is enough, because a mailbox is read in order.
What is removed from elsewhere (acknowledged out of order by threads, buried as a dead letter, dropped in front of a
pack that has the mark) splits a pack: it is deleted, and what remains of it is put under keys of its own, each part
under the key of *its* first message. The pack's own first message then lies alone, under its key without PACK_MARK. So
no record of a mailbox is ever written again with other content under its key, which incremental snapshots rely on.

The mark and the counts stand in a list that the caller has read (`queue_of`) and writes back. Functions that take
`queue` change it.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Sequence
from operator import itemgetter

from noderuntime.space import keys, packs, records
from noderuntime.space.environment import Space, scan
from noderuntime.space.keys import MAILBOX_PREFIX_BYTES, MESSAGE_KEY_BYTES, PACK_KEY_BYTES, SEQUENCE_PREFIX_BYTES
from noderuntime.space.packs import COUNT_MAX, Pack
from noderuntime.space.records import BYTES, DROPPED, MARK_INDEX, MARK_SEQUENCE, NOTICE_MIN, QUEUED
from noderuntime.space.segments import adjust
from noderuntime.space.transactions import ReadCursor, ReadTxn, WriteCursor, WriteTxn

Message = tuple[bytes, bytes]  # key, record

BATCH_BYTES_MAX = 1 << 20
PAST = b"\xff"  # behind a message's key: after the pack that begins with it, before the next message

_key_of = itemgetter(0)


def by_place(message: Message) -> bytes:
    """What orders the messages of several inputs: in the order in which they were sent."""
    return message[0][MAILBOX_PREFIX_BYTES:]


# --- reading --------------------------------------------------------------------------------------------------------


def next_messages(
    space: Space, mailboxes: Sequence[bytes], limit: int, taken: Collection[bytes] = ()
) -> list[Message]:
    """Up to `limit` messages, oldest first, in order of sequence and index; copies, at most about BATCH_BYTES_MAX.

    `mailboxes` are the prefixes of the inputs (keys.mailbox). Messages stay in the space until they are acknowledged;
    messages whose keys are in `taken` are skipped.
    """
    found: list[Message] = []
    of_pack = limit + len(taken)  # what one process takes message by message is not unpacked again as a whole each time
    with space.read() as txn:
        for mailbox in mailboxes:
            found += oldest(txn, mailbox, limit, taken, of_pack=of_pack)[0]
    if len(mailboxes) > 1:
        found.sort(key=by_place)
    del found[limit:]
    return found


def oldest(
    txn: ReadTxn, mailbox: bytes, limit: int, taken: Container[bytes], after: bytes = b"", of_pack: int = COUNT_MAX
) -> tuple[list[Message], bool]:
    """The oldest messages of one input behind the key `after`, and whether these are certainly all.

    `of_pack`: how many to read of one pack at most, also beyond `limit`; by default all of it.
    """
    found: list[Message] = []
    cursor = txn.cursor()
    if not cursor.set_range(after + PAST if after else mailbox):
        return found, True
    size = 0
    queue: list[int] | None = None
    for key, record in cursor.iternext():
        if not key.startswith(mailbox):
            break
        if len(key) == PACK_KEY_BYTES:
            if queue is None:
                queue = queue_of(txn, keys.queue_of(mailbox))
            held = packs.messages(key, record, _gone(key, record, queue), of_pack)
            if taken:
                held = [message for message in held if message[0] not in taken]
            if not held:
                continue
            found += held
        elif not taken or key not in taken:
            found.append((key, record))
        else:
            continue
        size += len(record)
        if len(found) >= limit or size > BATCH_BYTES_MAX:
            return found, False
    return found, True


def messages(txn: ReadTxn, mailbox: bytes) -> Iterator[Message]:
    """All messages and notices of one input, in order."""
    queue: list[int] | None = None
    for key, record in scan(txn, mailbox):
        if len(key) == PACK_KEY_BYTES:
            if queue is None:
                queue = queue_of(txn, keys.queue_of(mailbox))
            yield from packs.messages(key, record, _gone(key, record, queue))
        else:
            yield key, record


def find(txn: ReadTxn, key: bytes) -> bytes | None:
    """The record of the message or notice under `key`; None when there is none, or no longer."""
    cursor = txn.cursor()
    found = _seek(cursor, key)
    if found == key or not found:
        return cursor.value() if found else None
    pack = Pack(found, cursor.value())
    position = pack.position(keys.index_of(key))
    queue = queue_of(txn, keys.queue_of(key[:MAILBOX_PREFIX_BYTES]))
    if position < 0 or position < _gone(found, pack.record, queue):
        return None
    return pack.record_of(position)


def present(txn: ReadTxn, mailbox: bytes, places: Sequence[bytes]) -> list[Message]:
    """Those of the messages at these places of one input, which are in order, that are still there."""
    found: list[Message] = []
    cursor = txn.cursor()
    queue = queue_of(txn, keys.queue_of(mailbox))
    pack: Pack | None = None
    gone = last = 0
    for place in places:
        key = mailbox + place
        index = keys.index_of(key)
        if pack is None or index > last or key[:SEQUENCE_PREFIX_BYTES] != pack.key[:SEQUENCE_PREFIX_BYTES]:
            pack = None
            at = _seek(cursor, key)
            if at == key:
                found.append((key, cursor.value()))
            if at == key or not at:
                continue
            pack = Pack(at, cursor.value())
            gone, last = _gone(pack.key, pack.record, queue), pack.last
        position = pack.position(index)
        if position >= gone:
            found.append((key, pack.record_of(position)))
    return found


def queue_of(txn: ReadTxn, key: bytes) -> list[int]:
    """The queue record under `key` (keys.queue), as a list to change."""
    return records.parse_queue(txn.get(key))


def is_low(queue: Sequence[int], size: int, size_bytes: int) -> bool:
    """Whether a queue has drained to half its limits: only then is a sender that waits for room rung.

    Ringing at every message below the limit would wake the sender for each single place that becomes free.
    """
    return queue[QUEUED] <= size // 2 and queue[BYTES] <= size_bytes // 2


def _gone(key: bytes, record: bytes, queue: Sequence[int]) -> int:
    """How many messages from the front of a pack are taken already."""
    if not queue[MARK_SEQUENCE] or queue[MARK_SEQUENCE] != keys.sequence_of(key):
        return 0
    pack = Pack(key, record)
    gone = pack.up_to(queue[MARK_INDEX])
    return gone if gone < pack.count else 0  # a pack that is taken is deleted: the mark is in a later one


def _seek(cursor: ReadCursor, key: bytes) -> bytes:
    """Move to the record under `key`, or to the only pack that can hold that message. Returns its key; b"": none."""
    if cursor.set_range(key):
        found = cursor.key()
        if found[:MESSAGE_KEY_BYTES] == key:
            return found
        moved = cursor.prev()
    else:
        moved = cursor.last()
    if not moved:
        return b""
    found = cursor.key()
    is_right = len(found) == PACK_KEY_BYTES and found[:SEQUENCE_PREFIX_BYTES] == key[:SEQUENCE_PREFIX_BYTES]
    return found if is_right else b""


# --- removing -------------------------------------------------------------------------------------------------------


class Removal:
    """Messages of one input to be removed, put in order before the write lock is taken.

    `count`: how many there are, notices not counted.
    """

    __slots__ = ("count", "is_strict", "messages")

    def __init__(self, messages: list[Message]) -> None:
        self.is_strict = True  # in order, and none comes twice
        count, last = 0, b""
        for key, record in messages:
            if key <= last:
                self.is_strict = False
            last = key
            if record[0] < NOTICE_MIN:
                count += 1
        self.count = count
        if not self.is_strict:
            messages = sorted(messages, key=_key_of)
            self.is_strict = len({key for key, _ in messages}) == len(messages)
        self.messages = messages


def remove(
    txn: WriteTxn, mailbox: bytes, queue: list[int], removal: Removal, releases: bool = True, moves: bool = False
) -> tuple[int, int]:
    """Remove messages of one input. Returns how many were still there, notices not counted, and their bytes.

    `releases`: whether their references to segments go with them; `moves`: they are somewhere else from now on, and
    nobody will ask for them here any more. The caller counts them out of `queue`.
    """
    wanted, end = removal.messages, len(removal.messages)
    freed = freed_bytes = at = 0
    cursor = txn.cursor()
    cursor.set_range(mailbox)  # mostly the oldest ones are removed
    at_key, delete = cursor.key, cursor.delete
    while at < end:
        key, record = wanted[at]
        found = at_key()
        if found == key:
            delete()
            at += 1
            if record[0] < NOTICE_MIN:
                freed += 1
                if not record[1]:
                    freed_bytes += len(record)
                else:
                    freed_bytes += _release(txn, record) if releases else records.message_bytes(record)
            continue
        if len(found) != PACK_KEY_BYTES or found[:SEQUENCE_PREFIX_BYTES] != key[:SEQUENCE_PREFIX_BYTES]:
            found = _seek(cursor, key)
            if found == key:
                continue
            if not found:
                at += 1
                continue
        value = cursor.value()
        count, size, last = packs.whole(found, value)
        if (
            count <= end - at
            and removal.is_strict
            and key == found[:MESSAGE_KEY_BYTES]
            and wanted[at + count - 1][0] == key[:SEQUENCE_PREFIX_BYTES] + keys.place_end(last)
            and not _gone(found, value, queue)
        ):  # all of it: see _is_run
            cursor.delete()
            freed += count
            freed_bytes += size
            at += count
            continue
        pack = Pack(found, value)
        index = keys.index_of(key)
        if not pack.first <= index <= pack.last:
            found = _seek(cursor, key)
            if found == key:
                continue
            if found:
                pack = Pack(found, cursor.value())
            if not found or index > pack.last:
                at += 1
                continue
        start = _gone(pack.key, pack.record, queue)
        count = min(pack.count - start, end - at)
        if removal.is_strict and pack.index(start) == index and _is_run(pack, start, wanted, at, count):
            freed += count
            freed_bytes += pack.size(start, start + count)
            _take_front(txn, cursor, queue, pack, start, count)
            at += count
            continue
        gone = set()
        while at < end and wanted[at][0][:SEQUENCE_PREFIX_BYTES] == found[:SEQUENCE_PREFIX_BYTES]:
            index = keys.index_of(wanted[at][0])
            if index > pack.last:
                break
            position = pack.position(index)
            if position >= start and position not in gone:
                gone.add(position)
                freed += 1
                freed_bytes += pack.size(position, position + 1)
            at += 1
        if gone:
            _split(txn, cursor, queue, pack, start, gone, moves)
    return freed, freed_bytes


def _is_run(pack: Pack, start: int, wanted: Sequence[Message], at: int, count: int) -> bool:
    """Whether `count` of the wanted messages, which are in order, are those of a pack from `start` on.

    The first one is. Since none comes twice, and all messages between two of a pack are in that pack, it is enough to
    look at the last one.
    """
    last = wanted[at + count - 1][0]
    prefix = last[:SEQUENCE_PREFIX_BYTES]
    return pack.key[:SEQUENCE_PREFIX_BYTES] == prefix and keys.index_of(last) == pack.index(start + count - 1)


def _release(txn: WriteTxn, record: bytes) -> int:
    """A message is removed that lay alone: release its segment, if any. Returns the bytes that its queue counted."""
    if not record[1]:
        return len(record)
    adjust(txn, records.reference_of(record), -1)
    return records.message_bytes(record)


def _take_front(txn: WriteTxn, cursor: WriteCursor, queue: list[int], pack: Pack, start: int, count: int) -> None:
    """Take `count` messages of a pack from `start` on, which are its oldest."""
    end = start + count
    if end == pack.count:
        _delete(cursor, queue, start)
    elif start or not queue[MARK_SEQUENCE]:
        queue[MARK_SEQUENCE] = keys.sequence_of(pack.key)
        queue[MARK_INDEX] = pack.index(end - 1)
    else:  # another pack has the mark
        _delete(cursor, queue, start)
        _put_parts(txn, pack, [range(end, pack.count)])


def _split(
    txn: WriteTxn, cursor: WriteCursor, queue: list[int], pack: Pack, start: int, gone: Collection[int], moves: bool
) -> None:
    """Remove the messages of a pack that are at the positions `gone`; those before `start` are taken already.

    What remains is one pack if those that are gone have moved, else one for each run: `remove` takes a pack as a whole
    by its first message, its last one, and how many they are, and may be asked once more for one that is gone.
    """
    left = [at for at in range(start, pack.count) if at not in gone]
    if not left or len(left) == pack.count - left[0]:  # its oldest ones are gone after all
        _take_front(txn, cursor, queue, pack, start, len(gone))
        return
    _delete(cursor, queue, start)
    parts = [left[:1]]
    for at in left[1:]:
        if moves or parts[-1][-1] == at - 1:
            parts[-1].append(at)
        else:
            parts.append([at])
    _put_parts(txn, pack, parts)


def _delete(cursor: WriteCursor, queue: list[int], start: int) -> None:
    """Delete the pack at the cursor; `start` of its messages were taken before, so it had the mark."""
    cursor.delete()
    if start:
        queue[MARK_SEQUENCE] = queue[MARK_INDEX] = 0


def _put_parts(txn: WriteTxn, pack: Pack, parts: Sequence[Sequence[int]]) -> None:
    """Put what remains of a pack that was deleted. Its first message must not lie in a pack again: see above."""
    prefix = pack.key[:SEQUENCE_PREFIX_BYTES]
    for part in parts:
        if part[0] == 0:
            txn.put(prefix + keys.place_end(pack.first), pack.record_of(0))
            part = part[1:]
        for first, record, is_pack in pack.parcels(part):
            txn.put(prefix + keys.place_end(first) + (keys.PACK_MARK if is_pack else b""), record)


def drop_oldest(txn: WriteTxn, mailbox: bytes, queue: list[int], size: int, size_bytes: int, keep: int) -> None:
    """Drop from the front of one input until it is within its limits again, but always keep `keep` messages.

    Notices are not dropped.
    """
    cursor = txn.cursor()
    alive = _exceeds(queue, size, size_bytes, keep) and cursor.set_range(mailbox)
    while alive and _exceeds(queue, size, size_bytes, keep):
        key = cursor.key()
        if not key.startswith(mailbox):
            return
        if len(key) == PACK_KEY_BYTES:
            pack = Pack(key, cursor.value())
            start = end = _gone(pack.key, pack.record, queue)
            while end < pack.count and _exceeds(queue, size, size_bytes, keep):
                _count_dropped(queue, pack.size(end, end + 1))
                end += 1
            _take_front(txn, cursor, queue, pack, start, end - start)
            alive = end == pack.count and bool(cursor.key())
            continue
        record = cursor.value()
        if record[0] >= NOTICE_MIN:
            alive = cursor.next()
            continue
        _count_dropped(queue, _release(txn, record))
        alive = cursor.delete()


def drop_ordinary(txn: WriteTxn, mailbox: bytes, queue: list[int], size: int, size_bytes: int, keep: int) -> None:
    """As `drop_oldest`, but only messages that are not spared (see records.py). It may remain above its limits."""
    after = list(queue)
    found: list[Message] = []
    for key, record in messages(txn, mailbox):
        if not _exceeds(after, size, size_bytes, keep):
            break
        if record[0] < NOTICE_MIN and not records.is_spared(record):
            found.append((key, record))
            _count_dropped(after, records.message_bytes(record))
    freed, freed_bytes = remove(txn, mailbox, queue, Removal(found))
    queue[QUEUED] -= freed
    queue[BYTES] -= freed_bytes
    queue[DROPPED] += freed


def _exceeds(queue: Sequence[int], size: int, size_bytes: int, keep: int) -> bool:
    return queue[QUEUED] > size or (queue[BYTES] > size_bytes and queue[QUEUED] > keep)


def _count_dropped(queue: list[int], size: int) -> None:
    queue[QUEUED] -= 1
    queue[BYTES] -= size
    queue[DROPPED] += 1


def empty(txn: WriteTxn, mailbox: bytes, queue: list[int]) -> int:
    """Delete all messages of one input, with their attempts. Returns how many were not notices."""
    discarded = 0
    cursor = txn.cursor()
    alive = cursor.set_range(mailbox)
    while alive and cursor.key().startswith(mailbox):
        key, record = cursor.item()
        if len(key) == PACK_KEY_BYTES:
            pack = Pack(key, record)
            discarded += pack.count - _gone(pack.key, pack.record, queue)
        elif record[0] < NOTICE_MIN:
            discarded += 1
            _release(txn, record)
        alive = cursor.delete()
    attempts = keys.attempts(mailbox)
    alive = cursor.set_range(attempts)
    while alive and cursor.key().startswith(attempts):
        alive = cursor.delete()
    queue[QUEUED] = queue[BYTES] = queue[MARK_SEQUENCE] = queue[MARK_INDEX] = 0
    return discarded


def remove_notices(txn: WriteTxn, mailbox: bytes, kinds: Collection[int]) -> None:
    """Remove the notices of these kinds from one input."""
    for key in [key for key, record in scan(txn, mailbox) if len(key) == MESSAGE_KEY_BYTES and record[0] in kinds]:
        txn.delete(key)
