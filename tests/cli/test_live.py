"""The live region, on a terminal made of a list of rows that understands the few sequences it uses."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from noderuntime.cli.live import LiveRegion


class Screen:
    """A terminal that wraps at `columns` and scrolls without end."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.rows = [""]
        self.row = 0
        self.column = 0

    def feed(self, text: str) -> None:
        for piece in re.findall(r"\x1b\[\??\d*[A-Za-z]|[^\x1b]", text):
            if piece.startswith("\x1b"):
                self._sequence(piece)
            elif piece == "\n":
                self._down()
                self.column = 0
            elif piece == "\r":
                self.column = 0
            else:
                self._character(piece)

    def _sequence(self, sequence: str) -> None:
        if sequence.endswith("A"):
            self.row = max(0, self.row - int(sequence[2:-1]))
        elif sequence == "\x1b[K":
            self.rows[self.row] = self.rows[self.row][: self.column]
        elif sequence == "\x1b[J":
            self.rows[self.row] = self.rows[self.row][: self.column]
            del self.rows[self.row + 1 :]
        else:
            assert sequence in {"\x1b[?2026h", "\x1b[?2026l"}, sequence

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")

    def _character(self, character: str) -> None:
        if self.column == self.columns:
            self._down()
            self.column = 0
        text = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = text[: self.column] + character + text[self.column + 1 :]
        self.column += 1


def shown(lines: list[str], rows: list[str], columns: int) -> list[str]:
    """What should stand on the screen: the lines, wrapped, then the rows, then the cursor's row."""
    screen = Screen(columns)
    screen.feed("".join(f"{line}\n" for line in [*lines, *rows]))
    return screen.rows


Step = tuple[list[str], list[str]]
some_lines = st.lists(st.text("ab ", max_size=25), max_size=3)
some_rows = st.lists(st.text("xyz", max_size=9), max_size=4)


@given(st.lists(st.tuples(some_lines, some_rows), max_size=8))
def test_lines_scroll_above_the_newest_rows_whatever_came_before(steps: list[Step]) -> None:
    region, screen, logged, rows = LiveRegion(), Screen(10), list[str](), list[str]()
    for lines, rows in steps:
        screen.feed(region.update(lines, rows, columns=10, height=20))
        logged += lines
        assert screen.rows == shown(logged, rows, 10)


def test_an_unchanged_region_writes_nothing() -> None:
    region = LiveRegion()
    assert region.update([], ["a"], 80, 24)
    assert region.update([], ["a"], 80, 24) == ""


def test_without_rows_lines_are_written_as_they_are() -> None:
    assert LiveRegion().update(["a", "b"], [], 80, 24) == "a\nb\n"


def test_a_region_that_only_changes_is_overwritten_in_place_and_never_blanked() -> None:
    region = LiveRegion()
    region.update([], ["one", "two"], 80, 24)
    assert "\x1b[J" not in region.update([], ["1", "2"], 80, 24).partition("2")[0]


def test_rows_are_cropped_to_the_terminal_and_the_rest_is_counted() -> None:
    text = LiveRegion().update([], [f"row {n} is long" for n in range(10)], columns=8, height=4)
    screen = Screen(8)
    screen.feed(text)
    assert screen.rows == ["row 0 …", "row 1 …", "… 8 mo…", ""]


def test_a_terminal_that_became_narrower_is_repainted_from_where_its_wrapped_rows_begin() -> None:
    region = LiveRegion()
    region.update(["above"], ["abcdefgh"], columns=12, height=10)
    screen = Screen(5)
    screen.feed("above\nabcdefgh\n")  # as the terminal itself wraps it
    screen.feed(region.update([], ["abcdefgh"], columns=5, height=10))
    assert screen.rows == ["above", "abc…", ""]
