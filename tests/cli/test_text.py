"""Text for terminals: widths, cropping, what is let through, tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noderuntime.cli.text import crop, duration, frame_rows, harmless, is_frame, plain, table, width


def test_colours_pass_and_are_closed() -> None:
    assert harmless("\x1b[31mred") == "\x1b[31mred\x1b[0m"


@pytest.mark.parametrize(
    "evil",
    [
        "\x1b[2J", "\x1b[H", "\x1b[?1049h", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\", "\x1bc", "\x07",
        "\x9b2J", "\x1b(B",
    ],
)  # fmt: skip
def test_what_would_change_the_terminal_does_not_pass(evil: str) -> None:
    shown = harmless(f"a{evil}b")
    assert "\x1b" not in shown and "\x07" not in shown and "\x9b" not in shown
    assert shown.startswith("a") and shown.endswith("b")


def test_a_progress_bar_shows_its_last_state() -> None:
    assert harmless("10%\r50%\r100%\r") == "100%"


@given(st.text())
def test_no_text_leaves_a_control_character_other_than_of_a_colour(text: str) -> None:
    left = harmless(text)
    assert plain(left) == "".join(c for c in plain(left) if c == "\t" or c >= " ")
    for piece in left.split("\x1b")[1:]:
        assert piece.startswith("[") and "m" in piece


@given(st.text(), st.integers(0, 30))
def test_cropped_text_is_never_wider_than_asked(text: str, columns: int) -> None:
    assert width(crop(text, columns)) <= columns


def test_wide_characters_take_two_columns_and_accents_none() -> None:
    assert width("日本") == 4
    assert width("e\u0301") == 1
    assert crop("日本語", 5) == "日本…"


def test_colours_take_no_columns_when_cropped() -> None:
    assert crop("\x1b[32mabcdef\x1b[0m", 4) == "\x1b[32mabc…\x1b[0m"
    assert crop("\x1b[32mabcd\x1b[0m", 4).startswith("\x1b[32mabcd\x1b[0m")


def test_a_frame_is_known_by_its_first_bytes_and_split_into_rows() -> None:
    assert is_frame("\x1b[2Jcpu\r mem")
    assert not is_frame("cpu \x1b[2J")
    assert frame_rows("\x1b[2J\x1b[Hcpu\r mem\r") == ["cpu", " mem"]
    assert frame_rows("\x1b[2J") == []


def test_tables_align_and_put_numbers_right() -> None:
    assert table(("node", "restarts"), [("a", 3), ("longer", 12)]) == [
        "node    restarts",
        "a              3",
        "longer        12",
    ]


def test_a_table_fits_the_terminal() -> None:
    lines = table(("node", "reason"), [("a", "x" * 100)], columns=20)
    assert max(map(width, lines)) == 20


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4s"), (12.7, "12s"), (185, "3m 05s"), (7800, "2h 10m"), (4 * 86400 + 3 * 3600, "4d 03h"),
        (-1, "0.0s"),
    ],
)  # fmt: skip
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
