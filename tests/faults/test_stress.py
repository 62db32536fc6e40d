"""Everything at once on one run, for some seconds. `make stress` goes on for minutes, out of new seeds."""

from __future__ import annotations

import pytest
from support.stress import play


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_to_which_everything_happens_at_once_is_exact_and_leaves_nothing(seed: int) -> None:
    figures = play(seed, 8.0)
    assert figures.numbers
    assert figures.commands.total()
    assert any("kill" in act for act in figures.acts), "a kill, at the least"
