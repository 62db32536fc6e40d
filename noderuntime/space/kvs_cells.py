"""Cells: what a State keeps under one key, and how the cells of two stores become one.

A cell is a *register* (what was set or deleted last) and *parts* (what each store has merged into it since):

    register = stamp, origin, expiry, value (None: deleted, or never set), whether it is marked as MessagePack
    part     = kind of merge, store, first stamp, number of merges, amount so far, expiry

`join` makes one cell of two. It is commutative, associative and idempotent, so stores that exchange cells in any order,
any number of times, end with the same ones:

1. Of two registers the later stamp wins; ties go to the greater origin, and then to the greater contents.
2. Parts are kept per store, so increments made in two places add up; of two states of one part the longer run wins.
3. A part whose first stamp is not later than the register's is dropped: setting or deleting a key discards earlier
   merges. The first merge of a run decides for the whole run.

Stamps are a hybrid logical clock in nanoseconds: the greater of the store's clock and one more than the last stamp it
has seen, so that a store never orders its own change before one that it knows of, however its clock jumps.
An origin is a store's number (48 random bits) and the number of a node there (16 bits).

Expiry is a view, not a change: `visible` leaves out expired values, and `expired` only removes bytes that no reader can
get any more. It keeps stamps as they are, so a value that expires here does not win over a write to another store.

Rejected: keeping only the result of a merge (two increments at one moment would count as one), a list of all merges
(it grows without limit), and stamping an expiry with its time (it would delete later writes of slower clocks).
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Any, Final, NamedTuple

import msgpack

from noderuntime.merges import Add, Max, Merge, Min, Union, decode

ORIGIN_BITS: Final = 16  # the low bits of an origin, which number a node; the store's number is above them
STORE_BITS: Final = 48
STAMP_MAX: Final = 1 << 62  # accepted from another store; no clock gives a later one
PARTS_MAX: Final = 10_000
DIGEST_BYTES: Final = 16
DIGEST_MASK: Final = (1 << 8 * DIGEST_BYTES) - 1

_ADD, _UNION = 0, 3
_KINDS: Final[dict[type, int]] = {Add: 0, Max: 1, Min: 2, Union: 3}
_MAKERS: Final = (Add, Max, Min, lambda elements: Union(set(elements)))


_SHA1: Final = hashlib.sha1(usedforsecurity=False)  # copied: making a new one costs more than hashing a small value
_LENGTHS: Final = [length.to_bytes(4, "little") for length in range(512)]  # of keys
_SMALL: Final = 4096  # bytes; copying a value up to this size costs less than a second call


class Part(NamedTuple):
    """What one store has merged into a cell. `amount`: all its merges in one, b"" when it has expired."""

    kind: int
    store: int
    first: int
    merges: int
    amount: bytes
    expires_ns: int


class Cell(NamedTuple):
    """See the head of this module. Times in nanoseconds since the epoch; `expires_ns` 0: never."""

    stamp: int
    origin: int
    expires_ns: int
    value: bytes | None
    parts: tuple[Part, ...] = ()
    packed: bool = False


EMPTY: Final = Cell(0, 0, 0, None)


def visible(cell: Cell, now_ns: int) -> bytes | None:
    """The value that readers get, None when there is none in force."""
    return shown(cell, now_ns)[0]


def shown(cell: Cell, now_ns: int) -> tuple[bytes | None, bool]:
    """The value that readers get, None when there is none in force; and whether it is marked as MessagePack.

    The result of merges is marked; a value that was set is marked if its writer says so (`written`).
    """
    over = 0 < cell.expires_ns <= now_ns
    value, packed = (None, False) if over else (cell.value, cell.packed)
    for part in cell.parts:
        if part.amount and not 0 < part.expires_ns <= now_ns:
            try:
                value, packed = _apply(part.kind, part.amount, value), True
            except TypeError:  # merges of two kinds: both stores leave out the same ones, those that do not fit
                continue
    return value, packed


def alive(cell: Cell, now_ns: int) -> list[int]:
    """The expiries (0: never) of the value and the parts in force."""
    found = [part.expires_ns for part in cell.parts if part.amount and not 0 < part.expires_ns <= now_ns]
    if cell.value is not None and not 0 < cell.expires_ns <= now_ns:
        found.append(cell.expires_ns)
    return found


def ends_ns(expiries: list[int]) -> int:
    """When the last of `alive` expires; 0: never."""
    return 0 if 0 in expiries else max(expiries, default=0)


def changes_ns(expiries: list[int]) -> int:
    """When the first of `alive` expires, which changes the visible value; 0: never."""
    return min((expiry for expiry in expiries if expiry), default=0)


def latest(cell: Cell) -> int:
    """The latest stamp in the cell: the clock of a store that has seen this cell must exceed it."""
    return max((cell.stamp, *(part.first for part in cell.parts)))


def kind_of(merge: Merge) -> int | None:
    """The number of a merge's kind; None for one of the user's own."""
    return _KINDS.get(type(merge))


def writer(cell: Cell) -> int:
    """The origin of the latest write in the cell. Of a merge only the store is known."""
    if not cell.parts:
        return cell.origin
    last = max(cell.parts, key=lambda part: (part.first, part.store))
    return last.store << ORIGIN_BITS


def expired(cell: Cell, now_ns: int) -> Cell:
    """The cell without the bytes of values that have expired."""
    if 0 < cell.expires_ns <= now_ns:
        cell = cell._replace(value=None, expires_ns=0, packed=False)
    if any(0 < part.expires_ns <= now_ns and part.amount for part in cell.parts):
        parts = (part._replace(amount=b"") if 0 < part.expires_ns <= now_ns else part for part in cell.parts)
        cell = cell._replace(parts=tuple(parts))
    return cell


def join(one: Cell, other: Cell) -> Cell:
    """The cell that both stores end with."""
    winner = max(one, other, key=_rank)
    if not one.parts and not other.parts:
        return winner
    found: dict[tuple[int, int], Part] = {}
    start = (winner.stamp, winner.origin >> ORIGIN_BITS)
    for part in (*one.parts, *other.parts):
        place = (part.first, part.store)
        if place > start and (place not in found or _part_rank(part) > _part_rank(found[place])):
            found[place] = part
    return winner._replace(parts=tuple(found[place] for place in sorted(found)))


def _rank(cell: Cell) -> tuple[int, int, bool, int, bytes, bool]:
    return cell.stamp, cell.origin, cell.value is None, cell.expires_ns, cell.value or b"", cell.packed


def _part_rank(part: Part) -> tuple[int, bool, int, bytes, int]:
    return part.merges, not part.amount, part.expires_ns, part.amount, part.kind


def written(stamp: int, origin: int, value: bytes | None, expires_ns: int = 0, packed: bool = False) -> Cell:
    """The cell after a key was set, or, without a value, deleted. `packed` marks the value as MessagePack."""
    return Cell(stamp, origin, expires_ns, value, (), packed)


def merged(
    cell: Cell, merge: Merge, stamp: int, origin: int, now_ns: int, default_expires_ns: int = 0
) -> Cell:
    """The cell after a merge. Uses two stamps: `stamp` and the next one. Raises TypeError if the merge does.

    A running time to live continues; a key that the merge creates gets the default one. A merge of another kind than
    those before it writes its result like a set, marked as MessagePack. A user's own merge writes like a set too, but
    unmarked: only the user knows what its bytes are.
    """
    kind = _KINDS.get(type(merge))
    if len(cell.parts) == 1 and cell.value is None:  # the frequent case: all merges are this store's
        (part,) = cell.parts
        if part.kind == kind and part.store == origin >> ORIGIN_BITS and part.amount and not part.expires_ns:
            result = merge.apply(part.amount)
            mine = Part(kind, part.store, part.first, part.merges + 1, result, 0)
            return Cell(cell.stamp, cell.origin, cell.expires_ns, None, (mine,))
    current = visible(cell, now_ns)
    packed = None if kind is None or kind == _UNION else merge.apply(None)
    result = merge.apply(current) if packed is None else _apply(kind or 0, packed, current)
    expires_ns = default_expires_ns if current is None else ends_ns(alive(cell, now_ns))
    if kind is None or any(part.kind != kind for part in cell.parts if part.amount):
        return written(stamp, origin, result, expires_ns, kind is not None)
    if current is None and (cell.parts or cell.value is not None):
        cell = written(stamp, origin, None)
    store = origin >> ORIGIN_BITS
    parts = list(cell.parts)
    place = _own(parts, store, now_ns)
    if place is None:
        place = len(parts)
        parts.append(Part(kind, store, stamp + 1, 0, b"", expires_ns))
    part = parts[place]
    try:
        amount = merge.apply(part.amount or None) if packed is None else _apply(kind, packed, part.amount or None)
    except TypeError:  # the sum of this store's merges no longer fits, though the result does
        return written(stamp, origin, result, expires_ns, packed=True)
    parts[place] = Part(part.kind, store, part.first, part.merges + 1, amount, part.expires_ns)
    if len(parts) > 1:
        parts.sort(key=lambda part: (part.first, part.store))
    return Cell(cell.stamp, cell.origin, cell.expires_ns, cell.value, tuple(parts), cell.packed)


def _own(parts: list[Part], store: int, now_ns: int) -> int | None:
    for place, part in enumerate(parts):
        if part.store == store and part.amount and not 0 < part.expires_ns <= now_ns:
            return place
    return None


def _apply(kind: int, amount: bytes, current: bytes | None) -> bytes:
    """The result of merging that amount into `current`. Raises TypeError if the merge does."""
    if kind == _ADD and current is not None:  # the frequent case, shortened
        one, other = msgpack.unpackb(amount), decode(current)
        if type(one) is int and type(other) is int and -(2**63) <= one + other < 2**64:
            packed: bytes = msgpack.packb(one + other)
            return packed
    return amount if current is None else _as_merge(kind, amount).apply(current)


def _as_merge(kind: int, amount: bytes) -> Merge:
    merge: Merge = _MAKERS[kind](decode(amount))
    return merge


# --- as bytes -------------------------------------------------------------------------------------------------------


def pack(cell: Cell) -> bytes:
    """The cell as MessagePack: [stamp, origin, expiry, value, [[kind, store, first, merges, amount, expiry], ...]],
    then `true` if the value is marked as MessagePack."""
    packed: bytes = msgpack.packb(cell if cell.packed else cell[:5])
    return packed


def load(packed: bytes) -> Cell:
    """The cell that `pack` made, unchecked: for cells that this store has kept itself."""
    stamp, origin, expires_ns, value, parts, *mark = msgpack.unpackb(packed)
    return Cell(stamp, origin, expires_ns, value, tuple([Part(*part) for part in parts]), bool(mark))


def unpack(packed: bytes) -> Cell:
    """The cell that `pack` made. Raises ValueError for anything else: it may come from another host."""
    try:
        stamp, origin, expires_ns, value, parts, *mark = msgpack.unpackb(packed, raw=False)
        cell = Cell(stamp, origin, expires_ns, value, tuple(Part(*part) for part in parts), bool(mark))
        if mark and (len(mark) > 1 or mark[0] is not True):
            raise ValueError("of another shape")
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError):
        raise ValueError("not a cell") from None
    _check(cell)
    return cell


def _check(cell: Cell) -> None:
    good = (
        _whole(cell.stamp, STAMP_MAX)
        and _whole(cell.origin, 1 << 64)
        and _whole(cell.expires_ns, STAMP_MAX)
        and (type(cell.value) is bytes or (cell.value is None and not cell.packed))
        and len(cell.parts) <= PARTS_MAX
        and all(_is_part(part) for part in cell.parts)
        and all((one.first, one.store) < (two.first, two.store) for one, two in itertools.pairwise(cell.parts))
        and all((part.first, part.store) > (cell.stamp, cell.origin >> ORIGIN_BITS) for part in cell.parts)
    )
    if not good:
        raise ValueError("a cell with fields that no cell has")


def _whole(number: Any, end: int) -> bool:
    return type(number) is int and 0 <= number < end


def _is_part(part: Part) -> bool:
    if not (
        _whole(part.kind, len(_MAKERS))
        and _whole(part.store, 1 << STORE_BITS)
        and _whole(part.first, STAMP_MAX)
        and _whole(part.merges, 1 << 63)
        and _whole(part.expires_ns, STAMP_MAX)
        and type(part.amount) is bytes
    ):
        return False
    try:
        return not part.amount or _as_merge(part.kind, part.amount) is not None
    except TypeError:
        return False


# --- the digest of a store's contents -------------------------------------------------------------------------------


def contribution(key: bytes, value: bytes | None) -> int:
    """What one key adds to the digest of a store's contents; without a value, what a deletion in force adds.

    The digest is the sum of all contributions modulo 2**128: it does not depend on the order of writing, and a change
    of one key updates it in constant time. SHA-1 because it is fast, and the only hash that a Redis server's scripts
    have. It tells equal from different contents; it does not protect against forged ones.
    """
    digest = _SHA1.copy()
    if value is None:
        digest.update(_LENGTHS[len(key)] + key)
    elif len(value) < _SMALL:
        digest.update(b"".join((_LENGTHS[len(key)], key, b"=", value)))
    else:
        digest.update(b"".join((_LENGTHS[len(key)], key, b"=")))
        digest.update(value)
    return int.from_bytes(digest.digest()[:DIGEST_BYTES], "little")


def version_text(digest: int) -> str:
    """A digest in the form that users get."""
    return digest.to_bytes(DIGEST_BYTES, "big").hex()


def digest_of(version: object) -> int:
    """The digest in a text of `version_text`; -1, which no store has, for anything that is not a version."""
    try:
        return int(version, 16) if isinstance(version, str) and len(version) == 2 * DIGEST_BYTES else -1
    except ValueError:
        return -1
