"""The kind `sqlite`: a shared KVS in a file, for state that outlives runs and is shared by some processes of one host.

It is also the worked example of a kind, for packages that bring their own. Its pyproject says

    [project.entry-points."noderuntime.state"]
    sqlite = "noderuntime.state.sqlite:SqliteState"

and a dataflow file names it: `state: {kind: sqlite, path: shared.db}`. Tables: `cells`, one row per key; `log`, one
per change, with the digest of all contents after it; `done`, the last change of each client that numbers its changes;
`head`, one row.

Writers hold the file's write lock for the whole of a change. Readers read one moment in WAL mode and block no other
process. A watch polls the file for changes, 50 times a second: SQLite has no notification across processes.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from noderuntime.errors import StoreError
from noderuntime.space import kvs_cells
from noderuntime.space.kvs import ttl_to_ns
from noderuntime.space.kvs_cells import DIGEST_BYTES, DIGEST_MASK, ORIGIN_BITS, STORE_BITS
from noderuntime.state import base
from noderuntime.state.common import KEPT_S, Decide, Done, Moment, Once, Row, TableState
from noderuntime.state.fields import Fields

LOCK_S: Final = 30.0
LOOK_S: Final = 0.02
NEVER_NS: Final = (1 << 63) - 1

_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS cells (
        key BLOB PRIMARY KEY, cell BLOB NOT NULL, revision INTEGER NOT NULL UNIQUE, written_ns INTEGER NOT NULL,
        contribution BLOB NOT NULL, changes_ns INTEGER NOT NULL, gone INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS due ON cells (changes_ns) WHERE changes_ns > 0;
    CREATE TABLE IF NOT EXISTS log (revision INTEGER PRIMARY KEY, key BLOB NOT NULL, digest BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS done (
        who TEXT PRIMARY KEY, mark TEXT NOT NULL, revision INTEGER NOT NULL, note BLOB NOT NULL,
        until_ns INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS head (
        one INTEGER PRIMARY KEY CHECK (one = 1), store INTEGER NOT NULL, digest BLOB NOT NULL, floor BLOB NOT NULL,
        floor_revision INTEGER NOT NULL, stamp INTEGER NOT NULL, revision INTEGER NOT NULL
    );
"""
_ROW: Final = "cell, revision, written_ns, contribution, changes_ns"


class SqliteState(TableState):
    """Fields: `path`; `history` (changes kept), `ttl` (seconds, the default for all keys)."""

    def __init__(self, path: str, history: int, ttl_ns: int) -> None:
        super().__init__()
        self.path = path
        self.history = history
        self.ttl_ns = ttl_ns
        self._own = threading.local()  # connections belong to one thread each
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    @classmethod
    def open(cls, config: Mapping[str, Any]) -> Self:
        return cls(*cls.read_config(config))

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> tuple[str, int, int]:
        fields = Fields("sqlite", config)
        path = fields.text("path")
        history = fields.whole("history", base.HISTORY)
        ttl_ns = ttl_to_ns(fields.number("ttl"))
        fields.end()
        return path, history, ttl_ns

    def init(self) -> None:
        self._check_open()
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            connection = self._connection()
            connection.executescript("BEGIN IMMEDIATE;" + _SCHEMA + "COMMIT;")
            connection.execute(
                "INSERT OR IGNORE INTO head VALUES (1, ?, ?, ?, 0, 0, 0)",
                (secrets.randbits(STORE_BITS), bytes(DIGEST_BYTES), bytes(DIGEST_BYTES)),
            )
            (store,) = connection.execute("SELECT store FROM head").fetchone()
        self.origin = store << ORIGIN_BITS

    def close(self) -> None:
        super().close()
        with self._lock:
            while self._connections:
                self._connections.pop().close()

    def _name(self) -> str:
        return f"the SQLite store {self.path}"

    def _now_ns(self) -> int:
        return time.time_ns()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, timeout=LOCK_S, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            with self._lock:
                if self._closed:
                    connection.close()
                    self._check_open()
                self._connections.append(connection)
            self._own.connection = connection
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise StoreError(f"{self._name()}: {error}") from error

    # --- the primitives ---------------------------------------------------------------------------------------------

    @contextmanager
    def _moment(self) -> Iterator[Moment]:
        with self._errors():
            connection = self._connection()
            nested = connection.in_transaction  # a snapshot is open in this thread: the same moment
            if not nested:
                connection.execute("BEGIN")
            try:
                yield _Moment(connection)
            finally:
                if not nested:
                    connection.execute("ROLLBACK")

    def _transact(
        self, keys: list[str], decide: Decide, once: Once | None = None, note: Callable[[], bytes] = bytes
    ) -> Done:
        with self._errors():
            connection = self._connection()
            if connection.in_transaction:
                raise StoreError(f"{self._name()}: nothing can be written inside `with snapshot()`")
            connection.execute("BEGIN IMMEDIATE")
            try:
                done = None if once is None else self._known(connection, once)
                if done is None:
                    done = Done(self._change(connection, keys, decide), note())
                    if once is not None:
                        now_ns = self._now_ns()
                        until_ns = NEVER_NS if once.for_ever else now_ns + KEPT_S * 10**9
                        connection.execute("DELETE FROM done WHERE until_ns < ?", (now_ns,))
                        row = (once.who, once.mark, *done, until_ns)
                        connection.execute("REPLACE INTO done VALUES (?, ?, ?, ?, ?)", row)
                connection.execute("COMMIT")
                return done
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def _known(self, connection: sqlite3.Connection, once: Once) -> Done | None:
        """What was kept with that change, if it was made before. Raises ProtocolError if it is stale."""
        asked = "SELECT mark, revision, note FROM done WHERE who = ?"
        mark, *done = connection.execute(asked, (once.who,)).fetchone() or ("", 0, b"")
        if mark > once.mark and not once.for_ever:
            raise self.stale(once, mark)
        return Done(*done) if mark >= once.mark else None

    def _change(self, connection: sqlite3.Connection, keys: list[str], decide: Decide) -> int:
        moment = _Moment(connection)
        now_ns = self._now_ns()
        digest, stamp, revision = moment.digest, max(moment.stamp + 1, now_ns), moment.revision
        rows = {key: moment.row(key) for key in keys}
        found, latest = self.puts(rows, decide(rows, digest, stamp, now_ns), now_ns)
        if not found:
            return revision
        for put in found:
            revision += 1
            digest = (digest + put.digest) & DIGEST_MASK
            connection.execute(
                "REPLACE INTO cells VALUES (?, ?, ?, ?, ?, ?, ?)",
                (put.key.encode(), kvs_cells.pack(put.cell), revision, put.written_ns, _packed(put.contribution),
                 put.changes_ns, put.gone),
            )  # fmt: skip
            connection.execute("INSERT INTO log VALUES (?, ?, ?)", (revision, put.key.encode(), _packed(digest)))
        connection.execute(
            "UPDATE head SET digest = ?, stamp = ?, revision = ?",
            (_packed(digest), max(latest, moment.stamp), revision),
        )
        self._trim(connection, revision, digest)
        return revision

    def _trim(self, connection: sqlite3.Connection, revision: int, digest: int) -> None:
        """Remove the changes that are older than `history`, with the tombstones of their deletions."""
        end = revision - self.history
        last = connection.execute(
            "SELECT revision, digest FROM log WHERE revision <= ? ORDER BY revision DESC LIMIT 1", (end,)
        ).fetchone()
        if last is None:
            return
        gone = connection.execute("SELECT contribution FROM cells WHERE gone AND revision <= ?", (end,)).fetchall()
        if gone:
            for (contributed,) in gone:
                digest -= int.from_bytes(contributed, "little")
            digest &= DIGEST_MASK
            connection.execute("DELETE FROM cells WHERE gone AND revision <= ?", (end,))
            connection.execute("UPDATE head SET digest = ?", (_packed(digest),))
            connection.execute("UPDATE log SET digest = ? WHERE revision = ?", (_packed(digest), revision))
        connection.execute("DELETE FROM log WHERE revision <= ?", (end,))
        floor = _packed(digest) if last[0] == revision else last[1]
        connection.execute("UPDATE head SET floor = ?, floor_revision = ?", (floor, last[0]))

    def _await_change(self, revision: int, timeout_s: float, closed: threading.Event) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not closed.wait(LOOK_S):
            with self._moment() as moment:
                if moment.revision > revision:
                    return


class _Moment(Moment):
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        digest, floor, self._floor_revision, self.stamp, self.revision = connection.execute(
            "SELECT digest, floor, floor_revision, stamp, revision FROM head"
        ).fetchone()
        self.digest = int.from_bytes(digest, "little")
        self._floor: bytes = floor

    def row(self, key: str) -> Row | None:
        found = self._connection.execute(f"SELECT {_ROW} FROM cells WHERE key = ?", (key.encode(),)).fetchone()
        return None if found is None else _row(found)

    def rows(self) -> Iterator[tuple[str, Row]]:
        return self._select("ORDER BY key", ())

    def rows_from(self, key: str) -> Iterator[tuple[str, Row]]:
        return self._select("WHERE key >= ? ORDER BY key", (key.encode(),))

    def due(self, now_ns: int) -> Iterator[tuple[str, Row]]:
        return self._select("WHERE changes_ns > 0 AND changes_ns <= ? ORDER BY changes_ns", (now_ns,))

    def changed_after(self, revision: int) -> Iterator[tuple[str, Row]]:
        return self._select("WHERE revision > ? ORDER BY revision", (revision,))

    def find_digest(self, digest: int) -> int | None:
        packed = _packed(digest)
        (found,) = self._connection.execute("SELECT max(revision) FROM log WHERE digest = ?", (packed,)).fetchone()
        if found is None and packed == self._floor:
            return int(self._floor_revision)
        return None if found is None else int(found)

    def _select(self, rest: str, arguments: tuple[Any, ...]) -> Iterator[tuple[str, Row]]:
        for key, *found in self._connection.execute(f"SELECT key, {_ROW} FROM cells {rest}", arguments):
            yield key.decode(), _row(found)


def _row(found: Any) -> Row:
    packed, revision, written_ns, contributed, changes_ns = found
    cell = kvs_cells.load(packed)
    return Row(cell, revision, written_ns, kvs_cells.writer(cell), int.from_bytes(contributed, "little"), changes_ns)


def _packed(digest: int) -> bytes:
    return digest.to_bytes(DIGEST_BYTES, "little")
