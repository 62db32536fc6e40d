"""A run is changed while messages flow: nothing is lost or doubled, and what is not touched keeps its process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from support.harness import Folder, Running, wait_until
from support.live_cast import (
    apply,
    command,
    counts,
    enough,
    flow,
    handled,
    keeps,
    prepare,
    seen,
    takes,
    wait_handled,
)

TWO = (counts(), keeps("a"))


@pytest.fixture
def place(folder: Folder) -> Folder:
    prepare(folder)
    return folder


def test_a_receiver_that_is_added_gets_all_that_is_sent_from_then_on(place: Folder) -> None:
    running = place.start(flow(*TWO))
    running.wait_running()
    wait_handled(running, "a")
    before = running.status()
    code, out, err = apply(place, flow(*TWO, keeps("b"), takes("c")))
    assert code == 0, err
    assert "b" in out and "added" in out and "rewired" in out
    wait_handled(running, "b")
    wait_handled(running, "c")
    after = running.status()
    assert {id: after[id]["pid"] for id in before} == {id: before[id]["pid"] for id in before}
    enough(place)
    assert running.finish() == 0
    first, last, count, good = seen(running, "a")["counts/n"]
    assert (first, count, good) == (0, last + 1, True)
    for node in ("b", "c"):
        joined, end, taken, whole = seen(running, node)["counts/n"]
        assert joined > 0
        assert (end, taken, whole) == (last, last + 1 - joined, True)
    assert [line for line in running.lines("a") if not line.startswith("seen")] == ["INPUT_CLOSED in"]


def test_a_node_that_is_removed_handles_what_waits_and_goes(place: Folder) -> None:
    running = place.start(flow(*TWO, keeps("b", "a/n"), takes("c", "b/n")))
    running.wait_running()
    wait_handled(running, "c")
    pids = {id: row["pid"] for id, row in running.status().items()}
    code, _, err = apply(place, flow(*TWO))
    assert code == 2
    assert "1 keys of private state would be lost" in err and "--drop b" in err and "--rename" not in err
    code, _, err = apply(place, flow(*TWO, keeps("z", "a/n"), takes("c", "z/n")))
    assert code == 2 and "`--rename b=z` carries it over when that is its id now" in err
    assert set(running.status()) == {"counts", "a", "b", "c"}
    code, out, err = apply(place, flow(*TWO), "--drop", "b", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["applied"] and [item["change"] for item in told["plan"]] == ["rewired", "removed", "removed"]
    wait_until(lambda: set(running.status()) == {"counts", "a"}, "b and c to leave")
    assert {id: row["pid"] for id, row in running.status().items()} == {id: pids[id] for id in ("counts", "a")}
    enough(place)
    assert running.finish() == 0
    _, last, count, good = seen(running, "a")["counts/n"]
    assert good and count == last + 1
    _, b_last, b_count, b_good = seen(running, "b")["a/n"]
    assert b_good and b_count == b_last + 1
    assert seen(running, "c")["b/n"][1:3] == [b_last, b_count]


def test_an_input_that_gets_another_source_first_handles_what_waits(place: Folder) -> None:
    nodes = (counts(), counts("other"), keeps("a"))
    running = place.start(flow(*nodes))
    running.wait_running()
    wait_handled(running, "a")
    pid = running.status()["a"]["pid"]
    code, _out, err = apply(place, flow(counts(), counts("other"), keeps("a", "other/n")))
    assert code == 0, err
    wait_handled(running, "a")
    assert running.status()["a"]["pid"] == pid
    enough(place)
    assert running.finish() == 0
    found = seen(running, "a")
    assert found["counts/n"][0] == 0 and found["counts/n"][3]
    assert found["counts/n"][2] == found["counts/n"][1] + 1
    assert found["other/n"][3]
    assert running.lines("a")[:-1] == ["INPUT_CLOSED in"]  # of the second one


def test_a_changed_operator_goes_on_with_its_state_in_a_new_life(place: Folder) -> None:
    running = place.start(flow(counts(), keeps("a"), takes("c", "a/n")))
    running.wait_running()
    wait_handled(running, "c")
    before = running.status()
    code, out, err = apply(place, flow(counts(), keeps("a", config={"name": "new"}), takes("c", "a/n")))
    assert code == 0, err
    assert "config" in out and "begins a new life" in out
    wait_until(lambda: running.status()["a"]["restarts"] == 1, "a new life of a")
    wait_handled(running, "c")
    after = running.status()
    assert after["a"]["pid"] != before["a"]["pid"] and after["c"]["pid"] == before["c"]["pid"]
    enough(place)
    assert running.finish() == 0
    assert json.loads(running.lines("a")[-1].partition(" ")[2])[2] == "new"
    _, last, count, good = seen(running, "a")["counts/n"]
    assert good and count == last + 1
    assert seen(running, "c")["a/n"][1:] == [last, count, True]


def test_what_does_not_become_ready_leaves_everything_as_before(place: Folder) -> None:
    running = place.start(flow(*TWO))
    running.wait_running()
    before = running.status()
    place.write(broken="")
    code, _, err = apply(place, flow(counts(), keeps("a", config={"name": "new"}), keeps("b")))
    assert code == 1
    assert "is not ready: init: RuntimeError: it is broken" in err
    after = running.status()
    assert {id: (row["pid"], row["restarts"]) for id, row in after.items()} == {
        id: (row["pid"], row["restarts"]) for id, row in before.items()
    }
    (place.folder / "broken").unlink()
    wait_handled(running, "a")
    enough(place)
    assert running.finish() == 0
    assert seen(running, "a")["counts/n"][3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nodes: [", "flow.yml"),
        (flow(keeps("a")), "comes from the node 'counts', which does not exist"),
        (flow(*TWO, state={"size": "20MB"}), "the section `state:` of the file has changed"),
        (flow(counts(), {**takes("a"), "id": "a"}), "node 'a' was an operator, and is a custom node"),
    ],
)
def test_a_file_that_cannot_be_applied_is_refused_with_a_sentence(place: Folder, text: str, said: str) -> None:
    running = place.start(flow(*TWO))
    running.wait_running()
    before = running.status()
    code, _, err = apply(place, text)
    assert code == 2 and said in err and "Traceback" not in err
    after = running.status()
    assert {id: row["pid"] for id, row in after.items()} == {id: row["pid"] for id, row in before.items()}
    enough(place)
    assert running.finish() == 0


def test_what_run_refuses_without_running_it_apply_refuses_with_the_same_sentence(place: Folder) -> None:
    wrong = {
        "x": ({"module": "nowhere.operators"}, {}, "node 'x': there is no module 'nowhere'"),
        "y": ({"python": "keeps.py:Keeps"}, {}, "node 'y': keeps.py has no 'Keeps'; it has: Operator"),
        "z": ({"module": "noderuntime.operators.file_sink"}, {"pth": "out"}, "node 'z': config: "),
    }
    nodes = [
        {"id": id, "operator": {**code, "inputs": {"in": "counts/n"}}, "config": config}
        for id, (code, config, _) in wrong.items()
    ]
    place.file.write_text(flow(*TWO, *nodes))
    code, _, refused = command(place, "run", "flow.yml")
    assert code == 2
    (place.folder / "lib").mkdir()
    place.write(**{"lib/helps.py": "class Operator:\n    def on_event(self, event, ctx): pass\n"})
    running = place.start(flow(*TWO), extra_env={"PYTHONPATH": "lib"})
    running.wait_running()
    pids = {id: row["pid"] for id, row in running.status().items()}
    code, _, err = apply(place, flow(*TWO, *nodes))
    assert code == 2
    for _, _, said in wrong.values():
        assert said in err and said in refused
    assert {id: row["pid"] for id, row in running.status().items()} == pids
    helps = {"id": "helps", "operator": {"module": "helps", "inputs": {"in": "counts/n"}}}
    code, _, err = apply(place, flow(*TWO, helps))  # found by the --env of the run
    assert code == 0, err
    enough(place)
    assert running.finish() == 0


def test_a_dry_run_tells_the_plan_and_changes_nothing(place: Folder) -> None:
    running = place.start(flow(*TWO))
    running.wait_running()
    code, out, err = apply(place, flow(*TWO, keeps("b")), "--dry-run")
    assert code == 0 and "added" in out and "nothing was changed" in err
    assert set(running.status()) == {"counts", "a"}
    assert command(place, "apply", "nobody", "flow.yml")[0] == 3
    enough(place)
    assert running.finish() == 0


def test_one_node_is_stopped_started_and_restarted_and_loses_nothing(place: Folder) -> None:
    running = place.start(flow(*TWO, takes("c", "a/n")))
    running.wait_running()
    wait_handled(running, "c")
    assert command(place, "node", "stop", "a")[0] == 0
    assert running.status()["a"]["state"] == "stopped"
    assert command(place, "node", "stop", "a")[0] == 1
    count = handled(running, "a")
    code, out, _ = command(place, "node", "info", "a", "--json")
    assert code == 0 and json.loads(out)["state"] == "stopped"
    assert command(place, "node", "start", "a")[0] == 0
    wait_until(lambda: handled(running, "a") > count + 200, "a to go on")
    for node in ("a", "c"):
        pid = running.status()[node]["pid"]
        code, _, err = command(place, "node", "restart", node)
        assert code == 0, err
        assert running.status()[node]["pid"] != pid
        wait_handled(running, node)
    assert command(place, "node", "restart", "nobody")[0] == 2
    listed = json.loads(command(place, "node", "ls", "--json")[1])["nodes"]
    assert {item["id"] for item in listed} == {"counts", "a", "c"}
    enough(place)
    assert running.finish() == 0
    _, last, taken, good = seen(running, "a")["counts/n"]
    assert good and taken == last + 1


def test_ctrl_c_gives_up_a_change_that_is_not_in_force_yet(place: Folder) -> None:
    running = place.start(flow(*TWO))
    running.wait_running()
    before = running.status()
    slow = "import os, time\nopen('begun', 'w').close()\ntime.sleep(600)\n"
    place.write(slow_py=f"{slow}class Operator:\n    def on_event(self, event, ctx):\n        pass\n")
    place.file.write_text(flow(*TWO, {"id": "slow", "operator": {"python": "slow.py", "inputs": {"in": "a/n"}}}))
    waits = subprocess.Popen(
        [sys.executable, "-m", "noderuntime", "apply", "flow.yml"], cwd=place.folder, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "NODERUNTIME_HOME": str(place.home)},
    )  # fmt: skip
    wait_until((place.folder / "begun").exists, "the trial")
    waits.send_signal(signal.SIGINT)
    _, said = waits.communicate(timeout=60)
    assert waits.returncode == 130 and "given up: everything is as before" in said
    assert running.status().keys() == before.keys()
    assert {row["pid"] for row in running.status().values()} == {row["pid"] for row in before.values()}
    assert apply(place, flow(*TWO, keeps("b")))[0] == 0
    wait_handled(running, "b")
    enough(place)
    assert running.finish() == 0


def test_who_waits_for_a_change_hears_that_the_runtime_was_killed(place: Folder) -> None:
    running = place.start(flow(*TWO))
    running.wait_running()
    slow = "import os, time\nopen('begun', 'w').close()\ntime.sleep(600)\n"
    place.write(slow_py=f"{slow}class Operator:\n    def on_event(self, event, ctx):\n        pass\n")
    place.file.write_text(flow(*TWO, {"id": "slow", "operator": {"python": "slow.py", "inputs": {"in": "a/n"}}}))
    waits = subprocess.Popen(
        [sys.executable, "-m", "noderuntime", "apply", "flow.yml"], cwd=place.folder, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "NODERUNTIME_HOME": str(place.home)},
    )  # fmt: skip
    wait_until((place.folder / "begun").exists, "the trial")
    running.kill()
    _, said = waits.communicate(timeout=60)
    assert waits.returncode == 1
    assert "the runtime of 'flow' is gone; `noderuntime run FILE --resume` goes on" in said


def test_after_a_kill_of_the_runtime_a_resume_goes_on_with_the_applied_dataflow(place: Folder) -> None:
    running = place.start(flow(*TWO))
    running.wait_running()
    wait_handled(running, "a")
    other = place.folder / "other.yml"
    other.write_text(flow(*TWO, keeps("b")))
    code, _, err = command(place, "apply", "other.yml")
    assert code == 0, err
    wait_handled(running, "b")
    os.kill(running.runtime_pid, signal.SIGKILL)
    running.finish()
    place.wait_gone()
    again = place.start(resume=True)
    again.wait_running()
    assert any("other.yml" in text for text in again.statuses())
    wait_handled(again, "b")
    enough(place)
    assert again.finish() == 0
    _, last, count, good = seen(again, "a")["counts/n"]
    assert good and count == last + 1
    joined, end, taken, whole = seen(again, "b")["counts/n"]
    assert (end, taken, whole) == (last, last + 1 - joined, True)


def test_a_watched_dataflow_file_is_applied_when_it_changes_and_drops_nothing(place: Folder) -> None:
    running = place.start(flow(*TWO), watch=True)
    running.wait_running()
    place.write(**{"flow.yml": flow(*TWO, keeps("b"))})
    running.wait_for("status", "the dataflow is that of *")
    wait_handled(running, "b")
    place.write(**{"flow.yml": "nodes: ["})
    running.wait_for("status", "the dataflow stays as it is: *")
    place.write(**{"flow.yml": flow(*TWO)})
    told = running.wait_for("status", "the dataflow stays as it is: node 'b' is not in the new dataflow*")[1]
    assert f"noderuntime apply flow {place.file} --drop b" in told
    assert set(running.status()) == {"counts", "a", "b"}
    enough(place)
    assert running.finish() == 0


def test_a_program_that_ends_before_its_hello_leaves_everything_as_before(place: Folder) -> None:
    place.write(ends_py="print('here', flush=True)\nraise SystemExit(3)\n")
    running = place.start(flow(*TWO))
    running.wait_running()
    pids = {id: row["pid"] for id, row in running.status().items()}
    ends = {"id": "ends", "path": "ends.py", "inputs": {"n": "counts/n"}}
    code, _, err = apply(place, flow(*TWO, ends))
    assert code == 1 and "ends is not ready: it ended with exit code 3 before it said hello" in err
    assert {id: row["pid"] for id, row in running.status().items()} == pids
    wait_handled(running, "a")
    enough(place)
    assert running.finish() == 0
    assert seen(running, "a")["counts/n"][3]


def test_a_changed_custom_node_is_tried_up_to_its_hello_and_takes_over_when_the_old_one_has_left(place: Folder) -> None:
    running = place.start(flow(counts(), takes("c")))
    running.wait_running()
    wait_handled(running, "c")
    pid = running.status()["c"]["pid"]
    code, _, err = apply(place, flow(counts(), takes("c", config={"name": "new"})))
    assert code == 0, err
    wait_until(lambda: running.status()["c"]["pid"] not in (0, pid), "the old process to leave")
    wait_until(lambda: running.status()["c"]["state"] == "running", "c to run")
    assert running.status()["c"]["restarts"] == 1
    assert running.status()["c"]["pid"] != pid
    wait_handled(running, "c")
    enough(place)
    assert running.finish() == 0
    lives = [json.loads(line.partition(" ")[2]) for line in running.lines("c") if line.startswith("seen ")]
    assert [life[2] for life in lives] == ["", "new"]
    (old, new) = (life[1]["counts/n"] for life in lives)
    assert old[3] and new[3] and new[0] <= old[1] + 1  # at least once


def test_operators_that_share_a_process_are_rewired_in_place_and_lose_nothing(place: Folder) -> None:
    pair = (keeps("a", process="p"), keeps("b", "a/n", process="p"))
    running = place.start(flow(counts(), *pair, takes("c", "b/n")))
    running.wait_running()
    wait_handled(running, "c")
    pid = running.status()["a"]["pid"]
    code, out, err = apply(place, flow(counts(), *pair, takes("c", "b/n"), keeps("d", "a/n")))
    assert code == 0, err
    assert "shares the process p" not in out
    wait_handled(running, "d")
    wait_handled(running, "c")
    after = running.status()
    assert after["a"]["pid"] == after["b"]["pid"] == pid and not after["a"]["restarts"]
    other = (keeps("a", process="p"), keeps("e", "a/n", process="p"))
    code, _, err = apply(place, flow(counts(), *other, takes("c", "a/n")))
    assert code == 2 and "the process 'p' gets or loses operators (b, e)" in err
    changed = (keeps("a", process="p", config={"name": "new"}), keeps("b", "a/n", process="p"))
    code, out, err = apply(place, flow(counts(), *changed, takes("c", "b/n"), keeps("d", "a/n")))
    assert code == 0 and "shares the process p" in out, err
    wait_until(lambda: running.status()["b"]["pid"] not in (0, pid), "a new life of both")
    wait_handled(running, "c")
    code, _, err = apply(place, flow(counts(), keeps("d")), "--drop", "a", "--drop", "b")
    assert code == 0, err
    wait_until(lambda: set(running.status()) == {"counts", "d"}, "a, b and c to leave")
    enough(place)
    assert running.finish() == 0
    ends = [json.loads(line.partition(" ")[2])[1] for line in running.lines("a") if line.startswith("seen ")]
    last = seen(running, "c")["b/n"][1]
    whole = [0, last, last + 1, True]
    assert ends == [{"counts/n": whole}, {"a/n": whole}]  # of both: what they print is that of their process
    assert seen(running, "c") == {"b/n": whole}
    of_d = seen(running, "d")
    assert of_d["a/n"][1] == last and of_d["a/n"][3]
    assert of_d["counts/n"][0] == last + 1 and of_d["counts/n"][3]


def test_a_failed_node_comes_back_when_it_is_changed_and_handles_what_waited(place: Folder) -> None:
    running = place.start(flow(counts(), keeps("a", max_restarts=1, restart_delay="1ms"), takes("other")))
    running.wait_running()
    wait_handled(running, "a")
    place.write(broken="")
    os.kill(running.status()["a"]["pid"], signal.SIGKILL)
    wait_until(lambda: running.status()["a"]["state"] == "failed", "a to fail")
    code, _, err = apply(place, flow(counts(), takes("other")), "--drop", "a")
    assert code == 2 and "queued messages that it cannot handle because it has failed would be lost" in err
    assert "flow.yml --discard` gives it up" in err
    (place.folder / "broken").unlink()
    code, _, err = apply(place, flow(counts(), keeps("a", config={"name": "new"}), takes("other")))
    assert code == 0, err
    wait_handled(running, "a")
    enough(place)
    assert running.finish() == 0
    _, last, count, good = seen(running, "a")["counts/n"]
    assert good and count == last + 1


def test_with_discard_a_removed_node_goes_at_once(place: Folder) -> None:
    slow = {"id": "slow", "operator": {"python": "slow.py", "inputs": {"n": "counts/n"}}}
    place.write(slow_py="import time\nclass Operator:\n    def on_event(self, event, ctx):\n        time.sleep(0.05)\n")
    running = place.start(flow(*TWO, slow))
    running.wait_running()
    wait_handled(running, "slow", 5)
    wait_until(lambda: "room" in running.status()["counts"]["phase"], "counts to wait for slow")
    code, _, err = apply(place, flow(*TWO), "--discard")
    assert code == 0, err
    assert "waiting messages were discarded" in err and "draining" not in err
    wait_until(lambda: set(running.status()) == {"counts", "a"}, "slow to leave")
    wait_handled(running, "a", 2000)
    enough(place)
    assert running.finish() == 0
    _, last, count, good = seen(running, "a")["counts/n"]
    assert good and count == last + 1


def test_a_second_change_meanwhile_is_refused_and_a_slow_trial_times_out(place: Folder) -> None:
    place.write(slow_py="import time\ntime.sleep(600)\nclass Operator: pass\n")
    slow = {"id": "slow", "operator": {"python": "slow.py", "inputs": {"n": "counts/n"}}}
    running = place.start(flow(*TWO))
    running.wait_running()
    (place.folder / "slow.yml").write_text(flow(*TWO, slow))
    answer = running.ask("apply", file=str(place.folder / "slow.yml"), timeout=15.0)
    assert answer.error == "" and not answer.result["over"]
    code, _, err = apply(place, flow(*TWO, keeps("b")))
    assert code == 1 and "another change of this run is under way" in err
    told = running.ask("applied", ticket=answer.result["ticket"])
    wait_until(lambda: running.ask("applied", ticket=answer.result["ticket"]).result["over"], "the timeout")
    told = running.ask("applied", ticket=answer.result["ticket"])
    assert told.result["code"] == 1 and "not ready within 15 s: slow" in str(told.result["error"])
    assert set(running.status()) == {"counts", "a"}
    enough(place)
    assert running.finish() == 0


SLOW = """
import json, time
class Operator:
    def __init__(self):
        self.seen = [None, None, 0, True]
    def restore_state(self, state):
        self.seen = json.loads(state["seen"])
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            time.sleep(0.02)
            first, last, count, good = self.seen
            value = event["value"]
            good = good and (last is None or value == last + 1)
            self.seen = [value if first is None else first, value, count + 1, good]
            ctx.save_state("seen", json.dumps(self.seen).encode())
        elif event["type"] == "STOP":
            print("seen", json.dumps([event["id"], {"counts/n": self.seen}, ""]), flush=True)
"""


def killed_while_slow_drains(place: Folder) -> tuple[str, int]:
    """The runtime is killed while a removed node has messages to handle. The file of the run, and what it had taken."""
    place.write(slow_py=SLOW)
    slow = {"id": "slow", "operator": {"python": "slow.py", "inputs": {"n": {"source": "counts/n", "queue_size": 200}}}}
    text = flow(*TWO, slow)
    running = place.start(text)
    running.wait_running()
    wait_until(lambda: "room" in running.status()["counts"]["phase"], "counts to wait for slow")
    (place.folder / "other.yml").write_text(flow(*TWO))
    code, _, err = command(place, "apply", "other.yml", "--drop", "slow")
    assert code == 0 and "still draining: slow" in err
    taken = handled(running, "slow")
    os.kill(running.runtime_pid, signal.SIGKILL)
    running.finish()
    place.wait_gone()
    return text, taken


def test_what_drains_when_the_runtime_is_killed_goes_on_draining_after_a_resume(place: Folder) -> None:
    killed_while_slow_drains(place)
    again = place.start(resume=True)
    again.wait_for("started")
    wait_handled(again, "a")
    again.wait_for("status", "slow has left the dataflow", timeout_s=60)
    assert set(again.status()) == {"counts", "a"}
    enough(place)
    assert again.finish() == 0
    _, last, count, good = seen(again, "a")["counts/n"]
    assert good and count == last + 1
    first, slow_last, slow_count, slow_good = seen(again, "slow")["counts/n"]
    assert (first, slow_count, slow_good) == (0, slow_last + 1, True)


HOLDS = """
import os, time
class Operator:
    '''It has only a timer, and holds its STOP up until there is a file `go`.'''
    def on_event(self, event, ctx):
        if event["type"] == "STOP":
            while not os.path.exists("go"):
                time.sleep(0.01)
            print("stopped", event["id"], flush=True)
"""


def with_process(place: Folder) -> Running:
    """A run with the operators clock and slow, which share a process."""
    place.write(slow_py=SLOW, holds_py=HOLDS)
    slow = {"python": "slow.py", "inputs": {"n": {"source": "counts/n", "queue_size": 200}}}
    clock = {"python": "holds.py", "inputs": {"t": "timer/millis/20"}}
    shared = ({"id": "clock", "process": "p", "operator": clock}, {"id": "slow", "process": "p", "operator": slow})
    running = place.start(flow(*TWO, *shared))
    running.wait_running()
    return running


def remove_process(place: Folder, running: Running) -> None:
    """Both are removed, and still there."""
    wait_until(lambda: "room" in running.status()["counts"]["phase"], "counts to wait for slow")
    (place.folder / "other.yml").write_text(flow(*TWO))
    code, _, err = command(place, "apply", "other.yml", "--drop", "slow")
    assert code == 0 and "still draining: clock, slow" in err


def check_left(running: Running) -> None:
    """Both have ended in order; what they print is that of their process."""
    assert "stopped MANUAL" in running.lines("clock")
    first, last, count, good = seen(running, "clock")["counts/n"]
    assert (first, count, good) == (0, last + 1, True)


def kill_and_resume(place: Folder, running: Running) -> Running:
    os.kill(running.runtime_pid, signal.SIGKILL)
    running.finish()
    place.wait_gone()
    again = place.start(resume=True)
    again.wait_for("started")
    return again


def test_a_process_that_leaves_when_the_runtime_is_killed_goes_on_leaving_after_a_resume(place: Folder) -> None:
    running = with_process(place)
    remove_process(place, running)
    again = kill_and_resume(place, running)
    (place.folder / "go").touch()
    wait_until(lambda: set(again.status()) == {"counts", "a"}, "clock and slow to leave")
    enough(place)
    assert again.finish() == 0
    check_left(again)
    _, last, count, good = seen(again, "a")["counts/n"]
    assert good and count == last + 1


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_new_process_may_have_the_name_of_one_that_is_leaving(place: Folder, is_killed: bool) -> None:
    running = with_process(place)
    remove_process(place, running)
    pid = running.status()["slow"]["pid"]
    pair = (keeps("x", process="p"), keeps("y", "x/n", process="p"))
    (place.folder / "other.yml").write_text(flow(*TWO, *pair))
    code, _, err = command(place, "apply", "other.yml")
    assert code == 0, err
    wait_handled(running, "y")
    found = running.status()
    assert found["x"]["pid"] == found["y"]["pid"] != found["clock"]["pid"] == found["slow"]["pid"] == pid
    if is_killed:
        running = kill_and_resume(place, running)
        wait_handled(running, "y")
        found = running.status()
        assert found["x"]["pid"] == found["y"]["pid"] != found["clock"]["pid"] == found["slow"]["pid"]
    (place.folder / "go").touch()
    wait_until(lambda: set(running.status()) == {"counts", "a", "x", "y"}, "clock and slow to leave")
    enough(place)
    assert running.finish() == 0
    check_left(running)
    ends = [json.loads(line.partition(" ")[2])[1] for line in running.lines("x") if line.startswith("seen ")]
    ((first, last, count, good),) = {tuple(whole) for end in ends for whole in end.values()}
    assert len(ends) == 2 and good and count == last + 1 - first


def test_a_file_that_has_changed_since_is_resumed_by_the_rules_of_a_resume(place: Folder) -> None:
    text, _ = killed_while_slow_drains(place)
    changed = json.loads(text)
    changed["nodes"].append(keeps("b"))
    place.file.write_text(json.dumps(changed))
    again = place.start(resume=True)
    again.wait_running()
    assert any("which has changed since the last start" in status for status in again.statuses())
    wait_handled(again, "slow", 250)  # more than waited: it is fed again
    enough(place)
    assert again.finish(60) == 0
    first, last, count, good = seen(again, "slow")["counts/n"]
    assert first == 0  # what was sent while it was no longer in the dataflow did not go to it
    _, last, count, good = seen(again, "a")["counts/n"]
    assert good and count == last + 1


def test_a_program_that_says_hello_late_takes_its_place_whenever_it_does(place: Folder) -> None:
    late = "import os, time\ntime.sleep(1.5)\n" + (place.folder / "takes.py").read_text()
    place.write(late_py=late)

    def node(**config: str) -> dict[str, Any]:
        return {**takes("c"), "path": "late.py", "config": config}

    running = place.start(flow(*TWO))
    running.wait_running()
    code, _, err = apply(place, flow(*TWO, node()))
    assert code == 0, err
    wait_handled(running, "c")
    pid = running.status()["c"]["pid"]
    code, _, err = apply(place, flow(*TWO, node(name="new")))
    assert code == 0, err
    wait_until(lambda: running.status()["c"]["pid"] not in (0, pid), "the old process to leave")
    wait_handled(running, "c")
    row = running.status()["c"]
    assert (row["state"], row["restarts"]) == ("running", 1)
    enough(place)
    assert running.finish() == 0
    lives = [json.loads(line.partition(" ")[2]) for line in running.lines("c") if line.startswith("seen ")]
    assert [life[2] for life in lives] == ["", "new"]
    assert lives[1][1]["counts/n"][0] <= lives[0][1]["counts/n"][1] + 1


def test_a_snapshot_says_which_dataflow_goes_on(place: Folder) -> None:
    snapshots = {"to": "./snapshots", "every": "600s"}
    running = place.start(json.dumps({"snapshots": snapshots, "nodes": [*TWO]}))
    running.wait_running()
    wait_handled(running, "a")
    assert command(place, "snapshot", "take")[0] == 0
    (place.folder / "other.yml").write_text(json.dumps({"snapshots": snapshots, "nodes": [*TWO, keeps("b")]}))
    code, _, err = command(place, "apply", "other.yml")
    assert code == 0, err
    wait_handled(running, "b")
    assert command(place, "snapshot", "take")[0] == 0
    os.kill(running.runtime_pid, signal.SIGKILL)
    running.finish()
    place.wait_gone()
    assert command(place, "clean")[0] == 0  # the space is lost
    for number, nodes in ((2, {"counts", "a", "b"}), (1, {"counts", "a"})):
        again = place.start(resume=True, from_snapshot=number, fresh=False)
        again.wait_running()
        assert set(again.status()) == nodes
        (said,) = [text for text in again.statuses() if "going on with the dataflow of" in text]
        assert ("other.yml" in said) == ("b" in nodes)
        wait_handled(again, "a")
        if number == 2:
            os.kill(again.runtime_pid, signal.SIGKILL)
            again.finish()
            place.wait_gone()
            assert command(place, "clean")[0] == 0
    enough(place)
    assert again.finish() == 0
    _, last, count, good = seen(again, "a")["counts/n"]
    assert good and count == last + 1


def test_an_operator_that_shares_its_process_first_handles_what_waits_of_its_old_source(place: Folder) -> None:
    def both(source: str) -> str:
        pair = (keeps("a", source, process="p"), keeps("b", process="p"))
        return flow(counts(), counts("other"), *pair)

    running = place.start(both("counts/n"))
    running.wait_running()
    wait_handled(running, "a")
    pid = running.status()["a"]["pid"]
    answer = apply(place, both("other/n"))
    assert answer[0] == 0, answer
    wait_until(lambda: not running.ask("applied", ticket=1).result["drains"], "what waits to be handled")
    wait_handled(running, "a")
    assert running.status()["a"]["pid"] == pid
    enough(place)
    assert running.finish() == 0
    ends = [json.loads(line.partition(" ")[2])[1] for line in running.lines("a") if line.startswith("seen ")]
    (of_a,) = (end for end in ends if "other/n" in end)
    (of_b,) = (end for end in ends if "other/n" not in end)
    first, last, count, good = of_b["counts/n"]
    assert (first, count, good) == (0, last + 1, True)
    first, left, count, good = of_a["counts/n"]
    assert (first, count, good) == (0, left + 1, True) and left <= last
    assert of_a["other/n"][3]
    assert running.lines("a").count("INPUT_CLOSED in") == 2  # one of each, at the end


def test_a_removed_node_that_fails_keeps_what_waits_until_it_is_discarded(place: Folder) -> None:
    breaks = "time.sleep(0.02)\n            assert not __import__('os').path.exists('broken')"
    place.write(slow_py=SLOW.replace("time.sleep(0.02)", breaks))
    slow = {"id": "slow", "operator": {"python": "slow.py", "inputs": {"n": {"source": "counts/n", "queue_size": 200}}},
            "restart_policy": "never"}  # fmt: skip
    running = place.start(flow(*TWO, slow))
    running.wait_running()
    wait_until(lambda: "room" in running.status()["counts"]["phase"], "counts to wait for slow")
    code, _, err = apply(place, flow(*TWO), "--drop", "slow")
    assert code == 0 and "still draining: slow" in err
    place.write(broken="")
    wait_until(lambda: running.status()["slow"]["state"] == "failed", "slow to fail")
    (place.folder / "broken").unlink()
    code, _, err = apply(place, flow(*TWO, takes("c")))  # another change, which leaves it as it is
    assert code == 0 and "still draining: slow" in err
    assert running.status()["slow"]["state"] == "failed"
    code, _, err = apply(place, flow(*TWO, takes("c")), "--discard")
    assert code == 0 and "waiting messages were discarded" in err
    wait_until(lambda: set(running.status()) == {"counts", "a", "c"}, "slow to leave")
    enough(place)
    assert running.finish() == 0
    assert seen(running, "a")["counts/n"][3]


def test_operators_neither_join_nor_leave_a_process_while_it_goes_on(place: Folder) -> None:
    """Nor one that has a process of its own; a process whose operators are all new is another matter."""

    def flow_of(**processes: str) -> str:
        nodes = [keeps(id, process=name) if name else keeps(id) for id, name in processes.items()]
        return flow(counts(), *nodes)

    running = place.start(flow_of(a="p", b="p", c=""))
    running.wait_running()
    for id in "abc":
        wait_handled(running, id)
    before = {id: (row["pid"], row["restarts"]) for id, row in running.status().items()}
    refused = [
        (flow_of(a="p", b="p", c="p"), "the process 'p' gets or loses operators (c)"),
        (flow_of(a="p", b="p", c="", d="p"), "the process 'p' gets or loses operators (d)"),
        (flow_of(a="p", b="", c=""), "the process 'p' gets or loses operators (b)"),
        (flow_of(a="p", c=""), "the process 'p' gets or loses operators (b)"),
        (flow_of(a="", b="", c=""), "a, b would change the process that they run in"),
        (flow_of(a="q", b="q", c=""), "a, b would change the process that they run in"),
        (flow_of(a="p", b="p", c="q"), "c would change the process that it runs in"),
        (flow_of(a="p", b="p", c="q", d="q"), "c would change the process that it runs in"),
    ]
    for text, why in refused:
        code, out, err = apply(place, text, "--drop", "b") if why.endswith("(b)") else apply(place, text)
        assert code == 2 and why in err, (text, out, err)
        assert "Stop the run, and continue it with `run FILE --resume`" in err and "Traceback" not in err
    assert {id: (row["pid"], row["restarts"]) for id, row in running.status().items()} == before
    code, _, err = apply(place, flow_of(a="p", b="p", c="", d="q", e="q"))
    assert code == 0, err
    wait_handled(running, "e")
    now = running.status()
    assert now["d"]["pid"] == now["e"]["pid"] not in (0, now["a"]["pid"])
    enough(place)
    assert running.finish() == 0
