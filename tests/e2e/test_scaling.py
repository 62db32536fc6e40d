"""Replicas that change while a run flows: `scale`, `apply`, `--resume` and `node`, in real runs."""

from __future__ import annotations

import json

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


def test_a_node_is_renamed_with_all_its_replicas_and_gets_fewer_of_them_in_the_same_change(place: Folder) -> None:
    def called(id: str, replicas: int) -> str:
        text = flow(count=3000, pause=2999, replicas=replicas)
        return text.replace("id: sums", f"id: {id}").replace("sums/sum", f"{id}/sum")

    running = place.start(called("sums", 3))
    running.wait_running(*ids(3), "sink")
    wait_until(lambda: handled(running) > 100, "some sums")
    place.file.write_text(called("totals", 3))
    said = apply(place.file, "--rename", "sums=totals")
    assert "was sums" in said and "begins a new life" in said
    assert set(running.status()) == {"numbers", "totals", "totals[1]", "totals[2]", "sink"}
    before = handled(running)
    wait_until(lambda: handled(running) > before + 100, "some totals")
    place.file.write_text(called("sums", 2))
    assert "replicas 3 -> 2" in apply(place.file, "--rename", "totals=sums")
    wait_until(lambda: set(running.status()) == {"numbers", "sums", "sums[1]", "sink"}, "the replicas of now")
    finish(place, running, 3000)
    uids = [uid for uid, _ in json.loads((place.folder / "result.json").read_text())]
    assert {uid.partition("/")[0] for uid in uids} == {"sums", "totals"}
    assert len({uid.rpartition("#")[2] for uid in uids}) == len(uids)  # whatever the node was called
