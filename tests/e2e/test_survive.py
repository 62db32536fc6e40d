"""What a user sees of surviving: dead letters, failures and the way out of them, chaos."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.harness import MARK, Folder, processes_of, wait_until

from noderuntime.cli import main

NUMBERS = """
import os
from noderuntime import Source
class Operator(Source):
    def produce(self, position, ctx):
        number = 0 if position is None else position + 1
        if number > ctx.config["last"]:
            return Source.idle(0.01) if ctx.config.get("stays") and not os.path.exists("enough") else Source.END
        ctx.send_output("n", number)
        return number
"""
# 7, 17, 27, ... cannot be added before `mended` exists
PICKY = """
import os
class Operator:
    def __init__(self):
        self.total = 0
    def restore_state(self, state):
        self.total = int(state["total"])
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            if event["value"] % 10 == 7 and not os.path.exists("mended"):
                raise ValueError(f"cannot add {event['value']}")
            self.total += event["value"]
            ctx.save_state("total", str(self.total).encode())
            ctx.send_output("sum", self.total)
"""
POISON = """
nodes:
  - id: numbers
    operator: {python: numbers.py, outputs: [n]}
    config: {last: 40, stays: %s}
  - id: sums
    operator: {python: picky.py, inputs: {n: numbers/n}, outputs: [sum]}
    max_attempts: 2
    max_restarts: 2
    restart_delay: 1ms
  - {id: sink, path: sink.py, inputs: {sum: sums/sum}}
"""
POISONOUS = [number for number in range(41) if number % 10 == 7]
WITHOUT_POISON = sum(range(41)) - sum(POISONOUS)


@pytest.fixture
def place(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("NODERUNTIME_HOME", str(folder.home))
    folder.write(numbers_py=NUMBERS, picky_py=PICKY)
    return folder


def call(*arguments: str, code: int = 0) -> str:
    """The command in this process; what it says. Not for `run` and `demo`, which fork."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        assert main(arguments) == code, said.getvalue()
    return said.getvalue()


def call_outside(*arguments: str, code: int = 0) -> str:
    """The command in a process of its own; what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "noderuntime", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def call_json(*arguments: str) -> list[dict[str, Any]]:
    """The list that the command gives; what it tells besides is left out."""
    said, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        assert main([*arguments, "--json"]) == 0, told.getvalue()
    found: list[dict[str, Any]] = json.loads(said.getvalue())
    return found


def letters(*options: str) -> list[dict[str, Any]]:
    return call_json("dead-letters", "ls", "--run", "flow", *options)


def total() -> str:
    return call("state", "get", "--run", "flow", "sums", "total").splitlines()[-1].strip()


# ---- dead letters


def test_the_flow_goes_on_however_many_messages_fail_every_time(place: Folder) -> None:
    running = place.start(POISON % "false")
    assert running.finish() == 0
    assert running.lines("sink") == [f"last {WITHOUT_POISON} of {41 - len(POISONOUS)}"]
    row = running.rows()["sums"]
    assert (row["state"], row["restarts"]) == ("finished", 2 * len(POISONOUS))
    assert row["reason"].endswith("4 dead letters")
    told = [text for text in running.statuses() if "a dead letter now" in text]
    assert [text.partition(" on ")[2].partition(":")[0] for text in told] == [f"numbers/n#{n + 1}" for n in POISONOUS]
    assert all("`noderuntime dead-letters show --run flow sums`" in text for text in told)
    crashes = [said[3] for said in running.said if said[0] == "crash"]
    assert crashes.count("ValueError: cannot add 7") == 2


def test_what_was_left_at_the_end_can_be_seen_after_it(place: Folder) -> None:
    assert place.start(POISON % "false").finish() == 0
    assert list((place.home / "runs").iterdir()) == []
    assert [letter["uid"] for letter in letters()] == [f"numbers/n#{number + 1}" for number in POISONOUS]
    assert "ValueError: cannot add 37" in call("dead-letters", "show", "--run", "flow", "sums", "numbers/n#38")


def test_letters_of_a_finished_run_are_replayed_by_resume_and_stay_until_they_are_dropped(place: Folder) -> None:
    assert place.start(POISON % "false").finish() == 0
    place.write(mended="")
    assert [(run["state"], run["resumable"]) for run in call_json("ps", "-a")] == [("finished", False)]
    assert "once flow is resumed" in call("dead-letters", "replay", "--run", "flow", "sums", "numbers/n#8")
    assert [(run["state"], run["resumable"]) for run in call_json("ps", "-a")] == [("stopped", True)]
    left = [value for value in POISONOUS if value != 7]
    shown = call_json("dead-letters", "show", "--run", "flow", "sums")
    assert [letter["value"] for letter in shown] == left
    again = place.start(resume=True)
    assert again.finish() == 0
    assert total() == str(WITHOUT_POISON + 7)
    assert again.lines("sink")[-1].startswith(f"last {WITHOUT_POISON + 7} of")
    assert len(letters()) == 3
    call("dead-letters", "drop", "--run", "flow", "sums")
    assert letters() == []
    call("dead-letters", "replay", "--run", "flow", "sums")
    last = place.start(resume=True)
    assert last.finish() == 0
    assert any("nothing is left to do" in text for text in last.statuses())


def test_on_a_live_run_letters_are_shown_replayed_and_dropped(place: Folder) -> None:
    running = place.start(POISON % "true")
    running.wait_for("status", "sums failed 2 times on numbers/n#38*")
    wait_until(lambda: total() == str(WITHOUT_POISON), "the rest to be summed")
    assert [letter["uid"] for letter in letters("sums")] == [f"numbers/n#{number + 1}" for number in POISONOUS]
    assert "4 dead letters" in call("ps", "flow")
    (shown,) = json.loads(call("dead-letters", "show", "--json", "--run", "flow", "sums", "numbers/n#8"))
    assert (shown["value"], shown["attempts"], shown["input"]) == (7, 2, "n")
    assert 'picky.py", line 11, in on_event' in shown["trace"] and "operator_host" not in shown["trace"]
    call("dead-letters", "drop", "--run", "flow", "sums", "numbers/n#18")
    place.write(mended="")
    call("dead-letters", "replay", "--run", "flow", "sums")
    wait_until(lambda: total() == str(sum(range(41)) - 17), "the replayed ones to be added")
    assert letters() == []
    place.write(enough="")
    assert running.finish() == 0
    assert running.lines("sink") == [f"last {sum(range(41)) - 17} of 40"]
    assert running.rows()["sums"]["reason"] == ""


def test_a_letter_that_is_replayed_unmended_is_buried_again(place: Folder) -> None:
    running = place.start(POISON % "true")
    running.wait_for("status", "sums failed 2 times on numbers/n#38*")
    call("dead-letters", "replay", "--run", "flow", "sums", "numbers/n#8")
    running.wait_for("status", "sums failed 2 times on numbers/n#8:*")
    assert len(letters()) == 4
    place.write(enough="")
    assert running.finish() == 0


def test_letters_of_an_interrupted_run_are_replayed_when_it_is_resumed(place: Folder) -> None:
    running = place.start(POISON % "true")
    running.wait_for("status", "sums failed 2 times on numbers/n#38*")
    os.kill(running.runtime_pid, signal.SIGKILL)
    assert running.finish() != 0
    assert len(letters("sums")) == 4
    assert "once flow is resumed" in call("dead-letters", "replay", "--run", "flow", "sums")
    place.write(mended="", enough="")
    again = place.start(resume=True)
    assert again.finish() == 0
    assert again.rows()["sums"]["reason"] == ""
    # what the first runtime's sink had not taken, the second one's has: the last sum tells that all were added
    assert again.lines("sink")[0].startswith(f"last {sum(range(41))} of ")


# ---- failing for good

# the 50th event leaves a state that no life can restore
SICK = """
class Operator:
    def __init__(self):
        self.total = 0
    def restore_state(self, state):
        self.total = int(state.get("total", 0))
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            self.total += event["value"]
            ctx.save_state("total", b"sick" if event["value"] == 49 else str(self.total).encode())
            ctx.save_state("handled", str(event["value"]).encode())
            ctx.send_output("sum", self.total)
            if event["value"] == 50:
                raise RuntimeError("once")
"""
TELLS = """
class Operator:
    def on_event(self, event, ctx):
        if event["type"] in ("NODE_FAILED", "INPUT_CLOSED"):
            print(event["type"], event["id"])
        elif event["type"] == "INPUT":
            ctx.kvs_write("last", str(event["value"]).encode())
"""
FAILING = """
snapshots: {to: %s}
nodes:
  - id: numbers
    operator: {python: numbers.py, outputs: [n]}
    config: {last: 5000}
  - id: sums
    operator: {python: sick.py, inputs: {n: {source: numbers/n, queue_size: 100}}, outputs: [sum]}
    max_restarts: 3
    max_attempts: 0
    restart_delay: 1ms
  - id: tells
    operator: {python: tells.py, inputs: {sum: sums/sum}}
"""


@pytest.mark.parametrize("to", ["./snapshots", "none"])
def test_a_state_that_cannot_be_restored_fails_its_node_and_removing_it_is_the_way_out(place: Folder, to: str) -> None:
    place.write(sick_py=SICK, tells_py=TELLS)
    running = place.start(FAILING % to)
    assert running.finish() == 1
    rows = running.rows()
    assert rows["sums"]["state"] == "failed"
    cause = "failed 4 times without progress; the last cause: restore_state: ValueError"
    assert rows["sums"]["reason"].startswith(cause)
    assert rows["sums"]["restarts"] == 3
    assert rows["numbers"]["state"] == rows["tells"]["state"] == "stopped"
    assert rows["numbers"]["messages"] < 5001, "it was held up"
    assert running.lines("tells") == ["NODE_FAILED sums", "INPUT_CLOSED sum"]
    *_, crash = [said for said in running.said if said[0] == "crash"]
    assert crash[1:3] == ["sums", "restore_state"] and "in restore_state" in crash[4]
    assert any("noderuntime state rm --run flow sums KEY" in text for text in running.statuses())
    assert any(f"run {place.file} --resume" in text for text in running.statuses())

    left = [path.name for path in (place.home / "runs").iterdir()]
    assert left == (["flow"] if to == "none" else []), "the last snapshot has it all"
    (run,) = json.loads(call("ps", "-a", "--json"))
    assert (run["state"], run["resumable"]) == ("failed", True)
    assert (run["run_dir"] is not None) == (to == "none")
    assert "sick" in call("state", "get", "--run", "flow", "sums", "total")
    call("state", "rm", "--run", "flow", "sums", "total")
    assert [path.name for path in (place.home / "runs").iterdir()] == left
    place.write(sick_py=SICK.replace("== 50", "== -1"))
    again = place.start(resume=True)
    assert again.finish() == 0
    assert again.rows()["sums"]["state"] == again.rows()["tells"]["state"] == "finished"
    assert again.lines("tells") == ["INPUT_CLOSED sum"]
    assert again.rows()["sums"]["messages"] == 5001
    assert list((place.home / "runs").iterdir()) == []


def test_a_plain_run_after_a_failed_one_starts_anew_and_says_so(place: Folder) -> None:
    place.write(sick_py=SICK, tells_py=TELLS)
    assert place.start(FAILING % "none").finish() == 1
    place.write(sick_py=SICK.replace("== 50", "== -1").replace("== 49", "== -1"))
    again = place.start()
    assert again.finish() == 0
    assert any(text.startswith("the last run of this name failed: starting anew") for text in again.statuses())
    assert again.rows()["sums"]["messages"] == 5001


STOPPED = """
nodes:
  - id: ticks
    operator: {python: ticks.py, inputs: {t: timer/millis/10}, outputs: [tick]}
  - id: counts
    operator: {python: counts.py, inputs: {tick: ticks/tick}}
    max_attempts: 1
    restart_delay: 1ms
"""
STOPPED_COUNTS = """
class Operator:
    def __init__(self):
        self.count = 0
    def restore_state(self, state):
        self.count = int(state["count"])
        print("from", self.count)
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            if event["uid"] == "ticks/tick#3":
                raise ValueError("the third")
            self.count += 1
            ctx.save_state("count", str(self.count).encode())
"""


@pytest.fixture
def stopped(place: Folder) -> Folder:
    """A run that was stopped, and had a dead letter: its space is gone."""
    place.write(counts_py=STOPPED_COUNTS)
    running = place.start(STOPPED)
    running.wait_for("status", "counts failed once on ticks/tick#3*")
    wait_until(lambda: int(call("state", "get", "--run", "flow", "counts", "count")) > 5, "it to count on")
    running.ask("stop")
    assert running.finish() == 0
    assert list((place.home / "runs").iterdir()) == []
    return place


def snapshots() -> list[Any]:
    found: list[Any] = json.loads(call("snapshot", "ls", "--json", "--run", "flow"))
    return found


def test_the_state_of_a_stopped_run_is_read_from_its_last_snapshot_and_written_into_a_new_one(stopped: Folder) -> None:
    before = snapshots()
    assert "this is its snapshot 1" in call("state", "ls", "--run", "flow", "counts")
    assert snapshots() == before, "who only reads changes nothing"
    call("state", "rm", "--run", "flow", "counts", "of no such name", code=1)
    assert snapshots() == before
    call("state", "set", "--run", "flow", "shared", "greeting", "hello")
    assert "continues from snapshot 3" in call("state", "set", "--run", "flow", "counts", "count", "1000000")
    assert [(item["snapshot"], item["why"], item["finished"]) for item in snapshots()] == [
        (3, "end", False),
        (2, "end", False),
        (1, "end", False),
    ]
    assert list((stopped.home / "runs").iterdir()) == []
    again = stopped.start(resume=True)
    again.wait_for("line", "counts", "stdout", "from 1000000")
    assert call("state", "get", "--run", "flow", "shared", "greeting") == "hello\n"
    again.ask("stop")
    assert again.finish() == 0


def test_dead_letters_of_a_stopped_run_are_replayed_when_it_is_resumed(stopped: Folder) -> None:
    assert "ticks/tick#3" in call("dead-letters", "ls", "--run", "flow")
    assert "once flow is resumed" in call("dead-letters", "replay", "--run", "flow", "counts")
    assert "no dead letters" in call("dead-letters", "ls", "--run", "flow", "counts")
    stopped.write(counts_py=STOPPED_COUNTS.replace("raise", "print('handled') #"))
    again = stopped.start(resume=True)
    again.wait_for("line", "counts", "stdout", "handled")
    again.ask("stop")
    assert again.finish() == 0
    assert again.rows()["counts"]["reason"] == ""


def test_a_command_on_an_ended_run_that_is_killed_changes_nothing_and_leaves_no_process(stopped: Folder) -> None:
    line = [sys.executable, "-m", "noderuntime", "state", "set", "--run", "flow", "shared", "k", "-"]
    env = {**os.environ, MARK: str(stopped.home)}
    with subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as command:
        assert command.stderr is not None
        assert "this is its snapshot 1" in command.stderr.readline()
        call("state", "get", "--run", "flow", "counts", "count", code=2)  # it is in use
        command.kill()
    wait_until(lambda: not processes_of(stopped.home), "its store to end too")
    assert len(snapshots()) == 1
    assert "removed flow" in call("clean")
    assert list((stopped.home / "runs").iterdir()) == []
    assert call("state", "get", "--run", "flow", "shared", "k", code=1)
    assert list((stopped.home / "runs").iterdir()) == []


def test_of_a_run_that_has_finished_the_state_can_still_be_read(place: Folder) -> None:
    assert place.start(POISON % "false").finish() == 0
    assert str(WITHOUT_POISON) in call("state", "get", "--run", "flow", "sums", "total").splitlines()
    assert "has ended" in call("state", "watch", "--run", "flow", "shared", code=3)


def test_a_failure_before_anything_was_handled_leaves_nothing(place: Folder) -> None:
    place.write(wrong_py="import nothing_of_this_name\n")
    running = place.start("nodes: [{id: wrong, operator: {python: wrong.py, inputs: {t: timer/secs/1}}}]")
    assert running.finish() == 1
    assert list((place.home / "runs").iterdir()) == []


def test_dying_while_idle_uses_up_the_budget_too(place: Folder) -> None:
    place.write(
        idle_py="""
import os, threading
class Operator:
    def __init__(self):
        threading.Timer(0.05, os._exit, [7]).start()
    def on_event(self, event, ctx):
        pass
"""
    )
    node = "id: idle, operator: {python: idle.py, inputs: {t: timer/secs/3600}}, max_restarts: 2, restart_delay: 1ms"
    running = place.start(f"nodes: [{{{node}}}]")
    assert running.finish() == 1
    assert running.rows()["idle"]["reason"] == "failed 3 times without progress; the last cause: exit code 7"


# ---- reload, with everything that has state

KEYED = """
from noderuntime import stateful_map
@stateful_map(output="count", key=lambda v: v % 3, default=int)
def counts(key, value, state):
    return [key, state + 1, VERSION], state + 1
"""
ENDLESS_NUMBERS = """
import os, time
from noderuntime import Source
class Operator(Source):
    def produce(self, position, ctx):
        number = 0 if position is None else position + 1
        if number % 10 == 0 and os.path.exists("enough"):
            return Source.END
        time.sleep(0.001)
        ctx.send_output("n", number)
        return number
"""
COLLECT = """
import json
from noderuntime import Node
found = [event["value"] for event in Node() if event["type"] == "INPUT"]
print(json.dumps(found))
"""
KEYED_FLOW = """
nodes:
  - id: numbers
    operator: {python: endless.py, outputs: [n]}
  - id: counts
    operator: {python: "keyed.py:counts", inputs: {n: numbers/n}, outputs: [count]}
  - {id: sink, path: collect.py, inputs: {count: counts/count}}
"""


def test_a_source_and_a_keyed_operator_are_reloaded_in_full_flow_without_losing_or_repeating(place: Folder) -> None:
    def write(version: int) -> None:
        place.write(keyed_py=f"VERSION = {version}\n{KEYED}", endless_py=f"VERSION = {version}\n{ENDLESS_NUMBERS}")

    place.write(collect_py=COLLECT)
    write(1)
    running = place.start(KEYED_FLOW)
    running.wait_running()
    for version in (10, 100, 1000):
        write(version)
        for node in ("numbers", "counts"):
            running.wait_running(node)  # while it restores after the last one, a reload is refused
            assert running.ask("reload", node=node).error == ""
            running.wait_for("status", f"{node} reloaded")
    place.write(enough="")
    assert running.finish() == 0
    found = json.loads(running.lines("sink")[0])
    assert [item[:2] for item in found] == [[number % 3, number // 3 + 1] for number in range(len(found))]
    assert found[0][2] == 1 and found[-1][2] == 1000
    assert running.rows()["counts"]["restarts"] == running.rows()["numbers"]["restarts"] == 3


WATCHED = """
nodes:
  - id: ticks
    operator: {python: ticks.py, inputs: {t: timer/millis/20}, outputs: [tick]}
  - id: counts
    operator: {python: counts.py, inputs: {tick: ticks/tick}}
"""
COUNTS = """
import words
class Operator:
    def __init__(self):
        self.count = 0
        print("word", words.WORD)
    def restore_state(self, state):
        self.count = int(state["count"])
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            self.count += 1
            ctx.save_state("count", str(self.count).encode())
        elif event["type"] == "STOP":
            print("counted", self.count)
"""


def test_watch_reloads_what_changed_and_keeps_the_old_when_it_does_not_import(place: Folder) -> None:
    place.write(counts_py=COUNTS, words_py="WORD = 'one'\n")
    running = place.start(WATCHED, watch=True)
    running.wait_for("line", "counts", "stdout", "word one")
    running.wait_running("counts")
    place.write(words_py="WORD = (\n")
    running.wait_for("status", "words.py has changed: reloading counts")
    crash = running.wait_for("crash", "counts", "reload")
    assert "SyntaxError" in crash[3] and "words.py" in crash[4]
    place.write(words_py="WORD = 'the second'\n")
    running.wait_for("line", "counts", "stdout", "word the second")
    running.wait_running("counts")
    place.file.write_text(WATCHED + "\n# changed\n")
    running.wait_for("status", "flow.yml has changed")
    running.ask("stop")
    assert running.finish() == 0
    rows = running.rows()
    assert rows["counts"]["restarts"] == 1 and rows["ticks"]["restarts"] == 0
    (counted,) = [line for line in running.lines("counts") if line.startswith("counted")]
    assert int(counted.split()[1]) == rows["counts"]["messages"]


# ---- chaos

CHAOS = """
nodes:
  - id: numbers
    operator: {python: endless.py, outputs: [n]}
  - id: sums
    operator: {python: picky.py, inputs: {n: numbers/n}, outputs: [sum]}
  - {id: sink, path: relay.py, inputs: {sum: sums/sum}, restart_policy: on-failure}
  - {id: fragile, path: relay.py, inputs: {sum: sums/sum}}
"""
RELAY = "from noderuntime import Node\nfor event in Node():\n    pass\n"


def test_chaos_kills_and_reports_that_nothing_was_lost(place: Folder) -> None:
    place.write(
        mended="",
        relay_py=RELAY,
        endless_py=ENDLESS_NUMBERS,
    )
    running = place.start(CHAOS, chaos_s=0.1, seed=5)
    for _ in range(9):  # the first says that it begins, each other one that somebody is back
        running.wait_for("status", "chaos: *")
    running.ask("stop")
    assert running.finish() == 0
    ((_, lines, facts),) = [said for said in running.said if said[0] == "report"]
    assert facts["seed"] == 5 and "--chaos 0.1s --seed 5" in lines[0]
    assert len(facts["kills"]) >= 7
    assert {kill["victim"] for kill in facts["kills"]} <= {"numbers", "sums", "sink", "(store)", "(fork server)"}
    assert len(facts["messages"]) == 3
    assert all(item["sent"] and not item["lost"] and not item["repeated"] for item in facts["messages"])
    assert running.rows()["fragile"]["restarts"] == 0


def test_the_demo_shows_kills_and_ends_with_a_verdict(place: Folder) -> None:
    line = [sys.executable, "-m", "noderuntime", "demo", "--stop-after", "1h"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout
        first, second = demo.stdout.readline(), demo.stdout.readline()
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=60)
    assert "│ kill 1: counted on after " in first and "│ kill 2: " in second
    assert demo.returncode == 130
    *_, verdict, counts = out.splitlines()
    assert "│ survived: " in verdict and counts.endswith("messages lost 0, repeated 0")
    assert "noderuntime run --chaos 1s FILE" in err
    assert list((place.home / "runs").iterdir()) == []


def test_the_demo_ends_by_itself(place: Folder) -> None:
    assert "counter  stopped" in call_outside("demo", "--stop-after", "1s")
    assert list((place.home / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seed", "3"], "it needs --chaos"),
        (["--chaos", "0s"], "one kill after the other"),
        (["--fresh", "--resume"], "--fresh forgets what --resume would continue from"),
        (["--fresh", "--from", "3"], "--fresh forgets what --from would continue from"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(options: list[str], said: str, place: Folder) -> None:
    place.file.write_text(POISON % "false")
    assert said in call_outside("run", str(Path(place.file)), *options, code=2)
