"""`TableState`: the State contract on top of a store that can read, and change several keys, at one moment.

A kind derives from it and implements five primitives (`_moment`, `_transact`, `_await_change`, `_now_ns`, `_name`);
cells, versions, diffs and watches are the same for all kinds. `sqlite` is the worked example; docs/state.md documents
the primitives, so their names stay.
"""

from __future__ import annotations

import itertools
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final, NamedTuple

import msgpack

from noderuntime.errors import HistoryLost, ProtocolError, RevisionConflict, StoreError, ValueTooLarge
from noderuntime.merges import Merge
from noderuntime.space import kvs_cells
from noderuntime.space.keys import VALUE_BYTES_MAX, user_key
from noderuntime.space.kvs import SharedWrite, check_value, ttl_to_ns
from noderuntime.space.kvs_cells import Cell, contribution
from noderuntime.state import base
from noderuntime.state.base import Diff, Entry, State, Update
from noderuntime.state.diffs import check_diff, check_expect, diff_of, different, entry_of

PURGE_STEP: Final = 200
LOOK_MAX: Final = 1000
ENTRY_BYTES: Final = 60  # of an entry in a page, besides its key and value


class Row(NamedTuple):
    """What a store keeps under a key; `changes_ns`: when the visible value changes by expiry, 0: never."""

    cell: Cell
    revision: int
    written_ns: int
    origin: int
    contribution: int
    changes_ns: int


class Put(NamedTuple):
    """One key of a change, as the store must keep it. `digest`: what it adds to the digest of all contents."""

    key: str
    cell: Cell
    written_ns: int
    contribution: int
    changes_ns: int
    gone: bool
    digest: int


class Once(NamedTuple):
    """Makes a change happen at most once, however often the client repeats it.

    `mark` increases with each change of the client `who`; marks compare as texts. The store remembers the last one for
    an hour, or for ever.
    """

    who: str
    mark: str
    for_ever: bool = False


class Done(NamedTuple):
    """A change that was made, now or by an earlier try: the revision of its last key, and the note kept with it."""

    revision: int
    note: bytes


class Page(NamedTuple):
    """A part of a listing. `more`: keys may follow; `version`: of the contents at the moment of the page."""

    entries: list[tuple[str, Entry]]
    more: bool
    version: str


class Moment:
    """Reads that see the store at one moment."""

    digest: int  # of what is kept; values that have expired but are not purged count as alive
    revision: int

    @abstractmethod
    def row(self, key: str) -> Row | None: ...

    @abstractmethod
    def rows(self) -> Iterator[tuple[str, Row]]:
        """All rows, in order of key as UTF-8."""

    def rows_from(self, key: str) -> Iterator[tuple[str, Row]]:
        """The rows of `key` and of the keys after it, in order. A kind that finds a key without reading all rows
        overrides this: a listing reads its pages with it.
        """
        start = key.encode()
        return itertools.dropwhile(lambda found: found[0].encode() < start, self.rows())

    @abstractmethod
    def due(self, now_ns: int) -> Iterator[tuple[str, Row]]:
        """The rows with something that has expired and is not purged."""

    @abstractmethod
    def find_digest(self, digest: int) -> int | None:
        """The latest revision kept after which the contents had that digest; 0 for "before all of them"."""

    @abstractmethod
    def changed_after(self, revision: int) -> Iterator[tuple[str, Row]]:
        """Rows with a greater revision, in order of revision."""


KEPT_S: Final = 3600  # for how long the store remembers a mark that is not kept for ever

Decide = Callable[[dict[str, Row | None], int, int, int], list[tuple[str, Cell]]]


class TableView(base.View):
    def __init__(self, moment: Moment, now_ns: int) -> None:
        self._moment = moment
        self._now_ns = now_ns

    def get(self, key: str) -> Entry | None:
        user_key(key)
        row = self._moment.row(key)
        return None if row is None else entry_of(row, self._now_ns)

    def get_root(self) -> dict[str, Entry]:
        found = ((key, entry_of(row, self._now_ns)) for key, row in self._moment.rows())
        return {key: entry for key, entry in found if entry is not None}

    def version(self) -> str:
        return kvs_cells.version_text(digest_now(self._moment, self._now_ns))


def digest_now(moment: Moment, now_ns: int) -> int:
    """The digest of what readers see at `now_ns`."""
    digest = moment.digest
    for key, row in moment.due(now_ns):
        digest += contribution(key.encode(), kvs_cells.visible(row.cell, now_ns)) - row.contribution
    return digest & kvs_cells.DIGEST_MASK


class TableState(State):
    """See the head of this module. `origin` of the store, `history` and `ttl_ns` are set by the kind's `init`."""

    history: int
    ttl_ns: int
    origin: int

    def __init__(self) -> None:
        self._closed = False
        self._watches: set[TableWatch] = set()

    # --- what a kind implements -------------------------------------------------------------------------------------

    @abstractmethod
    def _moment(self) -> AbstractContextManager[Moment]:
        """Reads at one moment. Raises StoreError."""

    @abstractmethod
    def _transact(
        self, keys: list[str], decide: Decide, once: Once | None = None, note: Callable[[], bytes] = bytes
    ) -> Done:
        """Change several keys at one moment.

        `decide(rows, digest, stamp, now_ns)` gets the present rows, and the next stamp of the store's clock. It returns
        the cells to keep, each of which gets the next revision, in order. It may be called several times, and may
        raise: then nothing is changed. `puts` converts its answer to what the store keeps.

        `once`: the mark is kept with the change, together with its revision and what `note()` returns after `decide`.
        If the store knows that mark already, nothing is changed, and what was kept with it is returned. If it knows a
        later mark, raise the error that `stale` returns (for a mark kept for ever, return what was kept with the later
        one).
        """

    @abstractmethod
    def _await_change(self, revision: int, timeout_s: float, closed: threading.Event) -> None:
        """Return when there may be a revision above `revision`, the time is over, or `closed` is set."""

    def _wake(self) -> None:
        """Wake the threads in `_await_change`, so that they check `closed`. Needed where they would not check it."""

    @abstractmethod
    def _now_ns(self) -> int:
        """The store's clock, in nanoseconds since the epoch."""

    @abstractmethod
    def _name(self) -> str:
        """The name of the store in error texts."""

    def stale(self, once: Once, later: str) -> ProtocolError:
        """The error for a change whose client has made a later change since."""
        return ProtocolError(f"request {int(once.mark)} of {once.who}: its last is {int(later)}")

    def puts(
        self, rows: Mapping[str, Row | None], made: Iterable[tuple[str, Cell]], now_ns: int
    ) -> tuple[list[Put], int]:
        """What the store must keep, and the latest stamp in it."""
        found: list[Put] = []
        last = 0
        for key, cell in made:
            value = kvs_cells.visible(cell, now_ns)
            if value is not None and len(value) > VALUE_BYTES_MAX:
                raise ValueTooLarge(f"the merged value of {key!r}", len(value), VALUE_BYTES_MAX)
            row = rows[key]
            added = contribution(key.encode(), value)
            latest = kvs_cells.latest(cell)
            last = max(last, latest)
            changes_ns = kvs_cells.changes_ns(kvs_cells.alive(cell, now_ns))
            digest = (added - (row.contribution if row else 0)) & kvs_cells.DIGEST_MASK
            written_ns = max(latest, now_ns) if cell.parts else latest
            found.append(Put(key, cell, written_ns, added, changes_ns, value is None, digest))
        return found, last

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(base.no_more(self._name()))

    # --- reading ----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        with self.snapshot() as view:
            return view.get(key)

    def get_root(self) -> dict[str, Entry]:
        with self.snapshot() as view:
            return view.get_root()

    def page(self, prefix: str, after: str, room: int) -> Page:
        """The entries of keys that start with `prefix` and follow the key `after` ("": from the first), in order of
        key as UTF-8, all at one moment: as many as fill `room` bytes.

        Purges expired keys first: otherwise each page would read all of them again for its version.
        """
        self._check_open()
        self._purge_all()
        with self._moment() as moment:
            now_ns = self._now_ns()
            version = kvs_cells.version_text(digest_now(moment, now_ns))
            found: list[tuple[str, Entry]] = []
            for key, row in moment.rows_from(max(prefix, after, key=str.encode)):
                if not key.startswith(prefix):
                    break
                entry = None if after and key == after else entry_of(row, now_ns)
                if entry is None:
                    continue
                if room < 0:
                    return Page(found, True, version)
                found.append((key, entry))
                room -= len(key.encode()) + len(entry.value) + ENTRY_BYTES
            return Page(found, False, version)

    @contextmanager
    def snapshot(self) -> Iterator[TableView]:
        self._check_open()
        with self._moment() as moment:
            yield TableView(moment, self._now_ns())

    def version(self) -> str:
        """Purges expired keys first, so that `diff` finds the version that is returned here."""
        self._purge_all()
        with self.snapshot() as view:
            return view.version()

    def cells(self) -> dict[str, Cell]:
        self._check_open()
        with self._moment() as moment:
            now_ns = self._now_ns()
            return {key: kvs_cells.expired(row.cell, now_ns) for key, row in moment.rows()}

    def diff(self, since: str | State) -> Diff:
        if not isinstance(since, str | State):
            raise TypeError(f"diff takes a version or another State, not {type(since).__name__}")
        theirs = since.cells() if isinstance(since, State) else None
        self._purge_all()
        with self._moment() as moment:
            now_ns = self._now_ns()
            version = kvs_cells.version_text(digest_now(moment, now_ns))
            if theirs is not None:
                return diff_of(different(dict(moment.rows()), theirs, now_ns), version, now_ns)
            if since == version:
                return Diff({}, frozenset(), version)
            digest = kvs_cells.digest_of(since)
            place = moment.find_digest(digest) if digest >= 0 else None
            if place is None:
                raise HistoryLost(str(since))
            return diff_of(list(moment.changed_after(place)), version, now_ns)

    # --- writing ----------------------------------------------------------------------------------------------------

    def set(self, key: str, value: bytes, ttl: float | None = None, expect: int | None = None) -> int:
        return self.set_once(None, key, value, ttl, expect)

    def set_packed(self, key: str, value: bytes, ttl: float | None = None, expect: int | None = None) -> int:
        return self.set_once(None, key, value, ttl, expect, packed=True)

    def delete(self, key: str) -> bool:
        return self.delete_once(None, key)

    def merge(self, key: str, merge: Merge) -> int:
        return self.merge_once(None, key, merge)

    def apply(self, diff: Diff) -> list[str]:
        return self.apply_once(None, diff)

    def set_once(
        self,
        once: Once | None,
        key: str,
        value: bytes,
        ttl: float | None = None,
        expect: int | None = None,
        packed: bool = False,
    ) -> int:
        """As `set` or `set_packed`, at most once. Like the methods below, raises ProtocolError if `once` is stale."""
        user_key(key)
        kept = check_value(f"the value of {key!r}", value)
        ttl_ns = ttl_to_ns(ttl) or self.ttl_ns
        check_expect(expect)
        self._check_open()
        return self._set(once, key, kept, ttl_ns, expect, packed)

    def delete_once(self, once: Once | None, key: str) -> bool:
        user_key(key)
        self._check_open()
        return self._delete(once, key)

    def merge_once(self, once: Once | None, key: str, merge: Merge) -> int:
        user_key(key)
        self._check_open()
        return self._merge(once, key, merge)

    def apply_once(self, once: Once | None, diff: Diff) -> list[str]:
        check_diff(diff)
        changed: list[str] = []

        def decide(rows: dict[str, Row | None], digest: int, stamp: int, now_ns: int) -> list[tuple[str, Cell]]:
            changed.clear()
            made = []
            for key, cell in diff.cells.items():
                row = rows[key]
                mine = kvs_cells.EMPTY if row is None else row.cell
                joined = kvs_cells.expired(kvs_cells.join(mine, cell), now_ns)
                if joined != mine:
                    made.append((key, joined))
                    changed.append(key)
            return made

        self._check_open()
        if not diff.cells:
            return []
        done = self._transact(list(diff.cells), decide, once, lambda: _packed(sorted(changed)))
        found: list[str] = msgpack.unpackb(done.note)
        return found

    def write_all(self, writes: Sequence[SharedWrite], node: int, once: Once) -> list[str]:
        """Make the writes of one event at one moment, at most once. Returns the reasons for writes left out."""
        origin = self.origin | node
        left_out: list[str] = []

        def decide(rows: dict[str, Row | None], digest: int, stamp: int, now_ns: int) -> list[tuple[str, Cell]]:
            left_out.clear()
            made: dict[str, Cell] = {}
            for item in writes:
                key = item.key.decode()
                row = rows[key]
                cell = made.get(key, kvs_cells.EMPTY if row is None else row.cell)
                try:
                    new = _written(item, key, cell, stamp, origin, now_ns, self.ttl_ns)
                except (TypeError, ValueTooLarge) as error:
                    left_out.append(f"a merge into {key!r} was left out: {error}")
                    new = None
                if new is not None:
                    made[key] = new
                stamp += 2
            return list(made.items())

        self._transact(list({item.key.decode(): None for item in writes}), decide, once)
        return left_out

    # a kind overrides these if it can do them in one step of its own

    def _set(
        self, once: Once | None, key: str, value: bytes, ttl_ns: int, expect: int | None, packed: bool
    ) -> int:
        def decide(rows: dict[str, Row | None], digest: int, stamp: int, now_ns: int) -> list[tuple[str, Cell]]:
            row = rows[key]
            if expect is not None:
                present = row is not None and kvs_cells.visible(row.cell, now_ns) is not None
                revision = row.revision if row is not None and present else 0
                if revision != expect:
                    raise RevisionConflict(key, expect, revision)
            return [(key, kvs_cells.written(stamp, self.origin, value, now_ns + ttl_ns if ttl_ns else 0, packed))]

        return self._transact([key], decide, once).revision

    def _delete(self, once: Once | None, key: str) -> bool:
        present = False

        def decide(rows: dict[str, Row | None], digest: int, stamp: int, now_ns: int) -> list[tuple[str, Cell]]:
            nonlocal present
            row = rows[key]
            present = row is not None and kvs_cells.visible(row.cell, now_ns) is not None
            return [(key, kvs_cells.written(stamp, self.origin, None))] if present else []

        return self._transact([key], decide, once, lambda: b"1" if present else b"").note == b"1"

    def _merge(self, once: Once | None, key: str, merge: Merge) -> int:
        def decide(rows: dict[str, Row | None], digest: int, stamp: int, now_ns: int) -> list[tuple[str, Cell]]:
            row = rows[key]
            cell = kvs_cells.EMPTY if row is None else row.cell
            default_ns = now_ns + self.ttl_ns if self.ttl_ns else 0
            return [(key, kvs_cells.merged(cell, merge, stamp, self.origin, now_ns, default_ns))]

        return self._transact([key], decide, once).revision

    def purge(self, limit: int = 1000) -> int:
        self._check_open()
        due = self._due(limit)
        if not due:
            return 0

        def decide(rows: dict[str, Row | None], digest: int, stamp: int, now_ns: int) -> list[tuple[str, Cell]]:
            return [
                (key, kvs_cells.expired(row.cell, now_ns))
                for key, row in rows.items()
                if row is not None and 0 < row.changes_ns <= now_ns
            ]

        self._transact(due, decide)
        return len(due)

    def _due(self, limit: int) -> list[str]:
        """Up to `limit` keys with something that has expired."""
        with self._moment() as moment:
            return [key for key, _ in itertools.islice(moment.due(self._now_ns()), limit)]

    def _purge_all(self) -> None:
        while self.purge(PURGE_STEP) == PURGE_STEP:
            pass

    def _after(self, revision: int, limit: int) -> tuple[list[tuple[str, Row]], int]:
        """Up to `limit` rows with a greater revision, in order, and the time of that look."""
        with self._moment() as moment:
            return list(itertools.islice(moment.changed_after(revision), limit)), self._now_ns()

    # --- watching ---------------------------------------------------------------------------------------------------

    def watch(self, prefix: str = "") -> base.Watch:
        user_key(prefix)
        self._check_open()
        return TableWatch(self, prefix, self.revision())

    def revision(self) -> int:
        """The revision of the last change."""
        with self._moment() as moment:
            return moment.revision

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for watch in list(self._watches):
                watch.close()


def _packed(keys: list[str]) -> bytes:
    packed: bytes = msgpack.packb(keys)
    return packed


def _written(
    item: SharedWrite, key: str, cell: Cell, stamp: int, origin: int, now_ns: int, default_ns: int
) -> Cell | None:
    """The cell after a write of an event; None: it changes nothing. Raises TypeError, ValueTooLarge."""
    ttl_ns = item.ttl_ns or default_ns
    expires_ns = now_ns + ttl_ns if ttl_ns else 0
    if item.merge is not None:
        new = kvs_cells.merged(cell, item.merge, stamp, origin, now_ns, expires_ns)
        check_value(f"the merged value of {key!r}", kvs_cells.visible(new, now_ns) or b"")
        return new
    if item.value is not None:
        return kvs_cells.written(stamp, origin, item.value, expires_ns, item.packed)
    return None if kvs_cells.visible(cell, now_ns) is None else kvs_cells.written(stamp, origin, None)


class TableWatch(base.Watch):
    """A watch that reads the rows after the last revision it has seen: the newest of each key, deletions included."""

    def __init__(self, state: TableState, prefix: str, revision: int) -> None:
        self._state = state
        self._prefix = prefix
        self._revision = revision
        self._waiting: list[Update] = []
        self._closed = threading.Event()
        self._in_use = threading.Lock()
        state._watches.add(self)

    def next(self, timeout: float | None = None) -> Update | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._in_use:
            while not self._closed.is_set():
                if not self._waiting:
                    before = self._revision
                    self._look()
                    if not self._waiting and self._revision != before:
                        continue  # all of these were other keys: there may be more
                if self._waiting:
                    return self._waiting.pop()
                pause_s = 5.0 if deadline is None else min(5.0, deadline - time.monotonic())
                if pause_s <= 0:
                    return None
                self._state._await_change(self._revision, pause_s, self._closed)
        return None

    def _look(self) -> None:
        rows, now_ns = self._state._after(self._revision, LOOK_MAX)
        found: list[Update] = []
        for key, row in rows:
            self._revision = row.revision
            if key.startswith(self._prefix):
                found.append(Update(key, kvs_cells.visible(row.cell, now_ns), row.revision))
        self._waiting = found[::-1]

    def close(self) -> None:
        self._closed.set()
        self._state._wake()
        with self._in_use:
            self._state._watches.discard(self)
