"""Directory: sends the lines of all files in a folder that is being filled, each file once, in order of their
names. A Source: after a crash it continues exactly behind its last line.

    outputs   line: the text of a line, without its end; metadata {"file", "line"}, counted from 1; bytes of a name that
              are not UTF-8 are written as \\xNN
    config    path: the folder; a relative one is looked for beside the dataflow file
              pattern: which names, such as "*.log" (default "*")
              encoding, batch   as of `file_lines`
              end: name of a file that says "no more will come"; without it, the source waits for ever

A file belongs to the folder once it has its name there and is not changed afterwards: write it under a name
that begins with "." (those are passed over) and rename it. A file that comes later with a name before those
that were sent already is sent then. One that is renamed while it is read is read on under its new name; one that is
taken away is given up at the line where it was, which is logged. One that is shorter than what was read of it, or
has something else there, ends the node with an error.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO

from noderuntime.operators import file_lines, followed, settings

from noderuntime import Context, Source

_DONE = "done:"
_DONE_BYTES = "done.base64:"  # of names that are not UTF-8


def _is_text(name: str) -> bool:
    return name.isascii() or name.encode(errors="replace").decode() == name


def _shown(name: str) -> str:
    """A name as a text that can be sent: bytes that are not UTF-8 become `\\xNN`."""
    return name if _is_text(name) else os.fsencode(name).decode(errors="backslashreplace")


def _done_key(name: str) -> str:
    return _DONE + name if _is_text(name) else _DONE_BYTES + b64encode(os.fsencode(name)).decode()


def _name_of(key: str) -> str:
    name = key.removeprefix(_DONE)
    return name if name != key else os.fsdecode(b64decode(key.removeprefix(_DONE_BYTES)))


def _name(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value or "/" in value or value in (".", "..")):
        raise ValueError(f"{value!r} is not the name of a file in the folder")
    return value


def _pattern(value: Any) -> str:
    if not isinstance(value, str) or not value or "/" in value:
        raise ValueError(f'{value!r} is not a pattern for names of files, such as "*.log"')
    return value


CONFIG = settings.Schema(
    {
        "path": settings.text("the name of a folder"),
        "pattern": settings.Field(_pattern, "*"),
        "encoding": file_lines.CONFIG.fields["encoding"],
        "batch": file_lines.CONFIG.fields["batch"],
        "end": settings.Field(_name, None),
    }
)


class Operator(Source):
    def __init__(self, ctx: Context) -> None:
        config = CONFIG.read(ctx.config)
        self.folder = Path(config["path"])
        if not self.folder.is_dir():
            raise ValueError(f"config: path: {config['path']}: there is no such folder (in {Path.cwd()})")
        self.pattern: str = config["pattern"]
        self.encoding: str = config["encoding"]
        self.end: str | None = config["end"]
        self.batch: int = config["batch"]
        self.done: set[str] = set()

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.done = {_name_of(key) for key in state if key.startswith((_DONE, _DONE_BYTES))}

    def produce(self, position: Any, ctx: Context) -> Any:
        name, *place = position or [""]
        name = os.fsdecode(name)  # bytes, where it is not UTF-8
        if not name:
            place = [0, 0]
            name = self.next_name()
            if not name:
                if self.end is not None and (self.folder / self.end).exists() and not self.next_name():
                    return Source.END
                return Source.IDLE
        file = self.open(name, place)
        if file is None:
            if place[0]:
                ctx.log.warning(
                    "%s is gone: what stood behind its line %d is not sent", _shown(str(self.folder / name)), place[1]
                )
                self.finish(name, ctx)
            return ["", 0, 0]
        with file:
            name = Path(file.name).name  # it may have another one by now
            lines = file_lines.Lines(file, place, self.encoding, follow=False)
            for sent, line in enumerate(lines, 1):
                ctx.send_output("line", line.rstrip("\r\n"), {"file": _shown(name), "line": lines.number})
                if sent == self.batch:
                    return [name if _is_text(name) else os.fsencode(name), *lines.position]
        self.finish(name, ctx)
        return ["", 0, 0]

    def open(self, name: str, place: Any) -> BinaryIO | None:
        """The file that is being read, under the name that it has now; None when it is gone."""
        try:
            file: BinaryIO | None = followed.open_regular(self.folder / name)
        except FileNotFoundError:
            file = None
        if file is None or not followed.is_at(file, place):
            renamed = self.renamed(place)
            if renamed is not None or file is None:
                if file is not None:
                    file.close()
                return renamed
            file.close()
            raise ValueError(
                f"{_shown(str(self.folder / name))} has changed: its line {place[1]} ended at byte {place[0]}, and now "
                "the file is shorter, or it has other content there. Put it back, or take it away to give up the rest "
                "of it"
            )
        return file

    def renamed(self, place: Any) -> BinaryIO | None:
        """The file that `place` is in, under whatever name."""
        if len(place) < 4:  # of an earlier version
            return None
        for path in self.folder.iterdir():
            if path.is_file() and path.stat().st_ino == place[3] and path.name not in self.done:
                file: BinaryIO = followed.open_regular(path)
                if followed.is_at(file, place):
                    return file
                file.close()
        return None

    def finish(self, name: str, ctx: Context) -> None:
        ctx.save_state(_done_key(name), b"")
        self.done.add(name)

    def next_name(self) -> str:
        """The first file that was not sent yet; "" when there is none."""
        names = (
            entry.name
            for entry in self.folder.iterdir()
            if entry.name not in self.done
            and not entry.name.startswith(".")
            and entry.name != self.end
            and fnmatchcase(entry.name, self.pattern)
            and entry.is_file()
        )
        return min(names, default="")
