"""Which snapshots stay: the newest, and of each run the last one that holds something nobody has settled. Pure."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from test_format import MANIFEST

from noderuntime.snapshot.format import DROPPED, REPLAYED, Manifest
from noderuntime.snapshot.retention import Facts, facts_of, letters_at, newest, to_keep, unsettled


def taken(number: int, run: str, letters: int = 0, why: str = "end") -> Manifest:
    counts = {"a": {"dead_letters": letters}, "b": {"dead_letters": 0}}
    return replace(MANIFEST, number=number, run_id=run, counts=counts, why=why)


def kept(keep: int, *snapshots: Manifest | int) -> list[int]:
    """The numbers that are kept; a snapshot whose manifest is damaged is just a number."""
    known: dict[int, Manifest | None] = {item: None for item in snapshots if isinstance(item, int)}
    known |= {item.number: item for item in snapshots if not isinstance(item, int)}
    return sorted(to_keep(known, keep, facts_of).all)


def test_the_newest_are_kept() -> None:
    assert kept(2, *(taken(number, "A") for number in range(1, 6))) == [4, 5]
    assert kept(0, taken(1, "A"), taken(2, "A")) == [2]
    assert kept(2) == []


def test_of_an_earlier_run_the_last_snapshot_is_kept_when_it_holds_dead_letters() -> None:
    assert kept(1, taken(1, "A", 2), taken(2, "A", 1), taken(3, "B"), taken(4, "B")) == [2, 4]


def test_each_of_several_earlier_runs_keeps_its_own() -> None:
    assert kept(1, taken(1, "A", 1), taken(2, "B", 1), taken(3, "C"), taken(4, "D", 1), taken(5, "E")) == [1, 2, 4, 5]


def test_letters_that_are_no_longer_in_the_last_snapshot_of_their_run_were_settled() -> None:
    assert kept(1, taken(1, "A", 3), taken(2, "A"), taken(3, "B")) == [3]
    assert kept(1, taken(1, "A", 3), taken(2, "B"), taken(3, "A"), taken(4, "B")) == [4]  # `run --from 1` settled them


def test_what_a_command_made_of_an_earlier_run_counts_among_that_run_s_only() -> None:
    aside = taken(3, "A", 1, DROPPED)
    assert kept(1, taken(1, "A", 2), taken(2, "B"), aside) == [2, 3]
    assert [item.number for item in newest([aside, taken(2, "B")])] == [2]


def test_when_the_last_letter_of_an_earlier_run_is_dropped_all_of_it_may_go() -> None:
    assert kept(1, taken(1, "A", 2), taken(2, "B"), taken(3, "A", 0, DROPPED)) == [2]


def test_letters_that_were_put_back_are_kept_until_their_run_has_gone_on() -> None:
    back = taken(3, "A", 0, REPLAYED)
    assert kept(1, taken(1, "A", 2), taken(2, "B"), back, taken(4, "B")) == [3, 4]
    assert kept(1, taken(1, "A", 2), taken(2, "B"), back, taken(4, "A")) == [4]


def test_a_damaged_manifest_counts_as_one_of_the_newest_and_settles_nothing() -> None:
    assert kept(1, taken(1, "A", 1), taken(2, "B"), 3) == [1, 3]
    assert kept(1, taken(1, "A", 1), 2, taken(3, "B")) == [1, 3]


def test_a_snapshot_of_an_older_format_is_read_only_where_that_decides() -> None:
    old = [replace(taken(number, ""), format=2) for number in (1, 2, 3)]
    asked: list[int] = []

    def read(manifest: Manifest) -> Facts:
        if manifest.format >= 3:
            return facts_of(manifest)
        asked.append(manifest.number)
        return Facts("old", manifest.number == 1)

    def numbers(keep: int, *snapshots: Manifest) -> set[int]:
        return to_keep({item.number: item for item in snapshots}, keep, read).all

    assert numbers(2, *old[:2], taken(4, "B")) == {2, 4}
    assert numbers(1, old[0], taken(4, "B")) == {1, 4}
    assert numbers(3, *old) == {1, 2, 3}
    assert asked == [1, 2, 1]


def test_unsettled_names_the_last_of_each_run_the_newest_first() -> None:
    snapshots = [taken(5, "C"), taken(4, "B", 1), taken(3, "A", 0, REPLAYED), taken(2, "B", 1), taken(1, "A", 1)]
    assert [item.number for item in unsettled(snapshots, facts_of)] == [4, 3]


def test_letters_are_counted_by_node() -> None:
    assert letters_at(taken(1, "A", 2)) == {"a": 2}
    assert letters_at(replace(MANIFEST, counts={"a": {}})) == {}


@pytest.mark.parametrize("seed", range(20))
def test_however_it_is_pruned_no_letter_is_lost_before_it_is_settled(seed: int) -> None:
    """Random histories against a plain dictionary: run -> letters it holds, changed only by that run or a command."""
    rng = random.Random(seed)
    there: dict[int, Manifest | None] = {}
    holds: dict[str, int] = {}
    current, runs = "0", 0
    for number in range(1, 60):
        match rng.randrange(4):
            case 0:
                runs += 1
                current = str(runs)
                made = taken(number, current, rng.randrange(2), "start")
            case 1:
                made = taken(number, current, rng.randrange(3), "periodic")
            case 2 if others := [run for run in holds if run != current and holds[run]]:
                made = taken(number, rng.choice(others), rng.randrange(2), DROPPED)
            case _ if holds:
                current = rng.choice(list(holds))  # `run --from` its last one, when that is still there
                made = taken(number, current, rng.randrange(2), "end")
            case _:
                made = taken(number, current, 0, "end")
        there[number] = made
        holds[made.run_id] = sum(letters_at(made).values())
        stays = to_keep(there, rng.choice([1, 3]), facts_of).all
        there = {key: item for key, item in there.items() if key in stays}
        for run, letters in holds.items():
            last = max((key for key, item in there.items() if item is not None and item.run_id == run), default=None)
            if letters:
                assert last is not None and sum(letters_at(there[last]).values()) == letters, (seed, number, run)
