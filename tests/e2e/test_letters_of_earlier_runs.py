"""Dead letters of runs that others have followed: they stay until they are replayed or dropped."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import Any

import pytest
from support.harness import Folder, wait_until
from test_survive import NUMBERS, PICKY, POISON, POISONOUS, WITHOUT_POISON, call, call_json, letters, total

ONE_KEPT = "\nsnapshots: {every: 1h, keep: 1}\n"


@pytest.fixture
def place(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("NODERUNTIME_HOME", str(folder.home))
    folder.write(numbers_py=NUMBERS, picky_py=PICKY)
    return folder


def snapshots() -> list[int]:
    return [item["snapshot"] for item in call_json("snapshot", "ls", "--run", "flow")]


def values(*options: str) -> list[Any]:
    return [letter["value"] for letter in call_json("dead-letters", "show", "--run", "flow", *options, "sums")]


def told_snapshot(said: str) -> str:
    found = re.search(r"--from (\d+)", said)
    assert found is not None, said
    return found[1]


@pytest.mark.timeout(300)  # eight runs, one after the other
def test_letters_stay_through_later_runs_until_they_are_dropped_or_replayed_and_handled(place: Folder) -> None:
    assert place.start(POISON % "false" + ONE_KEPT).finish() == 0
    assert letters()
    place.write(mended="")
    for which in range(2):
        later = place.start()
        assert later.finish() == 0
        told = [text for text in later.statuses() if "left dead letters (4 of sums)" in text]
        assert len(told) == 1 and ("an earlier run" if which else "the last run") in told[0], told
    assert letters() == []
    number = told_snapshot(call("dead-letters", "ls", "--run", "flow"))
    assert number == told_snapshot(told[0])
    assert len(snapshots()) == 2

    assert values("--from", number) == POISONOUS
    assert "1 dead letter is dropped" in call(
        "dead-letters", "drop", "--run", "flow", "--from", number, "sums", "numbers/n#38"
    )
    number = told_snapshot(call("dead-letters", "ls", "--run", "flow"))
    assert values("--from", number) == POISONOUS[:-1]
    said = call("dead-letters", "replay", "--run", "flow", "--from", number, "sums")
    assert "3 dead letters are back" in said and "flow.yml --from " in said
    number = told_snapshot(said)
    assert f"--from {number}" in call("dead-letters", "ls", "--run", "flow")

    again = place.start(resume=True)  # the newest run is what it was
    assert again.finish() == 0
    assert any("nothing is left to do" in text for text in again.statuses())
    third = place.start()  # and another one takes nothing away
    assert third.finish() == 0
    assert total() == str(sum(range(41)))

    last = place.start(resume=True, from_snapshot=int(number))
    assert last.finish() == 0
    assert total() == str(WITHOUT_POISON + sum(POISONOUS[:-1]))
    assert "--from" not in call("dead-letters", "ls", "--run", "flow")
    assert len(snapshots()) == 1


def test_each_earlier_run_keeps_its_own_and_a_dropped_one_goes(place: Folder) -> None:
    for _ in range(3):
        assert place.start(POISON % "false" + ONE_KEPT).finish() == 0
    first, second, newest = sorted(snapshots())
    assert values() == values("--from", str(first)) == values("--from", str(second)) == POISONOUS
    call("dead-letters", "drop", "--run", "flow", "--from", str(first), "sums")
    assert sorted(snapshots()) == [second, newest]
    assert letters() and values("--from", str(second)) == POISONOUS
    assert "no snapshot" in call("dead-letters", "ls", "--run", "flow", "--from", str(first), code=1)
    call("dead-letters", "drop", "--run", "flow", "sums")  # of the newest run
    assert values("--from", str(second)) == POISONOUS


def test_while_a_later_run_lives_they_are_shown_and_change_only_after_it(place: Folder) -> None:
    assert place.start(POISON % "false" + ONE_KEPT).finish() == 0
    place.write(mended="")
    running = place.start(POISON % "true" + ONE_KEPT)
    running.wait_running()
    number = told_snapshot(call("dead-letters", "ls", "--run", "flow"))
    assert values("--from", number) == POISONOUS
    for operation in ("replay", "drop"):
        said = call("dead-letters", operation, "--run", "flow", "--from", number, "sums", code=1)
        assert "stop" in said, said
    place.write(enough="")
    assert running.finish() == 0
    assert values("--from", number) == POISONOUS


def test_only_the_last_snapshot_of_an_earlier_run_can_be_changed(place: Folder) -> None:
    for _ in range(2):
        assert place.start(POISON % "false" + "\nsnapshots: {every: 1h, keep: 9}\n").finish() == 0
        call("dead-letters", "drop", "--run", "flow", "sums", "numbers/n#8")
    older, last, *_ = sorted(snapshots())
    assert f"snapshot {last} is" in call("dead-letters", "drop", "--run", "flow", "--from", str(older), "sums", code=1)
    assert values("--from", str(older)) == POISONOUS
    assert values("--from", str(last)) == POISONOUS[1:]


def test_with_nothing_to_do_no_snapshot_is_made_and_nothing_changes(place: Folder) -> None:
    assert place.start(POISON % "false" + ONE_KEPT).finish() == 0
    before = snapshots()
    for operation in ("replay", "drop"):
        said = call("dead-letters", operation, "--run", "flow", "numbers")
        assert "numbers has no dead letters" in said and "nothing was changed" in said
    assert snapshots() == before
    assert call_json("state", "rm", "--run", "flow", "sums", "nothing") == {"key": "nothing", "removed": False}
    assert snapshots() == before


def test_replay_of_an_interrupted_run_leaves_the_copies_of_the_runs_before_it(place: Folder) -> None:
    """Without snapshots, the copies beside the logs are all that is left of an earlier run's dead letters."""
    none_kept = "\nsnapshots: {to: none}\n"
    assert place.start(POISON % "false" + none_kept).finish() == 0
    (copies,) = (place.home / "state").glob("flow/logs/*/dead-letters.json")
    before = json.loads(copies.read_text())
    assert [letter["value"] for letter in before] == POISONOUS
    running = place.start(POISON % "true" + none_kept)
    running.wait_running()
    wait_until(lambda: len(letters()) == 4, "the same dead letters in the second run")
    os.kill(running.runtime_pid, signal.SIGKILL)
    running.finish()
    assert "4 dead letters are dropped" in call("dead-letters", "drop", "--run", "flow", "sums")
    assert json.loads(copies.read_text()) == before


def test_of_several_ended_runs_the_one_that_is_taken_is_changed_where_its_letters_are(place: Folder) -> None:
    assert place.start(POISON % "false" + ONE_KEPT).finish() == 0
    assert place.start(POISON % "false" + ONE_KEPT, name="other").finish() == 0
    said = call("dead-letters", "drop", "sums", "numbers/n#8")
    assert "of the last run of 'other'" in said and "1 dead letter is dropped" in said
    left = [letter["value"] for letter in call_json("dead-letters", "show", "--run", "other", "sums")]
    assert left == POISONOUS[1:]
    assert values() == POISONOUS
    assert "3 dead letters are back" in call("dead-letters", "replay", "sums")


def test_without_snapshots_the_copies_beside_the_logs_of_every_run_are_reached(place: Folder) -> None:
    unkept = "\nsnapshots: {to: none}\n"
    for _ in range(2):
        assert place.start(POISON % "false" + unkept).finish() == 0
    assert values() == [*POISONOUS, *POISONOUS]
    killed = place.start(POISON % "true" + unkept)
    killed.wait_running()
    os.kill(killed.runtime_pid, signal.SIGKILL)
    killed.finish()
    assert "earlier runs left dead letters (8 of sums)" in call("dead-letters", "ls", "--run", "flow")
    call("clean", "--run", "flow")
    assert values() == [*POISONOUS, *POISONOUS]
    assert "8 dead letters are dropped" in call("dead-letters", "drop", "--run", "flow", "sums")
    assert letters() == []


# it fails for good before `repaired` exists, and lasts until `enough` does
BROKEN = """
import os
from noderuntime import Status
class Operator:
    def __init__(self):
        assert os.path.exists("repaired")
    def on_event(self, event, ctx):
        return Status.STOP if os.path.exists("enough") else Status.CONTINUE
"""
WITH_BROKEN = """
  - id: broken
    operator: {python: broken.py, inputs: {tick: timer/millis/20}}
    restart_policy: never
snapshots: {to: none}
"""


def test_a_run_that_failed_and_was_resumed_has_its_dead_letters_once(place: Folder) -> None:
    place.write(broken_py=BROKEN)
    assert place.start(POISON % "false" + WITH_BROKEN).finish() == 1
    place.write(repaired="")
    resumed = place.start(resume=True)
    resumed.wait_running("broken")
    assert "earlier runs" not in call("dead-letters", "ls", "--run", "flow")
    call("dead-letters", "drop", "--run", "flow", "sums", "numbers/n#8")
    place.write(enough="")
    assert resumed.finish() == 0
    assert values() == POISONOUS[1:]
    assert "3 dead letters are dropped" in call("dead-letters", "drop", "--run", "flow", "sums")
    assert letters() == []
