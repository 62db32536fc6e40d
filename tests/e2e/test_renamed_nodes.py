"""A node of a run gets another id with `apply --rename`: what it has goes along, and nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from support.harness import Folder, wait_until
from support.live_cast import apply, command, counts, enough, flow, keeps, prepare, seen, takes, uids, wait_handled

from noderuntime import Tap


@pytest.fixture
def place(folder: Folder) -> Folder:
    prepare(folder)
    return folder


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


SAYS = """
from noderuntime import Node
with Node() as node:
    print("called", node.node_id, flush=True)
    for event in node:
        pass
"""


def test_a_renamed_custom_node_leaves_in_order_and_its_next_process_has_the_new_id(place: Folder) -> None:
    place.write(says_py=SAYS)
    says = {"path": "says.py", "inputs": {"in": "counts/n"}}
    running = place.start(flow(counts(), takes("c"), {"id": "s", **says}))
    running.wait_running()
    wait_handled(running, "c")
    code, _, err = apply(
        place, flow(counts(), takes("d"), {"id": "t", **says}), "--rename", "c=d", "--rename", "s=t"
    )
    assert code == 0, err
    wait_until(lambda: running.status()["d"]["restarts"] == running.status()["t"]["restarts"] == 1, "their next lives")
    wait_handled(running, "d")
    wait_handled(running, "t", 1)
    enough(place)
    assert running.finish() == 0
    lives = [json.loads(line.partition(" ")[2])[1]["counts/n"] for line in running.lines("d") if "seen" in line]
    (old, new) = lives
    assert old[0] == 0 and old[3] and new[3] and new[0] <= old[1] + 1  # at least once
    assert running.lines("s") == ["called s"] and running.lines("t") == ["called t"]


def test_a_stopped_node_stays_stopped_and_a_failed_one_comes_back_under_its_new_id(place: Folder) -> None:
    running = place.start(flow(counts(), keeps("a", max_restarts=1, restart_delay="1ms"), keeps("x")))
    running.wait_running()
    wait_handled(running, "a")
    assert command(place, "node", "stop", "x")[0] == 0
    place.write(broken="")
    os.kill(running.status()["a"]["pid"], signal.SIGKILL)
    wait_until(lambda: running.status()["a"]["state"] == "failed", "a to fail")
    (place.folder / "broken").unlink()
    new = flow(counts(), keeps("b", max_restarts=1, restart_delay="1ms"), keeps("y"))
    code, _, err = apply(place, new, "--rename", "a=b", "--rename", "x=y")
    assert code == 0, err
    wait_until(lambda: running.status()["b"]["state"] == "running", "b to come back")
    assert running.status()["y"]["state"] == "stopped"
    code, _, err = command(place, "node", "start", "y")
    assert code == 0, err
    wait_handled(running, "b")
    wait_handled(running, "y")
    enough(place)
    assert running.finish() == 0
    for node in ("b", "y"):
        assert exact(seen(running, node)["counts/n"])


FAILS = """
import os
class Operator:
    '''Fails on 50 as long as there is a file `bad`.'''
    def on_event(self, event, ctx):
        if event["type"] == "INPUT" and event["value"] == 50:
            print("attempt", event["attempt"], event["uid"], flush=True)
            if os.path.exists("bad"):
                raise ValueError("bad")
"""


def test_dead_letters_and_attempts_go_along_and_name_the_sender_of_now(place: Folder) -> None:
    def fails(id: str, source: str, **more: Any) -> dict[str, Any]:
        return {"id": id, "operator": {"python": "fails.py", "inputs": {"in": f"{source}/n"}}, **more}

    place.write(fails_py=FAILS, bad="")
    tries = {"max_attempts": 0, "max_restarts": 0, "restart_delay": "500ms", "max_restart_delay": "1s"}
    running = place.start(flow(counts(), fails("a", "counts", max_attempts=1), fails("t", "counts", **tries)))
    running.wait_running()
    running.wait_for("status", "a failed once on counts/n#51: a dead letter now*")
    running.wait_for("line", "t", "*", "attempt 2 *")
    new = flow(counts("origin"), fails("b", "origin", max_attempts=1), fails("u", "origin", **tries))
    code, _, err = apply(
        place, new, "--rename", "counts=origin", "--rename", "a=b", "--rename", "t=u", "--timeout", "60"
    )
    assert code == 0, err
    code, out, err = command(place, "dead-letters", "ls", "b", "--json")
    assert code == 0 and [letter["uid"] for letter in json.loads(out)] == ["origin/n#51"], (out, err)
    (place.folder / "bad").unlink()
    code, _, err = command(place, "dead-letters", "replay", "b", "origin/n#51")
    assert code == 0, err
    running.wait_for("line", "b", "*", "attempt 1 origin/n#51")
    wait_handled(running, "u")
    enough(place)
    assert running.finish() == 0
    attempts = [line.split()[1:] for line in running.lines("u")]
    assert attempts and all(uid == "origin/n#51" and int(count) >= 3 for count, uid in attempts)  # all count


def test_a_tap_goes_on_under_the_new_name_and_misses_nothing(place: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODERUNTIME_HOME", str(place.home))
    beats = """
import os, time
from noderuntime import Source
class Operator(Source):
    def produce(self, position, ctx):
        number = position or 0
        ctx.send_output("n", number)
        time.sleep(0.005)
        return number + 1
"""
    place.write(beats_py=beats)

    def beating(id: str) -> dict[str, Any]:
        return {"id": id, "operator": {"python": "beats.py", "outputs": ["n"]}}

    running = place.start(flow(beating("x"), keeps("a", "x/n")))
    running.wait_running()
    numbers: list[int] = []
    topics: list[str] = []
    with Tap("flow", "*") as tap:
        for topic, event in tap:
            if topic not in ("x/n", "y/n"):
                continue
            assert event["uid"].rpartition("#")[0] == topic
            numbers.append(int(event["uid"].rpartition("#")[2]))
            topics += [topic] if topic not in topics else []
            if len(numbers) == 50:
                code, _, err = apply(place, flow(beating("y"), keeps("a", "y/n")), "--rename", "x=y")
                assert code == 0, err
            if topic == "y/n" and len(numbers) > 300:
                break
        assert tap.missed == 0
    assert topics == ["x/n", "y/n"]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert command(place, "stop", "flow")[0] == 0
    assert running.finish() == 0


def test_operators_that_share_a_process_are_renamed_in_it(place: Folder) -> None:
    def pair(first: str, second: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return keeps(first, process="p"), keeps(second, f"{first}/n", process="p")

    running = place.start(flow(counts(), *pair("a", "b"), takes("c", "b/n")))
    running.wait_running()
    wait_handled(running, "c")
    code, out, err = apply(
        place, flow(counts(), *pair("x", "y"), takes("c", "y/n")), "--rename", "b=y", "--rename", "a=x"
    )
    assert code == 0, err
    assert "was a" in out and "was b" in out
    wait_handled(running, "c")
    code, _, err = apply(place, flow(counts(), *pair("x", "z"), takes("c", "z/n")), "--rename", "y=z")
    assert code == 0, err
    wait_handled(running, "c")
    enough(place)
    assert running.finish() == 0
    of_c = seen(running, "c")
    last = of_c["z/n"][1]
    assert of_c["b/n"][0] == 0 and of_c["y/n"][0] == of_c["b/n"][1] + 1 and of_c["z/n"][0] == of_c["y/n"][1] + 1
    ends = [json.loads(line.partition(" ")[2])[1] for line in running.lines("x") if line.startswith("seen ")]
    assert ends[0] == {"counts/n": [0, last, last + 1, True]}


GUEST = """
import sys
from noderuntime import Node
with Node(sys.argv[1], run="flow") as node:
    first = node.next()
    print(first["source"], flush=True)
    for event in node:
        pass
"""


def test_a_dynamic_node_that_is_connected_stays_so_and_joins_under_the_new_id_the_next_time(place: Folder) -> None:
    def flows(id: str) -> str:
        return flow(counts(), {"id": id, "path": "dynamic", "inputs": {"in": "counts/n"}})

    def joins(id: str) -> subprocess.Popen[str]:
        env = {**os.environ, "NODERUNTIME_HOME": str(place.home)}
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "guest.py", id], cwd=place.folder, env=env, **pipes)

    place.write(guest_py=GUEST)
    running = place.start(flows("g"))
    running.wait_for("started")
    first = joins("g")
    wait_until(lambda: running.status()["g"]["handled"] > 100, "the guest to handle something")
    code, _, err = apply(place, flows("h"), "--rename", "g=h")
    assert code == 0, err
    wait_handled(running, "h")
    assert running.status()["h"]["pid"] == first.pid
    refused = joins("g")
    assert "the run has no node 'g'" in refused.communicate(timeout=60)[1]
    first.kill()
    first.communicate()
    wait_until(lambda: running.status()["h"]["pid"] == 0, "the guest to be gone")
    second = joins("h")
    wait_handled(running, "h")
    enough(place)
    out, _ = second.communicate(timeout=60)
    assert running.finish() == 0
    assert out == "counts/n\n"


def test_a_resume_goes_on_with_the_new_id_by_the_rules_of_a_resume(place: Folder) -> None:
    old = flow(counts(), keeps("a"), uids("u", "a/n"))
    running = place.start(old)
    running.wait_running()
    wait_handled(running, "u")
    new = place.folder / "new.yml"
    new.write_text(flow(counts(), keeps("b"), uids("u", "b/n")))
    code, _, err = command(place, "apply", "--rename", "a=b", "new.yml")
    assert code == 0, err
    for _ in range(2):  # the file is that of the start each time: what was applied goes on
        wait_handled(running, "u")
        running.process.kill()
        running.finish()
        place.wait_gone()
        running = place.start(resume=True)
        running.wait_running("counts", "b", "u")
    wait_handled(running, "u")
    running.process.kill()
    running.finish()
    place.wait_gone()
    place.file.write_text(flow(counts(), keeps("c"), uids("u", "c/n")))
    code, _, err = command(place, "run", "flow.yml", "--resume")
    assert code == 2 and "--rename b=c" in err
    running = place.start(resume=True, rename={"b": "c"})
    running.wait_running("counts", "c", "u")
    wait_handled(running, "u")
    enough(place)
    assert running.finish() == 0
    assert exact(seen(running, "c")["counts/n"])
    numbers = json.loads(running.lines("u")[-1].partition(" ")[2])
    assert numbers["good"] and [source for source, _ in numbers["sources"]] == ["a/n", "b/n", "c/n"]
