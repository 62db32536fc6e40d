"""`scale` and `apply` where something is wrong: with a replica that is there, or with one that is to come."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.harness import Folder, Running, wait_until
from support.scaled_flow import (
    FAILS,
    command,
    finish,
    flow,
    ids,
    key_of,
    owners_now,
    prepare,
    remove,
    replicas_of,
    wait_owners,
    wait_replicas,
    wait_summed,
)


@pytest.fixture
def place(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("NODERUNTIME_HOME", str(folder.home))
    prepare(folder)
    return folder


def pids(running: Running) -> dict[str, int]:
    return {id: node["pid"] for id, node in running.status().items()}


def start(place: Folder, count: int, **more: Any) -> Running:
    running = place.start(flow(count, **more))
    running.wait_running("numbers", "sink", *ids(count))
    wait_summed(running)
    return running


def fail(place: Folder, running: Running, replica: int, count: int) -> str:
    """Have a replica fail for good at the next message of a key. Returns its id."""
    id = "sums" if replica == 0 else f"sums[{replica}]"
    place.write(poison=key_of(replica, count))
    wait_until(lambda: running.status()[id]["state"] == "failed", f"{id} to fail")
    return id


@pytest.mark.parametrize(
    ("before", "after", "bad"), [(3, 4, 1), (2, 3, 0), (3, 2, 2), (3, 2, 0), (3, 1, 1)], ids=str
)
def test_scale_brings_back_a_replica_that_had_failed_and_loses_nothing(
    place: Folder, before: int, after: int, bad: int
) -> None:
    running = start(place, before, **FAILS)
    failed = fail(place, running, bad, before)
    remove(place, "poison")
    was = pids(running)
    code, _, err = command("scale", "sums", str(after))
    assert code == 0, err
    wait_replicas(running, after)
    now = pids(running)
    stay = (ids(before) & ids(after)) - {failed}
    assert {id: now[id] for id in stay} == {id: was[id] for id in stay}
    wait_summed(running)
    code, _, err = command("node", "restart", "sums")
    assert code == 0, err
    wait_replicas(running, after)
    assert set(now.values()) & {*pids(running).values()} == {now["numbers"], now["sink"]}
    wait_summed(running)
    finish(place, running)


@pytest.mark.parametrize(("before", "after", "bad"), [(2, 3, 0), (3, 2, 2)], ids=str)
def test_one_that_fails_once_more_behind_a_scale_comes_back_with_node_restart(
    place: Folder, before: int, after: int, bad: int
) -> None:
    running = start(place, before, **FAILS)
    fail(place, running, bad, before)
    code, _, err = command("scale", "sums", str(after), "--timeout", "3")
    assert code == 0, err
    wait_until(lambda: replicas_of(running) == ids(after), "the replicas of now")
    wait_until(lambda: "failed" in {running.status()[id]["state"] for id in ids(after)}, "one to fail once more")
    remove(place, "poison")
    code, _, err = command("node", "restart", "sums")
    assert code == 0, err
    wait_replicas(running, after)
    wait_owners(place, after)
    wait_summed(running)
    finish(place, running)


def by_scale(place: Folder, count: int, *more: str) -> tuple[int, str, str]:
    return command("scale", *more, "sums", str(count))


def by_apply(place: Folder, count: int, *more: str) -> tuple[int, str, str]:
    place.write(**{"new.yml": flow(count)})
    return command("apply", *more, "flow", place.folder / "new.yml")


@pytest.mark.parametrize("change", [by_scale, by_apply])
@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        ("broken", "sums[2] is not ready: import: RuntimeError: it is broken"),
        ("stuck", "not ready within 2 s: sums[2]"),
    ],
)
def test_a_new_replica_that_never_becomes_ready_leaves_everything_as_before(
    place: Folder, change: Callable[..., tuple[int, str, str]], trouble: str, why: str
) -> None:
    running = start(place, 2)
    was = running.status()
    place.write(**{"passed": "", trouble: ""})
    code, out, err = change(place, 4, "--timeout", "2", "--json")
    told = json.loads(out)
    assert (code, told["applied"]) == (1, False) and why in told["error"], (out, err)
    now = running.status()
    assert {id: (node["pid"], node["restarts"]) for id, node in now.items()} == {
        id: (node["pid"], node["restarts"]) for id, node in was.items()
    }
    wait_summed(running)
    remove(place, trouble)
    code, _, err = change(place, 4)
    assert code == 0, err
    wait_replicas(running, 4)
    wait_summed(running)
    finish(place, running)


@pytest.mark.parametrize("change", [by_scale, by_apply])
def test_replicas_that_are_ready_late_get_keys_when_they_are(
    place: Folder, change: Callable[..., tuple[int, str, str]]
) -> None:
    """The trial says nothing of it: then the change is made, and keys stay where they are until all are ready."""
    running = start(place, 2)
    was = pids(running)
    place.write(stuck="")
    code, _, err = change(place, 4, "--timeout", "3")
    assert code == 0, err
    if change is by_scale:
        assert "not ready yet, and without keys until then: sums[2], sums[3]" in err
    running.wait_for("status", "not ready yet: sums[2], sums[3]. Keys stay*")
    wait_summed(running)
    assert replicas_of(running) == ids(4)
    assert {*owners_now(place)} == {0, 1}
    assert {id: pids(running)[id] for id in was} == was
    remove(place, "stuck")
    wait_owners(place, 4)
    wait_summed(running)
    assert {id: pids(running)[id] for id in was} == was
    finish(place, running)
