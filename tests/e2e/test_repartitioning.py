"""`apply` with another `partition_by`: what waits goes where it belongs now, and each key stays in order."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.harness import Folder, Running, wait_until
from support.scaled_flow import FAILS, command, finish, flow, ids, prepare, remove, wait_replicas, wait_summed

TELLS = """
import json

class Tells:
    '''Keeps no state, and says which replica has had a number.'''
    def on_event(self, event, ctx):
        if event["type"] == "INPUT" and event["id"] == "n":
            ctx.send_output("sum", [event["value"]["user"], event["value"]["n"], ctx.replica])

class Follows:
    '''Looks whether the numbers of each key come in order, each once, and which replicas have had them.'''
    def __init__(self):
        self.seen, self.wrong = {}, []
    def restore_state(self, state):
        self.seen, self.wrong = json.loads(state["seen"])
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            key, number, replica = event["value"]
            last, where = self.seen.get(key, [int(key[1:]) - 23, []])
            if number != last + 23:
                self.wrong.append([key, last, number])
            self.seen[key] = [number, sorted({*where, replica})]
            ctx.save_state("seen", json.dumps([self.seen, self.wrong[:20]]).encode())
        elif event["type"] == "STOP":
            print("result", json.dumps([self.seen, self.wrong]), flush=True)
"""


@pytest.fixture
def place(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("NODERUNTIME_HOME", str(folder.home))
    prepare(folder)
    folder.write(tells_py=TELLS)
    return folder


def apply(place: Folder, text: str) -> tuple[int, str, str]:
    place.file.write_text(text)
    return command("apply", place.file)


def stateless(partition: str) -> str:
    """The flow with an operator that keeps no state."""
    return flow(3, partition).replace("scaled.py:sums", "tells.py:Tells").replace("scaled.py:Sink", "tells.py:Follows")


def pids(running: Running) -> dict[str, Any]:
    return {id: (node["pid"], node["restarts"]) for id, node in running.status().items()}


def test_the_keys_of_an_operator_without_state_go_to_other_replicas_and_stay_in_order(place: Folder) -> None:
    running = place.start(stateless("value.user"))
    running.wait_running("numbers", "sink", *ids(3))
    wait_summed(running)
    was = pids(running)
    for partition in ("value.other", "value.user", "value.other"):  # the same numbers together, elsewhere
        code, _, err = apply(place, stateless(partition))
        assert code == 0, err
        wait_summed(running)
    assert pids(running) == was
    place.write(enough="")
    assert running.finish() == 0
    sent = int(running.lines("numbers")[-1].removeprefix("sent "))
    seen, wrong = json.loads(running.lines("sink")[-1].removeprefix("result "))
    assert wrong == []
    assert {key: last for key, (last, _) in seen.items()} == {f"u{key}": range(key, sent, 23)[-1] for key in range(23)}
    assert max(len(where) for _, where in seen.values()) == 2


def test_sums_of_keys_stay_right_while_the_same_value_is_found_elsewhere(place: Folder) -> None:
    running = place.start(flow(3))
    running.wait_running("numbers", "sink", *ids(3))
    wait_summed(running)
    was = pids(running)
    for partition in ("metadata.user", "value.user", "metadata.user"):
        code, out, err = apply(place, flow(3, partition))
        assert code == 0 and f"-> {partition}" in out, err
        wait_summed(running)
    assert pids(running) == was
    finish(place, running)


def test_where_it_disagrees_with_the_key_the_message_names_both_and_with_the_right_one_all_is_well(
    place: Folder,
) -> None:
    running = place.start(flow(3, **FAILS))
    running.wait_running("numbers", "sink", *ids(3))
    wait_summed(running)
    code, _, err = apply(place, flow(3, "value.other", **FAILS))
    assert code == 0, err
    wait_until(lambda: [id for id in ids(3) if running.status()[id]["state"] == "failed"], "a replica to fail")
    (failed, *_) = [id for id in sorted(ids(3)) if running.status()[id]["state"] == "failed"]
    reason = running.status()[failed]["reason"]
    assert "does not own its key (str:u" in reason
    assert "`partition_by: value.other` of node 'sums' and the key of its operator disagree" in reason
    code, out, err = apply(place, flow(3, **FAILS))
    assert code == 0 and "partition_by value.other -> value.user" in out, err
    wait_replicas(running, 3)
    wait_summed(running)
    finish(place, running)


@pytest.mark.parametrize("replicas", [3, 2])
def test_an_operator_with_keys_cannot_be_without_it(place: Folder, replicas: int) -> None:
    running = place.start(flow(3))
    running.wait_running("numbers", "sink", *ids(3))
    wait_summed(running)
    was = pids(running)
    without = json.loads(flow(replicas))
    del without["nodes"][1]["partition_by"]
    code, _, err = apply(place, json.dumps(without))
    assert code == 2 and "`partition_by` has to say" in err and "Everything is as before" in err
    assert pids(running) == was
    wait_summed(running)
    finish(place, running)


def test_with_watch_a_node_gets_the_replicas_of_the_file_when_it_is_saved(place: Folder) -> None:
    running = place.start(flow(2), watch=True)
    running.wait_running("numbers", "sink", *ids(2))
    for before, after in ((2, 4), (4, 1), (1, 2)):
        was = pids(running)
        place.write(**{"flow.yml": flow(after)})
        many = f"{after} replica{'s' if after > 1 else ''}"
        running.wait_for("status", f"sums has {many} now; before it had {before}")
        wait_replicas(running, after)
        stay = {"numbers", "sink"} | (ids(before) & ids(after))
        assert {id: pids(running)[id] for id in stay} == {id: was[id] for id in stay}
        wait_summed(running)
    place.write(**{"flow.yml": flow(0)})
    running.wait_for("status", "the dataflow stays as it is: *")
    place.write(broken="")
    place.write(**{"flow.yml": flow(3)})
    told = running.wait_for("status", "the dataflow stays as it is: *")[1]
    assert "sums[2] is not ready: import: RuntimeError: it is broken" in told
    remove(place, "broken")
    wait_replicas(running, 2)
    finish(place, running)
