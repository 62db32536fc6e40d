"""A dataflow whose node `sums` has replicas, for tests that change it while numbers flow until a file says enough.

Other files in its folder have the nodes do what they otherwise would not; see CODE.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from support.harness import Folder, Running, wait_until

from noderuntime.api.keyed.slots import slot_of
from noderuntime.cli import main
from noderuntime.dataflow.identifiers import replica_id
from noderuntime.dataflow.replicas import owners
from noderuntime.space import lives, routing
from noderuntime.space.environment import open_space

KEYS = 23
CODE = """
import json, os, time
from noderuntime import Source, stateful_map

if os.path.exists("broken"):
    raise RuntimeError("it is broken")
while os.path.exists("stuck"):     # nobody who imports this gets any further, but for the first one
    try:
        os.close(os.open("passed", os.O_CREAT | os.O_EXCL))
        break
    except FileExistsError:
        time.sleep(0.01)

class Numbers(Source):
    def produce(self, position, ctx):
        number = position or 0
        if os.path.exists("hold"):
            return Source.IDLE
        if os.path.exists("enough"):
            print("sent", number, flush=True)
            return Source.END
        key = f"u{number % KEYS}"
        value = {"user": key, "other": f"v{number % KEYS}", "n": number, "pad": bytes(ctx.config.get("pad", 0))}
        ctx.send_output("n", value, {"user": key})
        return number + 1

def poisoned(key):
    try:
        with open("poison") as file:
            return file.read() == key
    except FileNotFoundError:
        return False

@stateful_map(output="sum", key=lambda value: value["user"], default=int)
def sums(key, value, state):
    time.sleep(0.0003)
    if poisoned(key):
        raise ValueError(f"{key} is poison")
    return [key, value["n"], state + value["n"]], state + value["n"]

class Sink:
    '''Looks whether the numbers of each key come in order, each once, with the right sum.'''
    def __init__(self):
        self.last, self.wrong = {}, []
    def restore_state(self, state):
        self.last, self.wrong = json.loads(state["seen"])
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            key, number, total = event["value"]
            last = self.last.get(key)
            before = [int(key[1:]) - KEYS, 0] if last is None else last
            if [number, total] != [before[0] + KEYS, before[1] + number]:
                self.wrong.append([key, before, number, total])
            self.last[key] = [number, total]
            ctx.save_state("seen", json.dumps([self.last, self.wrong[:20]]).encode())
        elif event["type"] == "STOP" and event["id"] == "ALL_INPUTS_CLOSED":
            print("result", json.dumps([self.last, self.wrong]), flush=True)
""".replace("KEYS", str(KEYS))


def flow(replicas: int, partition: str = "value.user", snapshots: str = "none", pad: int = 0, **of_sums: Any) -> str:
    """The dataflow file. `pad`: bytes that each number has besides; `of_sums`: further fields of that node."""
    inputs = {"n": {"source": "numbers/n", "queue_size": 300}, "tick": "timer/secs/1"}  # so it is never stuck
    nodes = [
        {"id": "numbers", "operator": {"python": "scaled.py:Numbers", "outputs": ["n"]}, "config": {"pad": pad}},
        {
            "id": "sums", "replicas": replicas, "partition_by": partition, "restart_delay": "1ms",
            "operator": {"python": "scaled.py:sums", "inputs": inputs, "outputs": ["sum"]}, **of_sums,
        },
        {"id": "sink", "operator": {"python": "scaled.py:Sink", "inputs": {"sum": "sums/sum"}}},
    ]  # fmt: skip
    return json.dumps({"snapshots": {"to": snapshots, "every": "1h"}, "nodes": nodes})


# a node that fails for good when it cannot handle a message, and keeps that message
FAILS = {"max_attempts": 0, "max_restarts": 2, "max_restart_delay": "1ms"}


def prepare(folder: Folder) -> None:
    """Put the nodes into the folder."""
    folder.write(scaled_py=CODE)


def remove(folder: Folder, *names: str) -> None:
    for name in names:
        (folder.folder / name).unlink()


def command(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, in this process: $NODERUNTIME_HOME has to be that of the run."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


def ids(count: int) -> set[str]:
    """The ids of that many replicas."""
    return {replica_id("sums", number) for number in range(count)}


def key_of(replica: int, count: int) -> str:
    """A key that this one of so many replicas owns at the start of a run."""
    owned = owners(count)
    return next(key for key in (f"u{number}" for number in range(KEYS)) if owned[slot_of(key)] == replica)


def owners_now(folder: Folder) -> tuple[int, ...]:
    """Which replica owns each slot of a run that goes on: its space is opened as its processes do."""
    opened = open_space(folder.run_dir().space)
    with contextlib.closing(opened), opened.read() as txn:
        kept = routing.kept_owners(txn, lives.load(txn)["sums"].number)
    assert kept is not None, "there is one replica"
    return kept.owners


def wait_owners(folder: Folder, count: int) -> None:
    """Until each of so many replicas owns slots, and nobody else does."""
    wait_until(lambda: {*owners_now(folder)} == {*range(count)}, f"slots to be those of {count} replicas")


def replicas_of(running: Running) -> set[str]:
    return {id for id in running.status() if id.startswith("sums")}


def wait_replicas(running: Running, count: int) -> None:
    """Until the run has so many replicas, all of which are running."""
    wait_until(lambda: replicas_of(running) == ids(count), f"{count} replicas")
    running.wait_running(*ids(count))


def wait_summed(running: Running, more: int = 200) -> None:
    """Until `more` numbers have arrived from now on."""
    before = int(running.status()["sink"]["handled"])
    wait_until(lambda: running.status()["sink"]["handled"] >= before + more, f"{more} sums")


def finish(folder: Folder, running: Running) -> None:
    """Let it come to its end: each number has been summed once, in the order of its key."""
    folder.write(enough="")
    code = running.finish(120)
    assert code == 0, (code, running.statuses(), running.errors)
    Path(folder.folder / "enough").unlink()
    check(running)


def check(running: Running) -> None:
    """What has arrived by the end is what was sent."""
    sent = int(running.lines("numbers")[-1].removeprefix("sent "))
    last, wrong = json.loads(running.lines("sink")[-1].removeprefix("result "))
    assert wrong == []
    expected = {}
    for key in range(min(KEYS, sent)):
        numbers = range(key, sent, KEYS)
        expected[f"u{key}"] = [numbers[-1], sum(numbers)]
    assert last == expected
