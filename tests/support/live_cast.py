"""Dataflows that are changed while they run, for the tests: numbers that go on until a file says that it is enough."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from support.harness import Folder, Running, wait_until

NODES = {
    "counts.py": """
import os
from noderuntime import Source
class Operator(Source):
    '''0, 1, 2, ... until there is a file `enough`.'''
    def produce(self, position, ctx):
        number = position or 0
        if os.path.exists("enough"):
            return Source.END
        ctx.send_output("n", number)
        return number + 1
""",
    "keeps.py": """
import json, os
class Operator:
    '''Looks whether what comes of each input is without gaps, and forwards it.'''
    def __init__(self):
        self.seen = {}
        if os.path.exists("broken"):
            raise RuntimeError("it is broken")
    def restore_state(self, state):
        self.seen = json.loads(state["seen"])
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            first, last, count, good = self.seen.get(event["source"], [event["value"], event["value"] - 1, 0, True])
            good = good and event["value"] == last + 1
            self.seen[event["source"]] = [first, event["value"], count + 1, good]
            ctx.save_state("seen", json.dumps(self.seen).encode())
            if "out" in ctx.config:
                ctx.send_output(ctx.config["out"], event["value"])
        elif event["type"] == "STOP":
            print("seen", json.dumps([event["id"], self.seen, ctx.config.get("name", "")]), flush=True)
        else:
            print(event["type"], event["id"], flush=True)
""",
    "takes.py": """
import json
from noderuntime import Node
seen = {}
node = Node()
for event in node:
    if event["type"] == "INPUT":
        first, last, count, good = seen.get(event["source"], [event["value"], event["value"] - 1, 0, True])
        good = good and event["value"] <= last + 1
        seen[event["source"]] = [first, event["value"], count + 1, good]
    elif event["type"] == "STOP":
        print("seen", json.dumps([event["id"], seen, node.config.get("name", "")]), flush=True)
    else:
        print(event["type"], event["id"], flush=True)
""",
    "uids.py": """
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
""",
}


def prepare(folder: Folder) -> None:
    """Put the nodes into the folder."""
    folder.write(**{name.replace(".py", "_py"): text for name, text in NODES.items()})


def flow(*nodes: dict[str, Any], **more: Any) -> str:
    """A dataflow file. JSON is YAML."""
    return json.dumps({"snapshots": {"to": "none"}, "nodes": list(nodes), **more})


def counts(id: str = "counts", **more: Any) -> dict[str, Any]:
    return {"id": id, "operator": {"python": "counts.py", "outputs": ["n"]}, **more}


def keeps(id: str, source: str = "counts/n", size: int = 100, **more: Any) -> dict[str, Any]:
    """An operator that looks for gaps, and forwards to its output n."""
    inputs = {"in": {"source": source, "queue_size": size}}
    operator = {"python": "keeps.py", "inputs": inputs, "outputs": ["n"]}
    return {"id": id, "operator": operator, **more, "config": {"out": "n", **more.get("config", {})}}


def takes(id: str, source: str = "counts/n", size: int = 100, **more: Any) -> dict[str, Any]:
    inputs = {"in": {"source": source, "queue_size": size}}
    return {"id": id, "path": "takes.py", "inputs": inputs, "restart_policy": "on-failure", **more}


def uids(id: str, source: str) -> dict[str, Any]:
    """An operator that looks at the uids of what comes, and prints what it found at its end, behind "uids "."""
    return {"id": id, "operator": {"python": "uids.py", "inputs": {"in": source}}}


def command(folder: Folder, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "noderuntime", *arguments],
        env={**os.environ, "NODERUNTIME_HOME": str(folder.home)},
        cwd=folder.folder, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def apply(folder: Folder, text: str, *arguments: str) -> tuple[int, str, str]:
    """Write the dataflow file, and apply it."""
    folder.file.write_text(text)
    return command(folder, "apply", *arguments, "flow.yml")


def enough(folder: Folder) -> None:
    (folder.folder / "enough").touch()


def handled(running: Running, node: str) -> int:
    found = running.status().get(node)
    return 0 if found is None else int(found["handled"])


def wait_handled(running: Running, node: str, more: int = 200) -> None:
    """Until a node has handled `more` events from now on."""
    before = handled(running, node)
    wait_until(lambda: handled(running, node) >= before + more, f"{node} to handle {more} events")


def seen(running: Running, node: str) -> dict[str, Any]:
    """What a node has seen at its end: source -> first, last, how many, whether without gaps."""
    found = [json.loads(line.partition(" ")[2]) for line in running.lines(node) if line.startswith("seen ")]
    result: dict[str, Any] = found[-1][1]
    return result
