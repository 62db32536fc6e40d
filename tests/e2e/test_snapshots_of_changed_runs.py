"""Snapshots of before, in and after a change of a run: each resumes to one dataflow or the other, and says which."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from support.harness import Folder, Running, wait_until
from support.live_cast import command, counts, enough, flow, keeps, prepare, seen, takes, wait_handled

from noderuntime.cli.client import StoreClient
from noderuntime.ipc.change_records import InForce
from noderuntime.ipc.store_records import result

WAITS = """
import os, time
class Operator:
    '''Each life of it waits for a file `go` before it is made.'''
    def __init__(self):
        while not os.path.exists("go"):
            time.sleep(0.01)
    def on_event(self, event, ctx):
        pass
"""
HOLDS = """
import os, time
class Operator:
    '''Handles nothing before there is a file `drained`.'''
    def on_event(self, event, ctx):
        while not os.path.exists("drained"):
            time.sleep(0.01)
"""

SNAPSHOTS = {"every": "1h", "to": "./snapshots", "keep": 20}


def waits(id: str) -> dict[str, Any]:
    return {"id": id, "operator": {"python": "waits.py", "inputs": {"in": "a/n"}}}


def holds(id: str) -> dict[str, Any]:
    queue = {"source": "counts/n", "queue_policy": "drop_oldest", "queue_size": 10}
    return {"id": id, "operator": {"python": "holds.py", "inputs": {"in": queue}}}


OLD = flow(counts(), keeps("a"), holds("gone"), takes("end", "a/n"), snapshots=SNAPSHOTS)
NEW = flow(counts(), keeps("b"), waits("late"), takes("end", "b/n"), snapshots=SNAPSHOTS).replace('"a/n"', '"b/n"')


@pytest.fixture
def place(folder: Folder) -> Folder:
    prepare(folder)
    folder.write(waits_py=WAITS, holds_py=HOLDS)
    (folder.folder / "new.yml").write_text(NEW)
    return folder


def in_force(place: Folder) -> InForce:
    with StoreClient("flow", place.run_dir().store_socket) as store:
        return store.request("in_force", {}, result(InForce))


def take(place: Folder) -> int:
    code, out, err = command(place, "snapshot", "take")
    assert code == 0, err
    return int(out)


def listed(place: Folder) -> dict[int, Any]:
    return {item["snapshot"]: item["dataflow"] for item in json.loads(command(place, "snapshot", "ls", "--json")[1])}


def resumed(place: Folder, number: int, node: str, gone: set[str]) -> tuple[Running, list[str]]:
    """The run from that snapshot on, up to its end, and what it has said."""
    running = place.start(resume=True, from_snapshot=number)
    running.wait_running("counts", node)
    wait_until(lambda: not gone & set(running.status()), "what drained to leave")
    wait_handled(running, node)
    enough(place)
    assert running.finish() == 0
    (place.folder / "enough").unlink()
    first, last, count, good = seen(running, node)["counts/n"]
    assert (first, count, good) == (0, last + 1, True)
    return running, running.statuses()


@pytest.mark.timeout(400)
def test_each_goes_on_with_one_dataflow_and_says_with_which(place: Folder) -> None:
    running = place.start(OLD)
    running.wait_running()
    wait_handled(running, "a")
    before = take(place)
    words = ["apply", "flow", "new.yml", "--rename", "a=b", "--timeout", "60"]
    applying = subprocess.Popen(
        [sys.executable, "-m", "noderuntime", *words], cwd=place.folder, text=True, stderr=subprocess.PIPE,
        env={**os.environ, "NODERUNTIME_HOME": str(place.home)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: bool(in_force(place)["changing"]), "the change to be prepared")
    between = take(place)
    (place.folder / "go").touch()
    _, err = applying.communicate(timeout=120)
    assert applying.returncode == 0, err
    draining = take(place)
    (place.folder / "drained").touch()
    wait_until(lambda: set(running.status()) == {"counts", "b", "late", "end"}, "what drained to leave")
    after = take(place)
    flow_yml, new_yml = str(place.file), str(place.folder / "new.yml")
    assert listed(place) == {
        before: {"file": flow_yml, "changes": 0, "scaled": {}, "drain": []},
        between: {"file": flow_yml, "changes": 0, "scaled": {}, "drain": []},
        draining: {"file": new_yml, "changes": 1, "scaled": {}, "drain": ["gone"]},
        after: {"file": new_yml, "changes": 1, "scaled": {}, "drain": []},
    }
    shown = command(place, "snapshot", "ls")[1]
    assert "new.yml after 1 change, gone draining" in shown
    running.process.kill()
    running.finish()
    place.wait_gone()

    running, said = resumed(place, before, "a", set())
    assert f"going on with the dataflow of {flow_yml}" in said
    running, said = resumed(place, between, "a", set())
    assert f"a change to {new_yml} was interrupted before it was in force, and is undone" in said
    assert f"going on with the dataflow of {flow_yml}" in said
    for number in (draining, after):
        running, said = resumed(place, number, "b", {"gone"})
        (which,) = [text for text in said if text.startswith("going on with")]
        assert which.startswith(f"going on with the dataflow of {new_yml}, which was applied; ")
        of_end = seen(running, "end")
        assert of_end["b/n"][1] == seen(running, "b")["counts/n"][1]
    place.file.write_text(NEW)
    running, said = resumed(place, draining, "b", {"gone"})
    assert f"going on with the dataflow of {new_yml}, after 1 change" in said
