"""File lines: sends the lines of a text file. A Source: after a crash it goes on exactly behind its last
line.

    outputs   line: the text of a line, without its end; metadata {"file", "line"}, counted from 1
    config    path: the file; a relative one is looked for beside the dataflow file
              encoding: default utf-8
              follow: true       wait for more at the end of the file, as `tail -f` does (default false: end
                                 there)
              batch: N           lines per commit (default 100)

`csv_rows` and `json_lines` build on this module: they say how records are made of lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from noderuntime import Context, Source

LINE_BYTES_MAX = 16_000_000


class Lines:
    """The complete lines of an open file from a position on, and the position behind the last one."""

    def __init__(self, file: BinaryIO, position: list[int], encoding: str, follow: bool) -> None:
        self.offset, self.number = position  # in bytes; lines so far
        self._file = file
        self._encoding = encoding
        self._follow = follow
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
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.place}: not {self._encoding}: {error.reason}") from None

    @property
    def place(self) -> str:
        """Where we are, for an error message."""
        return f"{self._file.name}:{self.number}"


class Operator(Source):
    output = "line"
    fields: tuple[str, ...] = ("path", "encoding", "follow", "batch")

    def __init__(self, ctx: Context) -> None:
        config = ctx.config
        if unknown := sorted(set(config) - set(self.fields)):
            raise ValueError(f"config: {unknown[0]}: unknown field; there are {', '.join(self.fields)}")
        path = ctx.config.get("path")
        if not isinstance(path, str) or not path:
            raise ValueError(f"config: path: {path!r} is not the name of a file")
        self.path = path
        self.follow = config.get("follow", False)
        if not isinstance(self.follow, bool):
            raise ValueError(f"config: follow: {self.follow!r} is neither true nor false")
        self.batch = config.get("batch", 100)
        if isinstance(self.batch, bool) or not isinstance(self.batch, int) or self.batch < 1:
            raise ValueError(f"config: batch: {self.batch!r} is not a whole number above 0")
        self.encoding = _encoding(config)
        try:
            self.open().close()
        except OSError as error:
            raise ValueError(f"config: path: {self.path}: {error.strerror} (in {Path.cwd()})") from None

    def open(self) -> BinaryIO:
        return Path(self.path).open("rb")

    def produce(self, position: Any, ctx: Context) -> Any:
        with self.open() as file:
            lines = Lines(file, position or [0, 0], self.encoding, self.follow)
            sent = 0
            for value, line in islice(self.records(lines), self.batch):
                ctx.send_output(self.output, value, {"file": self.path, "line": line})
                sent += 1
        if sent:
            return [lines.offset, lines.number]
        return Source.IDLE if self.follow else Source.END

    def records(self, lines: Lines) -> Iterator[tuple[Any, int]]:
        """Values, each with the number of its line. May raise ValueError, naming `lines.place`."""
        for line in lines:
            yield line.rstrip("\r\n"), lines.number


def _encoding(config: Mapping[str, Any]) -> str:
    name = config.get("encoding", "utf-8")
    try:
        # lines are found by their last byte, which rules out UTF-16 and the like
        if b"a\n".decode(name) == "a\n":
            return str(name)
    except (LookupError, TypeError, UnicodeDecodeError):
        pass
    raise ValueError(f"config: encoding: {name!r} cannot be read line by line; try utf-8 or latin-1")
