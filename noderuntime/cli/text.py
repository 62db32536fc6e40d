"""Text on a terminal: how wide it is, how it is cropped, what of it is let through, and tables. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

RESET = "\x1b[0m"
FRAME_START = "\x1b[2J"
TAB_COLUMNS = 8

_SGR = re.compile(r"\x1b\[[0-9;:]*m")
# CSI, OSC (ended by BEL or ST), and two-character escapes; then the lone control characters
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-Z\\^-~])?")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def is_frame(line: str) -> bool:
    """Whether a node's line paints a frame (a live picture) instead of adding a line."""
    return line.startswith(FRAME_START)


def frame_rows(line: str) -> list[str]:
    """The rows of a frame, plain or coloured; none for an empty frame, which clears the picture."""
    picture = line.removeprefix(FRAME_START).removeprefix("\x1b[H").removesuffix("\r")
    return picture.split("\r") if picture else []


def harmless(text: str) -> str:
    """`text` with its colours, but without whatever else could move the cursor or change the terminal."""
    if text.isprintable():
        return text
    # what comes before a carriage return would have been overwritten, as by a progress bar
    text = text.rstrip("\r").rsplit("\r", 1)[-1]
    coloured = False

    def keep_colour(found: re.Match[str]) -> str:
        nonlocal coloured
        if _SGR.fullmatch(found[0]):
            coloured = True
            return found[0].replace("\x1b", "\0")
        return ""

    text = _ESCAPE.sub(keep_colour, text.replace("\0", ""))
    text = _CONTROL.sub(lambda found: "\x1b" if found[0] == "\0" else "", text)
    return text + RESET if coloured else text


def plain(text: str) -> str:
    """`text` without any escape sequence or control character."""
    return text if text.isprintable() else _CONTROL.sub("", _ESCAPE.sub("", text))


def character_width(character: str) -> int:
    """Columns that one character takes: 0, 1 or 2."""
    if character < "\u0300":
        return 1
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def width(text: str) -> int:
    """Columns that `text` takes on a terminal; its colours take none."""
    if text.isascii() and text.isprintable():
        return len(text)
    return sum(map(character_width, plain(text)))


def crop(text: str, columns: int) -> str:
    """At most `columns` columns of `text`, tabs expanded, colours kept and closed."""
    text = harmless(text.expandtabs(TAB_COLUMNS))
    if width(text) <= columns:
        return text
    kept: list[str] = []
    left = max(columns - 1, 0)  # one column for the ellipsis
    coloured = False
    for piece in re.split(r"(\x1b\[[0-9;:]*m)", text):
        if piece.startswith("\x1b"):
            kept.append(piece)
            coloured = True
            continue
        for character in piece:
            left -= character_width(character)
            if left < 0:
                return "".join(kept) + ("…" if columns > 0 else "") + (RESET if coloured else "")
            kept.append(character)
    return "".join(kept)


def pad(text: str, columns: int, right: bool = False) -> str:
    """`text` filled with spaces to `columns`; it is never cropped."""
    fill = " " * (columns - width(text))
    return fill + text if right else text + fill


def table(head: Sequence[str], rows: Iterable[Sequence[object]], columns: int = 0) -> list[str]:
    """Aligned lines, the head first. Columns that hold only numbers stand right.

    With `columns` > 0 the last column is cropped so that no line is wider than that.
    """
    body = [["" if cell is None else str(cell) for cell in row] for row in rows]
    numeric = [
        bool(body) and all(row[at].lstrip("-").isdigit() or row[at] in {"", "-"} for row in body)
        for at in range(len(head))
    ]
    widths = [max(width(row[at]) for row in [list(head), *body]) for at in range(len(head))]
    lines = []
    for row in [list(head), *body]:
        cells = [pad(cell, widths[at], right=numeric[at]) for at, cell in enumerate(row)]
        line = "  ".join(cells).rstrip()
        lines.append(crop(line, columns) if columns > 0 else line)
    return lines


def duration(seconds: float) -> str:
    """A length of time as a person reads it: `0.4s`, `12s`, `3m 05s`, `2h 10m`, `4d 03h`."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"
