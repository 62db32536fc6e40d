"""`run --chaos` kills what has come while the run goes on, too, and its report counts only what can be counted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.harness import Folder, Running, wait_until
from support.live_cast import apply, counts, enough, flow, keeps, prepare, seen

from noderuntime import Tap


@pytest.fixture
def place(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    prepare(folder)
    monkeypatch.setenv("NODERUNTIME_HOME", str(folder.home))
    return folder


def reported(running: Running) -> tuple[str, dict[str, Any]]:
    """The report of a run that has ended: the lines, and the facts."""
    ((_, lines, facts),) = [said for said in running.said if said[0] == "report"]
    return "\n".join(lines), facts


def test_nodes_that_were_added_are_killed_too_and_their_connections_not_counted(place: Folder) -> None:
    running = place.start(flow(counts(), keeps("a")), chaos_s=0.2, seed=5)
    running.wait_running()
    code, _, err = apply(place, flow(counts(), keeps("a"), keeps("b"), keeps("c", "b/n")))
    assert code == 0, err
    for node in ("b", "c"):
        running.wait_for("status", f"chaos: {node} is back*")
    enough(place)
    assert running.finish() == 0
    lines, facts = reported(running)
    assert {"b", "c"} <= {kill["victim"] for kill in facts["kills"]}
    assert [item["node"] for item in facts["messages"]] == ["a"]
    (counted,) = facts["messages"]
    assert counted["sent"] and not counted["lost"] and not counted["repeated"]
    assert "not counted, because the dataflow was changed there: 2 of its connections" in lines
    first, last, count, good = seen(running, "c")["b/n"]
    assert good and count == last + 1 - first


def test_the_tap_server_is_killed_too_while_somebody_looks(place: Folder) -> None:
    running = place.start(flow(counts(), keeps("a")), chaos_s=0.2, seed=3)
    running.wait_running()
    values: list[int] = []
    with Tap("flow", "counts/n") as tap, ThreadPoolExecutor(1) as pool:
        looked = pool.submit(lambda: values.extend(event.value for _, event in tap))
        wait_until(lambda: len(values) > 100, "some numbers")
        for _ in range(2):
            running.wait_for("status", "chaos: (tap server) is back*")
        enough(place)
        looked.result(60)
        assert values == sorted(set(values))
        assert tap.missed == values[-1] + 1 - values[0] - len(values)
    assert running.finish() == 0
    lines, facts = reported(running)
    assert len([kill for kill in facts["kills"] if kill["victim"] == "(tap server)"]) >= 2
    assert "(tap server)" in lines
    assert all(item["sent"] and not item["lost"] and not item["repeated"] for item in facts["messages"])
