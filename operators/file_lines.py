"""File lines: sends the lines of a text file. A Source: after a crash it continues exactly behind its last
line.

    outputs   line: the text of a line, without its end; metadata {"file", "line"}, counted from 1
    config    path: the file; a relative one is looked for beside the dataflow file
              encoding: default utf-8; a byte-order mark at the beginning is passed over
              follow: true       wait for more at the end of the file, as `tail -F` does, also through rotation
                                 (see `followed`); default false: end there
              batch: N           lines per commit (default 100)

A file that is not followed must not change while it is read: when it is shorter than what was read of it, or
it has other content there, the node ends with an error.

`csv_rows` and `json_lines` build on this module: they say how records are made of lines.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from noderuntime.operators import followed, settings

from noderuntime import Context, Source, ValueTooLarge

LINE_BYTES_MAX = 16_000_000
_FIELDS = {
    "path": settings.text("the name of a file"),
    "encoding": settings.encoding(),
    "follow": settings.flag(False),
    "batch": settings.whole(1, 100),
}
CONFIG = settings.Schema(_FIELDS)


class Lines:
    """The complete lines of an open file from a position on, and the position behind the last one."""

    def __init__(self, file: BinaryIO, position: Any, encoding: str, follow: bool) -> None:
        self.offset, self.number = position[:2]  # in bytes; lines so far
        self._file = file
        self._encoding = encoding
        self._follow = follow
        file.seek(self.offset)
        if self.offset == 0 and codecs.lookup(encoding).name == "utf-8":
            if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
                self.offset = len(codecs.BOM_UTF8)
            file.seek(self.offset)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(LINE_BYTES_MAX + 1)
        if not line or (self._follow and not line.endswith(b"\n")):
            raise StopIteration  # followed, a line without its end may not be complete yet
        self.number += 1
        if len(line) > LINE_BYTES_MAX:
            raise ValueError(f"{self.place}: the line is longer than {LINE_BYTES_MAX} bytes")
        self.offset += len(line)
        try:
            return line.decode(self._encoding)
        except UnicodeError as error:
            raise ValueError(f"{self.place}: not {self._encoding}: {getattr(error, 'reason', error)}") from None

    @property
    def place(self) -> str:
        """Where we are, for an error message."""
        return f"{self._file.name}:{self.number}"

    @property
    def position(self) -> list[int]:
        """What a Source returns, to go on from here."""
        place: list[int] = followed.place_in(self._file, self.offset, self.number)
        return place


class Operator(Source):
    output = "line"
    schema: ClassVar[Any] = CONFIG

    def __init__(self, ctx: Context) -> None:
        config = self.schema.read(ctx.config)
        self.path: str = config["path"]
        self.follow: bool = config.get("follow", False)
        self.batch: int = config["batch"]
        self.encoding: str = config["encoding"]
        self.followed = followed.Followed(Path(self.path), ctx.log)
        try:
            self.open().close()
        except OSError as error:
            # one that is followed may be between two names just now
            if not (self.follow and isinstance(error, FileNotFoundError) and Path(self.path).parent.is_dir()):
                raise ValueError(f"config: path: {self.path}: {error.strerror} (in {Path.cwd()})") from None
            ctx.log.warning("%s is not there yet: it is waited for", self.path)

    def open(self) -> BinaryIO:
        file: BinaryIO = followed.open_regular(Path(self.path))
        return file

    def produce(self, position: Any, ctx: Context) -> Any:
        if self.follow:
            return self.follow_on(position, ctx)
        with self.open() as file:
            if position is not None and not followed.is_at(file, position):
                raise ValueError(
                    f"{self.path} has changed: line {position[1]} ended at byte {position[0]}, and now the file is "
                    "shorter, or it has other content there. Put it back, or start the run with --fresh"
                )
            lines = Lines(file, position or [0, 0], self.encoding, follow=False)
            found = list(islice(self.records(lines), self.batch))
            self.send(found, ctx)
            return lines.position if found else Source.END

    def follow_on(self, position: Any, ctx: Context) -> Any:
        """As `produce`, for a file that grows and is rotated."""
        here = self.followed
        if here.file is None and not here.locate(position):
            return Source.IDLE
        while here.file is not None:
            is_over = here.is_over()
            if here.is_unchanged():
                lines = Lines(here.file, here.place, self.encoding, follow=not is_over)
                found = list(islice(self.records(lines), self.batch))
                if found and here.is_unchanged():  # not truncated while it was read
                    self.send(found, ctx)
                    here.place = lines.position
                    return here.place
                is_over |= bool(found)
            if not is_over or not here.advance():
                break
        return Source.IDLE

    def send(self, found: list[tuple[Any, int]], ctx: Context) -> None:
        """Send values, each with the number of its line."""
        for value, line in found:
            try:
                ctx.send_output(self.output, value, {"file": self.path, "line": line})
            except (TypeError, ValueError, OverflowError, RecursionError, ValueTooLarge) as error:
                raise ValueError(f"{self.path}:{line}: {error}") from None

    def records(self, lines: Lines) -> Iterator[tuple[Any, int]]:
        """Values, each with the number of its line. May raise ValueError, naming `lines.place`."""
        for line in lines:
            yield line.rstrip("\r\n"), lines.number
