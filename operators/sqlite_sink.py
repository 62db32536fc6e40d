"""SQLite sink: keeps each message as a row, exactly once.

    inputs    any
    config    path: the database; a relative one lies beside the dataflow file
              table: default "messages". Made when it is not there:
                (uid TEXT, source TEXT, number INTEGER, sent TEXT, metadata TEXT, value TEXT,
                 input TEXT, sink TEXT, run TEXT, place INTEGER)
              keep: true (default: the rows of earlier runs stay) | false (the first message of a new run removes
                what this node has written in earlier ones)
              `metadata` and `value` are JSON, so that SQL can look inside: json_extract(value, '$.name')

Uids count from 1 in each new run, and a message that comes in by two inputs has one uid: what tells rows apart is
the node (`sink`), the run (`run`, the same in all its lives and resumes) and `place`, which counts the rows of that
node in that run from 1. The private state holds how many of them are committed. A row is written before its event is
committed; a life that begins removes the rows of its own run beyond that number, whose events come again. The same
happens when a run resumes from a snapshot. Rows of others are never touched.

Tables of earlier versions, which had the first six columns and one row a uid, are extended when they are opened;
`input`, `sink` and `run` of their rows are "".
"""

from __future__ import annotations

import sqlite3
import weakref
from pathlib import Path
from typing import Any

from noderuntime.operators import as_json, settings

from noderuntime import Context, Event

CONFIG = settings.Schema(
    {
        "path": settings.text("the name of a database file"),
        "table": settings.match(r"[A-Za-z_][A-Za-z0-9_]*", "a name of letters, digits and _", "messages"),
        "keep": settings.flag(True),
    }
)
_EARLIER = ("uid", "source", "number", "sent", "metadata", "value")
_COLUMNS = (*_EARLIER, "input", "sink", "run", "place")
_DECLARED = (
    "uid TEXT, source TEXT, number INTEGER, sent TEXT, metadata TEXT, value TEXT, "
    "input TEXT, sink TEXT, run TEXT, place INTEGER, PRIMARY KEY (sink, run, place)"
)
_STATE = "written"  # of the private state: rows committed, run, sink


class Operator:
    def __init__(self, ctx: Context) -> None:
        config = CONFIG.read(ctx.config)
        self.table: str = config["table"]
        self.keep: bool = config["keep"]
        try:
            # each statement commits itself; it may be closed by whichever thread collects the garbage
            self.database = sqlite3.connect(config["path"], isolation_level=None, check_same_thread=False)
            weakref.finalize(self, self.database.close)
            # with a log beside it, and no fsync for each row: a crash of a process loses nothing that way
            self.database.execute("PRAGMA journal_mode=WAL")
            self.database.execute("PRAGMA synchronous=NORMAL")
            _prepare(self.database, self.table)
        except sqlite3.Error as error:
            raise ValueError(f"config: path: {config['path']}: {error} (in {Path.cwd()})") from None
        columns = ", ".join(_COLUMNS)
        self.insert = f"INSERT OR REPLACE INTO {self.table} ({columns}) VALUES ({', '.join('?' * len(_COLUMNS))})"

        self.sink, self.run = ctx.node_id, ctx.run_id
        self.rows = 0  # that are written, and committed but for those of the event in hand
        self.is_trimmed = False
        self.has_state = False
        self.earlier: set[str] = set()  # sources of which an earlier version has written rows in this run
        self.begun: set[str] = set()  # sources of which earlier runs' rows of an earlier version are removed

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.has_state = True
        self.earlier = {key for key in state if key != _STATE}
        if _STATE in state:
            rows, self.run, self.sink = state[_STATE].decode().split(" ")
            self.rows = int(rows)

    def trim(self) -> None:
        """Remove the rows of this run whose events come again."""
        trim = f"DELETE FROM {self.table} WHERE sink = ? AND run = ? AND place > ?"
        self.database.execute(trim, (self.sink, self.run, self.rows))
        self.is_trimmed = True

    def on_event(self, event: Event, ctx: Context) -> None:
        if not self.is_trimmed:
            self.trim()
        if event["type"] != "INPUT" or "uid" not in event:
            return
        if not self.rows and not self.keep and not self.has_state:
            self.database.execute(
                f"DELETE FROM {self.table} WHERE sink = ? AND run <> ?", (self.sink, self.run)
            )
        uid, source = event["uid"], event["source"]
        row = (
            uid, source, int(uid.rpartition("#")[2]), event["timestamp"].isoformat(), as_json.text(event["metadata"]),
            as_json.text(event["value"]), event["id"], self.sink, self.run, self.rows + 1,
        )  # fmt: skip
        if source in self.earlier:
            # written, but not committed, by the earlier version, whose states do not say so exactly
            self.write(row, f"DELETE FROM {self.table} WHERE sink = '' AND uid = ?", uid)
        elif not self.keep and not self.has_state and source not in self.begun:
            self.write(row, f"DELETE FROM {self.table} WHERE sink = '' AND source = ?", source)
        else:
            self.database.execute(self.insert, row)
        self.begun.add(source)
        self.rows += 1
        ctx.save_state(_STATE, f"{self.rows} {self.run} {self.sink}".encode())

    def write(self, row: tuple[Any, ...], removal: str, value: str) -> None:
        """Write a row, and remove others in the same transaction."""
        self.database.execute("BEGIN IMMEDIATE")
        try:
            self.database.execute(removal, (value,))
            self.database.execute(self.insert, row)
            self.database.execute("COMMIT")
        except BaseException:
            self.database.execute("ROLLBACK")
            raise


def _prepare(database: sqlite3.Connection, table: str) -> None:
    """Make the table, or extend that of an earlier version."""
    database.execute("PRAGMA legacy_alter_table=ON")  # views of the table survive that it is renamed
    database.execute("BEGIN IMMEDIATE")  # two sinks may begin at one time
    try:
        there = [name for _, name, *_ in database.execute(f"PRAGMA table_xinfo({table})")]
        if there == list(_EARLIER):
            _extend(database, table)
        elif there and not set(_COLUMNS) <= set(there):
            raise ValueError(
                f"config: table: {table!r} is there already, with other columns ({', '.join(there)}); name another one"
            )
        database.execute(f"CREATE TABLE IF NOT EXISTS {table} ({_DECLARED})")
        database.execute(f"CREATE INDEX IF NOT EXISTS {table}_uid ON {table} (uid)")
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise


def _extend(database: sqlite3.Connection, table: str) -> None:
    """Copy a table of the earlier layout into one of the present; its indexes and triggers come along."""
    beside = database.execute(
        "SELECT sql FROM sqlite_master WHERE tbl_name = ? COLLATE NOCASE AND type IN ('index', 'trigger') "
        "AND sql IS NOT NULL", (table,),
    ).fetchall()  # fmt: skip
    earlier = ", ".join(_EARLIER)
    database.execute(f"CREATE TABLE {table}__extended ({_DECLARED})")
    database.execute(
        f"INSERT INTO {table}__extended ({', '.join(_COLUMNS)}) SELECT {earlier}, '', '', '', rowid FROM {table}"
    )
    database.execute(f"DROP TABLE {table}")
    database.execute(f"ALTER TABLE {table}__extended RENAME TO {table}")
    for (sql,) in beside:
        database.execute(sql)
