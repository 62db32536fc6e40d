"""Directory: sends the lines of all files in a folder that is being filled, each file once, in order of their
names. A Source: after a crash it goes on exactly behind its last line.

    outputs   line: the text of a line, without its end; metadata {"file", "line"}, counted from 1
    config    path: the folder; a relative one is looked for beside the dataflow file
              pattern: which names, such as "*.log" (default "*")
              encoding, batch   as of `file_lines`
              end: name of a file that says "no more will come"; without it, the source waits for ever

A file belongs to the folder once it has its name there and is not changed afterwards: write it under a name
that begins with "." (those are passed over) and rename it. A file that comes later with a name before those
that were sent already is sent then.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from noderuntime.operators import file_lines

from noderuntime import Context, Source

_DONE = "done:"


class Operator(Source):
    def __init__(self, ctx: Context) -> None:
        config = ctx.config
        known = ("path", "pattern", "encoding", "batch", "end")
        if unknown := sorted(set(config) - set(known)):
            raise ValueError(f"config: {unknown[0]}: unknown field; there are {', '.join(known)}")
        path = config.get("path")
        if not isinstance(path, str) or not path:
            raise ValueError(f"config: path: {path!r} is not the name of a folder")
        self.folder = Path(path)
        if not self.folder.is_dir():
            raise ValueError(f"config: path: {path}: there is no such folder (in {Path.cwd()})")
        self.pattern = config.get("pattern", "*")
        self.encoding = config.get("encoding", "utf-8")
        self.end = config.get("end")
        self.batch = config.get("batch", 100)
        if isinstance(self.batch, bool) or not isinstance(self.batch, int) or self.batch < 1:
            raise ValueError(f"config: batch: {self.batch!r} is not a whole number above 0")
        self.done: set[str] = set()

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.done = {key.removeprefix(_DONE) for key in state if key.startswith(_DONE)}

    def produce(self, position: Any, ctx: Context) -> Any:
        name, *start = position or ["", 0, 0]
        if not name:
            name = self.next_name()
            if not name:
                if self.end is not None and (self.folder / self.end).exists() and not self.next_name():
                    return Source.END
                return Source.IDLE
            start = [0, 0]
        sent = 0
        with (self.folder / name).open("rb") as file:
            lines = file_lines.Lines(file, start, self.encoding, follow=False)
            for line in lines:
                ctx.send_output("line", line.rstrip("\r\n"), {"file": name, "line": lines.number})
                sent += 1
                if sent == self.batch:
                    return [name, lines.offset, lines.number]
        ctx.save_state(_DONE + name, b"")
        self.done.add(name)
        return ["", 0, 0]

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
