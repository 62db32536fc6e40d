"""The life of a run as the contract's table has it, and the programs of issue *Persist*, undisturbed and hurt."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.harness import SUMS, Folder, Running, is_alive, wait_until
from support.machines import (
    PROGRAMS,
    flow,
    has_snapshot,
    kill_one,
    lose_machine,
    results,
    rows,
    snapshots,
    to_the_end,
    wait_for_snapshots,
)
from support.servers import s3_server

RUNNING_SUM = [str(n * (n + 1) // 2) for n in range(101)]
PARITY = [str(((i + 1) // 2) ** 2 if i % 2 else (i // 2) * (i // 2 + 1)) for i in range(101)]
TOGETHER = [json.dumps([int(text) for text in PARITY[at : at + 10]]) for at in range(0, 101, 10)]
WANTED = {
    ("numbers", "running"): RUNNING_SUM,
    ("numbers", "parity"): PARITY,
    ("words", "joined"): ["foo", "foobar", "hello", "helloworld", "baz"],
    ("words", "Live"): ["foo", "foo|bar", "foo|bar|hello", "bar|hello|world", "hello|world|baz"],
    ("numbers", "Failing"): RUNNING_SUM,
    ("tens", "together"): TOGETHER,
}
SLOW = {"PAUSE": "0.05"}  # so that a busy machine too is lost, or the run stopped, before the end
HELD = {"PAUSE": "0.3"}  # so that the run is still there when a command has started
# so that those of few messages take about as long
SLOW_BY_SOURCE = {"numbers": SLOW, "tens": {"PAUSE": "0.5", "KILLED": "yes"}, "words": {"PAUSE": "1"}}
STEPS = {"numbers": 12, "tens": 3, "words": 2}  # at most one less results between two losses


@pytest.fixture
def programs(folder: Folder) -> Folder:
    folder.write(programs_py=PROGRAMS)
    return folder


def unquoted(values: list[Any]) -> list[str]:
    return [str(value).strip('"') for value in values]


# --- the programs


FIRST = [("numbers", "running"), ("numbers", "Failing")]
REST = [pytest.param(*pair, marks=pytest.mark.long) for pair in WANTED if pair not in FIRST]


@pytest.mark.parametrize(("source", "operator"), [*FIRST, *REST])
def test_each_program_gives_exactly_its_results(source: str, operator: str, programs: Folder) -> None:
    assert to_the_end(programs, flow(source, operator), {}, lambda running, dice: False, 0) == 1
    assert results(programs) == WANTED[source, operator]
    assert unquoted(rows(programs)) == WANTED[source, operator]


def _lose_machines(folder: Folder, times: int, step: int) -> Any:
    left = [times]

    def hurt(running: Running, dice: random.Random) -> bool:
        lines = len(results(folder))
        newest = max((item.number for item in snapshots(folder)), default=0) if left[0] < times else 0
        wait_for_snapshots(folder, newest)
        wait_until(lambda: len(results(folder)) > lines + dice.randrange(step) or not is_up(running), "some progress")
        lose_machine(folder, running)
        left[0] -= 1
        return left[0] > 0

    return hurt


def is_up(running: Running) -> bool:
    return running.process.poll() is None


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("source", "operator", "times"),
    [
        ("numbers", "running", 3),
        ("tens", "together", 3),
        pytest.param("numbers", "parity", 3, marks=LONG),
        pytest.param("words", "joined", 2, marks=LONG),
        pytest.param("words", "Live", 2, marks=LONG),
    ],
)
def test_the_results_are_the_same_when_machines_are_lost(
    source: str, operator: str, times: int, programs: Folder
) -> None:
    hurt = _lose_machines(programs, times, STEPS[source] // 2)
    assert to_the_end(programs, flow(source, operator), SLOW_BY_SOURCE[source], hurt, 1) == times + 1
    assert results(programs) == WANTED[source, operator]
    assert unquoted(rows(programs)) == WANTED[source, operator]


@pytest.mark.long
@pytest.mark.parametrize(("source", "operator"), WANTED)
@pytest.mark.parametrize("seed", range(3))
def test_the_results_are_the_same_under_random_kills_and_losses(
    seed: int, source: str, operator: str, programs: Folder
) -> None:
    left = [8]

    def hurt(running: Running, dice: random.Random) -> bool:
        while left[0] > 0 and is_up(running):
            before = len(results(programs))
            wanted = before + dice.randrange(1, STEPS[source])
            wait_until(lambda: len(results(programs)) >= wanted or not is_up(running), "some progress")  # noqa: B023
            left[0] -= 1
            if dice.random() < 0.25:
                # without a snapshot the next run is another one, and keeps the database's rows of this one
                wait_until(lambda: has_snapshot(programs) or not is_up(running), "the first snapshot")
                lose_machine(programs, running)
            else:
                kill_one(programs, dice)
        return left[0] > 0

    to_the_end(programs, flow(source, operator, "100ms"), SLOW_BY_SOURCE[source], hurt, seed)
    assert results(programs) == WANTED[source, operator]
    assert unquoted(rows(programs)) == WANTED[source, operator]


def test_an_operator_that_is_killed_in_the_middle_of_each_batch_repeats_and_loses_nothing(programs: Folder) -> None:
    hurt = {"PAUSE": "0", "KILLED": "yes"}
    assert to_the_end(programs, flow("tens", "together"), hurt, lambda running, dice: False, 0) == 1
    assert results(programs) == WANTED["tens", "together"]
    assert programs.runs[0].rows()["work"]["restarts"] == 10


def test_several_keyed_operators_in_one_dataflow_each_keep_their_own_states(programs: Folder) -> None:
    """One after the other, batches into batches, and side by side, all of them killed.

    The more messages wait, the more of them are in one transaction, and the more kills come without a commit in
    between: as many as the load of the machine makes it, so without a limit.
    """
    dataflow = """
nodes:
  - {id: source, operator: {python: programs.py:tens, outputs: [out]}}
  - id: first
    operator: {python: programs.py:together, inputs: {in: source/out}, outputs: [out]}
    max_restarts: 0
  - id: second
    operator: {python: programs.py:together, inputs: {in: first/out}, outputs: [out]}
    max_restarts: 0
  - id: beside
    operator: {python: programs.py:together, inputs: {in: source/out}, outputs: [out]}
    max_restarts: 0
  - id: file
    operator: {module: noderuntime.operators.file_sink, inputs: {second: second/out}}
    config: {path: out.txt}
  - id: other
    operator: {module: noderuntime.operators.file_sink, inputs: {beside: beside/out}}
    config: {path: beside.txt}
snapshots: {to: none}
"""
    running = programs.start(dataflow, env={"KILLED": "yes"})
    assert running.finish(60.0) == 0, "\n".join(running.statuses()[-12:])
    assert all(running.rows()[node]["restarts"] > 0 for node in ("first", "second", "beside"))
    assert (programs.folder / "beside.txt").read_text().splitlines() == TOGETHER
    sums = {0: 0, 1: 0}
    wanted = []
    for number in map(int, PARITY):
        sums[number % 2] += number
        wanted.append(sums[number % 2])
    found = [number for line in results(programs) for number in json.loads(line)]
    assert found == wanted


# --- the life of a run


def test_a_finished_run_leaves_no_space_and_has_nothing_left_to_do(programs: Folder) -> None:
    running = programs.start(flow("words", "joined"))
    assert running.finish() == 0
    assert not programs.run_dir().root.exists()
    assert snapshots(programs)[0].manifest.finished  # type: ignore[union-attr]
    again = programs.start(resume=True)
    assert again.finish() == 0
    assert any("nothing is left to do" in text for text in again.statuses())
    anew = programs.start()
    assert anew.finish() == 0
    assert not any("cut off" in text for text in anew.statuses())
    assert results(programs) == WANTED["words", "joined"]


NEVER_SEVEN = """
class Operator:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT" and event["value"] == 7:
            raise RuntimeError("seven")
"""


def test_a_run_that_starts_anew_says_which_dead_letters_it_leaves_behind(folder: Folder) -> None:
    folder.write(programs_py=PROGRAMS, never_py=NEVER_SEVEN)
    running = folder.start("""
nodes:
  - {id: source, operator: {python: programs.py:numbers, outputs: [out]}}
  - {id: work, operator: {python: never.py, inputs: {in: source/out}}, restart_delay: 1ms}
""")
    assert running.finish() == 0
    assert not any("dead letters (" in text for text in running.statuses())
    again = folder.start()
    assert again.finish() == 0
    told = [text for text in again.statuses() if "left dead letters (1 of work)" in text]
    assert len(told) == 1 and "dead-letters ls --run flow --from" in told[0], again.statuses()


def test_stop_wait_and_resume_is_a_pause(programs: Folder) -> None:
    running = programs.start(flow("numbers", "running", "1h"), env=SLOW)
    wait_until(lambda: len(results(programs)) > 10, "some results")
    running.process.send_signal(signal.SIGINT)
    assert running.finish() == 130
    assert not programs.run_dir().root.exists()
    (only,) = snapshots(programs)
    assert only.manifest is not None
    assert (only.manifest.why, only.manifest.finished) == ("end", False)
    assert 10 <= only.manifest.counts["file"]["inputs"]["in"]["taken"] < 101
    again = programs.start(resume=True)
    assert again.finish() == 0
    assert any("continuing from snapshot 1" in text for text in again.statuses())
    assert results(programs) == RUNNING_SUM


def test_a_stopped_run_that_is_run_plainly_starts_anew_without_a_word(programs: Folder) -> None:
    running = programs.start(flow("numbers", "running"), stop_after_s=0.5, env=SLOW)
    assert running.finish() == 0
    anew = programs.start()
    assert anew.finish() == 0
    assert not any("snapshot" in text for text in anew.statuses())
    assert results(programs) == RUNNING_SUM


def test_after_the_runtime_was_killed_the_space_goes_on_and_nothing_is_lost(programs: Folder) -> None:
    running = programs.start(flow("numbers", "running", "1h"), env=SLOW)
    running.wait_for("started")
    wait_until(lambda: len(results(programs)) > 10, "some results")
    os.kill(running.runtime_pid, signal.SIGKILL)
    running.finish()
    assert programs.start().finish() == 2
    again = programs.start(resume=True)
    assert again.finish() == 0
    assert not any("snapshot" in text for text in again.statuses())
    assert results(programs) == RUNNING_SUM


def test_after_the_machine_was_lost_a_plain_run_starts_anew_and_says_that_there_was_one(programs: Folder) -> None:
    running = programs.start(flow("numbers", "running"), env=SLOW)
    wait_for_snapshots(programs, 1)
    lose_machine(programs, running)
    anew = programs.start()
    assert anew.finish() == 0
    assert any("that was cut off" in text and "--resume" in text for text in anew.statuses())
    assert results(programs) == RUNNING_SUM


def test_resume_with_nothing_to_resume_starts_anew_and_says_so(programs: Folder) -> None:
    running = programs.start(flow("words", "joined"), resume=True)
    assert running.finish() == 0
    assert any("nothing to resume" in text for text in running.statuses())


def test_an_older_snapshot_can_be_chosen_even_when_the_space_is_kept(programs: Folder) -> None:
    dataflow = flow("numbers", "running", "50ms").replace("snapshots: {", "snapshots: {keep: 1000, ")
    running = programs.start(dataflow, env=SLOW)
    running.wait_for("started")
    wait_for_snapshots(programs, 5)
    os.kill(running.runtime_pid, signal.SIGKILL)
    running.finish()
    again = programs.start(from_snapshot=2, resume=True)
    assert again.finish() == 0
    assert any("continuing from snapshot 2" in text for text in again.statuses())
    assert results(programs) == RUNNING_SUM
    assert unquoted(rows(programs)) == RUNNING_SUM


def test_a_damaged_snapshot_is_passed_over_loudly(programs: Folder) -> None:
    running = programs.start(flow("numbers", "running"), env=SLOW)
    newest = wait_for_snapshots(programs, 2)
    lose_machine(programs, running)
    newest = snapshots(programs)[0].number
    path = next((programs.home / "state" / "flow" / "snapshots").glob(f"{newest:010d}-*.part"))
    path.write_bytes(path.read_bytes()[:-3])
    again = programs.start(resume=True)
    assert again.finish() == 0
    told = "\n".join(again.statuses())
    assert f"snapshot {newest}: part" in told
    assert "using an older one" in told
    assert results(programs) == RUNNING_SUM


def test_when_no_snapshot_is_whole_the_run_is_refused_and_says_what_is_wrong(programs: Folder) -> None:
    running = programs.start(flow("numbers", "running"), env=SLOW, stop_after_s=1.0)
    assert running.finish() == 0
    for path in (programs.home / "state" / "flow" / "snapshots").glob("*.part"):
        path.unlink()
    again = programs.start(resume=True)
    assert again.finish() == 1
    assert any("is missing" in text for text in again.statuses())
    assert not programs.run_dir().root.exists()


def test_another_machine_needs_nothing_but_the_dataflow_and_the_place(programs: Folder, tmp_path: Path) -> None:
    place = tmp_path / "backup"
    running = programs.start(flow("numbers", "running", to=str(place)), env=SLOW)
    wait_until(lambda: len(results(programs)) > 10 and list(place.glob("flow/*.json")), "a snapshot")
    lose_machine(programs, running)
    shutil.rmtree(programs.home)
    again = programs.start(resume=True)
    assert again.finish() == 0
    assert results(programs) == RUNNING_SUM


@pytest.mark.parametrize("to", ["s3://snapshots/here", "slatedb+./kept"])
def test_another_machine_continues_from_an_object_store(to: str, programs: Folder) -> None:
    with s3_server() as server:
        credentials = {"AWS_ACCESS_KEY_ID": server["access_key_id"], "AWS_SECRET_ACCESS_KEY": "test"}
        dataflow = flow("numbers", "running", to=to).replace(
            "snapshots: {", f"snapshots: {{options: {{endpoint: '{server['endpoint']}', region: us-east-1}}, "
        )
        running = programs.start(dataflow, env={**HELD, **credentials})
        running.wait_running()
        wait_until(lambda: len(results(programs)) > 5, "some results")
        code, out, err = command(programs, "take", "--json", env=credentials)
        assert code == 0, err
        lose_machine(programs, running)
        shutil.rmtree(programs.home)
        again = programs.start(resume=True, env=credentials)
        assert again.finish(90.0) == 0
        assert any("continuing from snapshot" in text for text in again.statuses())
        assert command(programs, "verify", env=credentials)[0] == 0
    assert json.loads(out)["number"] >= 1
    assert results(programs) == RUNNING_SUM
    assert unquoted(rows(programs)) == RUNNING_SUM


def test_resume_in_another_folder_does_not_continue_the_run_of_this_one(programs: Folder, tmp_path: Path) -> None:
    assert programs.start(flow("numbers", "running"), env=SLOW, stop_after_s=1.0).finish() == 0
    before = snapshots(programs)
    (tmp_path / "other").mkdir()
    other = Folder(tmp_path / "other")
    other.home = programs.home
    other.write(programs_py=PROGRAMS)
    with contextlib.closing(other):
        refused = other.start(flow("numbers", "running"), resume=True)
        assert refused.finish() == 2
        told = "".join(refused.errors)
        assert str(programs.file) in told and str(other.file) in told and "--name" in told
        assert other.start(flow("numbers", "running")).finish() == 0  # anew, in a place of its own
        assert results(other) == RUNNING_SUM
    assert snapshots(programs) == before
    assert programs.start(resume=True).finish() == 0
    assert results(programs) == RUNNING_SUM


def renamed() -> str:
    return flow("numbers", "running").replace("id: database", "id: archive")


def test_a_node_that_is_gone_keeps_resume_from_beginning_until_it_is_given_up(programs: Folder) -> None:
    assert programs.start(flow("numbers", "running"), env=SLOW, stop_after_s=1.0).finish() == 0
    before = snapshots(programs)
    changed = renamed().replace("out.db", "other.db")
    refused = programs.start(changed, resume=True)
    assert refused.finish() == 2
    told = "".join(refused.errors)
    assert "'database' is no longer in the dataflow file" in told
    assert "--rename database=archive" in told
    assert "--drop database" in told
    assert snapshots(programs) == before
    assert not programs.run_dir().root.exists()
    again = programs.start(changed, resume=True, drop=["database"])
    assert again.finish() == 0
    assert any("'database' is no longer in the dataflow" in text for text in again.statuses())
    assert results(programs) == RUNNING_SUM


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_node_with_another_id_goes_on_with_all_it_had(how: str, programs: Folder) -> None:
    stop_after_s = 1.0 if how == "stopped" else None
    running = programs.start(flow("numbers", "running"), env=SLOW, stop_after_s=stop_after_s)
    if how == "stopped":
        assert running.finish() == 0
    else:
        running.wait_running()
        wait_for_snapshots(programs, 0)
        os.kill(running.runtime_pid, signal.SIGKILL)
        running.finish()
    changed = renamed().replace("id: source", "id: origin").replace("source/out", "origin/out")
    names = {"database": "archive", "source": "origin"}
    again = programs.start(changed, resume=True, rename=names)
    assert again.finish() == 0
    assert not any("dropped" in text for text in again.statuses())
    assert results(programs) == RUNNING_SUM
    assert unquoted(rows(programs)) == RUNNING_SUM


def test_a_source_that_cannot_be_replayed_is_named_at_start(folder: Folder) -> None:
    running = folder.start(SUMS)
    assert running.finish() == 0
    (said,) = [text for text in running.statuses() if text.startswith("snapshots every")]
    assert "what count sent since the last one is gone" in said
    assert "exactly once" not in said


def test_without_snapshots_there_are_none_and_nothing_is_promised(programs: Folder) -> None:
    running = programs.start(flow("numbers", "running", to="none"), stop_after_s=0.5, env=SLOW)
    assert running.finish() == 0
    assert not programs.run_dir().root.exists()
    assert snapshots(programs) == []


def test_a_place_that_can_no_longer_be_written_keeps_the_state_of_a_stopped_run_in_memory(programs: Folder) -> None:
    dataflow = flow("numbers", "running", to="./file/below", every="1h")
    running = programs.start(dataflow, env=SLOW)
    running.wait_running()
    shutil.rmtree(programs.folder / "file")
    (programs.folder / "file").write_text("in the way")
    wait_until(lambda: len(results(programs)) > 5, "some results")
    running.ask("stop")
    assert running.finish() == 0
    assert any("there is no last snapshot" in text and "--resume" in text for text in running.statuses())
    assert programs.run_dir().space.exists()
    (programs.folder / "file").unlink()
    again = programs.start(resume=True)
    assert again.finish() == 0
    assert results(programs) == RUNNING_SUM


def test_a_finished_run_whose_last_snapshot_cannot_be_saved_keeps_its_state_and_resume_saves_it(
    programs: Folder,
) -> None:
    dataflow = flow("numbers", "running", to="./file/below", every="1h")
    running = programs.start(dataflow, env=SLOW)
    running.wait_running()
    shutil.rmtree(programs.folder / "file")
    (programs.folder / "file").write_text("in the way")
    assert running.finish() == 0
    assert {row["state"] for row in running.rows().values()} == {"finished"}
    assert any("there is no last snapshot" in text and "--resume" in text for text in running.statuses())
    assert programs.run_dir().space.exists()
    (programs.folder / "file").unlink()
    again = programs.start(resume=True)
    assert again.finish() == 0
    assert not programs.run_dir().root.exists()
    assert list((programs.folder / "file").rglob("*.json")), "the snapshot"
    assert results(programs) == RUNNING_SUM


def test_a_place_that_cannot_be_used_is_known_before_the_run_begins(programs: Folder) -> None:
    (programs.folder / "file").write_text("in the way")
    running = programs.start(flow("numbers", "running", to="./file/below"))
    assert running.finish() == 1
    assert any("snapshots in" in text and "file/below" in text for text in running.statuses())
    assert not (programs.folder / "out.txt").exists()
    assert not programs.run_dir().root.exists()


def test_a_start_that_fails_is_not_what_resume_continues_from(programs: Folder) -> None:
    dataflow = flow("numbers", "running")
    assert programs.start(dataflow, env=SLOW, stop_after_s=0.7).finish() == 0
    before = snapshots(programs)
    assert before
    wrong = programs.start(dataflow + "state: {seed: {command: ['false']}}\n")
    assert wrong.finish() == 1
    assert snapshots(programs) == before
    again = programs.start(dataflow, resume=True)
    assert again.finish() == 0
    assert results(programs) == RUNNING_SUM


def test_a_store_that_is_killed_while_the_last_snapshot_is_taken_takes_it_again(programs: Folder) -> None:
    running = programs.start(flow("numbers", "running", "20ms"), env=SLOW)
    running.wait_for("started")
    wait_until(lambda: len(results(programs)) > 5, "some results")
    store = running.helper("nr-store")
    running.process.send_signal(signal.SIGINT)
    os.kill(store, signal.SIGKILL)
    assert running.finish() == 130
    assert not is_alive(store)
    assert programs.start(resume=True).finish() == 0
    assert results(programs) == RUNNING_SUM


# --- the command


def command(folder: Folder, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "noderuntime", "snapshot", *arguments],
        env={**os.environ, "NODERUNTIME_HOME": str(folder.home), **(env or {})},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_snapshots_are_taken_listed_and_verified_on_command(programs: Folder) -> None:
    running = programs.start(flow("numbers", "running", "1h"), env=HELD)
    wait_until(lambda: len(results(programs)) > 3, "some results")
    code, out, _ = command(programs, "take", "--json")
    assert code == 0
    taken = json.loads(out)
    assert (taken["number"], taken["kind"]) == (1, "full")
    (listed,) = json.loads(command(programs, "ls", "--json")[1])
    assert (listed["snapshot"], listed["why"], listed["finished"], listed["problem"]) == (1, "asked", False, "")
    assert listed["counts"]["source"]["outputs"]["out"] > 0
    assert command(programs, "verify")[0] == 0
    running.process.send_signal(signal.SIGINT)
    running.finish()
    assert command(programs, "take")[0] == 3
    code, out, _ = command(programs, "ls", "--run", "flow")
    assert "can be resumed" in out
    path = next((programs.home / "state" / "flow" / "snapshots").glob("0000000001-*.part"))
    path.write_bytes(path.read_bytes().replace(b"running", b"runnign") + b"x")
    code, out, _ = command(programs, "verify")
    assert code == 1
    assert "damaged: part" in out
    assert out.count("good") == 1


def test_asking_for_snapshots_of_a_run_that_never_was_names_the_nearest(programs: Folder) -> None:
    assert programs.start(flow("words", "joined")).finish() == 0
    code, _, err = command(programs, "ls", "--run", "flo")
    assert code == 3
    assert "'flow'" in err


def test_where_nothing_is_kept_taking_one_says_so(programs: Folder) -> None:
    running = programs.start(flow("numbers", "running", to="none"), env=HELD)
    running.wait_running()
    code, _, err = command(programs, "take")
    assert code == 1
    assert "to: none" in err
    running.process.send_signal(signal.SIGINT)
    running.finish()


def test_a_program_that_fails_every_now_and_then_with_snapshots_each_second_never_has_wrong_sums(
    programs: Folder,
) -> None:
    """The sink is a custom node, neither idempotent nor atomic: it may see a sum twice, and never a wrong one."""
    programs.write(
        printing_py="""
from noderuntime import Node
with Node() as node, open("seen.txt", "a") as file:
    for event in node:
        if event["type"] == "INPUT":
            print(event["value"], file=file, flush=True)
"""
    )
    dataflow = """
nodes:
  - id: source
    operator: {python: programs.py:numbers, outputs: [out]}
  - id: work
    operator: {python: programs.py:Failing, inputs: {in: source/out}, outputs: [out]}
    max_attempts: 0
    max_restarts: 0
  - {id: sink, path: printing.py, inputs: {in: work/out}, restart_policy: on-failure}
snapshots: {every: 1s}
"""
    seen = programs.folder / "seen.txt"

    def lines() -> list[str]:
        return seen.read_text().split() if seen.exists() else []

    def hurt(running: Running, dice: random.Random) -> bool:
        wait_for_snapshots(programs, 0)
        wait_until(lambda: len(lines()) > 20 or not is_up(running), "some sums")
        lose_machine(programs, running)
        return False

    to_the_end(programs, dataflow, {"PAUSE": "0.03"}, hurt, 5)
    assert set(lines()) == set(RUNNING_SUM)
