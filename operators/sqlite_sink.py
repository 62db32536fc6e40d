"""SQLite sink: keeps each message as a row, under its uid.

    inputs    any
    config    path: the database; a relative one lies beside the dataflow file
              table: default "messages". Made when it is not there:
                (uid TEXT PRIMARY KEY, source TEXT, number INTEGER, sent TEXT, metadata TEXT, value TEXT)
              `metadata` and `value` are JSON, so that SQL can look inside: json_extract(value, '$.name')

A row is written before its event is committed. If that commit does not happen, the event comes again, with
the same uid, and the row is written again over itself. A run that resumes from a snapshot first removes the
rows of what the snapshot has not seen. Uids count from 1 in each new run, whose first message removes the
rows of the same source that an earlier run has left: give each run a table of its own to keep them.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import sqlite3
import weakref
from pathlib import Path
from typing import Any

from noderuntime import Context, Event

_COLUMNS = "uid TEXT PRIMARY KEY, source TEXT, number INTEGER, sent TEXT, metadata TEXT, value TEXT"


class Operator:
    def __init__(self, ctx: Context) -> None:
        if unknown := sorted(set(ctx.config) - {"path", "table"}):
            raise ValueError(f"config: {unknown[0]}: unknown field; there are path and table")
        path = ctx.config.get("path")
        if not isinstance(path, str) or not path:
            raise ValueError(f"config: path: {path!r} is not the name of a database file")
        self.table = ctx.config.get("table", "messages")
        if not isinstance(self.table, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.table):
            raise ValueError(f"config: table: {self.table!r} is not a name of letters, digits and _")
        try:
            # each statement commits itself; it may be closed by whichever thread collects the garbage
            self.database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            # with a log beside it, and no fsync for each row: a crash of a process loses nothing that way
            self.database.execute("PRAGMA journal_mode=WAL")
            self.database.execute("PRAGMA synchronous=NORMAL")
            self.database.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({_COLUMNS})")
        except sqlite3.Error as error:
            raise ValueError(f"config: path: {path}: {error} (in {Path.cwd()})") from None
        weakref.finalize(self, self.database.close)

        self.known: set[str] = set()  # sources whose rows of another history were removed

    def restore_state(self, state: dict[str, bytes]) -> None:
        for source, number in state.items():
            self.forget(source, int(number))

    def forget(self, source: str, number: int) -> None:
        """Remove what lies above the last message that is committed: it belongs to a history that did not last."""
        self.database.execute(f"DELETE FROM {self.table} WHERE source = ? AND number > ?", (source, number))
        self.known.add(source)

    def on_event(self, event: Event, ctx: Context) -> None:
        if event["type"] == "INPUT" and "uid" in event:
            uid, source = event["uid"], event["source"]
            number = int(uid.rpartition("#")[2])
            if source not in self.known:  # nothing of it is committed yet, but a lost history may have left rows
                self.forget(source, number - 1)
            sent = event["timestamp"].isoformat()
            row = (uid, source, number, sent, _json(event["metadata"]), _json(event["value"]))
            self.database.execute(f"INSERT OR REPLACE INTO {self.table} VALUES (?, ?, ?, ?, ?, ?)", row)
            ctx.save_state(source, b"%d" % number)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """A form that JSON has, for what it does not know."""
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "tolist"):  # a numpy array
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__} cannot be stored as JSON")
