"""Processes that commit all at once are killed at random, also stopped and killed while they hold the lock.

Afterwards every message took effect exactly once, in order. A failure names its seed.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.fake_runtime import Child, Run

from noderuntime.ipc.protocol import EXIT_FENCED
from noderuntime.space import records

WORKER = """
import json, os, sys
from noderuntime.ipc import doorbell
from noderuntime.errors import Fenced
from noderuntime.node.session import NodeSession
from noderuntime.ipc.rundir import RunDir
from noderuntime.space import keys, records
from noderuntime.space.staging import Staged
from noderuntime.ipc.wiring import Wiring
from pathlib import Path

GROUP = 20
session = NodeSession(RunDir(Path.cwd()), Wiring.from_plain(json.loads(os.environ["WIRING"])), int(os.environ["LIFE"]))
count = int(os.environ["COUNT"])
space = session.space
with space.read() as txn:
    kept = txn.get(keys.private_prefix(session.wiring.number) + b"state")
place, total = json.loads(kept[8:]) if kept else (0, 0)

def handled(value):
    # what an operator would do with one message: keep a place and a sum, pass the value on to each output
    global place, total
    assert value == place, f"{value} came where {place} was due"
    place, total = place + 1, total + value
    staged = Staged()
    staged.private = {keys.private_prefix(session.wiring.number) + b"state": json.dumps([place, total]).encode()}
    for output in session.commits.outputs.values():
        output.stage(staged, value, None, space)
    return staged

def take():
    group = []
    for key, record in session.next_messages(GROUP):
        kind, value, *_ = records.decode_message(record)
        if kind < records.NOTICE_MIN:
            staged = handled(value)
        else:
            staged = Staged()
            if kind == records.INPUT_CLOSED:
                staged.also().ends = True
        staged.ack = key, session.input_of(key), record
        group.append(staged)
        if staged.rare is not None:
            break
    return group

def produce():
    if place >= count and os.path.exists("enough"):
        group = [Staged()]
        group[0].also().ends = True
        return group
    return [handled(place) for _ in range(GROUP)]

poller = session.poller()
try:
    ended = False
    while not ended:
        doorbell.drain(session.bell)
        group = take() if session.mailboxes else produce()
        ended = bool(group) and group[-1].rare is not None
        while group:
            del group[: session.commit(group)]
            if group and session.commits.waits_for:
                poller.poll(50)
                doorbell.drain(session.bell)
        if not ended and session.mailboxes and not session.next_messages(1):
            poller.poll(5000)
except Fenced:
    sys.exit(75)
"""

# two chains that meet nowhere but in the write lock, and a fan-out
NODES: Any = {
    "a": {"outputs": ["out"]},
    "b": {"inputs": {"in": {"source": "a/out", "queue_size": 100}}, "outputs": ["out", "copy"]},
    "c": {"inputs": {"in": {"source": "b/out", "queue_size": 30}}},
    "d": {"inputs": {"in": {"source": "b/copy", "queue_size": 500}}},
    "x": {"outputs": ["out"]},
    "y": {"inputs": {"in": {"source": "x/out", "queue_size": 50}}},
}


class Killing:
    """Workers, and what kills them. The sources send at least `count` messages, and go on until `kills_min` workers
    were killed: how many kills fit into a number of messages is a matter of the machine.
    """

    def __init__(self, run: Run, count: int, kills_min: int, seed: int) -> None:
        self.run = run
        self.count = count
        self.kills_min = kills_min
        self.random = random.Random(seed)
        self.workers: dict[str, Child] = {}
        self.kills = 0
        for node in NODES:
            self.begin(node)

    def begin(self, node: str, cause: str = "") -> None:
        claimed = self.run.claim(node, cause)
        if "incarnation" in claimed:
            env = {
                "WIRING": json.dumps(self.run.wirings[node].to_plain()),
                "LIFE": str(claimed["incarnation"]),
                "COUNT": str(self.count),
            }
            self.workers[node] = self.run.start(node, WORKER, env)
        else:
            self.workers.pop(node, None)

    def reap(self, node: str) -> None:
        """What the runtime does behind a death: claim (which takes the lock), and ring the neighbours."""
        child = self.workers[node]
        code = child.wait()
        assert code in (-signal.SIGKILL, 0, EXIT_FENCED), child
        self.begin(node, "killed")
        self.run.ring(*NODES)

    def kill(self) -> None:
        node = self.random.choice(sorted(self.workers))
        child = self.workers[node]
        if self.random.random() < 0.5:
            self.catch_in_commit(child)
        if child.code is None:
            child.signal(signal.SIGKILL)
            self.kills += 1
            if self.kills == self.kills_min:
                (self.run.space.folder.parent / "enough").touch()
        self.reap(node)

    def catch_in_commit(self, child: Child) -> None:
        """Stop it while it holds the write lock, if that can be done soon."""
        word = self.run.space._lock_word
        for _ in range(3000):
            if word[0] & 0x3FFFFFFF == child.pid:
                child.signal(signal.SIGSTOP)
                return

    def play(self) -> None:
        while self.workers:
            for node, child in list(self.workers.items()):
                if child.code is not None:
                    self.reap(node)
            if self.workers:
                time.sleep(self.random.uniform(0.0, 0.02))  # let them work a little between two kills
                self.kill()

    def check(self) -> None:
        sent = {source: json.loads(self.run.private(source)["state"])[0] for source in ("a", "x")}
        assert min(sent.values()) >= self.count
        for node in NODES:
            count = sent["x" if node in "xy" else "a"]
            state = self.run.private(node)["state"]
            assert json.loads(state) == [count, sum(range(count))], f"{node}: {state!r}"
            assert self.run.figures(node)["status"] == "ended"
            for output, number in self.run.figures(node)["outputs"].items():
                assert number == count, f"{node}/{output}: {number}"
        for node, input in (("b", "in"), ("c", "in"), ("d", "in"), ("y", "in")):
            queue = self.run.queue(node, input)
            expected = [0, 0, sent["x" if node == "y" else "a"], 0, 0, records.CLOSED | records.SOURCE_ENDED]
            assert queue == expected, f"{node}/{input}: {queue}"


def killing(run: Callable[..., Run], count: int, kills_min: int, seed: int) -> None:
    game = Killing(run(NODES), count, kills_min, seed)
    try:
        game.play()
        game.check()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, after {game.kills} kills: {error}") from error


@pytest.mark.parametrize("seed", range(2))
def test_what_was_killed_while_committing_took_effect_exactly_once(run: Callable[..., Run], seed: int) -> None:
    killing(run, 1500, 8, seed)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(10, 12))
def test_what_was_killed_while_committing_took_effect_exactly_once_for_long(run: Callable[..., Run], seed: int) -> None:
    killing(run, 8_000, 40, seed)
