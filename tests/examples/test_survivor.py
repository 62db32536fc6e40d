"""The witness of the demo: what it calls lost, repeated, and back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from noderuntime.dataflows.survivor_witness import Witness, rows, verdict


def value(count: int, number: int | None = None, process: int = 1) -> dict[str, int]:
    return {"count": count, "number": count if number is None else number, "process": process}


def seen(*values: dict[str, int]) -> Witness:
    witness = Witness()
    for at, item in enumerate(values):
        witness.see(item, float(at))
    return witness


def test_an_unbroken_count_is_good() -> None:
    witness = seen(value(1), value(2), value(3))
    assert (witness.count, witness.lost, witness.repeated, witness.is_good) == (3, 0, 0, True)


@pytest.mark.parametrize(
    ("values", "lost", "repeated"),
    [
        ([value(1), value(4)], 2, 0),  # counts that never arrived
        ([value(1), value(2, number=3), value(3, number=4)], 1, 0),  # a number that was never counted
        ([value(1), value(2), value(2)], 0, 1),  # a count that came twice
        ([value(1), value(2), value(1, number=3)], 2, 2),  # a state that was lost: it counts anew
    ],
)
def test_a_gap_is_a_loss_and_a_step_back_a_repetition(
    values: list[dict[str, int]], lost: int, repeated: int
) -> None:
    witness = seen(*values)
    assert (witness.lost, witness.repeated) == (lost, repeated)
    assert not witness.is_good
    assert verdict(witness)[0].startswith("NOT AS PROMISED")


def test_a_witness_that_joins_a_resumed_run_begins_with_the_first_count_that_it_sees() -> None:
    witness = Witness(joins=True)
    for count in (500, 501, 503):
        witness.see(value(count), 1.0)
    assert (witness.count, witness.lost, witness.repeated) == (503, 1, 0)


def test_it_kills_the_process_that_counted_last_and_waits_for_the_next_one() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim:
        witness = seen(value(1, process=victim.pid))
        assert witness.kill(10.0)
        assert victim.wait() == -9
    assert not witness.kill(10.1), "one kill at a time"
    assert not witness.see(value(2, process=victim.pid), 10.2), "that was still under way"
    assert witness.see(value(3, process=os.getpid()), 10.5)
    assert witness.back_s == [0.5] and witness.kills == 1
    assert ": 1 kill with" in verdict(witness)[0] and "p50 500.0 ms" in verdict(witness)[0]


def test_nobody_is_killed_before_anybody_counted() -> None:
    assert not Witness().kill(1.0)


@pytest.mark.parametrize("columns", [20, 80, 300])
def test_the_picture_fits_the_terminal_and_has_no_colour_when_there_is_to_be_none(columns: int) -> None:
    witness = seen(value(1), value(2))
    witness.slots.extend([(3, 0), (0, 1)] * 300)
    picture = rows(witness, columns, colour=False)
    assert "\x1b" not in "".join(picture)
    assert all(len(row) < max(columns, 60) for row in picture)
    marks, counts = picture[6], picture[7]
    assert marks.count("x") == sum(kills for _, kills in list(witness.slots)[-(columns - 14) :])
    assert counts.endswith("█ ")
