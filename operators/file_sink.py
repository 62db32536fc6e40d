"""File sink: writes what arrives to a file, a line for each message, exactly once.

    inputs    any
    config    path: the file; a relative one lies beside the dataflow file. It belongs to this sink alone
              format: text (default: texts as they are, all else as JSON; a text with a line end in it is
                written as JSON, too, so that it takes one line) | json (everything as JSON)
              keep: false (default: the first message of a new run begins the file anew, and says so if it was
                not empty) | true (a new run writes behind what is there)

How long the file was after the last committed message is part of the private state, with a check sum of its end.
What a crash has left behind that length was written by an event that comes again: it is cut off first. So each
message is in the file once, whatever process is killed. A file with another end is not ours any more (another run
has begun it anew, say), and is refused untouched. On another machine, where the file is not there, it begins with
what comes next, and says so. (A power failure is covered by snapshots: the file is on the disk before they are.)

With `keep: true`, a file beside it, `.NAME.begin`, says where the present run has begun.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from noderuntime.operators import as_json, settings

from noderuntime import Context, Event

CONFIG = settings.Schema(
    {
        "path": settings.text("the name of a file"),
        "format": settings.choice("text", "json"),
        "keep": settings.flag(False),
    }
)
_END_BYTES = 4096  # of the file, by which it is recognised


class Operator:
    def __init__(self, ctx: Context) -> None:
        config = CONFIG.read(ctx.config)
        self.path: str = config["path"]
        self.format: str = config["format"]
        self.keep: bool = config["keep"]
        self.is_new = not Path(self.path).exists()
        try:
            open(self.path, "ab").close()
        except OSError as error:
            raise ValueError(f"config: path: {self.path}: {error.strerror} (in {Path.cwd()})") from None
        self.length = -1  # in bytes, committed; below 0: nothing of this run is
        self.end = b""  # the last bytes before it

    def restore_state(self, state: dict[str, bytes]) -> None:
        length, *check = state["length"].split()
        self.length = int(length)
        if self.is_new:  # another machine: until something is written, there is no file, also for the next life
            Path(self.path).unlink(missing_ok=True)
            return
        start = max(0, self.length - _END_BYTES)
        with open(self.path, "rb") as file:
            file.seek(start)
            self.end = file.read(self.length - start)
        if check and len(self.end) == self.length - start:  # one that is too short is told with the next message
            size, digest = int(check[0]), int(check[1])
            if zlib.crc32(self.end[len(self.end) - size :]) != digest:
                raise ValueError(
                    f"{self.path} is not the file that this run has written: before byte {self.length} there is "
                    "something else. Put the file back, name another one as path, or start the run with --fresh"
                )

    def on_event(self, event: Event, ctx: Context) -> None:
        if event["type"] != "INPUT" or "uid" not in event:
            return
        line = self.line(event["value"]) + b"\n"
        if self.length < 0:
            self.begin(ctx)
        elif self.length and not Path(self.path).exists():
            ctx.log.warning("%s is new: the %d bytes that were written before are elsewhere", self.path, self.length)
            self.length, self.end = 0, b""
        with open(self.path, "ab") as file:
            if file.tell() < self.length:
                raise ValueError(
                    f"{self.path} has {file.tell()} bytes, but {self.length} were written and committed: "
                    "another program has changed it. Put it back, or start the run with --fresh"
                )
            if file.tell() > self.length:
                file.truncate(self.length)
            file.write(line)
        self.length += len(line)
        self.end = (self.end + line)[-_END_BYTES:]
        ctx.save_state("length", b"%d %d %d" % (self.length, len(self.end), zlib.crc32(self.end)))

    def begin(self, ctx: Context) -> None:
        """The first message of this run: find out where its lines begin."""
        size = Path(self.path).stat().st_size if Path(self.path).exists() else 0
        if not self.keep:
            if size:
                ctx.log.warning("%s begins anew: %d bytes are removed; `keep: true` keeps them", self.path, size)
            self.length = 0
            return
        note = Path(self.path).with_name(f".{Path(self.path).name}.begin")
        try:
            noted = json.loads(note.read_text())
        except (OSError, ValueError):
            noted = {}
        if noted.get("run") == ctx.run_id and noted["length"] <= size:
            self.length = noted["length"]  # what lies behind was written by an event that comes again
            return
        with open(self.path, "ab+") as file:
            if size:
                file.seek(size - 1)
                if file.read() != b"\n":  # a line that was cut off stays one of its own
                    file.write(b"\n")
                    size += 1
        beside = note.with_name(f"{note.name}.new")
        beside.write_text(json.dumps({"run": ctx.run_id, "length": size}))
        beside.replace(note)
        self.length = size

    def line(self, value: Any) -> bytes:
        if self.format == "text" and isinstance(value, str) and "\n" not in value and "\r" not in value:
            return value.encode()
        written: str = as_json.text(value)
        return written.encode()

