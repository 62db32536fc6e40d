"""A node of a run gets another id with `apply --rename`: what it has goes along, and nothing is lost or doubled."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.harness import Folder, wait_until
from support.live_cast import apply, command, counts, enough, flow, keeps, prepare, seen, takes, wait_handled

UIDS = """
import json
class Operator:
    '''Keeps the sources, with the first number of each, the last number, and whether they were one after the other.'''
    def __init__(self):
        self.seen = {}
    def restore_state(self, state):
        self.seen = json.loads(state["seen"])
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            source, _, number = event["uid"].rpartition("#")
            assert source == event["source"]
            last = self.seen.get("last", int(number) - 1)
            good = self.seen.get("good", True) and int(number) == last + 1
            sources = self.seen.get("sources", [])
            sources += [[source, int(number)]] if source not in [name for name, _ in sources[-1:]] else []
            self.seen = {"last": int(number), "good": good, "sources": sources}
            ctx.save_state("seen", json.dumps(self.seen).encode())
        elif event["type"] == "STOP":
            print("uids", json.dumps(self.seen), flush=True)
"""


@pytest.fixture
def place(folder: Folder) -> Folder:
    prepare(folder)
    folder.write(uids_py=UIDS)
    return folder


def uids(id: str, source: str) -> dict[str, Any]:
    return {"id": id, "operator": {"python": "uids.py", "inputs": {"in": source}}}


def exact(found: list[Any]) -> bool:
    first, last, count, good = found
    return (first, count, good) == (0, last + 1, True)


def test_a_renamed_operator_goes_on_with_its_state_its_queue_and_its_numbers(place: Folder) -> None:
    running = place.start(flow(counts(), keeps("a"), takes("c", "a/n"), uids("u", "a/n")))
    running.wait_running()
    wait_handled(running, "c")
    before = running.status()
    new = flow(counts(), keeps("b"), takes("c", "b/n"), uids("u", "b/n"))
    code, out, err = apply(place, new, "--rename", "a=b", "--json")
    assert code == 0, err
    plan = {item["node"]: item for item in json.loads(out)["plan"]}
    assert {node: item["change"] for node, item in plan.items()} == {"b": "renamed", "c": "rewired", "u": "rewired"}
    assert plan["b"]["details"][0] == "was a" and plan["c"]["details"] == ["input in: a/n -> b/n"]
    wait_handled(running, "c")
    after = running.status()
    assert set(after) == {"counts", "b", "c", "u"}
    assert [after[id]["pid"] for id in ("counts", "c", "u")] == [before[id]["pid"] for id in ("counts", "c", "u")]
    assert after["b"]["pid"] != before["a"]["pid"] and after["b"]["restarts"] == 1
    assert command(place, "logs", "flow", "b")[0] == 0
    enough(place)
    assert running.finish() == 0
    assert exact(seen(running, "b")["counts/n"])
    of_c = seen(running, "c")
    assert of_c["a/n"][1] + 1 == of_c["b/n"][0] and of_c["b/n"][1] == seen(running, "b")["counts/n"][1]
    numbers = json.loads(running.lines("u")[-1].partition(" ")[2])
    assert numbers["good"] and [source for source, _ in numbers["sources"]] == ["a/n", "b/n"]


def test_an_id_that_was_given_up_and_comes_back_goes_on_counting(place: Folder) -> None:
    running = place.start(flow(counts(), keeps("a"), uids("u", "a/n")))
    running.wait_running()
    wait_handled(running, "u")
    assert apply(place, flow(counts(), keeps("b"), uids("u", "b/n")), "--rename", "a=b")[0] == 0
    wait_handled(running, "u")
    code, _, err = apply(place, flow(counts(), keeps("b"), uids("u", "b/n"), keeps("a"), uids("v", "a/n")))
    assert code == 0, err
    wait_handled(running, "v")
    code, _, err = apply(
        place, flow(counts(), keeps("a2"), uids("u", "a2/n")), "--rename", "b=a2", "--drop", "a", "--drop", "v"
    )
    assert code == 0, err
    wait_until(lambda: set(running.status()) == {"counts", "a2", "u"}, "a and v to leave")
    code, _, err = apply(place, flow(counts(), keeps("a"), uids("u", "a/n")), "--rename", "a2=a")
    assert code == 2 and "another node 'a' has sent messages in this run before" in err
    code, _, err = apply(place, flow(counts(), keeps("b"), uids("u", "b/n")), "--rename", "a2=b")
    assert code == 0, err  # it was called so itself
    wait_handled(running, "u")
    enough(place)
    assert running.finish() == 0
    last = seen(running, "b")["counts/n"][1]
    assert exact(seen(running, "b")["counts/n"])
    of_u = json.loads(running.lines("u")[-1].partition(" ")[2])
    assert of_u["good"] and of_u["last"] == last + 1
    assert [source for source, _ in of_u["sources"]] == ["a/n", "b/n", "a2/n", "b/n"]
    of_v = json.loads(running.lines("v")[-1].partition(" ")[2])
    assert of_v["good"] and of_v["sources"][0][1] >= of_u["sources"][1][1]  # not among those that a/n had sent


@pytest.mark.parametrize(
    ("names", "nodes", "said"),
    [
        (["z=b"], (counts(), keeps("b")), "the run has no node 'z'"),
        (["a=b"], (counts(), keeps("a"), keeps("b")), "'a' is still in the dataflow file"),
        (["a=c"], (counts(), keeps("b")), "the dataflow file has no node 'c'"),
        (["a=x"], (counts(), keeps("x")), "the run has a node 'x' already"),
        (["a=x", "x=a"], (counts(), keeps("x"), keeps("a")), "'a' is still in the dataflow file"),
        (["a=b", "x=b"], (counts(), keeps("b")), "the run has a node 'b' already, and a name is given once"),
        (["a=b", "a=c"], (counts(), keeps("b")), "--rename gives one node two ids"),
        (["a"], (counts(), keeps("b")), "'a' is not of the form OLD=NEW"),
        (["=b"], (counts(), keeps("b")), "'=b' is not of the form OLD=NEW"),
    ],
)
def test_a_rename_that_does_not_fit_is_refused_with_a_sentence(
    place: Folder, names: list[str], nodes: tuple[dict[str, Any], ...], said: str
) -> None:
    running = place.start(flow(counts(), keeps("a"), keeps("x")))
    running.wait_running()
    before = running.status()
    options = [word for name in names for word in ("--rename", name)]
    code, _, err = apply(place, flow(*nodes), *options, "--discard")
    assert code == 2 and said in err and "Traceback" not in err
    after = running.status()
    assert {id: row["pid"] for id, row in after.items()} == {id: row["pid"] for id, row in before.items()}
    enough(place)
    assert running.finish() == 0
