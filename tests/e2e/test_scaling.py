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


def test_a_changed_file_gives_a_node_other_replicas_and_another_partition_by(place: Folder) -> None:
    running = place.start(flow(count=1000, pause=999, replicas=2))
    running.wait_running(*ids(2), "sink", "numbers")
    wait_until(lambda: handled(running) > 100, "some sums")
    was = pids(running)
    new = place.folder / "new.yml"
    new.write_text(flow(count=1000, pause=999, replicas=3))
    assert "scaled  replicas 2 -> 3" in apply("flow", new)
    assert apply("flow", new) == "nothing has changed: the run is what the file says\n"
    assert "replicas 3 -> 2" in scale("sums", 2)
    assert "sums has 2 replicas already" in scale("sums", 2)
    said = apply("--dry-run", "flow", new)
    assert "replicas 2 -> 3, as in the file (2 was set by `scale`)" in said
    wait_until(lambda: sums_of(running) == ids(2), "two replicas")
    now = pids(running)
    assert {id: now[id] for id in ("numbers", "sink", *ids(2))} == {id: was[id] for id in ("numbers", "sink", *ids(2))}
    assert "replicas 2 -> 3, as in the file" in apply("flow", new)
    running.wait_running(*ids(3))
    finish(place, running, 1000)


def test_with_another_partition_by_what_waits_goes_to_the_replicas_of_now(place: Folder) -> None:
    """Messages wait at nodes that are stopped: these are distributed anew, and each key stays in order."""
    place.write(code_py=SLOWLY.replace('"n": number})', '"n": number}, {"by": f"u{number % KEYS}"})'))
    running = place.start(flow(count=400, pause=399, replicas=3, partition="value.user"))
    running.wait_running(*ids(3), "sink", "numbers")
    wait_until(lambda: handled(running) > 50, "some sums")
    call("node", "stop", "sums")
    new = place.folder / "new.yml"
    new.write_text(flow(count=400, pause=399, replicas=3, partition="metadata.by"))
    assert "scaled  partition_by value.user -> metadata.by" in apply("flow", new)
    assert "replicas 3 -> 4" in scale("sums", 4)
    assert {node["state"] for id, node in running.status().items() if id in ids(4)} == {"stopped"}
    call("node", "start", "sums")
    running.wait_running(*ids(4))
    finish(place, running, 400)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_resume_takes_the_number_of_the_file_and_says_so(place: Folder, how: str) -> None:
    text = flow(count=600, pause=599, replicas=2, snapshots="none" if how == "killed" else "./snapshots")
    running = place.start(text)
    running.wait_running(*ids(2), "sink", "numbers")
    wait_until(lambda: handled(running) > 50, "some sums")
    scale("sums", 3)
    running.wait_running(*ids(3))
    if how == "killed":
        running.kill()
    else:
        running.ask("stop", drain=False)
        running.finish(120)
    again = place.start(text, resume=True)
    again.wait_running(*ids(2))
    assert sums_of(again) == ids(2)
    finish(place, again, 600)
    assert any("node 'sums' gets 2 replicas again, as in" in said for said in again.statuses())


def test_after_an_apply_and_a_scale_a_resume_takes_the_number_of_the_file_that_was_applied(place: Folder) -> None:
    text = flow(count=600, pause=599, replicas=2)
    running = place.start(text)
    running.wait_running(*ids(2), "sink", "numbers")
    new = place.folder / "new.yml"
    new.write_text(flow(count=600, pause=599, replicas=3))
    apply("flow", new)
    scale("sums", 4)
    running.wait_running(*ids(4))
    running.kill()
    again = place.start(text, resume=True)
    again.wait_running("numbers", "sink", *ids(3))
    wait_until(lambda: sums_of(again) == ids(3), "three replicas")
    finish(place, again, 600)
    said = "\n".join(again.statuses())
    assert f"node 'sums' gets 3 replicas again, as in {new}" in said
    assert f"going on with the dataflow of {new}" in said


def test_names_follow_the_number(place: Folder) -> None:
    head = "def sums(key, value, state):"
    place.write(code_py=CODE.replace(head, f"{head}\n    print('saw', key, flush=True)"))
    running = place.start(flow(count=300, pause=150, replicas=1))
    running.wait_running("sums", "sink", "numbers")
    wait_until(lambda: handled(running) >= 150, "half of the sums")
    assert running.status()["sums"]["pid"]
    scale("sums", 2)
    running.wait_running(*ids(2))
    nodes = {node["id"]: node for node in json.loads(call("ps", "flow", "--json"))["nodes"]}
    assert [own["replica"] for own in nodes["sums"]["replicas"]] == [0, 1] and nodes["sums"]["pid"] is None
    finish(place, running, 300)
    assert len(running.lines("sums")) == 150
    assert len(running.lines("sums[0]")) + len(running.lines("sums[1]")) == 150 and running.lines("sums[1]")
    assert running.rows()["sums"]["messages"] == 300


OTHERS = """
  - id: keeps
    operator: {python: "code.py:Keeps", inputs: {n: numbers/n}}
  - id: one
    operator: {python: "code.py:keyless", inputs: {n: numbers/n}, outputs: [sum]}
  - id: batched
    partition_by: value.n
    operator: {python: "code.py:batch", inputs: {n: one/sum}, outputs: [sum]}
  - id: timed
    partition_by: value.n
    operator: {python: "code.py:timed", inputs: {n: numbers/n}, outputs: [sum]}
  - id: anyone
    operator: {python: "code.py:sums", inputs: {n: numbers/n}, outputs: [sum]}
  - id: p
    process: pair
    operator: {python: "code.py:Plain", inputs: {n: numbers/n}, outputs: [sum]}
  - id: q
    process: pair
    operator: {python: "code.py:Keeps", inputs: {n: p/sum}}
  - {id: program, path: program.py, inputs: {n: numbers/n}}
"""
REFUSED = [
    (("nobody", 2), "the run has no node 'nobody'"),
    (("summs", 2), "Did you mean 'sums'?"),
    (("sums[1]", 2), "Did you mean 'sums'?"),
    (("sums", 0), "0 replicas of node 'sums'"),
    (("sums", 1000), "1000 replicas of node 'sums'"),
    (("sums", "many"), "'many' is no number of replicas"),
    (("sums", 2, "other", "words"), "[RUN] NODE N are needed"),
    (("sums",), "[RUN] NODE N are needed"),
    (("numbers", 2), "which takes no messages"),
    (("program", 2), "which is no operator"),
    (("p", 2), "which shares the process 'pair'"),
    (("keeps", 2), "its state has 1 keys of its own"),
    (("batched", 2), "batch=True"),
    (("timed", 2), "event time"),
    (("one", 2), "no key"),
    (("anyone", 2), "`partition_by` has to say"),
]


def test_what_cannot_be_is_refused_with_a_sentence_and_the_run_is_as_before(place: Folder) -> None:
    place.write(program_py="from noderuntime import Node\nfor event in Node(): pass\n")
    running = place.start(flow(count=100, pause=99, replicas=2) + OTHERS)
    running.wait_running(*ids(2), "keeps", "one", "anyone", "p", "program")
    wait_until(lambda: running.status()["keeps"]["handled"] >= 99, "state of its own")
    before = pids(running)
    for words, why in REFUSED:
        said = scale(*words, code=2)
        assert why in said, said
        assert "Traceback" not in said
    assert "no run 'other'" in scale("other", "sums", 2, code=3)
    assert pids(running) == before
    (place.folder / "pause").unlink()
    assert running.finish(120) in (0, 1)
