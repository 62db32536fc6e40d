"""Replicas that change while a run flows: `scale`, `apply`, `--resume` and `node`, in real runs."""

from __future__ import annotations

import pytest
from support.harness import Folder, Running, wait_until
from test_replicas_in_runs import CODE, check_sums, flow, result
from test_survive import call

SLOWLY = CODE.replace("def sums(key, value, state):", "def sums(key, value, state):\n    time.sleep(0.0005)")


@pytest.fixture
def place(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("NODERUNTIME_HOME", str(folder.home))
    folder.write(code_py=SLOWLY, pause="")
    return folder


def scale(*words: object, code: int = 0) -> str:
    """`noderuntime scale`; returns what it said."""
    return call("scale", *map(str, words), code=code)


def apply(*words: object, code: int = 0) -> str:
    return call("apply", *map(str, words), code=code)


def pids(running: Running) -> dict[str, int]:
    return {id: node["pid"] for id, node in running.status().items()}


def handled(running: Running) -> int:
    return int(running.status()["sink"]["handled"])


def ids(count: int) -> set[str]:
    return {"sums", *(f"sums[{at}]" for at in range(1, count))}


def sums_of(running: Running) -> set[str]:
    return {id for id in running.status() if id.startswith("sums")}


def finish(place: Folder, running: Running, count: int) -> None:
    (place.folder / "pause").unlink()
    assert running.finish(120) == 0, running.said
    check_sums(result(place), count)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 4), (4, 2), (3, 1), (2, 3)])
def test_a_node_gets_other_replicas_while_messages_flow_and_every_other_process_stays(
    place: Folder, before: int, after: int
) -> None:
    running = place.start(flow(count=1000, pause=999, replicas=before))
    running.wait_running(*ids(before), "sink", "numbers")
    wait_until(lambda: handled(running) > 100, "some sums")
    was = pids(running)
    assert f"replicas {before} -> {after}" in scale("sums", after)
    wait_until(lambda: sums_of(running) == ids(after), "the replicas of now")
    now = pids(running)
    stay = {"numbers", "sink"} | (ids(before) & ids(after))
    assert {id: now[id] for id in stay} == {id: was[id] for id in stay}
    running.wait_running(*ids(after))
    finish(place, running, 1000)
    assert not any("ended by" in text or "begins a new life" in text for text in running.statuses())
