"""Random kills in a dataflow of dora, all of them out of one seed.

    python tests/support/dora_schedules.py 300            as many new schedules
    python tests/support/dora_schedules.py 300 --seed 17  those from seed 17 on

A source remembers in the shared store how far it has come, a node passes on, two operators of one node count and sum
with `save_state`, and a recorder writes down what comes. Any of them, what the runtime starts for them, and the runtime
itself are killed meanwhile. Nodes are delivered to at least once; so the operators pass over what they have seen, and
what they send has to be there once, in order.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.dora_flow import WITHIN_S, Flow
from support.harness import helper_of, wait_until

SOURCE = """
import os, time
import pyarrow as pa
from dora import Node
node = Node()
for number in range(int(node.kvs_read("next", b"0")), int(os.environ["COUNT"])):
    size = int(os.environ["LARGE"]) if number % 7 == 3 else 1
    node.send_output("v", pa.array([number] * size, pa.int64()), {"number": number})
    node.kvs_write("next", str(number + 1).encode())
    time.sleep(float(os.environ["PAUSE"]))
"""
RELAY = """
from dora import Node
node = Node()
for event in node:
    if event["type"] == "INPUT":
        assert len(event["value"].unique()) == 1 and event["value"][0].as_py() == event["metadata"]["number"]
        print("seen", event["metadata"]["number"])
        node.send_output("v", event["value"], event["metadata"])
"""
# counts what it has not seen yet
FIRST = """
import pyarrow as pa
from dora import DoraStatus
class Operator:
    def __init__(self):
        self.seen = 0
    def restore_state(self, state):
        self.seen = int(state["seen"])
    def on_event(self, event, send_output):
        if event["type"] == "INPUT" and event["metadata"]["number"] >= self.seen:
            assert event["metadata"]["number"] == self.seen, (event["metadata"], self.seen)
            self.seen += 1
            send_output.save_state("seen", str(self.seen).encode())
            send_output("v", event["value"][:1])
        return DoraStatus.CONTINUE
"""
SECOND = """
import pyarrow as pa
from dora import DoraStatus
class Operator:
    def __init__(self):
        self.total = self.count = 0
    def restore_state(self, state):
        self.total, self.count = (int(part) for part in state["total"].split())
    def on_event(self, event, send_output):
        if event["type"] == "INPUT":
            self.total += event["value"][0].as_py()
            self.count += 1
            send_output.save_state("total", f"{self.total} {self.count}".encode())
            send_output("v", pa.array([self.total]), {"count": self.count})
        return DoraStatus.CONTINUE
"""
RECORDER = """
from dora import Node
node = Node()
with open("out", "a", buffering=1) as out:
    for event in node:
        if event["type"] == "INPUT" and event["id"] == "totals":
            out.write(f"{event['metadata']['count']} {event['value'][0].as_py()}\\n")
"""
NODES = {"source.py": SOURCE, "relay.py": RELAY, "first.py": FIRST, "second.py": SECOND, "recorder.py": RECORDER}
DATAFLOW = """
nodes:
- {{id: source, path: source.py, restart_policy: on-failure, restart_delay: 0, outputs: [v],
   env: {{COUNT: {count}, PAUSE: "{pause_s}", LARGE: {large}}}}}
- id: relay
  path: relay.py
  restart_policy: on-failure
  restart_delay: 0
  send_stdout_as: printed
  inputs: {{v: {{source: source/v, queue_size: {queue}, queue_policy: backpressure}}}}
  outputs: [v, printed]
- id: sums
  restart_policy: on-failure
  restart_delay: 0
  operators:
  - {{id: first, python: first.py, outputs: [v],
     inputs: {{v: {{source: relay/v, queue_size: {queue}, queue_policy: backpressure}}}}}}
  - {{id: second, python: second.py, outputs: [v],
     inputs: {{v: {{source: sums/first/v, queue_policy: backpressure}}}}}}
- id: recorder
  path: recorder.py
  restart_policy: on-failure
  restart_delay: 0
  inputs:
    totals: {{source: sums/second/v, queue_size: {queue}, queue_policy: backpressure}}
    lines: {{source: relay/printed, queue_policy: backpressure}}
"""
RUNTIME = "runtime"
HELPERS = {"store": "nr-store", "fork server": "nr-forkserver"}
VICTIMS = ("source", "relay", "sums", "recorder", "relay~lines", *HELPERS, RUNTIME)


@dataclass(frozen=True, slots=True)
class DoraSchedule:
    """`kills`: who, and how long after the kill before it, in seconds. `large`: items of the large arrays."""

    count: int
    pause_s: float
    large: int
    queue: int
    kills: tuple[tuple[str, float], ...]


def schedule(seed: int) -> DoraSchedule:
    """What a seed stands for."""
    rng = random.Random(seed)
    count = rng.choice([300, 600, 1200])
    kills = tuple((rng.choice(VICTIMS), rng.choice([0.0, 0.02, 0.1, 0.3])) for _ in range(rng.randint(2, 8)))
    large, queue = rng.choice([1, 100, 20_000]), rng.choice([1, 10, 100])
    return DoraSchedule(count, rng.choice([0, 0.001, 0.003]), large, queue, kills)


def pid_of(flow: Flow, victim: str) -> int:
    """0 if there is none now."""
    if victim == RUNTIME:
        return flow.runtime()
    return helper_of(flow.runtime(), HELPERS[victim]) if victim in HELPERS else flow.node(victim)


def play(seed: int, flow: Flow) -> None:
    """Run a schedule, and look whether what came out is exact. Raises AssertionError."""
    wanted = schedule(seed)
    for name, text in NODES.items():
        flow.write(name, text)
    flow.write("d.yml", DATAFLOW.format(**asdict(wanted)))
    running = flow.start("run", "--dora", "d.yml")
    for victim, after_s in wanted.kills:
        time.sleep(after_s)
        pid = wait_until(lambda: pid_of(flow, victim) or running.poll() is not None, f"a process of {victim}")  # noqa: B023
        if running.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if victim == RUNTIME:
            running.communicate(timeout=WITHIN_S)
            running = flow.start("run", "--dora", "d.yml", "--resume")
    out, err = ended(running)
    said = f"seed {seed}, {wanted}: {out}{err}"
    assert running.returncode == 0, said
    lines = [tuple(map(int, line.split())) for line in (flow.folder / "out").read_text().splitlines()]
    exact = [(number + 1, number * (number + 1) // 2) for number in range(wanted.count)]
    assert list(dict.fromkeys(lines)) == exact, said


def ended(running: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return running.communicate(timeout=WITHIN_S)
    except subprocess.TimeoutExpired:
        running.kill()
        out, err = running.communicate()
        raise AssertionError(f"it did not end: {out}{err}") from None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--at-once", type=int, default=2)
    given = parser.parse_args()
    first = random.randrange(1 << 30) if given.seed is None else given.seed

    def one(seed: int) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            flow = Flow(Path(folder))
            try:
                play(seed, flow)
            except Exception:
                print(f"seed {seed}\n{traceback.format_exc()}", flush=True)
                return False
            finally:
                flow.close()
        return True

    with ThreadPoolExecutor(given.at_once) as pool:
        exact = sum(pool.map(one, range(first, first + given.count)))
    kills = sum(len(schedule(seed).kills) for seed in range(first, first + given.count))
    print(f"{exact} of {given.count} schedules from seed {first} on were exact, {kills} kills")
    return 0 if exact == given.count else 1


if __name__ == "__main__":
    sys.exit(main())
