"""What all commands share: where output goes, when it is coloured, exit codes, and the errors that end a command.

Results go to stdout, everything else to stderr. `--json` prints one JSON value; colour appears only on a
terminal, and never with NO_COLOR.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from noderuntime.cli.text import table

OK = 0
FAILED = 1
USAGE = 2
NO_SUCH_RUN = 3
INTERNAL = 70
INTERRUPTED = 130
PIPE_CLOSED = 141
TERMINATED = 143

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"


class UsageError(Exception):
    """The command line itself is wrong. Shown with the way to its help; exit code 2."""

    def __init__(self, what: str, program: str = "noderuntime") -> None:
        self.what = what
        self.program = program
        super().__init__(what)


class CommandError(Exception):
    """The command cannot do what was asked, for a reason that is not a bug. Its text is for the user."""

    def __init__(self, what: str, code: int = FAILED) -> None:
        self.what = what
        self.code = code
        super().__init__(what)


def wants_colour(stream: TextIO, env: Mapping[str, str] | None = None) -> bool:
    """Whether to colour what goes to `stream`: a terminal that can, and a user who does not object."""
    env = os.environ if env is None else env
    if env.get("NO_COLOR") or env.get("TERM") == "dumb":
        return False
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def paint(text: str, colour: str, stream: TextIO) -> str:
    """`text` in that colour, where `stream` shows colours."""
    return f"\x1b[{colour}m{text}\x1b[0m" if colour and wants_colour(stream) else text


def columns(stream: TextIO) -> int:
    """The width to crop tables to; 0 (no cropping) when `stream` is not a terminal."""
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except (OSError, ValueError):
        return 0


def result(text: str) -> None:
    """A result, for people: a line, or several, on stdout."""
    print(text)


def result_json(value: Any) -> None:
    """A result, for programs: one JSON value on stdout."""
    print(json.dumps(value, ensure_ascii=False))


def result_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    lines = table(head, rows, columns(sys.stdout))
    print(paint(lines[0], BOLD, sys.stdout))
    for line in lines[1:]:
        print(line)


def tell(text: str) -> None:
    """A line on stderr, for what is not the result. A closed stderr is not an error."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def tell_nowait(text: str) -> None:
    """The same, but dropped if it would block: stderr may be a full pipe without a reader."""
    with contextlib.suppress(OSError, ValueError):
        poller = select.poll()
        poller.register(sys.stderr.fileno(), select.POLLOUT)
        if any(event & select.POLLOUT for _, event in poller.poll(0)):
            os.write(sys.stderr.fileno(), f"noderuntime: {text}\n".encode(errors="replace"))


def complain(text: str) -> None:
    """An error, on stderr."""
    tell(f"{paint('error:', RED, sys.stderr)} {text}")


def warn(text: str) -> None:
    """A warning on stderr; the command continues."""
    tell(f"{paint('warning:', YELLOW, sys.stderr)} {text}")
