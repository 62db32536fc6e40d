"""Makes entries and diffs from what a store keeps; the same for every kind. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from noderuntime.api.events import utc
from noderuntime.errors import ValueTooLarge
from noderuntime.space import kvs_cells
from noderuntime.space.keys import VALUE_BYTES_MAX, user_key
from noderuntime.space.kvs_cells import ORIGIN_BITS, Cell
from noderuntime.state.base import Diff, Entry


class Kept(Protocol):
    """What a store keeps under a key: its cell, and facts about its last change here."""

    @property
    def cell(self) -> Cell: ...
    @property
    def revision(self) -> int: ...
    @property
    def written_ns(self) -> int: ...
    @property
    def origin(self) -> int: ...


def origin_text(origin: int) -> str:
    """An origin as users see it: "store/node"."""
    return f"{origin >> ORIGIN_BITS:012x}/{origin & ((1 << ORIGIN_BITS) - 1)}"


def entry(
    value: bytes, revision: int, written_ns: int, expires_ns: int, origin: int, now_ns: int, packed: bool
) -> Entry:
    ttl = (expires_ns - now_ns) / 1e9 if expires_ns else None
    return Entry(value, revision, utc(written_ns), ttl, origin_text(origin), packed)


def entry_of(kept: Kept, now_ns: int) -> Entry | None:
    """The entry that readers get; None when no value is in force."""
    value, packed = kvs_cells.shown(kept.cell, now_ns)
    if value is None:
        return None
    ends_ns = kvs_cells.ends_ns(kvs_cells.alive(kept.cell, now_ns))
    return entry(value, kept.revision, kept.written_ns, ends_ns, kept.origin, now_ns, packed)


def diff_of(found: Iterable[tuple[str, Kept]], version: str, now_ns: int) -> Diff:
    """The diff that consists of all in `found`."""
    changed: dict[str, Entry] = {}
    deleted: set[str] = set()
    raw: dict[str, Cell] = {}
    for key, kept in sorted(found, key=lambda pair: pair[0]):
        raw[key] = kvs_cells.expired(kept.cell, now_ns)
        now = entry_of(kept, now_ns)
        if now is None:
            deleted.add(key)
        else:
            changed[key] = now
    return Diff(changed, frozenset(deleted), version, raw)


def different(mine: Mapping[str, Kept], theirs: Mapping[str, Cell], now_ns: int) -> list[tuple[str, Kept]]:
    """The keys whose cells here differ from `theirs`, with what is kept here."""
    return [
        (key, kept)
        for key, kept in mine.items()
        if kvs_cells.expired(kept.cell, now_ns) != kvs_cells.expired(theirs.get(key, kvs_cells.EMPTY), now_ns)
    ]


def check_diff(diff: Diff) -> list[tuple[bytes, Cell]]:
    """The cells of a diff, with encoded keys. Raises TypeError, KeyTooLong, ValueTooLarge."""
    if not isinstance(diff, Diff):
        raise TypeError(f"apply takes a Diff, not {type(diff).__name__}")
    found = []
    for key, cell in diff.cells.items():
        size = len(cell.value or b"") + sum(len(part.amount) for part in cell.parts)
        if size > 2 * VALUE_BYTES_MAX:
            raise ValueTooLarge(f"the value of {key!r}", size, 2 * VALUE_BYTES_MAX)
        found.append((user_key(key), cell))
    return found


def check_expect(expect: object) -> None:
    if expect is not None and (type(expect) is not int or expect < 0):
        raise TypeError(f"expect is a revision (0: no such key) or None, not {expect!r:.40}")
