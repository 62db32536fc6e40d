"""`--chaos`, the part that decides: which kills a seed draws, and what the figures say was lost."""

from __future__ import annotations

from typing import Any

import pytest

from noderuntime.runtime.chaos_schedule import Edge, Kill, Report, Schedule, balance

VICTIMS = ["a", "b", "(store)"]
EDGE = Edge("a/out", "b", "in")


def drawn(seed: int) -> list[tuple[float, list[str]]]:
    schedule = Schedule(seed, 1.0, VICTIMS)
    return [(schedule.pause_s(), schedule.preference()) for _ in range(50)]


def test_a_seed_draws_the_same_kills_again_and_another_one_others() -> None:
    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_pauses_spread_around_the_interval() -> None:
    pauses = [pause for pause, _ in drawn(1)]
    assert min(pauses) >= 0.5 and max(pauses) <= 1.5


def test_everybody_comes_first_at_some_time() -> None:
    assert {preference[0] for _, preference in drawn(1)} == set(VICTIMS)


def test_who_cannot_be_killed_now_is_passed_over_and_draws_nothing_extra() -> None:
    one, other = Schedule(3, 1.0, VICTIMS), Schedule(3, 1.0, VICTIMS)
    assert one.pick(["b"]) == "b"
    assert other.pick([]) is None
    assert one.preference() == other.preference()


def test_whoever_comes_later_may_be_killed_too_and_changes_nothing_of_what_was_drawn_before() -> None:
    one, other = Schedule(3, 1.0, VICTIMS), Schedule(3, 1.0, VICTIMS)
    assert one.preference() == other.preference()
    one.add(["a", "b"])  # which are known
    assert one.preference() == other.preference()
    one.add(["late", "a"])
    assert sorted(one.preference()) == sorted([*VICTIMS, "late"])
    assert one.pick(["late"]) == "late"


def figures(sent: int, **arrived: int) -> dict[str, Any]:
    return {"a": {"outputs": {"out": sent}}, "b": {"inputs": {"in": arrived}}}


@pytest.mark.parametrize("where", ["taken", "queued", "dropped", "discarded", "dead"])
def test_a_message_that_is_anywhere_is_not_lost(where: str) -> None:
    found = balance(EDGE, figures(0), figures(5, **{"taken": 2, where: 3 + (2 if where == "taken" else 0)}))
    assert (found.sent, found.lost, found.repeated) == (5, 0, 0)


def test_a_message_that_is_nowhere_is_lost_and_one_too_many_is_repeated() -> None:
    assert balance(EDGE, figures(0), figures(5, taken=3)).lost == 2
    assert balance(EDGE, figures(0), figures(5, taken=6)).repeated == 1


def test_what_happened_before_does_not_count() -> None:
    found = balance(EDGE, figures(10, taken=7, queued=1), figures(15, taken=13))
    assert (found.sent, found.lost, found.repeated) == (5, 0, 0)


def report(**more: Any) -> Report:
    made = Report(7, 0.5, VICTIMS, lasted_s=10.0, **more)
    made.balances = {EDGE: balance(EDGE, figures(0), figures(5, taken=4))}
    return made


def test_the_report_names_victims_times_messages_and_how_to_repeat_it() -> None:
    kills = [Kill("a", 1.0, 0.010), Kill("a", 2.0, 0.030), Kill("a", 3.0, 0.020), Kill("b", 4.0)]
    lines = report(kills=kills, again=2).lines()
    assert lines[0] == "chaos: 4 kills in 10.0 s; once more: --chaos 0.5s --seed 7"
    assert [line.split() for line in lines[2:5]] == [
        ["a", "3", "20.0", "ms", "30.0", "ms"],
        ["b", "1", "-", "-", "1", "not", "back", "before", "it", "or", "the", "run", "ended"],
        ["(store)", "0", "-", "-"],
    ]
    assert lines[5] == "  messages sent 5, lost 1, repeated 0"
    assert lines[6].endswith("at least once: 2")
    assert lines[7] == "  a/out -> b.in: sent 5, lost 1, repeated 0"


def test_the_report_has_a_row_for_a_victim_that_came_later() -> None:
    lines = report(kills=[Kill("late", 1.0, 0.010), Kill("late", 2.0, 0.010)]).lines()
    assert [line.split()[:2] for line in lines[2:6]] == [["a", "0"], ["b", "0"], ["(store)", "0"], ["late", "2"]]


def test_a_report_is_good_when_nothing_was_lost_or_repeated() -> None:
    assert not report().is_good
    good = report()
    good.balances = {EDGE: balance(EDGE, figures(0), figures(5, taken=5))}
    assert good.is_good


def test_a_run_that_was_over_before_the_first_kill_says_so() -> None:
    lines = report().lines()
    assert lines[0].startswith("chaos: 0 kills") and "before anything could be killed" in lines[1]


def test_programs_get_every_kill_and_every_edge() -> None:
    facts = report(kills=[Kill("a", 1.0, 0.01), Kill("b", 2.0)]).facts()
    assert facts["kills"] == [
        {"victim": "a", "at": 1.0, "back_after": 0.01}, {"victim": "b", "at": 2.0, "back_after": None},
    ]  # fmt: skip
    assert facts["messages"] == [
        {"source": "a/out", "node": "b", "input": "in", "sent": 5, "lost": 1, "repeated": 0}
    ]
    assert facts["seed"] == 7
