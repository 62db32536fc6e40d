"""What a run looks like: one Observer for people, one for programs.

Pretty: `node │ text`, names aligned and each in its colour; what nodes print on stdout goes to stdout,
everything else to stderr. On a terminal, nodes that paint frames (a line that starts with ESC [ 2 J, rows
separated by "\\r") keep the newest one at the bottom of the screen. JSON: one object a line, all of them on
stdout, told apart by `stream`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from noderuntime.cli import output
from noderuntime.cli.terminal import BackgroundWriter
from noderuntime.cli.text import frame_rows, harmless, is_frame, pad, plain, table
from noderuntime.runtime.observer import LogRecord, SummaryRow

NODE_COLOURS = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")
STATE_COLOURS = {"finished": output.GREEN, "failed": output.RED, "waiting": output.YELLOW}
PREFIX_COLUMNS_MAX = 24
OURS = "noderuntime"
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
WAIT_SAID_AFTER_S = 2.0
CRASH_HEADS = {"spawn": "failed", "import": "failed", "reload": "not reloaded"}
WAIT_SAID_EVERY_S = 10.0
PATIENCE_S_MIN = 1.0  # for the last words of a run whose grace time is over


class Waiting:
    """What start-up waits for: a spinner row for a terminal, and now and then a line for everything else.
    Pure."""

    def __init__(self) -> None:
        self._nodes: tuple[str, ...] = ()
        self._since_s: float | None = None
        self._said_s: float | None = None

    def set(self, nodes: Sequence[str]) -> None:
        self._nodes = tuple(nodes)

    def row(self, now_s: float) -> str:
        """The spinner row; "" when nothing is waited for."""
        since_s = self._began(now_s)
        if since_s is None:
            return ""
        spinner = SPINNER[int(now_s * 10) % len(SPINNER)]
        return f"{spinner} waiting for {self._named()} ({int(now_s - since_s)}s)"

    def line(self, now_s: float) -> str:
        """The line that is due now; "" when none is."""
        since_s = self._began(now_s)
        if since_s is None:
            return ""
        due_s = since_s + WAIT_SAID_AFTER_S if self._said_s is None else self._said_s + WAIT_SAID_EVERY_S
        if now_s < due_s:
            return ""
        self._said_s = now_s
        return f"waiting for {self._named()}"

    def _began(self, now_s: float) -> float | None:
        if not self._nodes:
            self._since_s = self._said_s = None
        elif self._since_s is None:
            self._since_s = now_s
        return self._since_s

    def _named(self) -> str:
        first = ", ".join(self._nodes[:5])
        return f"{first} and {len(self._nodes) - 5} more" if len(self._nodes) > 5 else first


class Prefixes:
    """`node │ `, aligned over all nodes, each in its own colour. Pure."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self._at = {node: at for at, node in enumerate(nodes)}
        self._columns = min(max(map(len, [*nodes, OURS])), PREFIX_COLUMNS_MAX)
        self._made: dict[tuple[str, bool], str] = {}

    def of(self, node: str, coloured: bool) -> str:
        made = self._made.get((node, coloured))
        if made is None:
            made = self._made[node, coloured] = self._make(node, coloured)
        return made

    def _make(self, node: str, coloured: bool) -> str:
        text = f"{pad(node or OURS, self._columns)} │ "
        if not coloured:
            return text
        if not node:
            return f"\x1b[2m{text}\x1b[0m"
        at = self._at.get(node, zlib.crc32(node.encode()))
        return f"\x1b[{NODE_COLOURS[at % len(NODE_COLOURS)]}m{text}\x1b[0m"


class _Written:
    """Common to both consoles: all output goes through a writer, whose thread does the waiting for the reader."""

    _writer: BackgroundWriter
    _patience_until_s: float | None = None

    @property
    def out_is_gone(self) -> bool:
        """Whether the reader of stdout has gone away."""
        return self._writer.out_is_gone

    @property
    def congested(self) -> bool:
        """Whether output piles up because it is not being read."""
        return self._writer.congested

    def start(self) -> None:
        self._writer.start()

    def stopping(self, grace_s: float) -> None:
        """The run is being stopped: output that is not read within `grace_s` seconds is given up."""
        self._patience_until_s = min(self._patience_until_s or math.inf, time.monotonic() + grace_s)

    def close(self) -> None:
        """Write what is left; see `stopping`."""
        until_s = self._patience_until_s
        if not self._writer.close(None if until_s is None else max(PATIENCE_S_MIN, until_s - time.monotonic())):
            what = "the last lines were not shown, because stdout is not being read; the log files have everything"
            output.tell_nowait(what)


class Console(_Written):
    """The Observer for people. `nodes` in the order of the file.

    Nothing is written before `start`, which has to come after the last fork; `close` writes what is left.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        out: TextIO | None = None,
        err: TextIO | None = None,
        quiet: bool = False,
        broken: Callable[[], None] = lambda: None,
    ) -> None:
        out, err = out or sys.stdout, err or sys.stderr
        self._quiet = quiet
        self._order = {node: at for at, node in enumerate(nodes)}
        self._prefixes = Prefixes(nodes)
        self._out_terminal, self._err_terminal = out.isatty(), err.isatty()
        self._live = self._out_terminal and os.environ.get("TERM") != "dumb"
        self._out_colour, self._err_colour = output.wants_colour(out), output.wants_colour(err)
        self._out = out
        self._waiting = Waiting()
        self._frames: dict[str, Sequence[str]] = {}
        self._crashes: dict[str, list[str]] = {}
        self._writer = BackgroundWriter(out, err, self._picture, live=self._live, broken=broken)

    @property
    def terminal(self) -> str:
        """"COLUMNSxLINES" when nodes may paint frames, else ""."""
        if not self._live:
            return ""
        size = os.get_terminal_size(self._out.fileno())
        return f"{size.columns or 80}x{size.lines or 24}"

    def waiting(self, nodes: Sequence[str]) -> None:
        if not self._quiet:
            self._waiting.set(nodes)
            self._writer.repaint()

    def started(self) -> None:
        """Nothing to show: the nodes speak for themselves now."""

    def line(self, node: str, stream: str, text: str) -> None:
        if is_frame(text):
            self._frame(node, frame_rows(text))
            return
        self._say(node, text, err=stream != "stdout")

    def log(self, record: LogRecord) -> None:
        if self._quiet and record.level < logging.WARNING:
            return
        self._say(record.node, log_text(record, self._err_colour))

    def status(self, text: str, level: int = logging.INFO) -> None:
        if self._quiet and level < logging.WARNING:
            return
        for line in text.splitlines():
            colour = f"\x1b[{output.RED}m{harmless(line)}\x1b[0m" if level >= logging.ERROR else ""
            self._say("", colour if colour and self._err_colour else line)

    def crash(self, node: str, where: str, error: str, trace: str) -> None:
        head = f"{CRASH_HEADS.get(where, f'failed in {where}')}: {error}"
        if self._err_colour:
            head = f"\x1b[{output.RED}m{harmless(head)}\x1b[0m"
        lines = trace.strip("\n").splitlines()
        if lines and lines[-1] == error:  # the head has said it
            lines.pop()
        self._crashes[node] = [head, *(f"  {line}" for line in lines)]
        for line in self._crashes[node]:
            self._say(node, line)

    def report(self, lines: Sequence[str], facts: Mapping[str, Any]) -> None:
        for line in lines:
            self._say("", line)

    def summary(self, rows: Sequence[SummaryRow]) -> None:
        self._waiting.set(())
        self._writer.settle()
        if self._quiet and all(row.state != "failed" for row in rows):
            return
        for row in rows:  # so that a reader who looks only at the end still finds the cause
            if row.state == "failed":
                for line in self._crashes.get(row.node, ()):
                    self._say(row.node, line)
        for line in summary_table(rows, self._err_colour):
            self._writer.write(line, err=True)

    def _frame(self, node: str, rows: Sequence[str]) -> None:
        if self._live:
            self._frames = {**self._frames, node: rows}  # replaced as a whole: the writer's thread reads it
            self._writer.repaint()
            return
        for row in rows:
            self._say(node, plain(row), err=False)

    def _say(self, node: str, text: str, err: bool = True) -> None:
        if self._err_terminal if err else self._out_terminal:
            text = harmless(text)
        self._writer.write(self._prefixes.of(node, self._err_colour if err else self._out_colour) + text, err)

    def _picture(self, now_s: float) -> tuple[Sequence[str], Sequence[str]]:
        if not self._live:
            line = self._waiting.line(now_s)
            return (), [self._prefixes.of("", self._err_colour) + line] if line else []
        frames = self._frames
        rows: list[str] = []
        shown = [node for node, picture in frames.items() if picture]
        for node in sorted(shown, key=lambda node: self._order.get(node, len(self._order))):
            if len(shown) > 1:
                rows.append(f"── {node} " + "─" * max(0, 40 - len(node)))
            rows += frames[node]
        spinner = self._waiting.row(now_s)
        return [*rows, spinner] if spinner else rows, ()


class JsonConsole(_Written):
    """The Observer for programs: JSON objects with at least `time` (seconds since the epoch), `node` and
    `stream`.

    `stream` is stdout | stderr (then `text`), log (`level`, `text`, `fields`), status (`text`), waiting
    (`nodes`), started, crash (`where`, `error`, `trace`), chaos (the report) or summary (`nodes`: the rows).
    """

    terminal = ""

    def __init__(
        self,
        nodes: Sequence[str],
        out: TextIO | None = None,
        err: TextIO | None = None,
        quiet: bool = False,
        broken: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._quiet = quiet
        self._clock = clock
        self._writer = BackgroundWriter(out or sys.stdout, err or sys.stderr, broken=broken)

    def waiting(self, nodes: Sequence[str]) -> None:
        if not self._quiet:
            self._put("", "waiting", nodes=list(nodes))

    def started(self) -> None:
        if not self._quiet:
            self._put("", "started")

    def line(self, node: str, stream: str, text: str) -> None:
        self._put(node, stream, text=text)

    def log(self, record: LogRecord) -> None:
        if not self._quiet or record.level >= logging.WARNING:
            self._put(record.node, "log", record.time, **log_fields(record))

    def status(self, text: str, level: int = logging.INFO) -> None:
        if not self._quiet or level >= logging.WARNING:
            self._put("", "status", text=text, level=level)

    def crash(self, node: str, where: str, error: str, trace: str) -> None:
        self._put(node, "crash", where=where, error=error, trace=trace)

    def report(self, lines: Sequence[str], facts: Mapping[str, Any]) -> None:
        self._put("", "chaos", **facts)

    def summary(self, rows: Sequence[SummaryRow]) -> None:
        if not self._quiet or any(row.state == "failed" for row in rows):
            self._put("", "summary", nodes=[asdict(row) for row in rows])

    def _put(self, node: str, stream: str, time_s: float | None = None, **fields: Any) -> None:
        told = {"time": self._clock() if time_s is None else time_s, "node": node, "stream": stream, **fields}
        self._writer.write(json.dumps(told, ensure_ascii=False, default=str))


class Detached:
    """The Observer of a detached run: what nodes print and log goes to the log files in any case.

    Until the run has started stderr is still the user's terminal, so that what keeps it from starting is
    shown. Afterwards the guard has closed it.
    """

    def waiting(self, nodes: Sequence[str]) -> None:
        """The launching process stops waiting once the nodes have been spawned."""

    def started(self) -> None:
        """The guard lets the launched process go."""

    def line(self, node: str, stream: str, text: str) -> None:
        """It is in the log files."""

    def log(self, record: LogRecord) -> None:
        """It is in the log files."""

    def status(self, text: str, level: int = logging.INFO) -> None:
        output.tell(text)

    def crash(self, node: str, where: str, error: str, trace: str) -> None:
        output.tell(f"{node}: failed in {where}: {error}")

    def report(self, lines: Sequence[str], facts: Mapping[str, Any]) -> None:
        """It is in the log files."""

    def summary(self, rows: Sequence[SummaryRow]) -> None:
        """There is no reader."""


def log_fields(record: LogRecord) -> Mapping[str, Any]:
    """A record as JSON has it, here and in the log files; `level` is Python's logging level."""
    return {"text": record.text, "level": record.level, "fields": dict(record.fields)}


def log_text(record: LogRecord, coloured: bool = False) -> str:
    """A record as people read it: level, text, and the fields behind it."""
    name = logging.getLevelName(record.level)
    fields = " ".join(
        f"{key}={value}"
        for key, value in record.fields.items()
        if (key, value) != ("logger", record.node)  # `ctx.log` itself, which says nothing new
    )
    if coloured:
        colour = output.RED if record.level >= logging.ERROR else output.YELLOW
        if record.level < logging.WARNING:
            colour = output.DIM
        name = f"\x1b[{colour}m{name}\x1b[0m"
        fields = f"\x1b[{output.DIM}m{fields}\x1b[0m" if fields else ""
    return f"{name} {record.text}  {fields}" if fields else f"{name} {record.text}"


def summary_table(rows: Sequence[SummaryRow], coloured: bool) -> list[str]:
    """What became of each node. Not cropped: a reason at the right edge is what matters most."""
    head = ("node", "state", "restarts", "messages", "reason")
    cells = [(row.node, row.state, row.restarts, row.messages, _one_line(row.reason)) for row in rows]
    lines = table(head, cells)
    if not coloured:
        return lines
    shown = [f"\x1b[{output.BOLD}m{lines[0]}\x1b[0m"]
    at = max(map(len, [head[0], *(row.node for row in rows)])) + 2  # node ids are plain ASCII
    for row, line in zip(rows, lines[1:], strict=True):
        before, state, after = line[:at], line[at : at + len(row.state)], line[at + len(row.state) :]
        colour = STATE_COLOURS.get(row.state)
        shown.append(f"{before}\x1b[{colour}m{state}\x1b[0m{after}" if colour else line)
    return shown


def _one_line(text: str) -> str:
    lines = text.strip().splitlines()
    return plain(lines[0]) if lines else ""
