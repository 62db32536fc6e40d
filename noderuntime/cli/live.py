"""The live region: rows at the bottom of a terminal that are repainted while lines scroll by above them.
Pure.

The cursor always rests at the beginning of the line below the region, so that other writers to the
terminal, or a kill -9 of this process, leave a readable screen behind. One update is one string, written at once
and wrapped in the "synchronized output" mode that terminals without it ignore. Without lines to add, the
old rows are overwritten in place, never blanked first, so nothing flickers.
"""

from __future__ import annotations

from collections.abc import Sequence

from noderuntime.cli.text import crop, width

_SYNC_ON, _SYNC_OFF = "\x1b[?2026h", "\x1b[?2026l"
_CLEAR_TO_LINE_END = "\x1b[K"
_CLEAR_BELOW = "\x1b[J"


class LiveRegion:
    """Knows what is painted, and gives the text that changes it."""

    def __init__(self) -> None:
        self._painted: list[str] = []

    def update(self, lines: Sequence[str], rows: Sequence[str], columns: int, height: int) -> str:
        """The text that adds `lines` above the region and makes `rows` the region.

        `columns` and `height` are the terminal's present size; rows that do not fit are cropped, the last
        ones kept out ("… 3 more rows"). Nothing to change gives "".
        """
        fitting = _fit(rows, columns, height)
        if not lines and fitting == self._painted:
            return ""
        if not self._painted and not fitting:
            return "".join(f"{line}\n" for line in lines)
        parts = [_SYNC_ON, self._to_top(columns)]
        if lines:
            # a line may wrap, or fill its row to the last column, where clearing behind it would take a
            # character away
            parts.append(_CLEAR_BELOW)
            parts += [f"{line}\n" for line in lines]
        parts += [f"{row}{_CLEAR_TO_LINE_END}\n" for row in fitting]
        parts += [_CLEAR_BELOW, _SYNC_OFF]
        self._painted = fitting
        return "".join(parts)

    def _to_top(self, columns: int) -> str:
        # a terminal that became narrower has wrapped the painted rows
        up = sum(max(1, -(-width(row) // max(columns, 1))) for row in self._painted)
        return f"\r\x1b[{up}A" if up else "\r"


def _fit(rows: Sequence[str], columns: int, height: int) -> list[str]:
    # one column stays free: some terminals wrap at once when the last one is written; one row is the cursor's
    room = max(height - 1, 1)
    fitting = [crop(row, max(columns - 1, 1)) for row in rows[:room]]
    if len(rows) > room:
        fitting[-1] = crop(f"… {len(rows) - room + 1} more rows", max(columns - 1, 1))
    return fitting
