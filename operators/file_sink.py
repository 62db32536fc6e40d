"""File sink: writes what arrives to a file, a line for each message, exactly once.

    inputs    any
    config    path: the file; a relative one lies beside the dataflow file. It belongs to this sink: a new run
              begins it anew, a resumed one goes on.
              format: text (default: texts as they are, all else as JSON) | json (everything as JSON)

How long the file was after the last committed message is part of the private state. What a crash has left
behind that length was written by an event that comes again: it is cut off first. So each message is in the
file once, whatever process is killed. On another machine, where the file is not there, it begins with what comes
next, and says so. (A power failure is covered by snapshots: the file is on the disk before they are.)
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

from noderuntime import Context, Event


class Operator:
    def __init__(self, ctx: Context) -> None:
        if unknown := sorted(set(ctx.config) - {"path", "format"}):
            raise ValueError(f"config: {unknown[0]}: unknown field; there are path and format")
        path = ctx.config.get("path")
        if not isinstance(path, str) or not path:
            raise ValueError(f"config: path: {path!r} is not the name of a file")
        self.path = path
        self.format = ctx.config.get("format", "text")
        if self.format not in ("text", "json"):
            raise ValueError(f"config: format: {self.format!r} is neither text nor json")
        self.is_new = not Path(self.path).exists()
        try:
            open(self.path, "ab").close()
        except OSError as error:
            raise ValueError(f"config: path: {self.path}: {error.strerror} (in {Path.cwd()})") from None
        self.length = 0  # in bytes, committed

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.length = int(state["length"])
        if self.is_new:  # another machine: until something is written, there is no file, also for the next life
            Path(self.path).unlink(missing_ok=True)

    def on_event(self, event: Event, ctx: Context) -> None:
        if event["type"] != "INPUT" or "uid" not in event:
            return
        line = self.line(event["value"]) + b"\n"
        if self.length and not Path(self.path).exists():
            ctx.log.warning("%s is new: the %d bytes that were written before are elsewhere", self.path, self.length)
            self.length = 0
        with open(self.path, "ab") as file:
            if file.tell() < self.length:
                raise ValueError(
                    f"{self.path} has {file.tell()} bytes, but {self.length} were written and committed: "
                    "somebody has changed it. Put it back, or start the run with --fresh"
                )
            if file.tell() > self.length:
                file.truncate(self.length)
            file.write(line)
        self.length += len(line)
        ctx.save_state("length", b"%d" % self.length)

    def line(self, value: Any) -> bytes:
        if self.format == "text" and isinstance(value, str):
            return value.encode()
        return json.dumps(value, ensure_ascii=False, default=_plain).encode()


def _plain(value: Any) -> Any:
    """A form that JSON has, for what it does not know."""
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if hasattr(value, "tolist"):  # a numpy array
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__} cannot be written as a line of text")
